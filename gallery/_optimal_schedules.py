"""The experiment of `optimal-schedules`: rate, momentum and batch of one-pass SGD in the easy and the hard phase."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from .. import limits
from ..problems import OnlineSGD, key_name, schedules, tasks
from ..problems import _checks as checks
from ..studies import Optimum, Verification, optimise, verify
from ..studies._ensembles import log_slope
from ._experiment import Claim, Findings, Stopwatch, label, size_keys

RATE = ("learning_rate",)
HEAVY_BALL = ("learning_rate", "momentum")
#: Capacity, decay and noise: features fall more slowly than the target in the easy phase, faster in the hard one.
PHASES = {"easy": (1.5, 2.5, 1.0), "hard": (3.0, 1.5, 0.5)}
_LIMIT = limits.RandomFeatures()


@dataclass(frozen=True)
class Study:
    """`tasks`: for the theory, `small`: for networks, by phase; `lengths`: of the theory's schedules, those up to
    `momentum_steps` with momentum too; `cycles`: of sweeps over momentum."""

    tasks: dict[str, Any]
    small: dict[str, Any]
    lengths: tuple[int, ...]
    momentum_steps: int
    cycles: int


@dataclass(frozen=True)
class Optima(Findings):
    """Findings with the optima by phase, what was free and length, and the verifications by phase and length."""

    optima: dict[tuple[str, tuple[str, ...], int], Optimum] = field(default_factory=dict)
    proofs: dict[str, dict[int, Verification]] = field(default_factory=dict)

    def losses(self, phase: str, over: tuple[str, ...]) -> dict[int, float]:
        """The least loss by length of the schedule."""
        return _losses(self.optima, phase, over)


def build(
    lengths=(100, 300), momentum_steps: int = 300, modes: int = 10**12, network_modes: int = 40, cycles: int = 60
) -> Study:
    """A power-law problem in two phases, in theory at `modes` and in networks at `network_modes`."""
    lengths = checks.sizes(lengths, name="lengths", least=2)
    kinds = {name: {"capacity": b, "decay": a, "noise": noise} for name, (b, a, noise) in PHASES.items()}
    return Study(
        {name: tasks.power_law(modes, **kind) for name, kind in kinds.items()},
        {name: tasks.power_law(network_modes, **kind) for name, kind in kinds.items()},
        lengths,
        checks.integer("momentum_steps", momentum_steps),
        checks.integer("cycles", cycles),
    )


def conduct(study: Study, sizes: tuple[int, ...], seeds: int, key: jax.Array) -> Optima:
    """Optimises and tunes in theory at every length, then trains networks by schedules of `sizes` steps, in pairs."""
    watch, keys = Stopwatch(), size_keys(key, sizes)
    optima, proofs = {}, {}
    for phase, task in study.tasks.items():
        for steps in study.lengths:
            optima[phase, RATE, steps] = _best(task, steps, RATE)
            if steps <= study.momentum_steps:
                optima[phase, HEAVY_BALL, steps] = _best(task, steps, HEAVY_BALL, max_evaluations=study.cycles)
    # in the hard phase rates are too large for a batch to stand for a rate
    ramp = _ramped(optima["easy", RATE, study.lengths[-1]])
    chosen = {(phase, steps): _best(study.small[phase], steps, RATE) for phase in study.small for steps in sizes}
    watch.lap("theory")
    for (phase, steps), best in chosen.items():
        proof = verify(best, best.benchmarks, size=1, seeds=seeds, key=keys[steps])
        proofs.setdefault(phase, {})[steps] = proof
    watch.lap("finite")
    claims, agreement = {}, {}
    for phase in study.tasks:
        claims |= {f"{phase}: {name}": claim for name, claim in _judge(phase, optima, proofs[phase], ramp).items()}
        agreement |= {f"{phase}, {steps} steps": _distance(proof) for steps, proof in proofs[phase].items()}
    return Optima(
        study,
        _dataset(study, optima),
        sizes,
        seeds,
        claims,
        agreement=agreement,
        measured=_numbers(study, optima) | {"ramp": ramp},
        seconds=watch.seconds,
        key=key_name(key),
        optima=optima,
        proofs=proofs,
    )


def _best(task, steps: int, over, **options) -> Optimum:
    return optimise(_LIMIT, task, OnlineSGD(0.02, steps=steps), over=over, benchmarks=over == RATE, **options)


def _ramped(best: Optimum) -> dict[str, float]:
    """The optimum as a constant rate and a growing batch on the same samples: loss and steps over the optimum's."""
    rates = best.protocol.learning_rate
    ramp = schedules.ramp(rates, 1)
    fast = OnlineSGD(ramp.learning_rate, batch_size=ramp.batch_size, steps=len(ramp.batch_size))
    loss = float(best.limit.solve(best.task, fast, throw=False).test_loss[-1])
    return {"loss_ratio": loss / best.value, "share_of_steps": fast.steps / len(rates)}


