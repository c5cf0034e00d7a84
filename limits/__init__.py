from ._base import AbstractLimit, of
from ._random_features import RandomFeatures

__all__ = ["AbstractLimit", "RandomFeatures", "of"]
