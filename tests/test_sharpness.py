"""Sharpness of deep linear networks: known numbers, finite networks, derivatives, and what is refused."""

import jax
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import double

from .helpers import raises

POPULATION = lx.tasks.isotropic()
RATE = lx.GradientDescent(0.04, steps=10)


def population(width_ratio, parameterization="mup", protocol=RATE):
    limit = lx.limits.DeepLinear(1, width_ratio, 6.0, 0.5, parameterization=parameterization)
    return lx.sharpness(limit, POPULATION, protocol)


@pytest.mark.slow
def test_wider_is_as_sharp_in_mup_and_flatter_in_ntk():
    expected = {
        (1.0, "mup"): (4.364, 10.644),
        (4.0, "mup"): (4.350, 10.749),
        (16.0, "mup"): (4.348, 10.775),
        (4.0, "ntk"): (2.001, 3.632),
        (16.0, "ntk"): (1.469, 1.826),
    }
    for (ratio, name), values in expected.items():
        found = population(ratio, name)
        np.testing.assert_allclose(found.eigenvalue[[5, 10]], values, atol=6e-4)


@pytest.mark.slow
def test_training_that_diverges_has_a_sharpness_or_none():
    """A search tries such schedules, and must be able to go on."""
    limit, task = lx.limits.DeepLinear(1, 1.0, 4.0, 0.5), lx.tasks.isotropic(2.0, 0.3)

    @jax.jit
    def stability(rates):
        protocol = lx.GradientDescent(rates, steps=4)
        return limit.stability(task, protocol, limit.solve(task, protocol, throw=False))

    rng = np.random.default_rng(0)
    with double():
        start = stability(np.full(4, 0.05))
        assert np.all(np.isfinite(start))
        for decades in rng.uniform(-10, 10, (20, 4)):
            found = stability(0.05 * 10.0**decades)
            np.testing.assert_allclose(found[0], start[0] * 10.0 ** decades[0], rtol=1e-9)
            assert np.all((found > 0) | np.isnan(found))


@pytest.mark.slow
def test_rich_training_ends_in_a_balanced_solution():
    """Its sharpness is (L + 1) richness^(2L / (L + 1)) for a teacher of unit norm."""
    for ratio in (1.0, 4.0):
        np.testing.assert_allclose(
            population(ratio, protocol=lx.GradientDescent(0.04, steps=20)).eigenvalue[-1], 12.033, atol=6e-4
        )


@pytest.mark.slow
def test_it_is_the_outlier_of_the_first_layer():
    """With one hidden layer on the population, the matrix is C_g + s_1^2 / nu with the largest singular value s_1."""
    limit = lx.limits.DeepLinear(1, 2.0, 6.0, 0.5)
    theory, found = limit.solve(POPULATION, RATE), lx.sharpness(limit, POPULATION, RATE)
    largest = lx.spectrum(limit, theory, layer=0).largest
    expected = np.diag(theory.extras["correlation_g_1"]) + largest**2 / 2.0
    np.testing.assert_allclose(found.eigenvalue, expected, rtol=1e-7)
    assert not found.exists[0]
    assert found.exists[-1]
    np.testing.assert_allclose(found.stability, 0.04 * found.eigenvalue[:-1] / 2)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 0.01, 0.001])
def test_from_small_weights_it_is_far_above_the_bulk(scale):
    limit = lx.limits.DeepLinear(1, 2.0, 6.0, init_scale=scale)
    theory, found = limit.solve(POPULATION, RATE), lx.sharpness(limit, POPULATION, RATE)
    expected = np.diag(theory.extras["correlation_g_1"]) + lx.spectrum(limit, theory, layer=0).largest ** 2 / 2.0
    np.testing.assert_allclose(found.eigenvalue, expected, rtol=1e-6)
    assert found.exists[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "richness", "rate", "noise", "expected"),
    [(6.0, 6.0, 0.04, 0.2, (7.97, 13.01, 14.22)), (2.0, 8.0, 0.03, 0.0, (13.88, 20.88, 23.09))],
)
def test_on_a_finite_sample(ratio, richness, rate, noise, expected):
    limit, task = lx.limits.DeepLinear(1, 1.0, richness, 0.4), lx.tasks.isotropic(ratio, noise)
    found = lx.sharpness(limit, task, lx.GradientDescent(rate, steps=20))
    np.testing.assert_allclose(found.eigenvalue[[6, 10, 20]], expected, atol=6e-3)
    assert np.all(found.eigenvalue >= found.bulk_edge - 1e-12)


@pytest.mark.slow
def test_a_finite_sample():
    limit, task = lx.limits.DeepLinear(1, 1.0, 6.0, 0.4), lx.tasks.isotropic(6.0, 0.2)
    found = lx.sharpness(limit, task, lx.GradientDescent(0.04, steps=6))
    np.testing.assert_allclose(found.eigenvalue[6], 7.971, atol=6e-4)


@pytest.mark.slow
def test_many_samples_are_the_population():
    limit, protocol = lx.limits.DeepLinear(1, 1.0, 6.0, 0.5), lx.GradientDescent(0.04, steps=8)
    many = lx.sharpness(limit, lx.tasks.isotropic(1e7), protocol)
    np.testing.assert_allclose(many.eigenvalue, lx.sharpness(limit, POPULATION, protocol).eigenvalue, rtol=2e-3)


@pytest.mark.slow
def test_gradients():
    def at(richness, rate):
        limit = lx.limits.DeepLinear(1, 1.5, richness, 0.5)
        return lx.sharpness(limit, POPULATION, lx.GradientDescent(rate, steps=5)).eigenvalue[5]

    rate = np.linspace(0.04, 0.06, 5)
    d_richness, d_rate = jax.grad(at, argnums=(0, 1))(5.0, rate)
    step = 1e-5
    np.testing.assert_allclose(d_richness, (at(5.0 + step, rate) - at(5.0 - step, rate)) / (2 * step), rtol=1e-5)
    shift = step * (np.arange(5) == 3)
    np.testing.assert_allclose(d_rate[3], (at(5.0, rate + shift) - at(5.0, rate - shift)) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"limit": lx.limits.MLP(1, "tanh")}, TypeError, "limit must be a limits.DeepLinear"),
        ({"limit": lx.limits.DeepLinear(3, residual=True)}, ValueError, "residual must be False"),
        ({"limit": lx.limits.DeepLinear(1, np.inf)}, ValueError, "width_ratio must be finite"),
        ({"limit": lx.limits.DeepLinear(1, init_scale=0.0)}, ValueError, "init_scale must be finite and above 0"),
        ({"task": lx.tasks.gaussian([1.0, 2.0], [1.0, 1.0], sample_ratio=1.0)}, TypeError, "task must be isotropic"),
        ({"protocol": lx.GradientDescent(0.1, weight_decay=0.1, steps=3)}, ValueError, "weight_decay must be 0"),
        ({"protocol": lx.OnlineSGD(0.1, batch_size=3, steps=3)}, ValueError, "batch_size is a number"),
    ],
)
def test_bad_input(change, kind, sentence):
    arguments = {"limit": lx.limits.DeepLinear(1), "task": POPULATION, "protocol": RATE} | change
    with raises(kind, sentence):
        lx.sharpness(**arguments)
