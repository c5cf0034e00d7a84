"""What one does with limits: compare them with networks, and optimise through them."""

from ._compare import AGREEMENT, Comparison, compare
from ._progress import show_progress, track

__all__ = ["AGREEMENT", "Comparison", "compare", "show_progress", "track"]
