"""How the kernels of a wide network move in training, beside the approximations that are used in their place."""

from typing import Any

import jax
import numpy as np

from .. import limits
from ..nets import PREACTIVATION_EDGES
from ..problems import GradientDescent, tasks
from ..studies import _plots as plots
from ._system import Problem, System

APPROXIMATIONS = {
    "static_kernel": ("static kernel", "--"),
    "gradient_independence": ("independent gradients", ":"),
    "leading_order": ("leading order in richness", "-."),
}


def build(
    depth: int = 3,
    activation: str = "tanh",
    richness: float = 1.5,
    learning_rate: float = 0.2,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias_scale: float = 0.0,
    steps: int = 16,
    samples: int = 4,
    dim: int = 6,
    target: str = "sign",
    data_seed: int = 0,
) -> Problem:
    """A deep network whose kernels move; every approximation of its theory is drawn beside it."""
    return Problem(
        limits.MLP(depth, activation, richness, bias_scale=bias_scale),
        tasks.sphere(jax.random.key(data_seed), samples=samples, dim=dim, target=target),
        GradientDescent(learning_rate, momentum, weight_decay, steps=steps),
    )


def approximated(report, name: str):
    """The same problem by an approximation, with the options of the theory."""
    return report.limit.solve(report.task, report.protocol, approximation=name, keep="diagonal", samples=10_000)


def _distance(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def draw(report, path=None):
    """Loss and alignment with every approximation, kernels before and after, densities of preactivations."""
    fig, axes = plots.figure(columns=4, rows=2)
    size, run = max(report.runs.items())
    others = {name: approximated(report, name) for name in APPROXIMATIONS}
    _draw_curve(axes[0, 0], report, others, lambda record: record.train_loss, "training loss (half mean square)")
    axes[0, 0].set_yscale("log")
    _draw_curve(
        axes[0, 1], report, others, lambda record: record.extras["alignment"], "alignment of the tangent kernel"
    )
    depth = report.limit.depth
    last = lambda record: np.asarray(record.kernels["Phi", depth])  # noqa: E731
    means = last(run).mean(0)
    _draw_kernels(axes[1, 0], last(report.theory)[0, 0], means[0, 0], "last kernel before training")
    _draw_kernels(axes[1, 1], last(report.theory)[-1, -1], means[-1, -1], "last kernel after training")
    for ax, layer in zip((axes[0, 2], axes[1, 2]), (1, depth), strict=True):
        _draw_density(ax, report, run, size, layer)
    _draw_movement(axes[0, 3], report)
    plots.draw_convergence(axes[1, 3], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_curve(ax, report, others, value, label) -> None:
    size, run = max(report.runs.items())
    theory, values = np.asarray(value(report.theory)), np.asarray(value(run))
    time = np.arange(len(theory))
    ax.errorbar(
        time,
        values.mean(0),
        values.std(0, ddof=1),
        fmt="o",
        color=plots.shades(1)[0],
        ms=4,
        lw=0.8,
        label=f"{report.seeds} pairs, width {size}",
    )
    ax.plot(time, theory, "k-", lw=1.4, label="theory")
    for (name, record), colour in zip(others.items(), plots.shades(len(others)), strict=True):
        text, line = APPROXIMATIONS[name]
        ax.plot(time, value(record), line, color=colour, lw=1.4, label=text)
    ax.set(xlabel="step", ylabel=label)
    ax.legend(frameon=False, fontsize=7)


def _draw_kernels(ax, theory, networks, title) -> None:
    """Theory in the left half, the mean over networks in the right half, on one scale."""
    both = np.concatenate([theory, np.full((len(theory), 1), np.nan), networks], axis=1)
    image = ax.imshow(both, cmap="Greys", vmin=min(0.0, np.nanmin(both)), vmax=np.nanmax(both))
    ax.figure.colorbar(image, ax=ax, shrink=0.7)
    ax.set_xticks([(len(theory) - 1) / 2, 1.5 * len(theory) + 0.5], ["theory", "networks"])
    ax.set(yticks=[], title=title)


def _draw_density(ax, report, run, size, layer: int) -> None:
    centres = (PREACTIVATION_EDGES[1:] + PREACTIVATION_EDGES[:-1]) / 2
    theory, values = (np.asarray(record.extras[f"density_{layer}"]) for record in (report.theory, run))
    for step, line, colour, name in ((0, "--", "0.45", "before"), (-1, "-", "k", "after")):
        ax.plot(centres, values[:, step].mean(0), "o" if step else "s", color=colour, ms=3, mfc="white", lw=0)
        ax.plot(centres, theory[step], line, color=colour, lw=1.4, label=f"{name} training, theory")
    ax.set(xlabel=f"preactivation of layer {layer}", ylabel="density", title=f"points: width {size}")
    ax.set_ylim(0, 1.3 * theory.max())
    ax.legend(frameon=False, fontsize=7)


def _draw_movement(ax, report) -> None:
    run = report.runs[max(report.runs)]
    for l, colour, marker in zip(
        range(1, report.limit.depth + 1), plots.shades(report.limit.depth), plots.MARKERS, strict=False
    ):
        trace = lambda K: np.trace(np.einsum("...ttmn->...tmn", np.asarray(K)), axis1=-2, axis2=-1)  # noqa: E731
        theory, values = trace(report.theory.kernels["Phi", l]), trace(run.kernels["Phi", l])
        ax.plot(theory / theory[0], "-", color=colour, lw=1.4, label=f"layer {l}")
        ax.plot(values.mean(0) / values.mean(0)[0], marker, color=colour, ms=4, mew=0)
    ax.set(xlabel="step", ylabel=r"size of $\Phi^l$, over its start", title="lines: theory")
    ax.legend(frameon=False, fontsize=7)


def measure(report) -> dict[str, Any]:
    """Relative errors of the predictions by every approximation, and of the last kernel after training."""
    found, theory = {}, report.theory
    depth = report.limit.depth
    for name in APPROXIMATIONS:
        other = approximated(report, name)
        found[f"error of {name}"] = {
            "predictions": round(_distance(other.predictions, theory.predictions), 4),
            f"Phi_{depth} after training": round(
                _distance(other.kernels["Phi", depth][-1], theory.kernels["Phi", depth][-1, -1]), 4
            ),
        }
    return found


SYSTEM = System(
    name="kernel-evolution",
    title="Kernels that move: theory, networks, approximations",
    paper="2205.09653",
    solves="kernels, tangent kernel, alignment and densities of a deep network in training, and three approximations",
    build=build,
    sizes=(64, 128, 256),
    seeds=24,
    record=("kernels", "ntk", "alignment", "densities"),
    options={"samples": 20_000, "densities": True},
    full={"richness": 2.0, "steps": 40},
    figure=draw,
    measure=measure,
    claims=(
        "Kernels of every layer, the tangent kernel and the densities of preactivations follow the theory.",
        "A static kernel, independent gradients and the leading order in the richness all fail in the rich regime.",
        "The tangent kernel aligns with the labels as features are learned.",
    ),
)