def _losses(optima, phase, over) -> dict[int, float]:
    return {steps: best.value for (name, free, steps), best in optima.items() if (name, free) == (phase, over)}


def momentum_gain(optima, phase) -> dict[int, float]:
    """By how much momentum lowers the least loss, relative, by length."""
    plain = _losses(optima, phase, RATE)
    return {steps: 1 - loss / plain[steps] for steps, loss in _losses(optima, phase, HEAVY_BALL).items()}


def _judge(phase, optima, proofs: dict[int, Verification], ramp) -> dict[str, Claim]:
    rates = {steps: best for (name, over, steps), best in optima.items() if (name, over) == (phase, RATE)}
    excess = {steps: _excess(best) for steps, best in rates.items()}
    constant = [np.log(excess[steps]["constant"]) for steps in rates]
    claims = {
        "best benchmark over optimum": Claim(min(min(ratios.values()) for ratios in excess.values()), low=1.0),
        "lead over constant rates grows": Claim(float(np.min(np.diff(constant))), low=0.0),
        "networks: largest difference to constant, in errors": Claim(
            max(proof.difference["constant"] / proof.standard_error["constant"] for proof in proofs.values()), high=-2.0
        ),
    }
    if phase == "hard":
        gains = list(momentum_gain(optima, phase).values())
        claims["gain of momentum grows"] = Claim(float(np.min(np.diff(gains))) if len(gains) > 1 else np.nan, low=0.0)
    else:
        claims["ramp: loss over optimum"] = Claim(ramp["loss_ratio"], 0.98, 1.02)
        claims["ramp: share of steps"] = Claim(ramp["share_of_steps"], high=0.9)
    return claims


def _excess(best: Optimum) -> dict[str, float]:
    return {name: loss / best.value for name, loss in best.certificates["benchmarks"].items()}


def _distance(proof: Verification) -> float:
    """Mean loss of the networks from the theory's, in standard errors."""
    return max(abs(proof.mean[name] - proof.expected[name]) / proof.mean_error[name] for name in ("best", "constant"))


def _numbers(study: Study, optima) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for phase, (b, a, _) in PHASES.items():
        losses = _losses(optima, phase, RATE)
        last = list(losses)[-2:]
        found[phase] = {
            "slope": log_slope(last, [losses[steps] for steps in last]),
            "slope_asymptotic": -(a - 1) / max(a, b),
            "benchmarks_over_optimum": {steps: _excess(optima[phase, RATE, steps]) for steps in losses},
            "gain_of_momentum": momentum_gain(optima, phase),
            "status": {
                f"{'+'.join(over)}, {steps}": best.status
                for (name, over, steps), best in optima.items()
                if name == phase
            },
        }
    return found


def _dataset(study: Study, optima):
    import xarray

    data = xarray.Dataset(coords={"phase": list(PHASES), "steps": list(study.lengths)})
    for name, over in (("loss", RATE), ("loss_momentum", HEAVY_BALL)):
        tables = [_losses(optima, phase, over) for phase in PHASES]
        data[name] = (("phase", "steps"), [[table.get(steps, np.nan) for steps in study.lengths] for table in tables])
    meaning = {"loss": "least final excess risk over rates", "loss_momentum": "the same over rates and momentum"}
    label(data, meaning)
    return data
