"""Deep linear networks from small weights: their tangent kernel aligns with the targets, the more the deeper; and what
each output of a network with several has of its own."""

from functools import cache

import equinox as eqx
import jax
import numpy as np

from .. import limits, nets
from ..nets._base import Frozen
from ..problems import GradientDescent, tasks
from ..solvers import as_float, double, kernel_alignment
from ..studies import _plots as plots
from ._system import Problem, System

DEPTHS = (1, 2, 3)
# of networks with three outputs: activation, initial scale, richness
HEADS = {"relu, small weights": ("relu", 0.1, 1.0), "relu, lazy": ("relu", 1.0, 0.1), "linear": ("identity", 0.1, 1.0)}


def build(
    depth: int = 2,
    init_scale: float = 0.3,
    richness: float = 1.0,
    samples: int = 6,
    dim: int = 10,
    target: float = 1.0,
    learning_rate: float = 0.2,
    steps: int = 100,
    data_seed: int = 0,
) -> Problem:
    """Orthogonal inputs with entries of order one, and random targets with a mean square of `target` squared."""
    if samples > dim:
        raise ValueError(f"samples must be at most dim, {dim}, to be orthogonal; it is {samples}.")
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(data_seed))
        x, y = (np.asarray(jax.random.normal(k, s)) for k, s in zip(keys, ((dim, samples), (samples,)), strict=True))
    x = np.sqrt(dim) * np.linalg.qr(x)[0].T
    y = y * (target * np.sqrt(samples) / np.linalg.norm(y))
    limit = limits.MLP(depth, "identity", richness, init_scale)
    return Problem(limit, tasks.from_arrays(x, y), GradientDescent(learning_rate, steps=steps))


def aligned_kernel(depth: int, richness, x, y) -> np.ndarray:
    r"""The tangent kernel after training from vanishing weights,

    $$K = (\gamma_0|\beta|)^{2L/(L+1)}\,\big(XX^T/D + L\, ff^T/|\beta|^2\big), \qquad f = X\beta/\sqrt D,$$

    with the smallest $\beta$ that fits the targets: all layers have rank one and equal strength.
    """
    inputs = np.asarray(x) / np.sqrt(x.shape[1])
    beta = np.linalg.pinv(inputs) @ y
    length, outputs = np.linalg.norm(beta), inputs @ beta
    strength = (float(richness) * length) ** (2 * depth / (depth + 1))
    return strength * (inputs @ inputs.T + depth * np.outer(outputs, outputs) / length**2)


def alignment(kernel, y) -> float:
    """`solvers.kernel_alignment`, in doubles."""
    with double():
        return float(kernel_alignment(*as_float((kernel, y))))


def white_alignment(depth, samples: int):
    """Alignment of `aligned_kernel` for orthogonal inputs."""
    return (1 + depth) / np.sqrt(samples - 1 + (1 + depth) ** 2)


def hastened_eigenvalue(gone, growth):
    r"""Largest eigenvalue, over that at the start, of a kernel that moves so as to speed up learning,

    $$\dot\Delta = -K\Delta, \qquad \dot K = c\,\Delta\Delta^T, \qquad K(0) = \kappa,$$

    when a part `gone` of the loss is gone. It conserves $\lambda^2 + c|\Delta|^2$ and ends at `growth`,
    $\sqrt{1 + c|y|^2/\kappa^2}$.
    """
    return np.sqrt(1 + (growth**2 - 1) * np.asarray(gone))


def by_depth(report) -> dict:
    """Theories of several depths, otherwise like that of a report, each for as long as it waits."""
    return _by_depth(Frozen((report.limit, report.task.x, report.task.y, report.protocol)))


# The numbers of the summary and the picture are the same.


@cache
def _by_depth(problem: Frozen) -> dict:
    limit, x, y, protocol = problem.value
    scale, task = float(limit.init_scale), tasks.from_arrays(x, y)
    found = {}
    for depth in sorted({*DEPTHS, limit.depth}):
        steps = round(protocol.steps * max(1.0, _wait(depth, scale) / _wait(limit.depth, scale)))
        longer = GradientDescent(protocol.learning_rate[0], steps=steps)
        deep = limits.MLP(depth, "identity", limit.richness, scale)
        found[depth] = deep.solve(task, longer, keep="diagonal", throw=False)
    return found


