"""What scaling laws of random features cost: `python -m limitax.bench.scaling_laws [--quick]`.

Every row is a ratio of two things timed in one process; seconds are printed to be read, not to be tested.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..limits import RandomFeatures
from ..problems import GradientDescent, OnlineSGD, tasks
from ..solvers import Drive, double, exact_bins, power_law_bins, second_moment
from ..studies import final_loss
from ._clock import best_seconds, median_seconds, print_rows


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    steps = 20_000 if quick else 1_000_000
    with double():
        found = [_stream(2000 if quick else 20_000)]
        found += [_peer(2000 if quick else 10_000)]
    found += [_forms(40 if quick else 200)]
    return [*found, _long_run(steps), *_finite_runs(1000 if quick else 10_000)]


def _stream(steps: int) -> dict[str, Any]:
    """Bytes that the recursion's states would be, one read and one write a step, over a streaming copy's in the same
    time; above 1 the state stays in cache."""
    bins = power_law_bins(2**38, jnp.asarray(1.5), jnp.asarray(2.5))
    drive = Drive(jnp.zeros(steps), jnp.full(steps, 0.05), jnp.zeros(steps), jnp.ones(steps))
    long = jnp.ones(2**24)
    seconds = median_seconds(
        {
            "recursion": lambda: _forward(bins, drive),
            "copy": lambda: _copy(long),
        }
    )
    moved = 2 * 8 * bins.weights.size * steps / seconds["recursion"]
    bandwidth = 2 * 8 * long.size / seconds["copy"]
    return {
        "what": "recursion against a streaming copy",
        "steps": steps,
        "numbers": int(bins.weights.size),
        "gigabytes_a_second": moved / 1e9,
        "copy_gigabytes_a_second": bandwidth / 1e9,
        "ratio": moved / bandwidth,
        "microseconds_a_step": seconds["recursion"] / steps * 1e6,
    }


@jax.jit
def _forward(bins, drive):
    return second_moment(bins, jnp.ones(()), drive, momentum=False)[-1]


_copy = jax.jit(lambda x: x + 1)


def _peer(steps: int) -> dict[str, Any]:
    """The usual way, a scan over every one of 2000 modes and its automatic gradient, over ours on bins; the error that
    the bins make."""
    modes = 2000
    k = np.arange(1, modes + 1.0)
    exact = exact_bins(jnp.asarray(k**-1.5), jnp.asarray(k ** (-0.5)))
    binned = power_law_bins(modes, jnp.asarray(1.5), jnp.asarray(2.5))
    rates = jnp.full(steps, 0.05)

    def plain(rates):
        lam, power = exact.eigenvalues, exact.teacher_power

        def step(A, eta):
            L = jnp.sum(lam * A)
            return A - 2 * eta * lam * A + eta**2 * lam * (2 * lam * A + L + 1.0), L

        A, _ = jax.lax.scan(step, power, rates)
        return jnp.sum(lam * A)

    def ours(rates):
        drive = Drive(jnp.zeros_like(rates), rates, jnp.zeros_like(rates), jnp.ones_like(rates))
        return second_moment(binned, jnp.ones(()), drive, momentum=False)[-1]

    programs = {name: jax.jit(f) for name, f in (("plain", plain), ("ours", ours))}
    slopes = {f"{name} gradient": jax.jit(jax.grad(f)) for name, f in (("plain", plain), ("ours", ours))}
    seconds = median_seconds(programs | slopes, rates, repeats=9)
    values = [float(f(rates)) for f in programs.values()]
    return {
        "what": "plain scan over ours",
        "steps": steps,
        "modes": modes,
        "numbers": int(binned.weights.size),
        "forward_ratio": seconds["plain"] / seconds["ours"],
        "gradient_ratio": seconds["plain gradient"] / seconds["ours gradient"],
        "plain_seconds": seconds["plain"],
        "plain_gradient_seconds": seconds["plain gradient"],
        "error_of_bins": abs(values[1] / values[0] - 1),
    }


def _forms(steps: int) -> dict[str, Any]:
    """The form in time over the contour form, at equal results."""
    task = tasks.power_law(400, 1.5, 2.0, noise=0.3, samples=60)
    limit, protocol = RandomFeatures(40), GradientDescent(0.3, steps=steps)

    def solve(method):
        return limit.solve(task, protocol, method=method).test_loss

    programs = {method: partial(solve, method) for method in ("time", "contour")}
    seconds = median_seconds(programs, repeats=3)
    apart = np.max(np.abs(np.asarray(solve("contour")) / np.asarray(solve("time")) - 1))
    return {
        "what": "form in time over contour",
        "steps": steps,
        "ratio": seconds["time"] / seconds["contour"],
        "contour_seconds": seconds["contour"],
        "relative_difference": float(apart),
    }


def _long_run(steps: int) -> dict[str, Any]:
    """One-pass SGD on 1e12 modes, warm: a call with another rate, and gradients in a number and in every rate."""
    task, limit = tasks.power_law(10**12, 1.5, 2.5, noise=1.0), RandomFeatures()

    def loss(rate):
        return final_loss(limit, task, OnlineSGD(rate, steps=steps))

    with double():
        call, scalar, full = jax.jit(loss), jax.jit(jax.grad(loss)), jax.jit(jax.grad(loss))
        jax.block_until_ready((call(0.04), scalar(0.04)))
        return {
            "what": "long one-pass run",
            "steps": steps,
            "seconds": best_seconds(call, 0.05, repeats=1),
            "gradient_in_one_rate_seconds": best_seconds(scalar, 0.05, repeats=1),
            "gradient_in_all_rates_seconds": best_seconds(full, jnp.full(steps, 0.05), repeats=1),
        }


def _finite_runs(steps: int) -> list[dict[str, Any]]:
    """Finite width and data by the contour: a call and a gradient in all rates."""
    found = []
    for name, task, protocol in (
        ("reused samples", tasks.power_law(10**12, 1.5, 2.0, 0.3, samples=1000), GradientDescent),
        ("one pass", tasks.power_law(10**12, 1.5, 2.0, 0.3), OnlineSGD),
    ):
        limit = RandomFeatures(500)

        def loss(rates, task=task, protocol=protocol, limit=limit):
            return final_loss(limit, task, protocol(rates))

        programs = {"call": jax.jit(loss), "gradient": jax.jit(jax.grad(loss))}
        seconds = median_seconds(programs, np.full(steps, 0.1), repeats=3)
        found.append(
            {
                "what": f"contour, {name}",
                "steps": steps,
                "seconds": seconds["call"],
                "gradient_over_forward": seconds["gradient"] / seconds["call"],
            }
        )
    return found


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "Cost of scaling laws of random features.")


if __name__ == "__main__":
    main()
