"""Deep linear networks in the feature-learning limit, where the fields are Gaussian and nothing is sampled."""

import jax

from .. import limits
from ..problems import GradientDescent, tasks
from ._system import Problem, System


def build(
    depth: int = 2,
    richness: float = 1.5,
    learning_rate: float = 0.3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    steps: int = 10,
    samples: int = 4,
    dim: int = 5,
    test_samples: int = 2,
    data_seed: int = 0,
) -> Problem:
    """A linear network on samples from the sphere."""
    return Problem(
        limits.MLP(depth, "identity", richness),
        tasks.sphere(jax.random.key(data_seed), samples=samples, dim=dim, test_samples=test_samples),
        GradientDescent(learning_rate, momentum, weight_decay, steps=steps),
    )


SYSTEM = System(
    name="linear-mlp",
    title="Deep linear networks at fixed data",
    paper="2205.09653",
    solves="dynamical mean-field theory of a deep linear network by exact Gaussian coefficients",
    build=build,
    sizes=(64, 128, 256),
    seeds=32,
    full={"depth": 3, "richness": 2.0, "steps": 50, "learning_rate": 0.1},
    claims=(
        "The closed matrix equations of the linear network are exact at infinite width.",
        "Richer networks align their kernels with the target and learn faster at the same learning rate.",
    ),
)
