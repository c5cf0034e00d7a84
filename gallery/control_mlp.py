"""Optimal schedules of tanh perceptrons that learn digits, from their limit, against tuned ones in finite networks."""

import jax

from .. import limits
from ..problems import GradientDescent, schedules, tasks
from ..problems import _checks as checks
from ._control import Case, Study, conduct, draw, study_of
from ._experiment import Experiment

CASES = ("shallow", "deep")
_HIGHEST = 30.0  # rate: three times what the curvature at the start allows


def build(
    cases=("shallow",),
    classes=(3, 8),
    samples: int = 16,
    test_samples: int = 200,
    steps: int = 10,
    richness: float = 2.0,
    particles: int = 1000,
    momenta=(0.5,),
    data_seed: int = 0,
) -> Study:
    """Perceptrons with one or two hidden layers, in the rich regime, on a full batch of digits and with few steps.

    The schedule and the peaks of its rivals are those with the least loss on the held-out digits, with a barrier
    against a training loss that grows.
    """
    task = tasks.digits(
        jax.random.key(checks.integer("data_seed", data_seed, low=0)),
        samples=checks.integer("samples", samples),
        test_samples=checks.integer("test_samples", test_samples),
        classes=tuple(classes),
    )
    start = GradientDescent(schedules.linear(1.0, checks.integer("steps", steps, low=2)))
    search = {"bounds": {"learning_rate": (1e-4, _HIGHEST)}, "tolerance": 1e-3, "max_evaluations": 200}
    options = {"samples": checks.integer("particles", particles, low=4), "replicas": 2, "keep": None}

    def case(depth: int) -> Case:
        limit = limits.MLP(depth, "tanh", richness=richness)
        sized = options | ({"rank": 4 * samples} if depth > 1 else {})
        shown = options | {"samples": (16 if depth == 1 else 4) * particles}
        return Case(limit, task, GradientDescent, start, search=search, options=sized, shown=shown)

    return study_of({name: case(depth) for depth, name in enumerate(CASES, 1)}, cases, momenta)


SYSTEM = Experiment(
    name="control-mlp",
    title="Optimal schedules of perceptrons that learn features, on digits",
    paper="2205.09653",
    solves="the schedule with the least held-out loss, from the feature-learning limit; networks trained by it",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(128, 256, 512),
    seeds=16,
    theory=True,
    full={"cases": CASES, "momenta": (0.5, 0.8)},
    claims=(
        "With few steps the schedule that the limit chose ends below tuned constant, linear, cosine and warm-up "
        "schedules, with and without momentum, in networks too.",
        "A small step, a kick at the edge of stability, and small steps after it: the kick selects a sharper solution.",
    ),
)
