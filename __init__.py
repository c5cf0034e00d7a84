"""limitax: theories of infinitely large neural networks, executable and differentiable, beside finite networks."""

from . import limits, nets, problems, solvers, studies
from .limits import Fluctuations, Sharpness, Spectrum, fluctuations, sharpness, spectrum
from .nets import rules
from .problems import (
    ConvergenceError,
    DivergedError,
    GradientDescent,
    GradientFlow,
    MinibatchSGD,
    NormalisedSGD,
    OnlineSGD,
    Trajectory,
    objectives,
    schedules,
    tasks,
)
from .studies import (
    BenignBounds,
    Comparison,
    Frontier,
    Optimum,
    PrecisionLaw,
    Verification,
    benign_bounds,
    compare,
    compute_frontier,
    depth_limit,
    final_loss,
    optimise,
    verify,
)

__version__ = "0.1.0"

__all__ = [
    "BenignBounds",
    "Comparison",
    "ConvergenceError",
    "DivergedError",
    "Fluctuations",
    "Frontier",
    "GradientDescent",
    "GradientFlow",
    "MinibatchSGD",
    "NormalisedSGD",
    "OnlineSGD",
    "Optimum",
    "PrecisionLaw",
    "Sharpness",
    "Spectrum",
    "Trajectory",
    "Verification",
    "benign_bounds",
    "compare",
    "compute_frontier",
    "depth_limit",
    "final_loss",
    "fluctuations",
    "limits",
    "nets",
    "objectives",
    "optimise",
    "problems",
    "rules",
    "schedules",
    "sharpness",
    "solvers",
    "spectrum",
    "studies",
    "tasks",
    "verify",
]
