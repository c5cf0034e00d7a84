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
        raise TypeError("batch_size must be concrete to train a finite network: it fixes the shape of a batch.")
    fractional = sizes != np.round(sizes)
    if np.any(fractional):
        step = int(np.argmax(fractional))
        raise ValueError(f"batch_size must be whole to train a finite network; step {step} is {sizes[step]:g}.")
    return int(np.max(sizes))


def no_steps(steps) -> None:
    """**Raises:** `ValueError` if a number of steps was given beside a protocol that has its own."""
    if steps is not None:
        raise ValueError("steps goes with an optax optimiser; the protocol's schedules have their own number.")


def sample_weights(protocol, time, key, samples: int, largest_batch: int, dtype):
    """The weight of each sample in the loss of this step: 1/P for the full batch, draws over batch size otherwise."""
    if not isinstance(protocol, MinibatchSGD):
        return jnp.full((samples,), 1.0 / samples, dtype)
    batch = jnp.asarray(protocol.batch_size, dtype)[time]
    if protocol.replace:
        drawn = jax.random.randint(key, (largest_batch,), 0, samples)
    else:
        drawn = jax.random.permutation(key, samples)[:largest_batch]
    counted = (jnp.arange(largest_batch) < batch).astype(dtype)
    return jnp.zeros((samples,), dtype).at[drawn].add(counted) / batch
