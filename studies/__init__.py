"""What one does with limits: compare them with networks, and optimise through them."""

from ..solvers import counting, show_progress, track, working
from ._benign_bounds import BenignBounds, benign_bounds, check_bounded_rate
from ._compare import AGREEMENT, Comparison, compare
from ._compute_frontier import Frontier, compute_frontier, frontier_of
from ._depth_limit import depth_limit
from ._edge import EdgeSchedule, follow_edge
from ._final_loss import final_loss
from ._optimise import METHODS, Optimum, optimise
from ._precision_law import ComputeOptimum, PrecisionLaw
from ._sensitivity import Sensitivity, sensitivity
from ._sweep import sweep
from ._sweep_file import SweepFile, read_sweep_file
from ._sweep_plot import final_losses, plot_sweep, sweep_summary
from ._verify import Verification, verify

__all__ = [
    "AGREEMENT",
    "METHODS",
    "BenignBounds",
    "Comparison",
    "ComputeOptimum",
    "EdgeSchedule",
    "Frontier",
    "Optimum",
    "PrecisionLaw",
    "Sensitivity",
    "SweepFile",
    "Verification",
    "benign_bounds",
    "check_bounded_rate",
    "compare",
    "compute_frontier",
    "counting",
    "depth_limit",
    "final_loss",
    "final_losses",
    "follow_edge",
    "frontier_of",
    "optimise",
    "plot_sweep",
    "read_sweep_file",
    "sensitivity",
    "show_progress",
    "sweep",
    "sweep_summary",
    "track",
    "verify",
    "working",
]
