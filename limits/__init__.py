from ._base import AbstractLimit, of

__all__ = ["AbstractLimit", "of"]
