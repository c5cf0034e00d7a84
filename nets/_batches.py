"""Which samples a step sees."""

import jax
import jax.numpy as jnp
import numpy as np

from ..problems import MinibatchSGD
from ..problems import _checks as checks


def whole_batch_size(protocol) -> int:
    """The largest batch of a protocol whose batch sizes can be drawn.

    **Raises:** `TypeError` for a traced `batch_size`, `ValueError` for one that is not whole.
    """
    sizes = checks.concrete(protocol.batch_size)
    if sizes is None:
        raise TypeError(
            "batch_size must be known beforehand, as it fixes the shape of a batch; it cannot be traced or swept here."
        )
    fractional = sizes != np.round(sizes)
    if np.any(fractional):
        step = int(np.argmax(fractional))
        raise ValueError(f"batch_size must be whole to train a finite network; step {step} is {sizes[step]:g}.")
    return int(np.max(sizes))


def runs_at_once(runs: int, most: int) -> int:
    """How many runs to hold side by side, about `most`: a divisor of all, where that does not cost the half of them,
    since a remainder would be compiled as a second program."""
    most = max(1, min(runs, most))
    return next((n for n in range(most, most // 2, -1) if runs % n == 0), most)


def no_steps(steps) -> None:
    """**Raises:** `ValueError` if a number of steps was given beside a protocol that has its own."""
    if steps is not None:
        raise ValueError("steps goes with an optax optimiser; the protocol's schedules have their own number.")


def check_batch(protocol: MinibatchSGD, samples) -> None:
    """**Raises:** `ValueError` if one step would draw more than all `samples` without replacement."""
    sizes = checks.concrete(protocol.batch_size)
    if not protocol.replace and sizes is not None and samples is not None and np.max(sizes) > samples:
        raise ValueError(
            f"batch_size must be at most the {samples:g} samples without replacement; it is {np.max(sizes):g}."
        )


def drawn_samples(protocol, time, key, samples: int, largest_batch: int, dtype):
    """Indices `[largest_batch]` of the samples that this step draws, and their weights, one over the batch size.

    `OnlineSGD` draws from a pool with replacement."""
    batch = jnp.asarray(protocol.batch_size, dtype)[time]
    # of 32 bits, so that a key draws the same samples whatever the global flag
    if isinstance(protocol, MinibatchSGD) and not protocol.replace:
        drawn = jax.random.permutation(key, jnp.arange(samples, dtype=jnp.int32))[:largest_batch]
    else:
        drawn = jax.random.randint(key, (largest_batch,), 0, samples, jnp.int32)
    return drawn, (jnp.arange(largest_batch) < batch) / batch


def batch_weights(protocol, key, samples: int, largest_batch: int, dtype, times=None):
    """The weight of each sample in the loss of each step, `[steps, samples]`: 1/P for the full batch, and for
    `MinibatchSGD` how often it is drawn over the batch size. Every row sums to one.

    **Arguments:**

    - `protocol`: `GradientDescent` or `MinibatchSGD`, whose `seed` takes the place of `key` if there is one.
    - `largest_batch`: `whole_batch_size(protocol)`; no matter for the full batch.
    - `times`: of which steps, by default of all.
    """
    times = jnp.arange(protocol.steps) if times is None else times
    if not isinstance(protocol, MinibatchSGD):
        return jnp.full((len(times), samples), 1.0 / samples, dtype)
    if protocol.seed is not None:
        # a seed of 32 bits: one of 64 cannot be lowered within a program that began in single precision
        key = jax.random.key(np.uint32(protocol.seed % 2**32))

    def weights(time, key):
        drawn, weights = drawn_samples(protocol, time, key, samples, largest_batch, dtype)
        return jnp.zeros((samples,), dtype).at[drawn].add(weights)

    return jax.vmap(weights)(times, jax.random.split(key, protocol.steps)[times])
