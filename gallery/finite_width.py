"""Finite width: fluctuations of networks around the feature-learning limit, and the bias that ensembling leaves."""

from functools import cache

import equinox as eqx
import jax
import numpy as np

from .. import limits, nets
from ..limits import fluctuations
from ..nets._base import Frozen
from ..problems import GradientDescent, tasks
from ..studies import _plots as plots
from ._system import Problem, System

NETWORKS = 6000
RICHNESS = (0.2, 0.5, 1.0, 2.0, 3.0)
DEPTHS = (1, 2, 3)
DEEP_WIDTH = 200
DEEP_NETWORKS = 1000


def build(
    richness: float = 1.0,
    activation: str = "tanh",
    samples: int = 2,
    dim: int = 2,
    learning_rate: float = 0.4,
    steps: int = 12,
    data_seed: int = 0,
) -> Problem:
    """One hidden layer on a few samples, so few that averages over a unit's Gaussians are exact."""
    task = tasks.sphere(jax.random.key(data_seed), samples=samples, dim=dim, test_samples=0)
    return Problem(limits.MLP(1, activation, richness), task, GradientDescent(learning_rate, steps=steps))


def train(limit, task, protocol, size: int, count: int, key, paired: bool = False, **record):
    """Records of pairs of networks, or of the first network of every pair."""
    ensemble = limit.ensemble(task, size=size, seeds=count, key=key)
    if not paired:
        members = jax.tree.map(lambda weights: weights[:, 0], ensemble.members)
        ensemble = nets.Ensemble(members, paired=False)
    return nets.train(ensemble, task, protocol, throw=False, **record)


def expected(report):
    """The correction in 1/width for single networks on the task of a report."""
    return _expected(Frozen((report.limit, report.task.x, report.task.y, report.protocol)))


def simulated(report, paired: bool = False) -> dict[int, np.ndarray]:
    """Predictions `[network, time, sample]` of single networks, or of pairs, at the sizes of a report. Pairs have the
    same mean, without the noise of initial predictions."""
    return _simulated(Frozen((report.limit, report.task.x, report.task.y, report.protocol)), report.sizes, paired)


# The numbers of the summary and the picture are the same.


@cache
def _expected(problem: Frozen):
    limit, x, y, protocol = problem.value
    return fluctuations(limit, tasks.from_arrays(x, y), protocol)


@cache
def _simulated(problem: Frozen, sizes, paired) -> dict[int, np.ndarray]:
    limit, x, y, protocol = problem.value
    found = {}
    for size in sizes:
        key = jax.random.key(2 * size + paired)
        run = train(limit, tasks.from_arrays(x, y), protocol, size, NETWORKS, key, paired)
        found[size] = np.asarray(run.predictions, np.float64)
    return found


