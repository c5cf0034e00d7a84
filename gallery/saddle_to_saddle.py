"""Sparse regression by a diagonal linear network from ever smaller weights: a staircase of plateaus and jumps."""

import jax
import numpy as np

from .. import limits
from ..problems import GradientFlow, tasks
from ..studies import _plots as plots
from ._system import Problem, System

_TEACHER = (1.2, -0.8, 0.9, -0.5)


def build(
    samples: int = 40,
    dim: int = 6,
    mixing: float = 0.3,
    noise: float = 0.1,
    horizon: float = 2.2,
    init_spread: float = 0.5,
    points: int = 301,
    data_seed: int = 7,
) -> Problem:
    """Four relevant coordinates among `dim`, inputs correlated by `mixing`; `horizon` is in units of ln(1/a)."""
    if dim < len(_TEACHER):
        raise ValueError(f"dim must be at least {len(_TEACHER)}, the number of relevant coordinates; it is {dim}.")
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(data_seed), 3)
        x, mixer, error = (
            np.asarray(jax.random.normal(key, shape))
            for key, shape in zip(keys, ((samples, dim), (dim, dim), (samples,)), strict=True)
        )
    x = x @ (np.eye(dim) + mixing * mixer)
    y = x[:, : len(_TEACHER)] @ np.array(_TEACHER) + noise * error
    return Problem(
        limits.DiagonalLinear(init_spread), tasks.from_arrays(x, y), GradientFlow(np.linspace(0.0, horizon, points))
    )


def draw(report, path=None):
    """Loss, coefficients and progress in the time t / ln(1/a), and the distance from the limit against ln(1/a)."""
    fig, axes = plots.figure(columns=2, rows=2)
    times = np.asarray(report.protocol.times)
    theory = report.theory
    drawn = list(zip(report.runs.items(), plots.shades(len(report.runs)), ("--", "-.", "-"), strict=False))
    for ax, name in ((axes[0, 0], None), (axes[0, 1], "coefficients"), (axes[1, 0], "progress")):
        for (size, run), colour, style in drawn:
            values = np.asarray(run.train_loss if name is None else run.extras[name])
            # the first network, as a mean over staircases has no sharp steps
            ax.plot(times, values[0], style, color=colour, lw=1.3)
            ax.plot([], [], style, color=colour, lw=1.3, label=f"a = {_power(size)}")
        values = np.asarray(theory.train_loss if name is None else theory.extras[name])
        ax.plot(times, values, "k-", lw=0.9)
        ax.plot([], [], "k-", lw=0.9, label="a → 0")
        ax.set(xlabel="time / ln(1/a)", xlim=(0, times[-1]))
    axes[0, 0].set(yscale="log", ylabel="training loss (half mean square)", title="the loss is a staircase")
    axes[0, 0].legend(frameon=False)
    axes[0, 1].set(ylabel="coefficients", title="coefficients wake up one at a time")
    axes[1, 0].set(ylabel="progress of the coefficients", title="while dormant they make progress")
    ax = axes[1, 1]
    sizes = np.asarray(report.sizes, float)
    for name, marker, colour in zip(report.errors, plots.MARKERS, plots.shades(len(report.errors)), strict=False):
        label = f"{name}: slope {report.rate[name]:.2f}" if report.rate[name] is not None else name
        ax.plot(sizes, report.spread[name], marker + "-", color=colour, ms=5, lw=1, label=label)
    reference = report.spread[next(iter(report.errors))][0] * 1.35
    ax.plot(sizes, reference * sizes[0] / sizes, "k:", lw=1, label="slope -1")
    ax.set(xscale="log", yscale="log", xlabel="ln(1/a)", ylabel="relative distance of a network from a → 0")
    ax.set_xticks(sizes, [f"{int(size)}" for size in sizes])
    ax.minorticks_off()
    ax.set_title("the limit is approached logarithmically")
    ax.legend(frameon=False)
    if path is not None:
        fig.savefig(path)
    return fig


def _power(size: int) -> str:
    return f"$10^{{{-size / np.log(10):.0f}}}$"


SYSTEM = System(
    name="saddle-to-saddle",
    title="Saddle-to-saddle dynamics of diagonal linear networks",
    paper="2506.06489",
    solves="plateaus and jump times of a diagonal linear network from vanishing weights (alternating gradient flow)",
    build=build,
    sizes=(15, 30, 60),
    seeds=32,
    full={"dim": 12, "samples": 80, "horizon": 4.0},
    options={"quantities": ("progress",)},
    figure=draw,
    claims=(
        "From vanishing weights the loss is a staircase in the time t / ln(1/a), one coordinate a step.",
        "Jump times approach the limit like 1 / ln(1/a).",
    ),
)
