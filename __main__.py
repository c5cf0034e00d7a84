"""`python -m limitax` is the command `limitax`."""

from .cli import main

if __name__ == "__main__":
    main()
