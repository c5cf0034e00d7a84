"""Deep linear networks whose width, input dimension and samples grow together, and how learning rates transfer."""

import jax
import numpy as np

from .. import limits
from ..problems import GradientDescent, OnlineSGD, tasks
from ..studies import _plots as plots
from ._system import Problem, System

WIDTH_RATIOS = (1.0, 2.0, 4.0, 8.0)
BRANCHES = (2, 4, 8)
RATES = np.geomspace(0.01, 0.3, 30)


def build(
    depth: int = 2,
    width_ratio: float = 1.0,
    richness: float = 2.0,
    init_scale: float = 0.7,
    readout_scale: float = 1.0,
    parameterization: str = "mup",
    residual: bool = False,
    sample_ratio: float = 2.0,
    batch_ratio: float | None = None,
    noise: float = 0.3,
    learning_rate: float = 0.05,
    momentum: float = 0.0,
    steps: int = 30,
) -> Problem:
    """A noisy linear teacher on white inputs; with a `batch_ratio`, learned from fresh samples at every step."""
    rates = {"learning_rate": learning_rate, "momentum": momentum, "steps": steps}
    return Problem(
        limits.DeepLinear(depth, width_ratio, richness, init_scale, readout_scale, parameterization, residual),
        tasks.isotropic(sample_ratio, noise),
        GradientDescent(**rates) if batch_ratio is None else OnlineSGD(**rates, batch_ratio=batch_ratio),
    )


def draw(report, path=None):
    """Learning curves of theory and networks; below them, the theory's loss against the learning rate for several
    widths in both parameterisations, and for several depths of a residual network."""
    fig, axes = plots.figure(columns=3, rows=2)
    plots.draw_losses(axes[0], report)
    for ax, parameterization in zip(axes[1], ("mup", "ntk"), strict=False):
        curves = [loss_against_rate(width_ratio=ratio, parameterization=parameterization) for ratio in WIDTH_RATIOS]
        _draw_rates(ax, curves, [f"N = {ratio:g} D" for ratio in WIDTH_RATIOS])
        ax.set_title({"mup": "maximal update: one best rate", "ntk": "neural tangent: it drifts"}[parameterization])
    curves = [loss_against_rate(depth=1 + branches, residual=True, richness=2.0) for branches in BRANCHES]
    _draw_rates(axes[1, 2], curves, [f"{branches} residual branches" for branches in BRANCHES])
    axes[1, 2].set_title("residual depth: one best rate")
    axes[1, 0].sharey(axes[1, 1])
    if path is not None:
        fig.savefig(path)
    return fig


def loss_against_rate(
    *, depth=2, width_ratio=1.0, richness=4.0, init_scale=0.5, parameterization="mup", residual=False, steps=12
) -> np.ndarray:
    """The theory's test loss after `steps` steps on the population, at every one of `RATES`; nan where it diverged."""
    limit = limits.DeepLinear(depth, width_ratio, richness, init_scale, 1.0, parameterization, residual)
    task = tasks.isotropic()

    def final(rate):
        theory = limit.solve(task, GradientDescent(rate, steps=steps), throw=False)
        return theory.test_loss[-1], theory.diverged_step

    loss, diverged = jax.jit(lambda rates: jax.lax.map(final, rates))(RATES)
    return np.where(np.asarray(diverged) >= 0, np.nan, np.asarray(loss))


def _draw_rates(ax, curves, labels) -> None:
    for loss, label, colour, marker in zip(curves, labels, plots.shades(len(curves)), plots.MARKERS, strict=False):
        ax.plot(RATES, loss, color=colour, label=label)
        if not np.all(np.isnan(loss)):
            best = np.nanargmin(loss)
            ax.plot(RATES[best], loss[best], marker, color=colour, ms=6)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="test loss after training")
    ax.set_ylim(top=1.0)
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="deep-linear",
    title="Deep linear networks in the proportional limit",
    paper="2502.02531",
    solves="training and test loss at finite width and sample ratio, any depth, by an exact causal sweep",
    build=build,
    sizes=(100, 200, 400),
    seeds=16,
    full={"richness": 4.0, "init_scale": 0.5, "learning_rate": 0.04, "steps": 40},
    figure=draw,
    claims=(
        "Wider is better in the maximal-update parameterisation, and slower in the neural-tangent one.",
        "The best learning rate transfers over widths in the former, and over depths with branches 1/sqrt(depth).",
        "Finite networks differ from the theory by order 1/D in the mean.",
    ),
)
