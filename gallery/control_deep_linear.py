"""Optimal schedules of deep linear networks that learn features, from theory, against tuned ones in finite networks."""

import numpy as np

from .. import limits
from ..problems import GradientDescent, OnlineSGD, schedules, tasks
from ._control import Case, Study, conduct, draw, study_of
from ._experiment import Experiment


def fresh(rates, momentum=0.0) -> OnlineSGD:
    """As many fresh samples at every step as there are inputs."""
    return OnlineSGD(rates, momentum, batch_ratio=1.0)


def _isotropic(depth: int, steps: int, *, full_batch: bool = False, **options) -> Case:
    make, shape = (GradientDescent, schedules.cosine) if full_batch else (fresh, schedules.linear)
    return Case(
        limits.DeepLinear(depth, 1.0, richness=4.0, init_scale=0.5),
        tasks.isotropic(sample_ratio=2.0, noise=0.3),
        make,
        make(shape(0.05, steps)),
        **options,
    )


def _power_law(modes: int = 40, steps: int = 40) -> Case:
    """Eigenvalues k^-1.5 and their share of the target's power k^-1.3, both of mean 1."""
    k = np.arange(1.0, modes + 1)
    eigenvalues, power = (values / np.mean(values) for values in (k**-1.5, k**-1.3))
    return Case(
        limits.DeepLinear(1, 1.0, richness=2.0, init_scale=0.5),
        tasks.gaussian(eigenvalues, np.sqrt(power / eigenvalues / modes), noise=0.3),
        fresh,
        fresh(schedules.warmup_stable_decay(0.04, steps), 0.5),
        over=("learning_rate", "momentum"),
    )


def _cases() -> dict[str, Case]:
    return {
        "shallow": _isotropic(1, 40),
        "deep": _isotropic(2, 40),
        "long": _isotropic(1, 100),
        "power_law": _power_law(),
        "full_batch": _isotropic(1, 40, full_batch=True, search={"barrier": True}, kind="null"),
        "past_the_edge": _isotropic(1, 20, full_batch=True, search={"barrier": False}, kind="false"),
    }


CASES = tuple(_cases())


def build(cases=("shallow",), momenta=(0.5,)) -> Study:
    """Deep linear networks in maximal-update parameterisation, as wide as their input, far from the lazy regime.

    `cases` are names among `CASES`; the benchmarks are the usual shapes with each of `momenta` and without.
    """
    return study_of(_cases(), cases, momenta)


SYSTEM = Experiment(
    name="control-deep-linear",
    title="Optimal schedules of deep linear networks that learn features",
    paper="2502.02531",
    solves="the schedule with the least final loss, from the proportional limit; networks trained by it, in pairs",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(120, 200, 400),
    seeds=16,
    theory=True,
    full={"cases": CASES, "momenta": (0.5, 0.8)},
    claims=(
        "On fresh batches the optimal schedule beats tuned constant, linear, cosine and warm-up schedules, with and "
        "without momentum, in theory and in networks.",
        "It is a kick, a short plateau, a decay as one over time; the kick pulls an outlier out of the bulk at once.",
        "With a full batch and time enough, schedules do not matter.",
        "An optimum of the theory past the edge of stability is false for networks.",
    ),
)
