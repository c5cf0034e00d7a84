"""Wide networks that learn by rules other than the gradient, and what their features make of it."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .. import limits
from ..nets import rules, train
from ..problems import GradientDescent, tasks
from ..studies import _plots as plots
from ._system import Problem, System

RULES = {
    "backpropagation": lambda correlation: rules.Backpropagation(),
    "feedback-alignment": rules.FeedbackAlignment,
    "direct-feedback-alignment": lambda correlation: rules.DirectFeedbackAlignment(),
    "hebb": lambda correlation: rules.Hebb(),
    "gated-linear": lambda correlation: rules.GatedLinear(),
}
RICHNESSES = tuple(float(r) for r in np.geomspace(0.25, 64, 9))


def build(
    rule: str = "feedback-alignment",
    correlation: float = 0.0,
    depth: int = 2,
    activation: str = "tanh",
    richness: float = 2.0,
    learning_rate: float = 0.15,
    momentum: float = 0.0,
    bias_scale: float = 0.0,
    steps: int = 24,
    samples: int = 4,
    dim: int = 6,
    test_samples: int = 2,
    target: str = "sign",
    data_seed: int = 0,
) -> Problem:
    """A network that learns by `rule`: backpropagation, feedback-alignment (whose frozen matrices have `correlation`
    with the initial weights), direct-feedback-alignment, hebb or gated-linear."""
    if rule not in RULES:
        raise ValueError(f'rule "{rule}" is unknown; one of: {", ".join(RULES)}.')
    limit = limits.MLP(depth, activation, richness, bias_scale=bias_scale, rule=RULES[rule](correlation))
    key = jax.random.key(data_seed)
    task = tasks.sphere(key, samples=samples, dim=dim, test_samples=test_samples, target=target)
    return Problem(limit, task, GradientDescent(learning_rate, momentum, steps=steps))


@cache
def movement(rule: str, correlation: float = 0.0) -> np.ndarray:
    r"""How far features have moved, $H - 1$ after training, of two linear layers on one sample, at `RICHNESSES`."""
    task = tasks.from_arrays(np.ones((1, 1)), np.ones(1))
    moved = []
    for richness in RICHNESSES:
        limit = limits.MLP(1, "identity", richness, rule=RULES[rule](correlation))
        # a rate that stays well below the edge of stability of the final kernel
        theory = limit.solve(task, GradientDescent(0.1 / np.sqrt(1 + richness**2), steps=4000), keep="diagonal")
        moved.append(float(theory.kernels["Phi", 1][-1, 0, 0]) - 1)
    return np.array(moved)


def measure(report) -> dict[str, Any]:
    """Exponents of the movement of features in the richness, between the two largest."""
    found = {}
    for name, rule in (("backpropagation", "backpropagation"), ("feedback alignment", "feedback-alignment")):
        moved = np.log(movement(rule))
        slopes = np.diff(moved) / np.diff(np.log(RICHNESSES))
        found[f"exponents of feature movement by {name}, small and large richness"] = [
            round(float(slopes[0]), 3),
            round(float(slopes[-1]), 3),
        ]
    return found


def draw(report, path=None):
    """Losses and alignment of every rule, theory over networks of the largest width; the movement of features."""
    fig, axes = plots.figure(columns=4)
    size, seeds = max(report.runs), min(report.seeds, 16)
    correlation = getattr(report.limit.rule, "correlation", 0.0)
    time = np.arange(report.protocol.steps + 1)
    for (name, rule), colour, marker in zip(RULES.items(), plots.shades(len(RULES)), plots.MARKERS, strict=False):
        limit = eqx.tree_at(lambda l: l.rule, report.limit, rule(correlation))
        theory = limit.solve(report.task, report.protocol, keep="diagonal", samples=10_000)
        networks = limit.ensemble(report.task, size=size, seeds=seeds, key=jax.random.key(1))
        run = train(networks, report.task, report.protocol, key=jax.random.key(2), alignment=True)
        layer = f"alignment_{report.limit.depth}"
        for ax, curve, values in (
            (axes[0, 0], theory.train_loss, run.train_loss),
            (axes[0, 1], theory.extras[layer], run.extras[layer]),
        ):
            values = np.asarray(values)
            ax.plot(time, curve, "-", color=colour, lw=1.2)
            ax.errorbar(
                time[::2],
                values.mean(0)[::2],
                values.std(0, ddof=1)[::2] / np.sqrt(len(values)),
                fmt=marker,
                color=colour,
                ms=4,
                lw=0.8,
                label=name.replace("-", " "),
            )
    axes[0, 0].set(xlabel="step", ylabel="training loss (half mean square)", yscale="log", title="lines: theory")
    axes[0, 0].legend(frameon=False, fontsize=7)
    title = f"{seeds} pairs of width {size}"
    axes[0, 1].set(xlabel="step", ylabel="alignment of the last kernel with the labels", title=title)
    _draw_movement(axes[0, 2])
    plots.draw_convergence(axes[0, 3], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_movement(ax) -> None:
    shown = (("backpropagation", 0.0), ("feedback-alignment", 0.0), ("feedback-alignment", 0.6), ("hebb", 0.0))
    for (rule, correlation), colour, line in zip(shown, plots.shades(4), ("-", "--", "-.", ":"), strict=True):
        label = rule.replace("-", " ") + (f", correlation {correlation:g}" if rule.startswith("feedback") else "")
        ax.plot(RICHNESSES, movement(rule, correlation), line, color=colour, lw=1.4, label=label)
    large = np.asarray(RICHNESSES[-4:])
    for exponent, name, scale in ((1, "1", 1.4), (2 / 3, "2/3", 0.6)):
        ax.plot(large, scale * large[0] ** (1 - exponent) * large**exponent, "k-", lw=0.6)
        ax.annotate(
            f"slope {name}", (large[-1], scale * large[0] ** (1 - exponent) * large[-1] ** exponent), fontsize=7
        )
    ax.set(xscale="log", yscale="log", xlabel="richness", ylabel="movement of features $H - 1$")
    ax.set(title="two linear layers, one sample")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="learning-rules",
    title="Feedback alignment, Hebb and gates beside gradient descent",
    paper="2210.02157",
    solves="dynamical mean-field theory of networks that learn by other rules: predictions, kernels, effective kernels",
    build=build,
    sizes=(64, 128, 256),
    seeds=32,
    record=("kernels", "ntk"),
    options={"samples": 20_000},
    full={"steps": 60},
    figure=draw,
    measure=measure,
    claims=(
        "Networks of every rule approach one limit each, like 1/sqrt(width).",
        "Features move in proportion to richness under the gradient, and to its power 2/3 under feedback alignment.",
        "Error-modulated Hebbian learning moves features, but does not align them with the labels.",
    ),
)
