"""Rate and richness of a perceptron on digits, chosen by gradients of the theory, against searches without them."""

import numpy as np

from ..studies import _plots as plots
from ._experiment import Experiment
from ._hyperparameter_search import OVER, Searches, build, conduct

_LOOK = {"theory": ("k", "o"), "random": ("C0", "s"), "bayesian": ("C1", "^"), "grid": ("0.6", "P")}


def draw(report: Searches, path=None):
    """Excess over the lowest value against the charge; the landscape with what was tried; paired differences."""
    fig, axes = plots.figure(columns=3)
    _draw_progress(axes[0, 0], report)
    _draw_landscape(axes[0, 1], report)
    plots.draw_differences(axes[0, 2], {f"width {size}": proof for size, proof in report.proofs.items()})
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_progress(ax, report: Searches) -> None:
    lowest = report.measured["lowest"]
    floor = 1e-4
    for name, runs in report.searches.items():
        colour, marker = _LOOK[name]
        length = max(len(run.values) for run in runs)
        best = np.stack([np.pad(run.best, (0, length - len(run.best)), mode="edge") for run in runs])
        excess = np.maximum(best / lowest - 1, floor)
        cost = runs[0].charge * np.arange(1, length + 1)
        ax.plot(cost, np.median(excess, axis=0), marker + "-", color=colour, ms=3.5, lw=1.3, label=name)
        ax.fill_between(cost, excess.min(0), excess.max(0), color=colour, alpha=0.12, lw=0)
    ax.set(xscale="log", yscale="log", xlabel="solutions of the theory (a gradient is charged as 4)")
    ax.set(ylabel="best value so far over the lowest, minus 1", title="median and range over repeats")
    ax.legend(frameon=False, fontsize=7)


def _draw_landscape(ax, report: Searches) -> None:
    grid = report.searches["grid"][0]
    side = round(len(grid.values) ** 0.5)
    x, y, log_loss = (v.reshape(side, side) for v in (*np.exp(grid.points).T, np.log10(grid.values)))
    levels = np.linspace(log_loss.min(), np.quantile(log_loss, 0.95), 16)
    lines = ax.contour(x, y, log_loss, levels=levels, colors="0.6", linewidths=0.7, linestyles="solid")
    ax.clabel(lines, lines.levels[::4], fontsize=6)
    for name in ("random", "bayesian"):
        if name in report.searches:
            colour, marker = _LOOK[name]
            ax.plot(*np.exp(report.searches[name][0].points).T, marker, color=colour, ms=3, alpha=0.7, label=name)
    for i, run in enumerate(report.searches["theory"]):
        ax.plot(
            *np.exp(run.points).T, "k.-", ms=3 if i else 6, lw=1.8 if i == 0 else 0.6, label=None if i else "theory"
        )
    ax.plot(*(report.optimum.found[name] for name in OVER), "*", color="C3", mec="w", ms=13)
    ax.set(xscale="log", yscale="log", xlabel="peak learning rate", ylabel="richness", title="log10 of the test loss")
    ax.legend(loc="lower left", framealpha=0.9, fontsize=7)


SYSTEM = Experiment(
    name="hyperparameter-search",
    title="Rate and richness by gradients of the theory, against random, grid and Bayesian search",
    paper="2306.08055",
    solves="peak rate and richness of a tanh perceptron on digits with wrong labels; networks at what was chosen",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(64, 256),
    seeds=16,
    theory=True,
    full={"particles": 4000, "repeats": 16, "budget": 200, "grid": 16},
    claims=(
        "Gradients of the theory find rate and richness in fewer solutions of it than random search, a gradient "
        "charged as four; with two controls Bayesian search is their equal.",
        "With wrong labels the best richness is neither lazy nor the largest.",
        "Networks gain what the theory says.",
    ),
)
