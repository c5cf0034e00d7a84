"""Grokking: a wide network fits through its initial kernel first and learns features, and to generalise, later."""

from functools import cache

import numpy as np

from .. import limits
from ..nets._base import Frozen
from ..problems import GradientDescent, replace, tasks
from ..studies import _plots as plots
from ._system import Problem, System

SCALES = (0.25, 1.0, 3.0, 8.0)  # of the output scale
LONGER = 12.0  # steps for the largest of them, over those of the comparison
SHARE = 0.1
PARTS = ("misalignment", "linear_power", "scale_error")


def build(
    output_scale: float = 1.0,
    curvature: float = 0.2,
    dim: int = 30,
    samples: int = 165,
    test_samples: int = 200,
    learning_rate: float = 2.0,
    steps: int = 1000,
    data_seed: int = 0,
) -> Problem:
    """A quadratic function of one direction of Gaussian inputs, more samples than dimensions and fewer than their
    square."""
    from jax import random

    task = tasks.quadratic(random.key(data_seed), samples=samples, dim=dim, test_samples=test_samples)
    return Problem(limits.QuadraticNetwork(output_scale, curvature), task, GradientDescent(learning_rate, steps=steps))


def sweep(report, approximation: str | None = None) -> dict:
    """Theory on the training data of a report for `SCALES` times its output scale, for as long as the last one
    needs."""
    return _sweep(Frozen((report.limit, report.task.x, report.task.y, report.protocol)), approximation)


# The numbers of the summary and the picture are the same.


@cache
def _sweep(problem: Frozen, approximation: str | None) -> dict:
    limit, x, y, protocol = problem.value
    steps = round(LONGER * protocol.steps)
    task, longer = tasks.from_arrays(x, y), GradientDescent(protocol.learning_rate[0], steps=steps)
    found = {}
    for alpha in np.array(SCALES) * float(limit.output_scale):
        limit = replace(limit, "output_scale", alpha)
        found[float(alpha)] = limit.solve(
            task, longer, teacher=np.ones(task.dim), approximation=approximation, throw=False
        )
    return found


def population_loss(theory) -> np.ndarray:
    """The expected test loss, the sum of its parts."""
    return np.sum([theory.extras[name] for name in PARTS], axis=0)


def threshold(curve, share: float = SHARE) -> float:
    """First step at which a curve is below a share of its start; nan if it never is."""
    curve = np.asarray(curve)
    low = curve < share * curve[0]
    return float(np.argmax(low)) if low.any() else np.nan


def kernel_regression(limit, task) -> float:
    """Test loss of regression with the initial kernel, where descent with a static kernel ends."""
    initial, initial_test = (
        float(limit.output_scale * limit.curvature) / 2 * np.sum(np.asarray(x) ** 2, 1) / task.dim
        for x in (task.x, task.x_test)
    )
    weights = np.linalg.lstsq(limit.kernel(task.x), task.y - initial, rcond=1e-12)[0]
    outputs = initial_test + limit.kernel(task.x_test, task.x) @ weights
    return float(np.mean((outputs - task.y_test) ** 2)) / 2


def numbers(report) -> dict:
    """When train and test losses have fallen, for several output scales, and what the initial kernel would reach."""
    found = {}
    lazy = sweep(report, "static_kernel")
    for alpha, theory in sweep(report).items():
        times = [threshold(c) for c in (theory.train_loss, population_loss(theory), lazy[alpha].train_loss)]
        name = (
            f"steps to {SHARE:g} of the first training loss, expected test loss, and training loss with a static "
            f"kernel, output scale {alpha:g}"
        )
        found[name] = [int(time) if np.isfinite(time) else None for time in times]
    test = np.asarray(report.theory.test_loss)
    regression = kernel_regression(report.limit, report.task)
    found["highest test loss over the first"] = round(float(test.max() / test[0]), 3)
    found["test loss of regression with the initial kernel over the first"] = round(regression / float(test[0]), 3)
    return found