def _wait(depth: int, scale: float) -> float:
    """Time until weights that grow as their `depth`-th power are of order one, up to a factor that all depths share."""
    return np.log(1 / scale) if depth == 1 else (scale ** (1 - depth) - 1) / (depth - 1)


@cache
def specialisation(width: int = 300, samples: int = 60, dim: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    r"""For every network of `HEADS`, after training three outputs, the matrix $M_{cd}$ `[output, target]`: alignment of
    the centred kernel of output c with target d, over the mean of that over outputs.

    Targets are products of two inputs, centred and made orthogonal.
    """
    with jax.enable_x64(True):
        x = np.asarray(jax.random.normal(jax.random.key(seed), (samples, dim)))
    y = np.stack([x[:, 2 * c] * x[:, 2 * c + 1] for c in range(3)], axis=1)
    y = np.linalg.qr(y - y.mean(0))[0] * np.sqrt(samples)
    centre = np.eye(samples) - 1 / samples
    found = {}
    for name, (activation, scale, richness) in HEADS.items():
        task = tasks.from_arrays(x, y)
        net = limits.MLP(1, activation, richness, scale).finite(task, size=width, key=jax.random.key(seed))
        _, net = nets.train(net, task, GradientDescent(0.3, steps=1200), return_net=True)
        matrix = np.zeros((3, 3))
        for c in range(3):
            head = eqx.tree_at(lambda n: n.weights.readout, net, net.weights.readout[c])
            still = nets.train(head, tasks.from_arrays(x, y[:, c]), GradientDescent(0.0, steps=1), ntk=True)
            kernel = centre @ np.asarray(still.extras["ntk"][0], float) @ centre
            matrix[c] = [alignment(kernel, y[:, d]) for d in range(3)]
        found[name] = matrix / matrix.mean(0)
    return found


def numbers(report) -> dict:
    """Alignment after training by depth, in theory and for vanishing weights; distance of the kernels; what outputs
    have of their own."""
    x, y = report.task.x, report.task.y
    found = {}
    for depth, theory in by_depth(report).items():
        kernel, expected = np.asarray(theory.extras["ntk"][-1]), aligned_kernel(depth, report.limit.richness, x, y)
        found[f"alignment at depth {depth}: at first, last, and from vanishing weights"] = [
            round(float(value), 4) for value in (*theory.extras["alignment"][[0, -1]], alignment(expected, y))
        ]
        distance = np.linalg.norm(kernel - expected) / np.linalg.norm(expected)
        found[f"distance of the last kernel from that of vanishing weights, depth {depth}"] = round(float(distance), 4)
    for name, matrix in specialisation().items():
        other = matrix[~np.eye(3, dtype=bool)]
        found[f"specialisation of three outputs, {name}: own targets, others' mean"] = [
            *np.round(np.diag(matrix), 3).tolist(),
            round(float(other.mean()), 3),
        ]
    return found


def draw(report, path=None):
    """Loss, alignment and convergence of networks; below, alignment by depth while the loss falls, after training, and
    of several outputs with the targets of each other."""
    fig, axes = plots.figure(columns=3, rows=2)
    _draw_time(axes[0, 0], report, "train_loss")
    axes[0, 0].set(ylabel="training loss (half mean square)", title="the loss waits")
    _draw_time(axes[0, 1], report, "alignment")
    y = np.asarray(report.task.y)
    end = alignment(aligned_kernel(report.limit.depth, report.limit.richness, report.task.x, y), y)
    axes[0, 1].axhline(end, color="k", ls="--", lw=0.8, label="from vanishing weights")
    axes[0, 1].set(ylabel="alignment of the tangent kernel", title="and the kernel aligns")
    for ax in axes[0, :2]:
        ax.legend(frameon=False)
    plots.draw_convergence(axes[0, 2], report)
    theories = by_depth(report)
    _draw_waiting(axes[1, 0], report, theories)
    _draw_depths(axes[1, 1], report, theories)
    _draw_heads(axes[1, 2])
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_time(ax, report, name: str) -> None:
    """A curve against steps, on a linear axis, which shows the plateau."""
    theory = np.asarray(report.theory.curves()[name])
    time = np.arange(len(theory))
    some = np.unique(np.linspace(0, len(time) - 1, 20).astype(int))
    styles = zip(report.runs.items(), plots.shades(len(report.runs)), plots.MARKERS, strict=False)
    for (size, run), colour, marker in styles:
        values = np.asarray(run.curves()[name])
        mean, deviation = values.mean(0), values.std(0)
        ax.fill_between(time, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)
        ax.plot(time[some], mean[some], marker, color=colour, ms=4, mew=0, label=f"width {size}")
    ax.plot(time, theory, "k-", lw=1.4, label="infinite width")
    ax.set(xlabel="step")


def _draw_waiting(ax, report, theories) -> None:
    styles = ("--", "-.", "-", (0, (5, 1)))
    for (depth, theory), colour, style in zip(theories.items(), plots.shades(len(theories)), styles, strict=False):
        gone = 1 - np.asarray(theory.train_loss) / theory.train_loss[0]
        values = np.asarray(theory.extras["alignment"])
        ax.plot(np.clip(gone, 1e-4, 1), values, style, color=colour, lw=1.5, label=f"depth {depth}")
    # of the same alignment in the end, if inputs are orthogonal
    gone, samples = np.geomspace(1e-4, 1, 200), len(report.task.y)
    largest = hastened_eigenvalue(gone, 1 + report.limit.depth)
    label = f"toy model, depth {report.limit.depth}"
    ax.plot(gone, largest / np.sqrt(samples - 1 + largest**2), ":", color="0.45", lw=1.4, label=label)
    ax.set(xscale="log", xlabel="part of the loss that is gone", ylabel="alignment of the tangent kernel")
    ax.set_title("much of it before the loss moves")
    ax.legend(frameon=False)


def _draw_depths(ax, report, theories) -> None:
    x, y, depths = report.task.x, np.asarray(report.task.y), np.array(list(theories))
    first, last = (np.array([t.extras["alignment"][i] for t in theories.values()]) for i in (0, -1))
    expected = [alignment(aligned_kernel(depth, report.limit.richness, x, y), y) for depth in depths]
    dark, light = plots.shades(3)[2], plots.shades(3)[0]
    ax.plot(depths, expected, "k--", lw=1, label="from vanishing weights")
    ax.plot(depths, last, "o", color=dark, label="after training")
    ax.plot(depths, first, "s", color=light, label="at initialisation")
    ax.set(xlabel="hidden layers", ylabel="alignment of the tangent kernel", ylim=(0, 1))
    ax.set_xticks(depths)
    ax.set_title("deeper networks align more")
    ax.legend(frameon=False)


def _draw_heads(ax) -> None:
    found = specialisation()
    dark, light = plots.shades(3)[2], plots.shades(3)[0]
    own = np.eye(3, dtype=bool)
    for place, matrix in enumerate(found.values()):
        label = ("own target", "targets of other outputs") if place == 0 else (None, None)
        spread = np.linspace(-0.12, 0.12, 6)
        ax.plot(place + spread[:3] - 0.1, matrix[own], "o", color=dark, label=label[0])
        ax.plot(place + spread + 0.12, matrix[~own], "s", color=light, ms=4, label=label[1])
    ax.axhline(1, color="0.6", ls=":", lw=1)
    ax.set_xticks(range(len(found)), list(found))
    ax.set(ylabel="alignment over its mean over outputs", ylim=(0.75, 1.5))
    ax.set_title("three outputs, one hidden layer")
    ax.legend(frameon=False)


SYSTEM = System(
    name="ntk-alignment",
    title="Alignment of the tangent kernel with the targets, by depth and by output",
    paper="2105.14301",
    solves="deep linear networks from small weights: loss, tangent kernel and its alignment with the targets, exactly",
    build=build,
    sizes=(64, 128, 256),
    seeds=32,
    record=("ntk", "alignment"),
    full={"samples": 20, "dim": 30, "init_scale": 0.2, "steps": 200},
    figure=draw,
    measure=numbers,
    claims=(
        "From small weights the tangent kernel of a linear network aligns with the targets while the loss waits; the "
        "deeper, the earlier.",
        "Alignment after training grows with depth, as (1 + L) / sqrt(P - 1 + (1 + L)^2) for orthogonal inputs.",
        "Kernels of several outputs specialise to their own targets in ReLU networks from small weights; they do not "
        "in lazy ones, nor in linear networks.",
    ),
)
