"""What the second-moment recursion and its control cost: `python -m limitax.bench.recursion [--quick]`.

Every row is a ratio of two things timed in one process, or a count; seconds are printed to be read, not to be tested.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..limits import RandomFeatures
from ..problems import OnlineSGD, tasks
from ..solvers import ADJOINTS, Drive, ModeBins, double, power_law_bins, second_moment
from ..solvers._precision import HIGHEST
from ..solvers._second_moment import momentum_step, sgd_step, transfer
from ..studies import optimise
from ._clock import median_ratios, print_rows


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    steps = 2000 if quick else 20_000
    with double():
        found = [row for momentum in (False, True) for row in _gradients(steps, momentum)]
        found += [_compile(length) for length in ((100, 1000) if quick else (100, 1000, 10_000))]
    return [*found, _control(100 if quick else 1000)]


def _problem(steps: int):
    bins = power_law_bins(2**38, jnp.asarray(1.5), jnp.asarray(2.5))
    ramp = jnp.linspace(0.0, 1.0, steps)
    drive = Drive(0.0 * ramp, 0.05 * (1 - ramp) + 1e-3, 0.5 * ramp, jnp.ones(steps))
    return bins, jnp.ones(()), drive


def final_losses(bins: ModeBins, noise_power, momentum: bool) -> dict[str, Callable[[Drive], Any]]:
    """The same final loss as a function of all controls, by what its gradient is made of."""

    def loss(drive, adjoint):
        return second_moment(bins, noise_power, drive, momentum=momentum, adjoint=adjoint)[-1]

    losses = {adjoint: partial(loss, adjoint=adjoint) for adjoint in ADJOINTS}
    losses["jax.checkpoint"] = partial(_checkpointed, bins, noise_power, momentum)
    if not momentum:
        losses["jax.checkpoint, arranged"] = partial(_checkpointed_arranged, bins, noise_power)
    return losses


def _gradients(steps: int, momentum: bool) -> list[dict[str, Any]]:
    """Time of a gradient with respect to all controls in units of the plain forward pass, and the memory it needs."""
    bins, noise_power, drive = _problem(steps)
    losses = final_losses(bins, noise_power, momentum)
    forward = jax.jit(losses["direct"]).lower(drive).compile()
    programs = {name: jax.jit(jax.value_and_grad(f)).lower(drive).compile() for name, f in losses.items()}
    ratios, seconds = median_ratios(programs, forward, drive)
    return [
        {
            "what": "gradient over forward",
            "adjoint": adjoint,
            "momentum": momentum,
            "steps": steps,
            "numbers": int(bins.weights.size * (3 if momentum else 1)),
            "ratio": ratios[adjoint],
            "forward_seconds": seconds,
            "temporary_MB": getattr(programs[adjoint].memory_analysis(), "temp_size_in_bytes", np.nan) / 2**20,
        }
        for adjoint in losses
    ]


def _checkpointed(bins, noise_power, momentum: bool, drive: Drive):
    """The final loss by a plain scan over blocks of about the root of their number, each under `jax.checkpoint`."""
    A = bins.teacher_power
    step, inputs = (momentum_step, transfer(drive)) if momentum else (sgd_step, _rates(drive))
    state = jnp.stack([A, jnp.zeros_like(A), jnp.zeros_like(A)]) if momentum else A

    @jax.checkpoint
    def block(state, xs):
        return jax.lax.scan(partial(step, (bins, noise_power)), state, xs)

    state, _ = jax.lax.scan(block, state, _blocks(inputs))
    return jnp.sum(bins.weights * (state[0] if momentum else state))


def _checkpointed_arranged(bins, noise_power, drive: Drive):
    """The same without momentum, for its gradient: how each mode decays is a product of matrices for a whole block, and
    the state is what each mode adds to the loss, in three axes of at most 32.

    Automatic differentiation sums over modes at every step, and a sum over a longer axis is a chain of calls in
    compiled code.
    """
    lam, shape = bins.eigenvalues, (-1, 32, 4)
    fed = (bins.weights * lam).reshape(shape)

    @jax.checkpoint
    def block(contributions, rates):
        eta, inverse_batch = rates
        decay = jax.lax.dot(
            jnp.stack([-2 * eta, eta**2 * (1 + inverse_batch)], axis=1), jnp.stack([lam, lam**2]), precision=HIGHEST
        )
        return jax.lax.scan(step, contributions, (decay.reshape(-1, *fed.shape), inverse_batch * eta**2))

    def step(contributions, at_step):
        decay, push = at_step
        L = jnp.sum(contributions)
        return contributions + decay * contributions + fed * (push * (L + noise_power)), None

    contributions = (bins.weights * bins.teacher_power).reshape(shape)
    contributions, _ = jax.lax.scan(block, contributions, _blocks(_rates(drive)))
    return jnp.sum(contributions)


def _rates(drive: Drive):
    return drive.e1 + drive.e2, drive.inverse_batch


def _blocks(inputs):
    """Time cut into blocks, whose size divides it and is at most the root of it."""
    steps = len(jax.tree.leaves(inputs)[0])
    size = max(size for size in range(1, math.isqrt(steps) + 1) if steps % size == 0)
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), inputs)


def _compile(steps: int) -> dict[str, Any]:
    """Seconds to compile a gradient: the same for every number of steps."""
    bins, noise_power, drive = _problem(steps)
    start = time.perf_counter()
    jax.jit(jax.grad(lambda drive: second_moment(bins, noise_power, drive)[-1])).lower(drive).compile()
    return {"what": "compile a gradient", "steps": steps, "seconds": time.perf_counter() - start}


def _control(steps: int) -> dict[str, Any]:
    """Exact sweeps and quasi-Newton on the same free rates: evaluations and warm time."""
    limit, protocol = RandomFeatures(), OnlineSGD(0.05, steps=steps)
    row: dict[str, Any] = {"what": "optimise free rates", "controls": steps}
    values = []
    for method in ("sweeps", "lbfgs"):
        for noise in (0.9, 1.0):  # the first compiles
            task = tasks.power_law(10**12, 1.5, 2.5, noise)
            start = time.perf_counter()
            best = optimise(limit, task, protocol, over="learning_rate", method=method)
            row[f"{method}_seconds"] = time.perf_counter() - start
        row[f"{method}_evaluations"] = best.evaluations
        values.append(best.value)
    return row | {"relative_difference": abs(values[1] / values[0] - 1)}


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "Cost of the second-moment recursion and of its control.")


if __name__ == "__main__":
    main()
