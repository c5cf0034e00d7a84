"""Benign SGD: the risk of averaged SGD, exactly and in its two parts, beside the bounds that explain it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import limits
from ..problems import OnlineSGD, tasks
from ..problems import _checks as checks
from ..studies import _plots as plots
from ..studies import benign_bounds, check_bounded_rate
from ._system import Problem, System

COUNTS = (10, 100, 1000, 10_000)
CAPACITIES = (1.2, 1.5, 2.0, 3.0)
FRACTIONS = np.geomspace(0.02, 0.95, 24)


def build(
    modes: int = 2000,
    capacity: float = 1.5,
    decay: float = 2.0,
    noise: float = 1.0,
    learning_rate: float = 0.1,
    batch_size: int = 1,
    steps: int = 1000,
) -> Problem:
    """One-pass SGD at a constant rate on a power law, whose later half of the iterates is averaged."""
    task = tasks.power_law(modes, capacity, decay, noise)
    protocol = OnlineSGD(learning_rate, batch_size=batch_size, steps=checks.integer("steps", steps, low=2))
    rate = checks.number("learning_rate", learning_rate, above=0.0)
    check_bounded_rate(task, rate, protocol.batch_size[0])
    return Problem(limits.RandomFeatures(features=None), task, protocol)


def ratios(report) -> dict:
    """Exact values over bounds for three lengths of the average; and the risk of averaging this run's iterates, in
    theory and over simulated runs."""
    found = [_bounds(report, n) for n in COUNTS[1:]]
    count = report.protocol.steps // 2
    here = _bounds(report, count)
    risk, error = _mean(simulate(report, count))
    return {
        "variance over its bound at n = 100, 1000, 10000": [round(float(f.variance_ratio), 3) for f in found],
        "bias over its bound at n = 100, 1000, 10000": [round(float(f.bias_ratio), 3) for f in found],
        f"risk of the average of {count} iterates": float(f"{here.risk:.5g}"),
        "the same over simulated runs, and its standard error": [float(f"{risk:.5g}"), float(f"{error:.2g}")],
        "risk of the average over that of the last iterate": round(float(here.risk / here.last_risk), 4),
    }


def simulate(report, count: int, key=None):
    """Excess risk of the mean of the last `count` of `2 * count` iterates, in as many runs as the comparison has."""
    batch = int(report.protocol.batch_size[0])
    keys = jax.random.split(jax.random.key(1) if key is None else key, report.seeds)
    return _averaged_runs(report.task, report.protocol.learning_rate[0], batch, count, keys)


@eqx.filter_jit
def _averaged_runs(task, rate, batch: int, count: int, keys):
    problem = task.population()
    teacher, eigenvalues = jnp.asarray(problem.teacher, float), jnp.asarray(problem.eigenvalues, float)
    rate = jnp.asarray(rate / batch, float)

    def step(theta, key):
        x, y = problem.batch(key, batch)
        return theta + rate * (y - x @ theta) @ x

    def run(key):
        def early(theta, key):
            return step(theta, key), None

        def late(carry, key):
            theta, total = carry
            theta = step(theta, key)
            return (theta, total + theta), None

        keys = jax.random.split(key, 2 * count)
        theta, _ = jax.lax.scan(early, jnp.zeros_like(teacher), keys[:count])
        (_, total), _ = jax.lax.scan(late, (theta, jnp.zeros_like(teacher)), keys[count:])
        return jnp.sum(eigenvalues * (total / count - teacher) ** 2)

    return jax.lax.map(run, keys, batch_size=50)


def _mean(values) -> tuple[float, float]:
    """Mean and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _bounds(report, count: int):
    protocol = report.protocol
    if np.any(protocol.momentum) or np.any(protocol.extra_gradient) or report.limit.features is not None:
        raise ValueError("momentum, extra_gradient and features must be left out: the bounds are those of plain SGD.")
    return benign_bounds(report.task, report.protocol.learning_rate[0], 2 * count, report.protocol.batch_size[0])


