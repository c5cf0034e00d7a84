"""Random features on power laws: which of time, data and width limits the loss, and how to spend a compute budget."""

from functools import cache

import numpy as np

from .. import limits
from ..problems import GradientDescent, OnlineSGD, tasks
from ..studies import _plots as plots
from ..studies import compute_frontier
from ._system import Problem, System

SIZES = 2.0 ** np.arange(2, 11)
STEPS = 10_000


def build(
    features: float = 40.0,
    samples: float = 60.0,
    members: int = 1,
    bagging: bool = False,
    modes: int = 120,
    capacity: float = 1.5,
    decay: float = 2.0,
    noise: float = 0.3,
    learning_rate: float = 0.3,
    momentum: float = 0.0,
    steps: int = 100,
    batch_size: float | None = None,
) -> Problem:
    """Gradient descent on `samples` noisy samples of a power-law problem; with a `batch_size`, one-pass SGD."""
    task = tasks.power_law(modes, capacity, decay, noise, samples)
    rates = {"learning_rate": learning_rate, "momentum": momentum, "steps": steps}
    protocol = GradientDescent(**rates) if batch_size is None else OnlineSGD(**rates, batch_size=batch_size)
    return Problem(limits.RandomFeatures(features, members, bagging), task, protocol)


def laws(report) -> dict:
    """Measured exponents of the loss for infinitely many modes without noise, each beside its theory."""
    b, a = law = _exponents(report.task)
    source = (a - 1) / b
    frontier = _frontier(*law)
    compute = (a - 1) / (b + 1) if source < 1 else (a - 1) / a
    found = {
        "time": (_slope(*_in_time(*law)), source),
        "data": (_slope(*_at_the_end("samples", *law)), min(a - 1, 2 * b)),
        "width": (_slope(*_at_the_end("features", *law)), min(a - 1, b)),
        "compute": (frontier.loss_exponent, compute),
    }
    return {f"exponent in {name} and its theory": [round(v, 3) for v in pair] for name, pair in found.items()}


def _exponents(task) -> tuple[float, float]:
    return float(task.capacity), float(task.decay)


def _clean(capacity: float, decay: float, samples=np.inf):
    return tasks.power_law(None, capacity, decay, 0.0, samples)


def _descent(rate: float = 0.3):
    # one-pass SGD on batches without end is gradient descent on the population
    return OnlineSGD(rate, batch_size=1e12, steps=STEPS)


# The numbers of the summary and the picture are the same.


@cache
def _frontier(capacity: float, decay: float):
    return compute_frontier(limits.RandomFeatures(), _clean(capacity, decay), _descent(), sizes=SIZES)


@cache
def _in_time(capacity: float, decay: float):
    loss = limits.RandomFeatures().solve(_clean(capacity, decay), _descent()).test_loss
    times = np.unique(np.geomspace(10, STEPS, 30).astype(int))
    return times, np.asarray(loss)[times]


@cache
def _at_the_end(what: str, capacity: float, decay: float):
    counts = np.geomspace(10, 10_000, 13)
    if what == "features":
        loss = [limits.RandomFeatures(count).stationary_loss(_clean(capacity, decay)) for count in counts]
    else:
        loss = [limits.RandomFeatures().stationary_loss(_clean(capacity, decay, count)) for count in counts]
    return counts, np.asarray(loss, float)


def _slope(x, loss) -> float:
    late = x >= x[-1] / 10
    return -float(np.polyfit(np.log(x[late]), np.log(loss[late]), 1)[0])


def draw(report, path=None):
    """Learning curves of theory and networks; below them the theory's losses limited by time, data and width, and the
    compute-optimal frontier."""
    fig, axes = plots.figure(columns=3, rows=2)
    plots.draw_losses(axes[0], report)
    law = _exponents(report.task)
    frontier = _frontier(*law)
    _draw_bottlenecks(axes[1, 0], *law)
    _draw_sizes(axes[1, 1], frontier)
    _draw_frontier(axes[1, 2], frontier)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_bottlenecks(ax, *law) -> None:
    curves = {
        "steps": _in_time(*law),
        "samples": _at_the_end("samples", *law),
        "features": _at_the_end("features", *law),
    }
    for (name, (x, loss)), line, colour in zip(curves.items(), ("-", "--", "-."), plots.shades(3), strict=True):
        ax.plot(x, loss, line, color=colour, label=f"{name}: slope {-_slope(x, loss):.2f}")
    ax.set(
        xscale="log", yscale="log", xlabel="number, the two others infinite", ylabel="test loss", title="bottlenecks"
    )
    ax.legend(frameon=False, fontsize=7)


def _shown(frontier):
    return np.unique(np.geomspace(1, len(frontier.times), 200).astype(int)) - 1


def _draw_sizes(ax, frontier) -> None:
    shades = plots.shades(len(frontier.sizes))
    shown = _shown(frontier)
    for size, curve, colour in list(zip(frontier.sizes, frontier.curves, shades, strict=True))[::2]:
        ax.plot(frontier.times[shown], curve[shown], color=colour, label=f"{size:g} features")
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="test loss", title="width ends what time began")
    ax.legend(frameon=False, fontsize=7)


def _draw_frontier(ax, frontier) -> None:
    shown = _shown(frontier)
    for size, curve, colour in zip(frontier.sizes, frontier.curves, plots.shades(len(frontier.sizes)), strict=True):
        ax.plot(size * frontier.times[shown], curve[shown], color=colour, lw=0.7)
    label = f"best size: slope {-frontier.loss_exponent:.3f}\nfeatures ~ compute$^{{{frontier.features_exponent:.2f}}}$"
    ax.plot(frontier.compute, frontier.loss, "k--", lw=1.6, label=label)
    ax.set(xscale="log", yscale="log", xlabel="features x steps", ylabel="test loss", title="compute-optimal frontier")
    ax.set_ylim(bottom=0.5 * frontier.loss[-1])
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="dynamical-scaling-laws",
    title="A dynamical model of scaling laws",
    paper="2402.01092",
    solves="test and training loss of random features at finite width and data, exponents, compute-optimal frontier",
    build=build,
    sizes=(1, 2, 4),
    seeds=64,
    full={"steps": 1000, "modes": 400},
    figure=draw,
    measure=laws,
    claims=(
        "Theory and networks agree in test and training loss; their distance falls like one over the replication.",
        "Time, data and width limit the loss by power laws of their own exponents.",
        "At a fixed budget the best width grows with compute, and training time faster than width on hard tasks.",
    ),
)
