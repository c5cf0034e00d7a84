"""Optimal schedules of one-pass SGD on power laws: rate, momentum and batch, in the easy and the hard phase."""

import numpy as np

from ..studies import _plots as plots
from ..studies._benchmarks import SHAPES
from ._experiment import Experiment
from ._optimal_schedules import HEAVY_BALL, PHASES, RATE, Optima, build, conduct


def draw(report: Optima, path=None):
    """A row a phase: the optimal rates of every length, with momentum below them; the least losses over the number of
    steps; paired differences of networks."""
    fig, axes = plots.figure(columns=3, rows=len(PHASES))
    for row, (phase, (b, a, _)) in zip(axes, PHASES.items(), strict=True):
        _draw_schedules(row[0], report, phase)
        row[0].set_title(f"{phase} phase: b = {b:g}, a = {a:g}", fontsize=9)
        _draw_losses(row[1], report, phase)
        proofs = report.proofs[phase]
        plots.draw_differences(row[2], {f"{steps} steps": proof for steps, proof in proofs.items()})
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_schedules(ax, report: Optima, phase: str) -> None:
    lengths = list(report.losses(phase, RATE))
    for steps, shade in zip(lengths, plots.shades(len(lengths)), strict=True):
        rates = report.optima[phase, RATE, steps].protocol.learning_rate
        ax.plot((np.arange(steps) + 0.5) / steps, rates, color=shade, lw=1.6, label=f"{steps} steps")
    longest = max(report.losses(phase, HEAVY_BALL), default=None)
    if longest is not None:
        beta = report.optima[phase, HEAVY_BALL, longest].protocol.momentum
        times = (np.arange(longest) + 0.5) / longest
        ax.plot(times[1:], 1 - beta[1:], "k:", lw=1.2, label=f"1 - momentum, {longest} steps")
    ax.set(xlabel="share of the steps", ylabel="optimal learning rate", yscale="log", ylim=(1e-3, None))
    ax.legend(frameon=False, fontsize=7)


def _draw_losses(ax, report: Optima, phase: str) -> None:
    for over, style, name in ((RATE, "k-o", "optimal rates"), (HEAVY_BALL, "k--s", "rates and momentum")):
        losses = report.losses(phase, over)
        ax.loglog(list(losses), list(losses.values()), style, ms=4, lw=1.6, label=name)
    lengths = list(report.losses(phase, RATE))
    for name, marker, shade in zip(SHAPES, plots.MARKERS, plots.shades(len(SHAPES)), strict=False):
        values = [report.optima[phase, RATE, steps].certificates["benchmarks"][name] for steps in lengths]
        ax.loglog(lengths, values, marker, color=shade, ms=5, label=f"{name.replace('_', ' ')}, tuned")
    ax.set(xlabel="steps", ylabel="final excess risk")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = Experiment(
    name="optimal-schedules",
    title="Optimal schedules of one-pass SGD on power laws",
    paper="2602.04774",
    solves="rates, momentum and batches with the least final loss, by exact sweeps; SGD runs by them, in pairs",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(100, 300),
    seeds=400,
    theory=True,
    full={"lengths": (100, 300, 1000, 3000, 10_000, 30_000, 100_000), "momentum_steps": 3000, "cycles": 200},
    claims=(
        "Easy phase: the rate falls with the horizon and as a power of the time left; hard: a plateau, then decay.",
        "The optimum beats tuned constant, linear, cosine and warm-up schedules; its lead over constant ones grows.",
        "Hard phase: what momentum gains grows with the number of steps.",
        "A constant rate with a growing batch has the same loss on the same samples in fewer steps.",
    ),
)