def draw(report, path=None):
    """The learning curve of theory and runs; the last iterate against the average; exact bias and variance with their
    bounds, and their ratios, against the length of the average; and how the ratio grows with the rate."""
    fig, axes = plots.figure(columns=3, rows=2)
    counts = sorted({*COUNTS, report.protocol.steps // 2})
    found = {count: _bounds(report, count) for count in counts}
    plots.draw_curve(axes[0, 0], report, "test_loss", label="theory, last iterate")
    plots.draw_residual(axes[0, 1], report, "test_loss")
    _draw_average(axes[0, 2], report, found)
    _draw_parts(axes[1, 0], found)
    _draw_ratios(axes[1, 1], found)
    _draw_rates(axes[1, 2], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_average(ax, report, found) -> None:
    last, average = (np.array([getattr(f, name) for f in found.values()]) for name in ("last_risk", "risk"))
    light, dark = plots.shades(2)
    ax.plot(list(found), last, "o--", color=light, ms=4, label="last iterate")
    ax.plot(list(found), average, "s-", color=dark, ms=4, label="average of the later half")
    count = report.protocol.steps // 2
    mean, error = _mean(simulate(report, count))
    ax.errorbar([count], [mean], [2 * error], fmt="kx", ms=6, label=f"average over {report.seeds} runs")
    ax.set(xscale="log", yscale="log", xlabel="n, half the number of steps", ylabel="test loss", title="averaging")
    ax.set_ylim(10 ** np.floor(np.log10(average.min())), 10 ** np.ceil(np.log10(last.max())))
    ax.legend(frameon=False, fontsize=7)


def _draw_parts(ax, found) -> None:
    for name, marker, colour in zip(("bias", "variance"), plots.MARKERS, plots.shades(2), strict=False):
        exact, bound = (np.array([getattr(f, n) for f in found.values()]) for n in (name, f"{name}_bound"))
        ax.plot(list(found), exact, marker + "-", color=colour, ms=4, label=name)
        ax.plot(list(found), bound, "--", color=colour, label=f"bound on {name}")
    ax.set(xscale="log", yscale="log", xlabel="n, half the number of steps", ylabel="part of the test loss")
    ax.set_title("exact parts and their bounds")
    ax.legend(frameon=False, fontsize=7)


def _draw_ratios(ax, found) -> None:
    for name, marker, colour in zip(("bias", "variance"), plots.MARKERS, plots.shades(2), strict=False):
        ax.plot(
            list(found), [getattr(f, f"{name}_ratio") for f in found.values()], marker + "-", color=colour, label=name
        )
    ax.axhline(1, color="k", lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="n, half the number of steps", ylabel="exact / bound", ylim=(0, 1.2))
    ax.set_title("the ratio stays in a band")
    ax.legend(frameon=False)


def _draw_rates(ax, report, count: int = 1000) -> None:
    modes, decay, batch = report.task.modes, report.task.decay, report.protocol.batch_size[0]
    for capacity, colour in zip(CAPACITIES, plots.shades(len(CAPACITIES)), strict=True):
        task = tasks.power_law(modes, capacity, decay, 1.0)
        edge = float(limits.RandomFeatures().stable_rate(task, batch))
        found = jax.vmap(lambda rate, task=task: benign_bounds(task, rate, 2 * count, batch))(edge * FRACTIONS)
        ratio, gain = np.asarray(found.variance_ratio), np.asarray(found.noise_gain)
        ax.plot(FRACTIONS, ratio, color=colour, label=f"$\\lambda_k = k^{{-{capacity:g}}}$")
        ax.plot(FRACTIONS, ratio / gain, "--", color=colour)
    ax.axhline(1, color="k", lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="learning rate / largest stable one", ylabel="variance / bound", ylim=(0, 3))
    ax.set_title("dashed: without the gain of noise")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="benign-sgd",
    title="Benign SGD: averaged iterates and their bounds",
    paper="2506.15535",
    solves="exact bias and variance of SGD with averaged iterates, beside their bounds",
    build=build,
    seeds=50,
    full={"steps": 10_000},
    figure=draw,
    measure=ratios,
    claims=(
        "Exact bias and variance over their bounds stay in a band while the average grows a hundredfold.",
        "Averaging the later half of the iterates removes most of the noise floor of a constant rate.",
        "What the bounds leave out is the gain of gradient noise, which is infinite at the edge of stability.",
    ),
)
