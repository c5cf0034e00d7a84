"""SGD on structured features: any features exactly, their Gaussian stand-in, batches of a fixed set, the best batch."""

from functools import cache

import jax
import numpy as np

from .. import limits
from ..problems import Dataset, MinibatchSGD, OnlineSGD, Trajectory, tasks
from ..studies import _plots as plots
from ._system import Problem, System

DATA = ("relu", "digits")
SPECTRA = ((1.2, 2.0), (1.5, 1.5), (2.0, 3.0))
BATCHES = (1, 2, 4, 8, 16, 32, 64)
COMPUTE = 512
FIXED_RATES = (0.1, 0.2, 0.4)


def build(
    data: str = "relu",
    features: int = 12,
    samples: int = 60,
    test_samples: int = 100,
    learning_rate: float = 1.5,
    batch_size: float = 1,
    replace: bool = True,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    steps: int = 100,
) -> Problem:
    """Random ReLU features of white inputs with a nonlinear noisy target (`data="relu"`), or of images of handwritten
    digits, threes against eights (`data="digits"`)."""
    if data not in DATA:
        raise ValueError(f'data "{data}" is unknown; one of: {", ".join(DATA)}.')
    if data == "digits":
        inputs = tasks.digits(samples=samples, test_samples=test_samples, classes=(3, 8))
    else:
        inputs = _nonlinear(samples, test_samples)
    task = tasks.random_features(inputs, features, key=jax.random.key(1))
    protocol = MinibatchSGD(learning_rate, batch_size, momentum, weight_decay, replace=replace, steps=steps)
    return Problem(limits.LinearModel(), task, protocol)


def _nonlinear(samples: int, test_samples: int, dim: int = 6) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples + test_samples, dim))
    y = np.sin(x[:, 0]) + x[:, 1] ** 2 / 4 + 0.3 * rng.standard_normal(len(x))
    return tasks.from_arrays(x[:samples], y[:samples], x[samples:], y[samples:])


def gaussian_formula(task, protocol) -> np.ndarray:
    """The train loss by the formula for Gaussian features of the same second moments, each batch fresh."""
    stand_in = tasks.gaussian_equivalent(task)
    drawn = OnlineSGD(protocol.learning_rate, protocol.momentum, batch_size=protocol.batch_size)
    return np.asarray(limits.RandomFeatures().solve(stand_in, drawn, throw=False).test_loss) + stand_in.noise**2


@cache
def fixed_compute(capacity: float, decay: float, batch_size: int, rates: tuple[float, ...]) -> np.ndarray:
    """Last losses of one-pass SGD on `COMPUTE` samples of a power law at constant rates; nan where it diverged."""
    task = tasks.power_law(200, capacity, decay)

    def last(rate):
        protocol = OnlineSGD(rate, batch_size=batch_size, steps=COMPUTE // batch_size)
        return limits.RandomFeatures().solve(task, protocol, throw=False).test_loss[-1]

    losses = np.asarray(jax.jit(jax.vmap(last))(np.asarray(rates)))
    return np.where(losses < float(np.sum(np.arange(1, 201.0) ** -decay)), losses, np.nan)


@cache
def tuned(capacity: float, decay: float) -> np.ndarray:
    """The least last loss over constant rates, at every batch size of `BATCHES`."""
    rates = tuple(np.geomspace(0.02, 2.0, 80).tolist())
    return np.array([np.nanmin(fixed_compute(capacity, decay, batch, rates)) for batch in BATCHES])


def numbers(report) -> dict:
    """How far the Gaussian formula is off, and what larger batches cost at fixed compute."""
    exact = np.asarray(report.theory.train_loss)
    apart = np.max(np.abs(gaussian_formula(report.task, report.protocol) / exact - 1))
    found = {"largest relative error of the Gaussian formula in the training loss": round(float(apart), 4)}
    for capacity, decay in SPECTRA:
        ratios = tuned(capacity, decay) / tuned(capacity, decay)[0]
        name = (
            f"loss of batches {BATCHES} over that of 1, {COMPUTE} samples, rate tuned, b = {capacity:g}, a = {decay:g}"
        )
        found[name] = np.round(ratios, 2).tolist()
    return found


def draw(report, path=None):
    """Training and test loss of runs and theory, with the Gaussian formula; the runs' distance; below, what the choice
    of batches leaves on top of gradient descent, and the loss against the batch size at fixed compute."""
    fig, axes = plots.figure(columns=3, rows=2)
    gaussian = Trajectory(train_loss=gaussian_formula(report.task, report.protocol), loss_convention="mean_square")
    plots.draw_curve(axes[0, 0], report, "train_loss", "exact", gaussian, "Gaussian formula")
    plots.draw_curve(axes[0, 1], report, "test_loss", "exact")
    plots.draw_residual(axes[0, 2], report, "train_loss")
    _draw_choice(axes[1, 0], report)
    _draw_fixed_rate(axes[1, 1])
    _draw_tuned(axes[1, 2])
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_choice(ax, report) -> None:
    task, protocol = report.task, report.protocol
    count = task.x.shape[0]
    sizes = np.unique(np.round(np.geomspace(1, count, 12)))
    for replace, line, colour in ((True, "-", plots.shades(2)[0]), (False, "--", plots.shades(2)[1])):
        losses = []
        for size in sizes:
            drawn = MinibatchSGD(
                protocol.learning_rate, size, protocol.momentum, protocol.weight_decay, replace=replace
            )
            losses.append(limits.LinearModel().solve(task, drawn, throw=False).train_loss[-1])
        ax.plot(sizes, losses, line, color=colour, label=f"with{'' if replace else 'out'} replacement")
    ax.axhline(losses[-1], color="0.6", lw=0.8, label="gradient descent")
    ax.set(xscale="log", xlabel="batch size", ylabel="last training loss", title="batches of a fixed set")
    ax.legend(frameon=False, fontsize=7)


def _draw_fixed_rate(ax) -> None:
    capacity, decay = SPECTRA[1]
    for rate, colour, marker in zip(FIXED_RATES, plots.shades(3), plots.MARKERS, strict=False):
        losses = [fixed_compute(capacity, decay, batch, FIXED_RATES)[FIXED_RATES.index(rate)] for batch in BATCHES]
        ax.plot(BATCHES, losses, marker + "-", color=colour, ms=4, label=f"rate {rate:g}")
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="last test loss")
    ax.set_title(f"{COMPUTE} samples at a fixed rate, b = {capacity:g}, a = {decay:g}")
    ax.legend(frameon=False, fontsize=7)


def _draw_tuned(ax) -> None:
    for (capacity, decay), colour, marker in zip(SPECTRA, plots.shades(3), plots.MARKERS, strict=False):
        ratios = tuned(capacity, decay) / tuned(capacity, decay)[0]
        ax.plot(BATCHES, ratios, marker + "-", color=colour, ms=4, label=f"b = {capacity:g}, a = {decay:g}")
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="last test loss over that of batch 1")
    ax.set_title(f"{COMPUTE} samples, rate tuned for each batch")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="structured-sgd",
    title="Learning curves for SGD on structured features",
    paper="2106.02713",
    solves="minibatch SGD on any features exactly, by the moments of the weights; the best batch size at fixed compute",
    build=build,
    seeds=5000,
    full={"features": 100, "samples": 400, "steps": 1000},
    figure=draw,
    measure=numbers,
    claims=(
        "First and second moments close for any features and targets, so the mean over runs is exact.",
        "The Gaussian formula with the same second moments is visibly off for few ReLU features.",
        "With a tuned rate one sample a step is best at fixed compute; at a fixed rate a larger batch can be.",
    ),
)
