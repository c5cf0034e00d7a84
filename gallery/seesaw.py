"""Growing the batch instead of cutting the rate: equal losses in fewer serial steps, and what control adds."""

from functools import cache

import jax
import numpy as np

from .. import limits
from ..problems import NormalisedSGD, OnlineSGD, schedules, tasks
from ..studies import _plots as plots
from ..studies import optimise
from ._system import Problem, System

# (normalised, growth of the batch, what the rule assumes): the last one takes the rule of SGD for normalised SGD.
RAMPS = {
    r"SGD $(\sqrt{2}, \sqrt{2})$": (False, 0.5, False),
    "SGD (1, 2)": (False, 1.0, False),
    r"normalised $(\sqrt{2}, 2)$": (True, 1.0, True),
    "normalised (1, 4)": (True, 2.0, True),
    "normalised (1, 2), SGD's rule": (True, 1.0, False),
}
LIMIT = 1 - 2 / np.pi  # of the serial steps, saved under a quarter of a cosine
CUTS = (1, 2, 4, 8, 16, 32, 64, 128)
CONTROL_SAMPLES = 2048
CONTROL_RATES = (0.05, 0.1, 0.2, 0.4)


def build(
    modes: int = 100,
    capacity: float = 1.5,
    decay: float = 2.5,
    noise: float = 1.0,
    learning_rate: float = 0.1,
    batch_size: int = 4,
    reference_steps: int = 192,
    cuts: int = 5,
    factor: float = 2.0,
    growth: float = 1.0,
    normalised: bool = True,
) -> Problem:
    """One-pass SGD, normalised or not, under a ramp of the batch that replaces `cuts` cuts of the rate by `factor`."""
    reference = schedules.step_decay(learning_rate, reference_steps, cuts, factor)
    rates, batches = schedules.ramp(reference, batch_size, growth=growth, normalised=normalised)
    return Problem(
        limits.RandomFeatures(),
        tasks.power_law(modes, capacity, decay, noise),
        _protocol(normalised, rates, batches),
    )


def _protocol(normalised: bool, rates, batches) -> NormalisedSGD | OnlineSGD:
    return NormalisedSGD(rates, batches) if normalised else OnlineSGD(rates, batch_size=batches)


def _loss(task, normalised: bool, rates, batches) -> np.ndarray:
    return np.asarray(limits.RandomFeatures().solve(task, _protocol(normalised, rates, batches)).test_loss)


def _law(task) -> tuple[float, float, float]:
    return float(task.capacity), float(task.decay), float(task.noise)


