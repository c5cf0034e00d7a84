"""The lazy limit beside that of neural-tangents: `python -m limitax.bench.neural_tangents [--quick]`.

neural-tangents needs a JAX older than ours, so it is asked in a Python of its own, whose path the variable
`LIMITAX_NEURAL_TANGENTS` holds; docs/comparison.md says how to make one. Without it there is one row that says so.

Theirs is the NTK parameterisation: weights of unit variance times `W_std` over the root of the fan-in. With `W_std` s
in every layer it is `limits.MLP` at richness 0 with `init_scale` s and `rate_scale` s^2, the square of what their
weights are multiplied with. Kernels of erf and of ReLU layers are closed forms on both sides.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..limits import MLP
from ..problems import GradientDescent, tasks
from ..solvers import SampleAxis
from ._clock import best_seconds, print_rows

VARIABLE = "LIMITAX_NEURAL_TANGENTS"
SCRIPT = Path(__file__).with_name("_in_neural_tangents.py")
SCALES = {"erf": 1.0, "relu": 2**0.5}
DEPTHS = (1, 2, 3)
TIME = 2.0


class _CannotRun(Exception):
    """Why there is nothing to compare with, in one sentence."""


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row; where there is no neural-tangents, one that says so."""
    samples, tests, particles, steps, many = (6, 4, 2_000, 10, 50) if quick else (10, 5, 8_000, 20, 1000)
    task = tasks.sphere(jax.random.key(0), samples=samples, dim=10, test_samples=tests)
    crowd = tasks.sphere(jax.random.key(1), samples=many, dim=10).x
    cases = [(activation, depth) for activation in SCALES for depth in (DEPTHS[:2] if quick else DEPTHS)]
    try:
        theirs = _ask(task, crowd, cases, [TIME / steps * step for step in range(steps + 1)])
    except _CannotRun as reason:
        return [{"what": f"skipped: {reason}"}]
    found = []
    for case, answer in zip(cases, theirs["cases"], strict=True):
        limit = MLP(case[1], case[0], 0.0, init_scale=SCALES[case[0]], rate_scale=SCALES[case[0]] ** 2)
        about = {"activation": case[0], "depth": case[1], "samples": samples, "theirs": theirs["versions"]}
        found.append({"what": "tangent kernel"} | about | _kernel(limit, task, crowd, answer, particles))
        found.append({"what": "training curve"} | about | _curve(limit, task, answer, steps))
    return found


def _kernel(limit, task, crowd, theirs, particles: int) -> dict[str, Any]:
    """How far apart the kernels are, over the norm of theirs, and how long each takes on many samples: a ratio above 1
    means that theirs is faster."""
    expected = np.asarray(theirs["kernel"])

    def sampled(seed):
        how = {"axis": SampleAxis(), "samples": particles, "replicas": 1, "precision": "double"}
        return limit.solve(task, GradientDescent(0.0, steps=1), key=jax.random.key(seed), **how).extras["ntk"][0]

    draws = np.array([sampled(seed) for seed in range(4)])
    norm, seconds = np.linalg.norm(expected), best_seconds(lambda: limit.lazy_kernels(crowd).tangent)
    apart = np.asarray(limit.lazy_kernels(task.x).tangent) - expected
    return {
        "difference": float(np.linalg.norm(apart) / norm),
        "difference_between_samples": float(np.linalg.norm(apart - np.diag(np.diag(apart))) / norm),
        "sampled_difference": float(np.linalg.norm(draws.mean(0) - expected) / norm),
        "sampling_error": float(np.linalg.norm(draws.std(0, ddof=1)) / 2 / norm),
        "particles": 4 * particles,
        "timed_samples": len(crowd),
        "ratio": seconds / theirs["kernel_seconds"],
        "our_seconds": seconds,
        "their_seconds": theirs["kernel_seconds"],
    }


def _curve(limit, task, theirs, steps: int) -> dict[str, Any]:
    """Their gradient flow, on training and test samples, against our descent: apart by the size of a step. Half of the
    rate halves that, and `difference` is what is left at rate 0, by extrapolation."""
    flow = np.concatenate([theirs["train"], theirs["test"]], axis=1)

    def ours(finer):
        return limit.solve(task, GradientDescent(TIME / steps / finer, steps=finer * steps), keep=None)

    def both(found):
        return np.concatenate([found.predictions, found.test_predictions], axis=1)

    once, twice, four = (both(ours(finer))[::finer] for finer in (1, 2, 4))
    left = (once - 6 * twice + 8 * four) / 3  # of third order in the rate
    norm = np.linalg.norm(flow)
    distance = lambda curve: float(np.linalg.norm(curve - flow) / norm)  # noqa: E731
    seconds = best_seconds(lambda: ours(1).predictions)
    return {
        "difference": distance(left),
        "difference_at_the_rate": distance(once),
        "difference_at_half_the_rate": distance(twice),
        "steps": steps,
        "ratio": seconds / theirs["curve_seconds"],
        "our_seconds": seconds,
        "their_seconds": theirs["curve_seconds"],
    }


def _ask(task, crowd, cases, times) -> dict[str, Any]:
    """What neural-tangents says of the cases."""
    python = os.environ.get(VARIABLE)
    if not python:
        raise _CannotRun(f"{VARIABLE} names no Python with neural-tangents; docs/comparison.md says how to make one.")
    asked = {"cases": [(*case, SCALES[case[0]]) for case in cases], "times": times, "crowd": np.asarray(crowd).tolist()}
    asked |= {name: np.asarray(getattr(task, name)).tolist() for name in ("x", "y", "x_test")}
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "question.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked))
        try:
            # isolated: modules of this package must not stand in the way of theirs
            ended = subprocess.run([python, "-I", SCRIPT, question, answer], capture_output=True, text=True)
        except OSError as error:
            raise _CannotRun(f"{VARIABLE} is {python}, which does not start: {error.strerror}.") from None
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise _CannotRun(f"{VARIABLE} is {python}, which ends with: {last}")
        return json.loads(answer.read_text())


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "The lazy limit against neural-tangents.")


if __name__ == "__main__":
    main()
