"""Random features that learn: how much faster hard power laws fall, in time and on the compute-optimal frontier."""

from functools import cache

import numpy as np

from .. import limits
from ..problems import GradientFlow, tasks
from ..studies import _plots as plots
from ..studies import frontier_of
from ._system import Problem, System

SIZES = 2.0 ** np.arange(2, 11)


def build(
    richness: float = 3.0,
    features: float | None = 20.0,
    modes: int = 80,
    capacity: float = 1.5,
    decay: float = 1.75,
    horizon: float = 50.0,
    points: int = 41,
) -> Problem:
    """Gradient flow of both layers on a power law, to the time `horizon`; hard for `decay` below `capacity` + 1."""
    times = np.append(0.0, np.geomspace(0.01, horizon, points - 1))
    return Problem(
        limits.LearnedFeatures(richness, features), tasks.power_law(modes, capacity, decay), GradientFlow(times)
    )


def laws(report) -> dict:
    """Measured exponents for infinitely many modes, lazy and rich, each beside its theory."""
    law = _law(report)
    found = {}
    for name, richness in (("lazy", 0.0), ("rich", law[0])):
        found[f"{name} exponent in time and its theory"] = _slopes(richness, *law[1:])[-1], _time(richness, *law[1:])
        measured = _frontier(richness, *law[1:]).loss_exponent
        found[f"{name} exponent in compute and its theory"] = measured, _compute(richness, *law[1:])
    return {name: [round(float(v), 3) for v in pair] for name, pair in found.items()}


def _law(report) -> tuple[float, float, float]:
    return float(report.limit.richness), float(report.task.capacity), float(report.task.decay)


def _time(richness: float, capacity: float, decay: float) -> float:
    r = (decay - 1) / capacity
    return r * max(1.0, 2 / (1 + r)) if richness else r


def _compute(richness: float, capacity: float, decay: float) -> float:
    r = (decay - 1) / capacity
    if r > 1:
        return (decay - 1) / decay
    return 2 * capacity * r / (2 + capacity * (1 + r)) if richness else capacity * r / (1 + capacity)


# The numbers of the summary and the picture are the same.


@cache
def _in_time(richness: float, capacity: float, decay: float):
    times = np.geomspace(0.1, 1e8, 91)
    task = tasks.power_law(None, capacity, decay)
    return times, np.asarray(limits.LearnedFeatures(richness).solve(task, GradientFlow(times)).test_loss)


def _slopes(*law):
    times, loss = _in_time(*law)
    return -np.gradient(np.log(loss), np.log(times))


@cache
def _frontier(richness: float, capacity: float, decay: float):
    times = np.geomspace(1.0, 1e6, 181)
    task, protocol = tasks.power_law(None, capacity, decay), GradientFlow(times)
    found = [limits.LearnedFeatures(richness, size).solve(task, protocol, steps=192, nodes=256) for size in SIZES]
    return frontier_of(SIZES, times, np.stack([np.asarray(record.test_loss) for record in found]))


def draw(report, path=None):
    """Loss and growth of the kernel of theory and networks; below them the theory's loss for infinitely many modes,
    lazy and rich, its slopes, and the compute-optimal frontiers."""
    fig, axes = plots.figure(columns=3, rows=2)
    _draw_curve(axes[0, 0], report, lambda record: np.asarray(record.test_loss))
    axes[0, 0].set(yscale="log", ylabel="test loss (mean square)", title="learning on finitely many features")
    _draw_curve(axes[0, 1], report, lambda record: np.asarray(record.extras["kernel_scale"]))
    axes[0, 1].set(ylabel="scale of the tangent kernel", title="features grow along what is learned")
    for ax in axes[0, :2]:
        ax.legend(frameon=False, fontsize=7)
    if report.sizes is None:
        axes[0, 2].axis("off")
    else:
        plots.draw_convergence(axes[0, 2], report)
    law = _law(report)
    kinds = [("lazy", 0.0, "--"), (f"richness {law[0]:g}", law[0], "-")][: 2 if law[0] else 1]
    for (name, richness, style), colour in zip(kinds, plots.shades(2), strict=False):
        _draw_laws(axes[1], name, style, colour, richness, *law[1:])
    source = (law[2] - 1) / law[1]
    axes[1, 0].set(title=f"infinitely many features and modes, r = {source:.2f}", ylabel="test loss (mean square)")
    axes[1, 1].set(title="slopes in time: dotted, expected", ylabel="local slope of the test loss")
    axes[1, 2].set(title="the best width at every budget", ylabel="test loss (mean square)")
    for ax in axes[1]:
        ax.legend(frameon=False, fontsize=7)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_curve(ax, report, read) -> None:
    times = np.asarray(report.protocol.times)
    some = np.unique(np.linspace(1, len(times) - 1, 20).astype(int))
    for (size, run), colour, marker in zip(
        report.runs.items(), plots.shades(len(report.runs)), plots.MARKERS, strict=False
    ):
        mean, deviation = read(run).mean(0), read(run).std(0)
        label = "network" if report.sizes is None else f"{report.limit.size_name} {size}"
        ax.fill_between(times, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)
        ax.plot(times[some], mean[some], marker, color=colour, ms=4, mew=0, label=label)
    ax.plot(times, read(report.theory), "k-", lw=1.4, label="theory")
    ax.set(xscale="log", xlim=(times[1], times[-1]), xlabel="time")


def _draw_laws(axes, name, style, colour, *law) -> None:
    times, loss = _in_time(*law)
    axes[0].plot(times, loss, style, color=colour, label=name)
    axes[0].set(xscale="log", yscale="log", xlabel="time")
    expected = -_time(*law)
    axes[1].plot(times, -_slopes(*law), style, color=colour, label=f"{name}: ends at {-_slopes(*law)[-1]:.3f}")
    axes[1].axhline(expected, color=colour, ls=":", lw=1)
    axes[1].set(xscale="log", xlabel="time", ylim=(1.5 * expected, 0))
    frontier = _frontier(*law)
    for size, curve in list(zip(frontier.sizes, frontier.curves, strict=True))[::2]:
        axes[2].plot(size * frontier.times, curve, style, color=colour, lw=0.5, alpha=0.6)
    label = (
        f"{name}: slope {-frontier.loss_exponent:.3f} ({-_compute(*law):.3f} expected),\n"
        f"features ~ compute$^{{{frontier.features_exponent:.2f}}}$"
    )
    axes[2].plot(frontier.compute, frontier.loss, style, color=colour, lw=2, label=label)
    axes[2].set(xscale="log", yscale="log", xlabel="features x time", xlim=(1e1, 1e7))
    axes[2].set_ylim(bottom=0.05 * frontier.loss[-1])  # room for the legend


SYSTEM = System(
    name="learned-features",
    title="Feature learning can improve scaling laws",
    paper="2409.17858",
    solves="gradient flow of random features that learn, at infinite and finite width; exponents in time and compute",
    build=build,
    sizes=(1, 2, 4),
    seeds=32,
    full={"features": 40.0, "modes": 400, "horizon": 200.0},
    options={"quantities": ("test_loss", "kernel_scale")},
    figure=draw,
    measure=laws,
    claims=(
        "Learned features speed up hard tasks, r < 1, from t^-r to t^(-2r/(1+r)), and leave easy ones as they are.",
        "At a fixed budget they lower the loss of hard tasks by a power law of larger exponent, on narrower networks.",
        "Networks approach the theory of finitely many features like one over the replication.",
    ),
)