@cache
def equivalents(capacity: float, decay: float, noise: float, cuts: int = 5, phase: int = 1024) -> dict:
    """Loss over that of the reference at the end of every phase, for the ramps above, and the serial steps of each."""
    task, start = tasks.power_law(2000, capacity, decay, noise), 4
    found = {}
    for name, (normalised, growth, rule) in RAMPS.items():
        reference = schedules.step_decay(0.05 if normalised else 0.1, (cuts + 1) * phase, cuts)
        rates, batches = schedules.ramp(reference, start, growth=growth, normalised=rule)
        samples = np.append(0, np.cumsum(batches))
        ends = start * phase * np.arange(1, cuts + 2)
        known = _loss(task, normalised, reference, float(start))[ends // start]
        ratio = np.exp(np.interp(ends, samples, np.log(_loss(task, normalised, rates, batches)))) / known
        found[name] = ratio, len(rates)
    return found


def saved(cuts: int | None, steps: int = 4096) -> float:
    """The share of the serial steps that constant-rate SGD saves under a quarter of a cosine, approximated by `cuts`
    steps of equal length (`None`: not approximated)."""
    time = np.arange(steps)
    if cuts is not None:
        time = (np.floor(time * (cuts + 1) / steps) + 0.5) * steps / (cuts + 1)
    ramp = schedules.ramp(np.cos(np.pi * time / (2 * steps)), 1)
    return 1 - len(ramp.batch_size) / steps


@cache
def control(capacity: float = 1.5, decay: float = 3.0, noise: float = 1.0) -> dict:
    """Serial steps and final loss, over those of the tuned quarter cosine at batch 1, at the same samples: of its ramp,
    and of ramps of the optimal schedule from several rates."""
    task, limit, steps = tasks.power_law(2000, capacity, decay, noise), limits.RandomFeatures(), CONTROL_SAMPLES
    shape = np.cos(np.pi * np.arange(steps) / (2 * steps))
    peaks = np.geomspace(0.003, 0.3, 40)

    def last(peak):
        return limit.solve(task, OnlineSGD(peak * shape), throw=False).test_loss[-1]

    losses = np.asarray(jax.jit(jax.vmap(last))(peaks))
    cosine, known = peaks[np.nanargmin(losses)] * shape, np.nanmin(losses)
    best = np.asarray(optimise(limit, task, OnlineSGD(cosine), over="learning_rate").protocol.learning_rate)
    best = np.maximum(best, 1e-9 * best.max())
    found = {}
    for name, reference, rate in (
        ("cosine", cosine, None),
        ("optimal, its own rate", best, None),
        *((f"optimal, rate {rate:g}", best, rate) for rate in CONTROL_RATES),
    ):
        rates, batches = schedules.ramp(reference, 1, rate=rate)
        found[name] = len(rates) / steps, float(_loss(task, False, rates, batches)[-1] / known)
    return found


def numbers(report) -> dict:
    """Losses of equivalent ramps, and the serial steps that are saved."""
    found = {
        f"loss over the reference, {name}": np.round(ratio, 3).tolist()
        for name, (ratio, _) in equivalents(*_law(report.task)).items()
    }
    found["serial steps saved under a quarter cosine, and its limit"] = [round(saved(None), 4), round(LIMIT, 4)]
    for name, (steps, loss) in control().items():
        key = f"serial steps saved and loss over the tuned quarter cosine at equal samples, ramp of the {name}"
        found[key] = [round(1 - steps, 4), round(loss, 4)]
    return found


def draw(report, path=None):
    """The loss of runs and theory and the runs' distance; the ramp; below, losses of equivalent ramps, the steps saved
    against the number of cuts, and loss against serial steps under control."""
    fig, axes = plots.figure(columns=3, rows=2)
    plots.draw_curve(axes[0, 0], report, "test_loss")
    plots.draw_residual(axes[0, 1], report, "test_loss")
    _draw_ramp(axes[0, 2], report.protocol)
    _draw_equivalents(axes[1, 0], equivalents(*_law(report.task)))
    _draw_saved(axes[1, 1])
    _draw_control(axes[1, 2], control())
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_ramp(ax, protocol) -> None:
    samples = np.append(0, np.cumsum(protocol.batch_size))
    rates, batches = plots.shades(2)
    ax.stairs(
        protocol.batch_size / protocol.batch_size[0], samples, baseline=None, color=batches, lw=1.6, label="batch size"
    )
    ax.stairs(
        protocol.learning_rate / protocol.learning_rate[0],
        samples,
        baseline=None,
        color=rates,
        lw=1.6,
        label="learning rate",
    )
    ax.set(yscale="log", xlabel="samples", ylabel="over the first", title=f"the ramp: {len(samples) - 1} steps")
    ax.legend(frameon=False, fontsize=7)


def _draw_equivalents(ax, found) -> None:
    lines = ("-", "--", "-", "--", ":")
    for (name, (ratio, steps)), line, colour, marker in zip(
        found.items(), lines, plots.shades(len(found)), plots.MARKERS, strict=False
    ):
        phases = np.arange(1, len(ratio) + 1)
        ax.plot(phases, ratio, marker + line, color=colour, ms=4, label=f"{name}: {steps} steps")
    ax.axhline(1, color="0.6", lw=0.8)
    ax.set(xlabel="phase", ylabel="loss over the reference", title="rate over, and batch times, at a cut")
    ax.legend(frameon=False, fontsize=7)


def _draw_saved(ax) -> None:
    ax.plot(CUTS, [saved(cuts) for cuts in CUTS], "o-", color=plots.shades(1)[0], ms=4, label="by equal phases")
    ax.axhline(LIMIT, color="k", ls="--", lw=1, label=rf"$1 - 2/\pi$ = {LIMIT:.1%}")
    ax.set(xscale="log", xlabel="cuts", ylabel="serial steps saved", title="under a quarter cosine")
    ax.legend(frameon=False, fontsize=7)


def _draw_control(ax, found) -> None:
    for (name, (steps, loss)), marker, colour in zip(
        found.items(), plots.MARKERS, plots.shades(len(found)), strict=False
    ):
        ax.plot(steps, loss, marker, color=colour, ms=6, label=f"{name}")
    ax.plot(1, 1, "k*", ms=9, label="cosine, batch 1")
    ax.axhline(1, color="0.6", lw=0.8)
    ax.set(xscale="log", xlabel="serial steps over those of batch 1", ylabel="loss over the tuned quarter cosine")
    ax.set_title(f"the same {CONTROL_SAMPLES} samples")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="seesaw",
    title="Seesaw: batch ramps in place of rate decay",
    paper="2510.14717",
    solves="SGD and normalised SGD under ramps of rate and batch, by the exact recursion; serial steps saved",
    build=build,
    seeds=400,
    full={"modes": 200, "reference_steps": 768},
    figure=draw,
    measure=numbers,
    claims=(
        "SGD keeps its loss where a cut of the rate becomes a growth of the batch by the same factor.",
        "Normalised SGD keeps it where the batch grows by the square of what the rate is spared.",
        "Under a quarter cosine this saves 36.3 per cent of the serial steps, in the limit of many cuts.",
    ),
)
