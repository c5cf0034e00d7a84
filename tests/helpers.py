"""Small problems and comparisons that several test files share."""

import re

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest


def small_task(samples=4, dim=5, test_samples=2, key=0):
    return lx.tasks.sphere(jax.random.key(key), samples=samples, dim=dim, test_samples=test_samples)


def full_trajectory(steps=3, samples=2, tests=3, depth=2, seeds=None, **changes):
    """A record that has everything, filled with different numbers."""
    rng = np.random.default_rng(0)
    lead = () if seeds is None else (seeds,)
    time = steps + 1

    def draw(*shape):
        return rng.standard_normal((*lead, *shape))

    kernels = {(kind, l): draw(time, time, samples, samples) for kind in ("Phi", "G") for l in range(1, depth + 1)}
    values = {
        "train_loss": draw(time) ** 2,
        "test_loss": draw(time) ** 2,
        "predictions": draw(time, samples),
        "test_predictions": draw(time, tests),
        "kernels": kernels,
        "extras": {"alignment": draw(time), "edges": draw(time, 2)},
        "sampling_error": {
            "train_loss": draw(time) ** 2,
            "G_2": draw(time, time, samples, samples),
            "alignment": draw(time),
        },
        "status_code": np.zeros(lead, np.int32),
        "diverged_step": np.full(lead, -1, np.int32),
        "attributes": (("size", 64), ("key", "0-0")),
    }
    return lx.Trajectory(**(values | changes))


def raises(kind, sentence):
    """`pytest.raises` for an exact sentence, read as text and not as a pattern."""
    return pytest.raises(kind, match=re.escape(sentence))


def same(a, b, rtol=0.0, atol=0.0):
    """Two pytrees have the same structure and the same numbers."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)