def draw(report, path=None):
    """Training and test loss of networks and theory beside the lazy network; convergence; below, losses for several
    output scales, what the test loss consists of, and kernel alignment with weights; then threshold times."""
    fig, axes = plots.figure(columns=3, rows=2)
    limit, task, protocol = report.limit, report.task, report.protocol
    lazy = limit.solve(task, protocol, approximation="static_kernel", throw=False)
    plots.draw_curve(axes[0, 0], report, "train_loss", reference=lazy, reference_label="static kernel")
    plots.draw_curve(axes[0, 1], report, "test_loss", reference=lazy, reference_label="static kernel")
    end = kernel_regression(limit, task)
    axes[0, 1].axhline(end, color="0.45", ls=":", lw=1.2, label="regression with initial kernel")
    axes[0, 1].legend(frameon=False, fontsize=7)
    plots.draw_convergence(axes[0, 2], report)
    theories = sweep(report)
    _draw_scales(axes[1, 0], theories)
    _draw_times(axes[1, 1], theories, sweep(report, "static_kernel"))
    _draw_features(axes[1, 2], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_scales(ax, theories) -> None:
    for (alpha, theory), colour in zip(theories.items(), plots.shades(len(theories)), strict=True):
        test = population_loss(theory)
        steps = np.arange(len(test))
        ax.plot(steps, test / test[0], "-", color=colour, label=f"$\\alpha$ = {alpha:g}")
        ax.plot(steps, theory.train_loss / theory.train_loss[0], "--", color=colour, lw=1)
    ax.axhline(SHARE, color="0.6", ls=":", lw=1)
    ax.set(xscale="log", yscale="log", xlim=(10, len(test) - 1), ylim=(1e-3, 2), xlabel="step")
    ax.set(ylabel="loss over that at the start", title="training (dashed), expected test (full)")
    ax.legend(frameon=False, fontsize=7)


def _draw_times(ax, theories, lazy) -> None:
    scales = np.array(list(theories))
    test = np.array([threshold(population_loss(theory)) for theory in theories.values()])
    train, static = (np.array([threshold(t.train_loss) for t in group.values()]) for group in (theories, lazy))
    dark, light = plots.shades(3)[2], plots.shades(3)[0]
    ax.plot(scales, test, "s-", color=dark, label="expected test loss")
    ax.plot(scales, train, "o--", color=light, label="training loss")
    ax.plot(scales, static, "-.", color="0.45", lw=1.2, label="training loss, static kernel")
    ax.set(xscale="log", yscale="log", xlabel=r"output scale $\alpha$", ylabel=f"step of falling below {SHARE:g}")
    ax.set_title("training goes lazy, the test loss must wait")
    ax.set_xticks(scales, [f"{scale:g}" for scale in scales])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=7)


def _draw_features(ax, report) -> None:
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    for alpha, colour in zip(SCALES, plots.shades(len(SCALES)), strict=True):
        alpha = alpha * float(report.limit.output_scale)
        limit = replace(report.limit, "output_scale", alpha)
        theory = limit.solve(report.task, report.protocol, kernel_alignment=True, throw=False)
        alignment = theory.extras["kernel_alignment"]
        steps = np.arange(len(alignment))
        ax.plot(steps, alignment, "-", color=colour, label=f"$\\alpha$ = {alpha:g}")
        right.plot(steps, theory.extras["mean_square_weight"], ":", color=colour, lw=1.4)
    ax.set(xscale="log", xlim=(10, len(steps) - 1), xlabel="step", ylabel="kernel alignment (full)")
    right.set(yscale="log", ylabel="mean square of the weights (dotted)")
    ax.set_title("the kernel turns; no weight decay")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="grokking",
    title="Grokking as the transition from lazy to rich training",
    paper="2310.06110",
    solves="descent of units with a quadratic activation, exactly in the moments of their weights; delayed test loss",
    build=build,
    sizes=(100, 200, 400),
    seeds=32,
    full={"dim": 100, "samples": 550, "test_samples": 1000, "steps": 3000},
    figure=draw,
    measure=numbers,
    claims=(
        "The training loss falls several times earlier than the test loss, without weight decay; weights may grow.",
        "The delay grows with the output scale and with less curvature; with a small output scale it is short.",
        "At large output scale training goes at the pace of the initial kernel, with which nothing generalises.",
    ),
)
