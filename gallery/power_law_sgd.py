"""One-pass SGD on a power-law problem: the exact mean over runs, with gradient noise and label noise."""

from .. import limits
from ..problems import OnlineSGD, tasks
from ._system import Problem, System


def build(
    modes: int = 200,
    capacity: float = 1.5,
    decay: float = 2.5,
    noise: float = 1.0,
    learning_rate: float = 0.05,
    momentum: float = 0.0,
    batch_size: int = 1,
    steps: int = 1000,
) -> Problem:
    """A linear teacher on Gaussian inputs with power-law spectrum, learned from fresh samples."""
    return Problem(
        limits.RandomFeatures(features=None),
        tasks.power_law(modes=modes, capacity=capacity, decay=decay, noise=noise),
        OnlineSGD(learning_rate, momentum, batch_size=batch_size, steps=steps),
    )


SYSTEM = System(
    name="power-law-sgd",
    title="One-pass SGD on power laws",
    paper="2106.02713",
    solves="mean loss of SGD by the exact second-moment recursion; optimal schedules by control",
    build=build,
    seeds=400,
    full={"modes": 1000, "steps": 10_000},
    claims=(
        "The recursion is exact for Gaussian inputs at any batch size, schedule and momentum.",
        "At constant rate the loss settles on a noise floor; an optimal schedule removes it.",
    ),
)
