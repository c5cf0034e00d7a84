"""A two-layer linear network from small weights: the kernel aligns with the target before the loss moves."""

import jax
import numpy as np

from .. import limits, nets
from ..problems import GradientFlow, replace, tasks
from ..studies import _plots as plots
from ._system import Problem, System


def build(
    init_scale: float = 0.03,
    dim: int = 10,
    samples: int = 40,
    target: float = 2.0,
    anisotropy: float = 0.0,
    horizon: float = 4.0,
    points: int = 161,
    data_seed: int = 0,
) -> Problem:
    """A linear target of length `target`; the covariance of the inputs has exact eigenvalues k^-anisotropy."""
    if samples < dim:
        raise ValueError(f"samples must be at least dim, {dim}, to whiten the inputs; it is {samples}.")
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(data_seed))
        x, teacher = (
            np.asarray(jax.random.normal(key, shape)) for key, shape in zip(keys, ((samples, dim), (dim,)), strict=True)
        )
    white = np.linalg.qr(x)[0] * np.sqrt(samples)
    x = white * np.arange(1, dim + 1) ** (-anisotropy / 2)
    teacher = teacher * (target / np.linalg.norm(teacher))
    times = np.linspace(0.0, horizon, points)
    return Problem(limits.SmallInitialization(init_scale), tasks.from_arrays(x, x @ teacher), GradientFlow(times))


def draw(report, path=None):
    """Loss and alignment at several widths; both for smaller and smaller weights; distance from the theory."""
    fig, axes = plots.figure(columns=2, rows=2)
    times, theory = np.asarray(report.protocol.times), report.theory
    some = np.unique(np.linspace(0, len(times) - 1, 24).astype(int))
    for ax, read in ((axes[0, 0], lambda r: np.asarray(r.train_loss)), (axes[0, 1], _share)):
        styles = zip(report.runs.items(), plots.shades(len(report.runs)), plots.MARKERS, strict=False)
        for (size, run), colour, marker in styles:
            mean, deviation = read(run).mean(0), read(run).std(0)
            ax.fill_between(times, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)
            ax.plot(times[some], mean[some], marker, color=colour, ms=4, mew=0, label=f"width {size}")
        ax.plot(times, read(theory), "k-", lw=1.4, label="infinite width")
        ax.set(xlabel="time")
    moves = times[np.argmax(np.asarray(theory.train_loss) < 0.95 * theory.train_loss[0])]
    dim = report.task.dim
    for ax in axes[0]:
        ax.axvline(moves, color="0.5", ls=":", lw=1)
    axes[0, 1].text(moves, 1.08 / dim, " 5 % of the loss", color="0.4", fontsize=8)
    axes[0, 1].axhline(2 / (dim + 1), color="k", ls="--", lw=0.8, label="2 / (D + 1): aligned")
    axes[0, 0].set(ylabel="training loss (half mean square)", title="the loss waits")
    axes[0, 1].set(ylabel="share of the kernel along the target", title="and the kernel aligns")
    for ax in axes[0]:
        ax.legend(frameon=False, fontsize=7)
    _draw_scales(axes[1, 0], report)
    plots.draw_convergence(axes[1, 1], report)
    axes[1, 1].set_title("networks approach their limit")
    if path is not None:
        fig.savefig(path)
    return fig


def _share(record):
    return np.asarray(record.extras["kernel_share"])


def _draw_scales(ax, report) -> None:
    """Loss against alignment of one network as narrow as its input, from ever smaller weights."""
    limit, task = report.limit, report.task
    scales = float(limit.init_scale) * np.array([10.0, 1.0, 0.1])
    for scale, colour, style in zip(scales, plots.shades(len(scales)), ("--", "-.", "-"), strict=True):
        # smaller weights wait longer
        longer = 1 + max(0.0, np.log(float(limit.init_scale) / scale))
        protocol = GradientFlow(longer * np.asarray(report.protocol.times))
        net = replace(limit, "init_scale", scale).finite(task, size=2 * task.dim, key=jax.random.key(1))
        run = nets.train(net, task, protocol)
        lost = 1 - np.asarray(run.train_loss) / float(run.train_loss[0])
        alignment = np.asarray(run.extras["kernel_alignment"])
        ax.plot(np.maximum(lost, 1e-6), 1 - alignment, style, color=colour, lw=1.4, label=f"scale {scale:.2g}")
    ax.axvline(0.05, color="0.5", ls=":", lw=1)
    ax.set(xscale="log", yscale="log", xlim=(1e-4, 1.0), xlabel="part of the loss that is gone")
    ax.set(ylabel="1 - overlap$^2$ of first eigenvector and target")
    ax.set_title(f"smaller weights, better alignment (width {2 * task.dim})")
    ax.legend(frameon=False)


SYSTEM = System(
    name="silent-alignment",
    title="Silent alignment of the tangent kernel from small initialisation",
    paper="2111.00034",
    solves="gradient flow of a wide two-layer linear network from small weights: loss, direction of its kernel",
    build=build,
    sizes=(25, 50, 100, 200),
    seeds=32,
    full={"init_scale": 0.01, "dim": 20, "horizon": 4.0},
    options={"quantities": ("train_loss", "kernel_share")},
    figure=draw,
    claims=(
        "The tangent kernel turns to the target while the loss stands still; the smaller the weights, the better.",
        "The loss follows a logistic curve whose delay grows like the logarithm of the initial scale.",
        "Anisotropic inputs weaken the effect: the kernel rotates while the loss falls.",
    ),
)
