"""Deep linear networks in the feature-learning limit, where the fields are Gaussian and nothing is sampled."""

from functools import partial

from ._system import System
from .mlp_dmft import build

SYSTEM = System(
    name="linear-mlp",
    title="Deep linear networks at fixed data",
    paper="2205.09653",
    solves="dynamical mean-field theory of a deep linear network by exact Gaussian coefficients",
    build=partial(build, activation="identity", richness=1.5),
    sizes=(64, 128, 256),
    seeds=32,
    full={"depth": 3, "richness": 2.0, "steps": 50, "learning_rate": 0.1},
    claims=(
        "The closed matrix equations of the linear network are exact at infinite width.",
        "Richer networks align their kernels with the target and learn faster at the same learning rate.",
    ),
)
