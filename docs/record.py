"""Runs systems at their default settings and keeps what the documentation shows of them.

    python docs/record.py [NAME ...]

writes `docs/results/NAME/summary.json` and `figure.png`; without names, of every system, one after the other.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from limitax.gallery import systems
from PIL import Image

RESULTS = Path(__file__).parent / "results"
WIDTH = 1200  # pixels


def record(name: str) -> bool:
    """Whether `limitax run` succeeded; only then anything is kept."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["limitax", "run", name, "--out", folder], check=False)
        if done.returncode == 0:
            keep(name, Path(folder))
        return done.returncode == 0


def keep(name: str, folder: Path) -> None:
    """Copies the numbers, and the picture in 256 colours and no wider than a page."""
    (RESULTS / name).mkdir(parents=True, exist_ok=True)
    (RESULTS / name / "summary.json").write_text((folder / "summary.json").read_text())
    picture = Image.open(folder / "figure.png").convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(256).save(RESULTS / name / "figure.png", optimize=True)


def main() -> int:
    """Records the chosen systems; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*systems(), []], metavar="NAME")
    failed = [name for name in parser.parse_args().names or systems() if not record(name)]
    if failed:
        print(f"not recorded: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
