"""Optimal schedules from a theory, against tuned ones, in finite networks: what the control systems share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from .. import limits
from ..limits import sharpness, spectrum
from ..problems import Isotropic, key_name
from ..problems import _checks as checks
from ..studies import Optimum, Verification, optimise, verify
from ..studies import _plots as plots
from ..studies._benchmarks import SHAPES
from ..studies._compare import extrapolation
from ._experiment import Claim, Findings, Stopwatch, size_keys

BOUNDS = {"learning_rate": (1e-5, 3.0)}
#: A mean that is this many standard errors from zero is no accident of the draw.
CLEAR = 3.0


@dataclass(frozen=True)
class Case:
    """A problem and how its best schedule is looked for.

    - `make`: a protocol from rates and momentum; `start`: where the search begins.
    - `search`: further arguments of `optimise`; `options`, those of it that are for the theory, and `shown`, those of
      the theory that networks are compared with.
    - `kind`: what is expected of the optimum: a `"gain"` in networks too, a `"null"` result, or that the promise of
      the theory is `"false"` for networks.
    """

    limit: limits.AbstractLimit
    task: Any
    make: Callable[..., Any]
    start: Any
    over: tuple[str, ...] = ("learning_rate",)
    search: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    kind: str = "gain"


@dataclass(frozen=True)
class Study:
    """Cases by name, and the momenta of the benchmarks beside zero."""

    cases: dict[str, Case]
    momenta: tuple[float, ...]


@dataclass(frozen=True)
class Proofs(Findings):
    """Findings with the optimum of every case, its verifications by size, and readings of weights and curvature."""

    optima: dict[str, Optimum] = field(default_factory=dict)
    proofs: dict[str, dict[int, Verification]] = field(default_factory=dict)
    readings: dict[str, dict[str, Any]] = field(default_factory=dict)


def study_of(known: dict[str, Case], cases, momenta) -> Study:
    """Some of the known cases by name, with the given momenta of benchmarks."""
    checks.instance("cases", cases, (tuple, list), "a list of names")
    if not cases or len(set(cases)) != len(cases):
        raise ValueError(f"cases must be one or more different names; {checks.shown(cases)} was given.")
    for name in cases:
        checks.choice("cases", name, known)
    momenta = checks.array("momenta", momenta, ndim=1, low=0.0, below=1.0) if len(momenta) else ()
    return Study({name: known[name] for name in cases}, tuple(float(m) for m in momenta if m))


def conduct(study: Study, sizes: tuple[int, ...], seeds: int, key: jax.Array) -> Proofs:
    """Optimises and tunes in theory, then trains networks of every size by the optimum and its rivals."""
    watch, keys = Stopwatch(), size_keys(key, sizes)
    optima, proofs, readings = {}, {}, {}
    for name, case in study.cases.items():
        optima[name] = best = _optimum(case, study.momenta)
        rivals = _rivals(best)
        if case.kind == "gain" and isinstance(case.task, Isotropic):
            shown = {"best": best.protocol, "linear": rivals["linear"]}
            readings[name] = {label: _reading(best, protocol) for label, protocol in shown.items()}
        watch.lap("theory")
        proofs[name] = {
            size: verify(best, rivals, size=size, seeds=seeds, key=keys[size], **case.shown) for size in sizes
        }
        watch.lap("finite")
    claims, agreement, measured = {}, {}, {}
    for name, case in study.cases.items():
        found, gap = _judge(case, optima[name], proofs[name], readings.get(name))
        claims |= {f"{name}: {claim}": value for claim, value in found.items()}
        agreement |= {f"gain of {name}": gap} if case.kind == "gain" else {}
        measured[name] = _numbers(optima[name], proofs[name], readings.get(name))
    return Proofs(
        study,
        _dataset(proofs, readings),
        sizes,
        seeds,
        claims,
        agreement=agreement,
        measured=measured,
        seconds=watch.seconds,
        key=key_name(key),
        optima=optima,
        proofs=proofs,
        readings=readings,
    )


def strongest(proof: Verification) -> str:
    """The rival that is best in theory."""
    rivals = {name: proof.expected[name] for name in proof.against}
    return min(rivals, key=lambda name: rivals[name])


def gains(proofs: dict[int, Verification]) -> tuple[np.ndarray, np.ndarray, float]:
    """By how much, relatively, networks of every size end below the strongest rival, the standard error, and what the
    theory says."""
    last = list(proofs.values())[-1]
    rival = strongest(last)
    gain = np.array([-proof.relative_difference[rival] for proof in proofs.values()])
    error = np.array([proof.relative_error[rival] for proof in proofs.values()])
    return gain, error, 1 - last.expected["best"] / last.expected[rival]


def _optimum(case: Case, momenta) -> Optimum:
    steps = case.start.steps
    benchmarks = {
        name if momentum == 0 else f"{name}, momentum {momentum:g}": case.make(shape(1.0, steps), momentum)
        for momentum in (0.0, *momenta)
        for name, shape in SHAPES.items()
    }
    search = (
        {"method": "lbfgs", "bounds": BOUNDS, "tolerance": 1e-6, "benchmarks": benchmarks} | case.search | case.options
    )
    return optimise(case.limit, case.task, case.start, over=case.over, **search)


def _rivals(best: Optimum) -> dict[str, Any]:
    """The tuned shapes without momentum, and the best of those with."""
    values = best.certificates["benchmarks"]
    heavy = sorted((name for name in values if name not in SHAPES), key=lambda name: values[name])
    return {name: best.benchmarks[name] for name in (*SHAPES, *heavy[:1])}


def _reading(best: Optimum, protocol) -> dict[str, Any]:
    """The largest singular value of the first weights and the curvature along training."""
    theory = best.limit.solve(best.task, protocol, throw=False)
    weights = spectrum(best.limit, theory, layer=0)
    curvature = sharpness(best.limit, best.task, protocol)
    return {
        "escape_step": weights.escape_step,
        "outlier": np.asarray(weights.largest),
        "bulk_edge": np.asarray(weights.bulk_edge),
        "sharpness": np.asarray(curvature.eigenvalue),
        "stability": np.asarray(curvature.stability),
    }


def _judge(case: Case, best: Optimum, proofs: dict[int, Verification], reading) -> tuple[dict[str, Claim], float]:
    """The claims of a case, and how far the gain of networks is from the theory's, in standard errors."""
    last = list(proofs.values())[-1]
    gain, error, promised = gains(proofs)
    if case.kind == "null":
        return {"gain of networks in per cent, about none": Claim(100 * gain[-1], -1.0, 1.0)}, np.nan
    if case.kind == "false":
        broken = last.diverged["best"] > 0 or gain[-1] < promised - CLEAR * error[-1]
        return {"promise of the theory broken by networks": Claim(float(broken), low=1.0)}, np.nan
    diverged = sum(proof.diverged["best"] for proof in proofs.values())
    weights = extrapolation(error**2, tuple(proofs))
    gap = abs(weights @ gain - promised) / np.sqrt(weights**2 @ error**2)
    claims = {
        "gain of networks over the best benchmark, standard errors": Claim(gain[-1] / error[-1], low=CLEAR),
        "networks that diverged by the optimum": Claim(diverged, high=0),
    }
    if reading is not None:
        rates = np.asarray(best.protocol.learning_rate)
        tail = (rates * np.arange(1, len(rates) + 1))[len(rates) // 2 :]
        claims |= {
            "first rate over the highest of the best benchmark": Claim(
                rates[0] / np.max(best.benchmarks[strongest(last)].learning_rate), low=2.0
            ),
            "rate times time over the second half, largest over smallest": Claim(np.max(tail) / np.min(tail), high=1.5),
            "escape of the outlier, steps before linear decay": Claim(
                reading["linear"]["escape_step"] - reading["best"]["escape_step"], low=1
            ),
            "largest rate over that at the edge of stability": Claim(np.max(reading["best"]["stability"]), high=1.0),
        }
    return claims, float(gap)


def _numbers(best: Optimum, proofs: dict[int, Verification], reading) -> dict[str, Any]:
    gain, error, promised = gains(proofs)
    rival = strongest(list(proofs.values())[-1])
    numbers = {
        "loss": best.value,
        "stationarity": best.stationarity,
        "evaluations": best.evaluations,
        "benchmarks": best.certificates["benchmarks"],
        "best_benchmark": rival,
        "gain": {"theory": promised} | {str(size): value for size, value in zip(proofs, gain.tolist(), strict=True)},
        "gain_error": {str(size): value for size, value in zip(proofs, error.tolist(), strict=True)},
        "diverged": {str(size): proof.diverged for size, proof in proofs.items()},
        "median": {str(size): proof.median for size, proof in proofs.items()},
        "learning_rate": np.asarray(best.protocol.learning_rate).tolist(),
    }
    if reading is not None:
        numbers["escape_step"] = {name: row["escape_step"] for name, row in reading.items()}
        numbers["sharpness_at_the_end"] = {name: float(row["sharpness"][-1]) for name, row in reading.items()}
    return numbers


def _dataset(proofs: dict[str, dict[int, Verification]], readings):
    """Rates, losses and readings of all cases; names and axes of time begin with the case."""
    import xarray

    result = {}
    for case, by_size in proofs.items():
        parts = [proof.to_dataset().drop_attrs() for proof in by_size.values()]
        data = xarray.concat(parts, xarray.DataArray(list(by_size), dims="size", name="size"))
        last = list(by_size.values())[-1]
        rates = np.stack([last.protocol(str(name)).learning_rate for name in data.protocol.values])
        data["learning_rate"] = (("protocol", "step"), rates)
        for quantity in ("outlier", "bulk_edge", "sharpness") if case in readings else ():
            rows = [readings[case][name][quantity] for name in readings[case]]
            data[quantity] = (("reading", "time"), np.stack(rows))
            data = data.assign_coords(reading=list(readings[case]))
        own = {name: f"{case}_{name}" for name in (*data.data_vars, "protocol", "reading", "time", "step")}
        result |= dict(data.rename({k: v for k, v in own.items() if k in data.variables or k in data.dims}).variables)
    return xarray.Dataset(result).assign_coords(size=list(next(iter(proofs.values()))))


def draw(report: Proofs, path=None):
    """A row a case: rates, losses, paired differences; then the gain of networks by size, beside the outlier of the
    first weights and the sharpness of the first case that has a spectrum."""
    cases = list(report.proofs)
    read = bool(report.readings)
    fig, axes = plots.figure(columns=3 if read else 4, rows=len(cases) + read)
    for row, case in zip(axes, cases, strict=False):
        proof = report.proofs[case][report.sizes[-1]]
        plots.draw_protocols(row[0], {name: proof.protocol(name).learning_rate for name in proof.runs})
        plots.draw_verified_losses(row[1], proof)
        plots.draw_differences(row[2], {"": proof})
        row[0].set_title(case.replace("_", " "), fontsize=9)
        row[0].get_legend().remove()  # the next picture has the same
    if read:
        _draw_reading(axes[-1], next(iter(report.readings.values())))
    else:
        for ax in axes[:-1, 3]:
            ax.set_axis_off()
    _draw_gains(axes[-1, -1], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_reading(axes, reading) -> None:
    for (name, row), style, shade in zip(reading.items(), ("-", "--"), ("k", "0.4"), strict=True):
        width = 2.0 if name == "best" else 1.4
        axes[0].plot(row["outlier"], style, color=shade, lw=width, label=f"{name}: escape at step {row['escape_step']}")
        axes[1].plot(row["sharpness"], style, color=shade, lw=width, label=name)
    edge = reading["best"]["bulk_edge"]
    axes[0].fill_between(np.arange(len(edge)), 0, edge, color="0.9", lw=0, label="bulk")
    axes[0].set(xlabel="step", ylabel="largest singular value of $W^0/\\sqrt{D}$", ylim=(0, None))
    rate = reading["best"]["stability"] / reading["best"]["sharpness"][:-1]
    axes[1].step(np.arange(len(rate)), 1 / rate, where="post", color="0.6", lw=1.2, label="edge: 2 / rate of the best")
    axes[1].set(xlabel="step", ylabel="sharpness", yscale="log")
    for ax in axes[:2]:
        ax.legend(frameon=False, fontsize=7)


def _draw_gains(ax, report: Proofs) -> None:
    shades = plots.shades(len(report.proofs))
    for (case, proofs), marker, colour in zip(report.proofs.items(), plots.MARKERS, shades, strict=False):
        gain, error, promised = gains(proofs)
        inverse = 1 / np.asarray(list(proofs), float)
        label = f"{case.replace('_', ' ')}, over {strongest(next(iter(proofs.values()))).replace('_', ' ')}"
        ax.errorbar(inverse, 100 * gain, 200 * error, fmt=marker, color=colour, ms=5, capsize=3, lw=1.2, label=label)
        ax.plot(0, 100 * promised, marker, color="w", mec=colour, ms=7, mew=1.4)
    ax.set_xticks([0, *(1 / size for size in report.sizes)], ["$\\infty$", *map(str, report.sizes)])
    ax.set(xlabel="size of the networks (open: theory)", ylabel="gain over the best benchmark [%]")
    ax.legend(frameon=False, fontsize=7)
