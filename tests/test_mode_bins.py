"""Mode bins: sums of powers, and losses on bins against losses on every mode."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import Drive, double, exact_bins, power_law_bins, second_moment
from limitax.solvers._mode_bins import power_sums
from scipy.special import zeta


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


@pytest.mark.parametrize("power", [0.5, 1.0, 1.2, 2.5, 6.0])
def test_power_sums_and_their_derivative(power):
    edges = np.array([65.0, 70.0, 72.0, 80.0, 110.0, 170.0])
    k = [np.arange(low, high) for low, high in pairwise(edges)]
    sums, slopes = jax.jvp(lambda p: power_sums(p, edges), (jnp.asarray(power),), (jnp.ones(()),))
    np.testing.assert_allclose(sums, [np.sum(n**-power) for n in k], rtol=2e-13)
    np.testing.assert_allclose(slopes, [-np.sum(np.log(n) * n**-power) for n in k], rtol=2e-13)


@pytest.mark.parametrize("modes", [1024, 1025, 10**4, 10**12, None])
@pytest.mark.parametrize(("b", "a"), [(1.5, 2.5), (3.0, 1.5), (1.2, 1.3)])
def test_total_power(modes, b, a):
    bins = power_law_bins(modes, jnp.asarray(b), jnp.asarray(a))
    beyond = 0 if modes is None else zeta(np.array([b, a]), modes + 1.0)
    expected = zeta(np.array([b, a]), 1.0) - beyond
    found = [jnp.sum(bins.weights), jnp.sum(bins.weights * bins.teacher_power)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.all(np.diff(bins.eigenvalues) < 0)


def test_a_few_hundred_numbers():
    assert power_law_bins(1000, jnp.asarray(1.5), jnp.asarray(2.5)).weights.size == 1000
    assert power_law_bins(10**12, jnp.asarray(1.5), jnp.asarray(2.5)).weights.size == 268
    assert power_law_bins(None, jnp.asarray(1.5), jnp.asarray(2.5)).weights.size < 300


@pytest.mark.parametrize(("b", "a"), [(1.5, 2.5), (3.0, 1.5), (1.2, 1.2)])
def test_loss_on_bins(b, a):
    k, steps = np.arange(1, 10**4 + 1.0), 1000
    every = exact_bins(jnp.asarray(k**-b), jnp.asarray(k ** ((b - a) / 2)))
    zero, one = jnp.zeros(steps), jnp.ones(steps)
    drive = Drive(zero, 0.1 * one, zero, one)

    def loss(bins):
        return second_moment(bins, jnp.ones(()), drive, momentum=False, adjoint="direct")

    np.testing.assert_allclose(loss(power_law_bins(10**4, jnp.asarray(b), jnp.asarray(a))), loss(every), rtol=2e-4)


def test_derivative_along_exponents():
    @jax.jit
    def numbers(b, a):
        bins = power_law_bins(None, b, a)
        return jnp.concatenate([jnp.log(bins.eigenvalues), jnp.log(bins.weights), jnp.log(bins.teacher_power)])

    point, h = (jnp.asarray(1.5), jnp.asarray(2.2)), 1e-5
    for place, slope in enumerate(jax.jacfwd(numbers, argnums=(0, 1))(*point)):
        up, down = (tuple(p + s * h * (i == place) for i, p in enumerate(point)) for s in (1, -1))
        np.testing.assert_allclose(slope, (numbers(*up) - numbers(*down)) / (2 * h), rtol=1e-6, atol=1e-8)
