"""Feature learning in a wide tanh network on a few samples, and finite networks falling onto their limit."""

import jax

from .. import limits
from ..problems import GradientDescent, tasks
from ._system import Problem, System


def build(
    depth: int = 2,
    activation: str = "tanh",
    richness: float = 1.0,
    learning_rate: float = 0.3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias_scale: float = 0.0,
    init_scale: float = 1.0,
    steps: int = 10,
    samples: int = 4,
    dim: int = 5,
    test_samples: int = 2,
    data_seed: int = 0,
) -> Problem:
    """A tanh network in the feature-learning regime on samples from the sphere."""
    return Problem(
        limits.MLP(depth, activation, richness, init_scale, bias_scale),
        tasks.sphere(jax.random.key(data_seed), samples=samples, dim=dim, test_samples=test_samples),
        GradientDescent(learning_rate, momentum, weight_decay, steps=steps),
    )


SYSTEM = System(
    name="mlp-dmft",
    title="Feature learning in wide MLPs",
    paper="2205.09653",
    solves="dynamical mean-field theory of a deep nonlinear network: predictions, losses, kernels",
    build=build,
    sizes=(64, 128, 256),
    seeds=32,
    full={"richness": 2.0, "steps": 50, "learning_rate": 0.2},
    options={"samples": 20_000},
    claims=(
        "Finite networks approach the theory: single runs like 1/sqrt(width), means like 1/width.",
        "Kernels move by an amount of order richness squared, at every width alike.",
    ),
)
