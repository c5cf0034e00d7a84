"""The two-point deterministic equivalent: momentum, ensembles and bagging of random features, and where they end."""

import numpy as np

from .. import limits
from ..problems import GradientDescent, tasks
from ..studies import _plots as plots
from ._system import Problem, System

MEMBERS = (1, 2, 4, 8)
FEATURES = (20.0, 40.0, 80.0)
NODES = (16, 24, 32, 48, 64, 96, 128)


def build(
    features: float = 40.0,
    samples: float = 60.0,
    members: int = 4,
    bagging: bool = False,
    modes: int = 120,
    capacity: float = 1.5,
    decay: float = 2.0,
    noise: float = 0.5,
    learning_rate: float = 0.2,
    momentum: float = 0.5,
    steps: int = 60,
) -> Problem:
    """The mean prediction of several networks with own random features, trained by the heavy ball on one sample."""
    return Problem(
        limits.RandomFeatures(features, members, bagging),
        tasks.power_law(modes, capacity, decay, noise, samples),
        GradientDescent(learning_rate, momentum, steps=steps),
    )


def gains(report) -> dict:
    """The final test loss of the ensemble over that of one network, with common and with own samples; and how far the
    contour form is from the form in time."""
    design, task, protocol = report.limit, report.task, report.protocol

    def losses(members, bagging, **options):
        limit = limits.RandomFeatures(design.features, members, bagging)
        return np.asarray(limit.solve(task, protocol, **options).test_loss)

    def final(members, bagging):
        return float(losses(members, bagging)[-1])

    many = max(2, design.members)
    alone = final(1, False)
    apart = np.max(np.abs(losses(1, False, method="contour") / losses(1, False, method="time") - 1))
    return {
        f"test loss of {many} networks over one": round(final(many, False) / alone, 4),
        f"test loss of {many} networks with own samples over one": round(final(many, True) / alone, 4),
        "largest distance of the contour form from the form in time": float(f"{apart:.1e}"),
    }


def draw(report, path=None):
    """Learning curves of theory and networks; below them the theory's curves for ensembles of several sizes, where
    training ends against the number of samples, and the error of the contour against its nodes."""
    fig, axes = plots.figure(columns=3, rows=2)
    plots.draw_losses(axes[0], report)
    _draw_ensembles(axes[1, 0], report)
    _draw_double_descent(axes[1, 1], report)
    _draw_nodes(axes[1, 2], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_ensembles(ax, report) -> None:
    for members, colour in zip(MEMBERS, plots.shades(len(MEMBERS)), strict=True):
        for bagging, line in ((False, "-"), (True, "--")) if members > 1 else ((False, "-"),):
            limit = limits.RandomFeatures(report.limit.features, members, bagging)
            loss = limit.solve(report.task, report.protocol).test_loss
            label = f"{members}, own samples" if bagging else "1 network" if members == 1 else f"{members} networks"
            ax.plot(np.arange(len(loss)), loss, line, color=colour, label=label)
    ax.set(yscale="log", xlabel="step", ylabel="test loss", title="ensembles and bagging")
    ax.legend(frameon=False, fontsize=7)


def _draw_double_descent(ax, report) -> None:
    task = report.task
    samples = np.unique(np.concatenate([np.geomspace(5, 500, 80), *([0.97 * n, 1.03 * n] for n in FEATURES)]))
    for features, colour in zip(FEATURES, plots.shades(len(FEATURES)), strict=True):
        problems = [tasks.power_law(task.modes, task.capacity, task.decay, task.noise, count) for count in samples]
        loss = [float(limits.RandomFeatures(features).stationary_loss(problem)) for problem in problems]
        ax.plot(samples, loss, color=colour, label=f"{features:g} features")
    ax.set(
        xscale="log", yscale="log", xlabel="samples", ylabel="test loss", title="where training ends: double descent"
    )
    ax.set_ylim(top=20)
    ax.legend(frameon=False, fontsize=7)


def _draw_nodes(ax, report) -> None:
    limit = limits.RandomFeatures(report.limit.features)
    exact = limit.solve(report.task, report.protocol, method="time").test_loss
    errors = []
    for nodes in NODES:
        found = limit.solve(report.task, report.protocol, method="contour", nodes=nodes, throw=False).test_loss
        errors.append(np.max(np.abs(found / exact - 1)))
    ax.plot(NODES, errors, "o-", color=plots.shades(1)[0])
    ax.set(yscale="log", xlabel="nodes of the contour", ylabel="largest relative error", title="one contour, all times")


SYSTEM = System(
    name="two-point",
    title="Two-point deterministic equivalent of SGD",
    paper="2502.05074",
    solves="gradient descent with any schedule and momentum on random features, by a contour integral; ensembles",
    build=build,
    sizes=(1, 2, 4),
    seeds=64,
    full={"steps": 200, "modes": 400},
    figure=draw,
    measure=gains,
    claims=(
        "Two-point functions of a random matrix, which know nothing of the schedule, give the loss at every time.",
        "Averaging networks removes the variance of the features, bagging that of the samples too.",
        "Where training ends the loss has a peak at equally many features and samples.",
    ),
)
