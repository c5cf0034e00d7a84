"""A linear recurrent network learns to oscillate: two eigenvalues leave the disc of the others."""

from typing import Any

import jax
import numpy as np

from .. import limits, nets
from ..problems import GradientDescent, tasks
from ..studies import _plots as plots
from ._system import Problem, System


def build(
    decay: float = 0.3,
    frequency: float = 0.8,
    init_scale: float = 0.3,
    recurrent_only: bool = False,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    steps: int = 500,
) -> Problem:
    """A damped oscillation; with `frequency=0` a leaky integrator."""
    return Problem(
        limits.LinearRNN(init_scale, recurrent_only),
        tasks.oscillator(decay, frequency),
        GradientDescent(learning_rate, momentum, weight_decay, steps=steps),
    )


def draw(report, path=None):
    """Loss, outliers over time and in the complex plane, and the distance from the theory against size."""
    fig, axes = plots.figure(columns=2, rows=2)
    plots.draw_curve(axes[0, 0], report, "test_loss", label="infinite size")
    _draw_time(axes[0, 1], report)
    _draw_plane(axes[1, 0], report)
    plots.draw_convergence(axes[1, 1], report)
    axes[0, 0].set_title("learning curve")
    axes[0, 1].set_title("an eigenvalue leaves the disc")
    axes[1, 0].set_title("the pair in the complex plane")
    axes[1, 1].set_title("networks approach their limit")
    if path is not None:
        fig.savefig(path)
    return fig


def _eigenvalues(record) -> Any:
    """The leading pair as complex numbers, `[..., time, 2]`."""
    return np.asarray(record.extras["eigenvalue_real"]) + 1j * np.asarray(record.extras["eigenvalue_imag"])


def _draw_time(ax, report) -> None:
    """Real and imaginary part of the first eigenvalue, from where it is an outlier of the theory."""
    theory = _eigenvalues(report.theory)[:, 0]
    radius = float(report.limit.init_scale)
    steps = np.arange(len(theory))
    outside = int(np.argmax(np.abs(theory) > 1.2 * radius))
    some = np.unique(np.linspace(outside, len(theory) - 1, 16).astype(int))
    styles = zip(report.runs.items(), plots.shades(len(report.runs)), plots.MARKERS, strict=False)
    for (size, run), colour, marker in styles:
        values = _eigenvalues(run)[..., 0]
        for part, label in ((np.real, f"{size} units"), (np.imag, None)):
            mean, deviation = part(values).mean(0), part(values).std(0)
            band = slice(outside, None)
            ax.fill_between(
                steps[band], (mean - deviation)[band], (mean + deviation)[band], color=colour, alpha=0.2, lw=0
            )
            ax.plot(steps[some], mean[some], marker, color=colour, ms=4, mew=0, label=label)
    for name, part, style in (("Re $\\lambda$", np.real, "-"), ("Im $\\lambda$", np.imag, "--")):
        ax.plot(steps, part(theory), style, color="k", lw=1.4, label=f"{name}, infinite size")
    if radius > 0:
        ax.axhline(radius, color="k", ls=":", lw=0.9, label="radius of the initial disc")
    ax.set(xlabel="step", ylabel="leading eigenvalue of $W$")
    ax.legend(frameon=False, fontsize=7)


def _draw_plane(ax, report) -> None:
    """Paths of the eigenvalues, the spectrum of one trained network, the initial disc and the target."""
    limit, size = report.limit, report.sizes[-1]
    net = limit.finite(report.task, size=size, key=jax.random.key(0))
    _, trained = nets.train(net, report.task, report.protocol, return_net=True, throw=False)
    spectrum: Any = np.linalg.eigvals(np.asarray(trained.weights.recurrent, np.float64))
    ax.plot(spectrum.real, spectrum.imag, "o", color="0.7", ms=2.5, mew=0, label="one trained network")
    run = _eigenvalues(report.runs[size])
    colour = plots.shades(len(report.runs))[-1]
    for seed in range(min(4, len(run))):
        for i in (0, 1):
            # where the pair is inside the disc, it is no pair of outliers
            path: Any = np.where(np.abs(run[seed, :, i]) > float(limit.init_scale), run[seed, :, i], np.nan)
            label = f"networks of {size} units" if (seed, i) == (0, 0) else None
            ax.plot(path.real, path.imag, "-", color=colour, lw=0.6, alpha=0.7, label=label)
    theory = _eigenvalues(report.theory)
    for i in (0, 1):
        ax.plot(theory[:, i].real, theory[:, i].imag, "k-", lw=1.4, label="infinite size" if i == 0 else None)
    angle = np.linspace(0, 2 * np.pi, 200)
    radius = float(limit.init_scale)
    ax.plot(radius * np.cos(angle), radius * np.sin(angle), ":", color="k", lw=0.9, label="initial disc")
    target = 1 - float(report.task.decay) + 1j * float(report.task.frequency) * np.array([1, -1])
    ax.plot(target.real, target.imag, "k+", ms=10, mew=1.2, label="target")
    ax.set(xlabel="Re $\\lambda$", ylabel="Im $\\lambda$", aspect="equal")
    ax.set_adjustable("datalim")
    ax.update_datalim([(-0.4, 0.0), (1.5, 0.0)])  # room for the legend; fixed limits would be in the way of the aspect
    ax.autoscale_view()
    ax.legend(frameon=False, fontsize=7, loc="center right")


SYSTEM = System(
    name="linear-rnn",
    title="Linear recurrent networks learn to integrate and to oscillate",
    paper="2503.18754",
    solves="closed equations of a linear RNN of infinite size: learning curve, outliers of the recurrent matrix",
    build=build,
    sizes=(32, 64, 128),
    seeds=16,
    full={"init_scale": 0.0, "learning_rate": 0.02, "steps": 2500},
    options={"quantities": ("test_loss",)},
    figure=draw,
    claims=(
        "With a zero initial matrix training is an exact system of two dimensions: two eigenvalues do all the work.",
        "The eigenvalues of an oscillator are real at first, collide, and leave as a pair for the target.",
        "A random initial matrix keeps its disc of eigenvalues; the outliers move through it.",
    ),
)
