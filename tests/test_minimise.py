"""L-BFGS in a box: known minima, bounds, overflow."""

import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import double, minimise, projected


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


def rosenbrock(x, scale):
    return jnp.log1p(jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def steep(x, _):
    return jnp.sum(jnp.exp(jnp.exp(x)) - 40 * x)


def test_rosenbrock():
    found = minimise(rosenbrock, jnp.full(10, -1.2), 100.0, tolerance=1e-10)
    assert found.converged
    assert found.evaluations < 200
    np.testing.assert_allclose(found.x, 1, atol=1e-8)
    history = found.history[~np.isnan(found.history)]
    assert np.all(np.diff(history) <= 1e-12)
    np.testing.assert_allclose(history[-1], found.value)


def test_bounds_are_reached_exactly():
    high = jnp.array([jnp.inf, 0.3, jnp.inf, 0.9])
    found = minimise(rosenbrock, jnp.zeros(4), 100.0, low=-1.0, high=high, tolerance=1e-9)
    assert found.converged
    assert found.x[1] == 0.3
    assert np.max(np.abs(found.gradient)) <= 1e-9
    held = projected(jnp.ones(4), jnp.array([-1.0, 0.0, 0.0, -1.0]), jnp.full(4, -1.0), high)
    np.testing.assert_array_equal(held, [0, 1, 1, 0])


def test_overflow_shortens_the_step():
    found = minimise(steep, jnp.full(3, -3.0), None, tolerance=1e-8)
    assert found.converged
    np.testing.assert_allclose(jnp.exp(found.x) * jnp.exp(jnp.exp(found.x)), 40, rtol=1e-8)


def test_a_start_without_value_is_returned():
    found = minimise(steep, jnp.full(3, 10.0), None)
    assert not found.converged
    assert found.evaluations == 1
    assert not np.isfinite(found.value)


def test_single_precision():
    found = minimise(rosenbrock, jnp.full(10, -1.2, jnp.float32), np.float32(100), tolerance=1e-3)
    assert found.x.dtype == jnp.float32
    np.testing.assert_allclose(found.x, 1, atol=1e-2)