@cache
def final_kernel() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N Var of the final tangent kernel of two-layer linear networks on one sample with target 1, for `RICHNESS`: by
    theory, of networks, and the standard error of these."""
    task, protocol = tasks.from_arrays([[1.0]], [1.0]), GradientDescent(0.025, steps=80)

    @eqx.filter_vmap
    def theory(richness):
        found = fluctuations(limits.MLP(1, "identity", richness), task, protocol, spacing=0.5)
        return found.kernel_variance["NTK", 0][-1, 0, 0]

    values, errors = [], []
    for i, richness in enumerate(RICHNESS):
        limit = limits.MLP(1, "identity", richness)
        run = train(limit, task, protocol, 400, 2000, jax.random.key(i), kernels=True)
        last = np.asarray(run.kernels["Phi", 1] + run.kernels["G", 1], np.float64)[:, -1, -1, 0, 0]
        values.append(400 * last.var(ddof=1))
        errors.append(values[-1] * np.sqrt(2 / 2000))
    return np.asarray(theory(np.array(RICHNESS))), np.array(values), np.array(errors)


@cache
def deep_kernels() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """N Var of the last layer's equal-time kernel along training for every of `DEPTHS`, linear networks on one sample
    with target 1: by theory, and of networks of width `DEEP_WIDTH`."""
    task, protocol = tasks.from_arrays([[1.0]], [1.0]), GradientDescent(0.15, steps=5)
    found = {}
    for depth in DEPTHS:
        limit = limits.MLP(depth, "identity")
        theory = fluctuations(limit, task, protocol).kernel_variance["Phi", depth][:, 0, 0]
        run = train(limit, task, protocol, DEEP_WIDTH, DEEP_NETWORKS, jax.random.key(depth), kernels=True)
        kernel = np.asarray(run.kernels["Phi", depth], np.float64)[:, :, :, 0, 0]
        found[depth] = theory, DEEP_WIDTH * np.diagonal(kernel, axis1=1, axis2=2).var(0, ddof=1)
    return found


def covariance_error(report) -> dict[int, float]:
    """Relative distance of the covariance of predictions over networks, times the size, from theory."""
    covariance = np.asarray(expected(report).prediction_covariance)
    found = {}
    for size, f in simulated(report).items():
        sample = size * np.cov(f.reshape(len(f), -1).T).reshape(covariance.shape)
        found[size] = float(np.linalg.norm(sample - covariance) / np.linalg.norm(covariance))
    return found


def losses(report, size: int, ensemble: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss over ensembles of single networks, and its standard error, `[time]`. Initial predictions, whose mean is
    known to vanish, are regressed out, since they bring most of the noise."""
    f = simulated(report)[size]
    f = f[: len(f) // ensemble * ensemble].reshape(-1, ensemble, *f.shape[1:]).mean(1)
    each = np.mean((f - np.asarray(report.task.y)) ** 2, axis=-1) / 2
    each = each - f[:, 0] @ np.linalg.lstsq(f[:, 0], each - each.mean(0), rcond=None)[0]
    return each.mean(0), each.std(0, ddof=1) / len(each) ** 0.5


def numbers(report) -> dict:
    """How far networks are from the correction in 1/width, and how the variance of kernels goes."""
    theory = expected(report)
    size, f = next(iter(simulated(report, paired=True).items()))
    middle = len(theory.loss()) // 2
    found = {
        "N cov of predictions: relative error at each width": [round(v, 3) for v in covariance_error(report).values()],
        "N var of predictions, mean over samples: start, middle, end": [
            round(float(theory.prediction_variance[t].mean()), 4) for t in (0, middle, -1)
        ],
        "N bias of predictions at half time, theory": np.round(theory.prediction_bias[middle], 3).tolist(),
        f"N bias of predictions at half time, width {size}": np.round(
            size * (f.mean(0) - theory.predictions)[middle], 3
        ).tolist(),
    }
    kernel, networks, _ = final_kernel()
    found["richness"] = list(RICHNESS)
    found["N var of the final kernel: theory"] = np.round(kernel, 3).tolist()
    found["N var of the final kernel: networks"] = np.round(networks, 3).tolist()
    found["N var of the final kernel: 4/(1 + richness^2)"] = np.round(4 / (1 + np.array(RICHNESS) ** 2), 3).tolist()
    deep = deep_kernels().values()
    found["N var of the last layer's kernel by depth: theory"] = [round(float(t[-1]), 2) for t, _ in deep]
    found["N var of the last layer's kernel by depth: networks"] = [round(float(n[-1]), 2) for _, n in deep]
    return found


def draw(report, path=None):
    """Loss with its predicted band, variance and bias of predictions; ensembles beside wider networks, and the variance
    of kernels against richness and depth."""
    fig, axes = plots.figure(columns=3, rows=2)
    plots.draw_curve(axes[0, 0], report, "train_loss")
    axes[0, 0].set_title("pairs of networks; dotted: predicted spread", fontsize=9)
    _draw_variance(axes[0, 1], report)
    _draw_bias(axes[0, 2], report)
    _draw_ensembles(axes[1, 0], report)
    _draw_final_kernel(axes[1, 1])
    _draw_depth(axes[1, 2])
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_variance(ax, report) -> None:
    theory = expected(report)
    time = np.arange(len(theory.predictions))
    runs = simulated(report)
    for (size, f), colour, marker in zip(runs.items(), plots.shades(len(runs)), plots.MARKERS, strict=False):
        ax.plot(time, size * f.var(0, ddof=1).mean(1), marker, color=colour, ms=4, mew=0, label=f"width {size}")
    ax.plot(time, theory.prediction_variance.mean(1), "k-", lw=1.4, label="theory")
    ax.set(xlabel="step", ylabel="N Var f, mean over samples", ylim=(0, None))
    ax.set_title(f"single networks, {NETWORKS} of each width", fontsize=9)
    ax.legend(frameon=False, fontsize=7)


def _draw_bias(ax, report) -> None:
    theory = expected(report)
    time = np.arange(len(theory.predictions))
    runs = simulated(report, paired=True)
    toward = np.sign(np.asarray(report.task.y)) / len(report.task.y)
    for (size, f), colour, marker in zip(runs.items(), plots.shades(len(runs)), plots.MARKERS, strict=False):
        shift = size * (f - theory.predictions) @ toward
        error = shift.std(0, ddof=1) / len(shift) ** 0.5
        ax.errorbar(time, shift.mean(0), error, fmt=marker, color=colour, ms=4, mew=0, lw=0.8, label=f"width {size}")
    ax.plot(time, theory.prediction_bias @ toward, "k-", lw=1.4, label="theory")
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set(xlabel="step", ylabel="N (mean f - limit), towards the target")
    ax.set_title("mean predictions of narrow networks lag behind", fontsize=9)
    ax.legend(frameon=False, fontsize=7)


def _draw_ensembles(ax, report) -> None:
    theory, size = expected(report), report.sizes[0]
    time = len(theory.loss()) // 2
    members = np.array([1, 2, 4, 8, 16])
    dark, light = plots.shades(3)[2], plots.shades(3)[0]
    for label, colour, marker, style, curve in (
        (f"E networks of width {size}", light, "o", "--", [theory.predicted_loss(size, int(m)) for m in members]),
        (f"one of width {size} E", dark, "s", "-", [theory.predicted_loss(size * int(m)) for m in members]),
    ):
        ax.plot(members, [c[time] / theory.loss()[time] - 1 for c in curve], style, color=colour, lw=1.3)
        found = (
            {m: losses(report, size, int(m)) for m in members}
            if marker == "o"
            else {s // size: losses(report, s) for s in report.sizes if s // size <= members[-1]}
        )
        scale = theory.loss()[time]
        values = np.array([mean[time] / scale - 1 for mean, _ in found.values()])
        bars = np.array([error[time] / scale for _, error in found.values()])
        ax.errorbar(list(found), values, bars, fmt=marker, color=colour, ms=5, lw=0.8, label=label)
    ax.set(xscale="log", yscale="log", xlabel="E", ylabel=f"excess of the loss at step {time} over the limit")
    ax.set_xticks(members, [f"{m}" for m in members])
    ax.minorticks_off()
    ax.set_title("lines: theory; ensembles keep the bias", fontsize=9)
    ax.legend(frameon=False, fontsize=7)


def _draw_final_kernel(ax) -> None:
    theory, networks, errors = final_kernel()
    line = np.geomspace(RICHNESS[0], RICHNESS[-1], 100)
    ax.plot(line, 4 / (1 + line**2), "--", color="0.45", lw=1.2, label=r"flow: $4/(1+\gamma_0^2y^2)$")
    ax.plot(RICHNESS, theory, "k-", lw=1.2, marker="x", ms=5, label="theory")
    ax.errorbar(
        RICHNESS, networks, errors, fmt="o", color=plots.shades(1)[0], ms=5, lw=0.8, label="networks, width 400"
    )
    ax.set(xscale="log", xlabel=r"richness $\gamma_0$", ylabel="N Var of the final tangent kernel", ylim=(0, 4.6))
    ax.set_xticks(RICHNESS, [f"{richness:g}" for richness in RICHNESS])
    ax.minorticks_off()
    ax.set_title("feature learning quiets the kernel", fontsize=9)
    ax.legend(frameon=False, fontsize=7)


def _draw_depth(ax) -> None:
    found = deep_kernels()
    for (depth, (theory, networks)), colour, marker in zip(
        found.items(), plots.shades(len(found)), plots.MARKERS, strict=False
    ):
        time = np.arange(len(theory))
        ax.plot(time, theory, "-", color=colour, lw=1.3, label=f"{depth} hidden layer{'s' * (depth > 1)}")
        error = networks * np.sqrt(2 / DEEP_NETWORKS)
        ax.errorbar(time, networks, error, fmt=marker, color=colour, ms=4, lw=0.8)
    ax.set(xlabel="step", ylabel=r"N Var $\Phi^L(t, t)$, linear networks", ylim=(0, None))
    ax.set_title(f"variance accumulates with depth (width {DEEP_WIDTH})", fontsize=9)
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="finite-width",
    title="Fluctuations of predictions and kernels at finite width",
    paper="2304.03408",
    solves="the correction in 1/width to the feature-learning limit: covariances, mean shifts, losses of ensembles",
    build=build,
    sizes=(32, 64, 128),
    seeds=64,
    options={"fluctuations": True},
    figure=draw,
    measure=numbers,
    claims=(
        "Predictions fluctuate with a variance of order 1/width that theory gives along all of training.",
        "Ensembles lose the variance and keep the bias of their width; a wider network loses both.",
        "Feature learning lowers the variance of the final kernel, as 4/(1 + richness^2 y^2) in two linear layers.",
        "The variance of kernels accumulates with depth.",
    ),
)
