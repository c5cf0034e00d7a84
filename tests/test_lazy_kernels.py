"""Kernels of the start in closed form: against independent averages, the lazy limit, and networks."""

import math

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import SampleAxis
from scipy.integrate import dblquad

from .helpers import raises, small_task

TASK = small_task()
EVERYTHING = {"init_scale": [0.9, 1.2, 0.8], "bias_scale": 0.4, "rate_scale": [0.5, 2.0, 1.5]}


@pytest.mark.parametrize("name", ["erf", "relu"])
def test_series_and_closed_forms(name):
    """A callable goes by the series; a smooth one is exact, and of a kink it says that it is not."""
    function = {"erf": jax.scipy.special.erf, "relu": lambda h: jnp.maximum(h, 0.0)}[name]
    exact = lx.limits.MLP(2, name, **EVERYTHING).lazy_kernels(TASK.x, TASK.x_test)
    series = lx.limits.MLP(2, function, **EVERYTHING).lazy_kernels(TASK.x, TASK.x_test)
    assert exact.truncation == 0
    assert exact.tangent.shape == (len(TASK.x), len(TASK.x_test))
    distance = np.max(np.abs(series.tangent - exact.tangent)) / np.max(np.abs(exact.tangent))
    if name == "erf":
        assert series.truncation < 1e-8
        assert distance < 1e-12
    else:
        assert 1e-4 < series.truncation < 0.1
        assert distance < series.truncation


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus"])
def test_averages_are_integrals(name):
    """One hidden layer against two-dimensional quadrature of the definition."""
    kernels = lx.limits.MLP(1, name, init_scale=[1.3, 1.0]).lazy_kernels(TASK.x[:1], TASK.x[1:2])
    variances = [1.3**2 * np.mean(np.square(TASK.x[i])) for i in (0, 1)]
    correlation = 1.3**2 * np.mean(TASK.x[0] * TASK.x[1]) / np.sqrt(variances[0] * variances[1])
    phi = {
        "tanh": np.tanh,
        "gelu": lambda h: 0.5 * h * (1 + math.erf(h / np.sqrt(2))),
        "softplus": lambda h: np.logaddexp(0, h),
    }[name]

    def density(v, u):
        b = correlation * u + np.sqrt(1 - correlation**2) * v
        pair = phi(np.sqrt(variances[0]) * u) * phi(np.sqrt(variances[1]) * b)
        return pair * np.exp(-(u**2 + v**2) / 2) / (2 * np.pi)

    expected = dblquad(density, -6, 6, -6, 6, epsabs=1e-6, epsrel=1e-6)[0]
    np.testing.assert_allclose(kernels.Phi[1][0, 0], expected, rtol=1e-5)


RULES = {
    "backpropagation": lx.rules.Backpropagation(),
    "feedback alignment": lx.rules.FeedbackAlignment(0.6),
    "direct feedback alignment": lx.rules.DirectFeedbackAlignment(),
    "Hebb": lx.rules.Hebb(),
    "gated linear": lx.rules.GatedLinear(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_the_limit_starts_with_them(name):
    """Every kernel of particles at step 0, with biases, scales and rates of layers, falls onto them."""
    limit = lx.limits.MLP(2, "tanh", 0.0, rule=RULES[name], **EVERYTHING)
    exact = limit.lazy_kernels(TASK.x)
    distances = []
    for samples in (2_000, 32_000):
        options = {"samples": samples, "replicas": 16, "keep": "diagonal", "axis": SampleAxis()}
        theory = limit.solve(TASK, lx.GradientDescent(0.1, steps=1), **options)
        pairs = [(theory.extras["ntk"][0], exact.tangent)]
        pairs += [(theory.kernels["Phi", l][0], exact.Phi[l]) for l in (1, 2)]
        if name in ("backpropagation", "gated linear"):
            pairs += [(theory.kernels["G", l][0], exact.G[l - 1]) for l in (1, 2)]
        distances.append([np.linalg.norm(found - kernel) / np.linalg.norm(kernel) for found, kernel in pairs])
    assert np.max(distances[1]) < 5 / 32_000**0.5
    # a sixteenth of the variance
    assert 2 < np.linalg.norm(distances[0]) / np.linalg.norm(distances[1]) < 8


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_symmetric_positive_and_zero_inputs(activation):
    x = np.concatenate([TASK.x, np.zeros((1, TASK.dim))])
    kernels = lx.limits.MLP(3, activation).lazy_kernels(x)
    for kernel in (*kernels.Phi, *kernels.G, kernels.tangent):
        np.testing.assert_allclose(kernel, kernel.T, rtol=0, atol=1e-14)
        assert np.linalg.eigvalsh(kernel)[0] > -1e-12
    np.testing.assert_allclose(kernels.Phi[1][-1], 0, atol=1e-14)
    assert kernels.tangent.dtype == np.float64


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_are_differences(activation):
    """In scales and the learning rates of layers."""

    def total(values):
        scale, bias, rates = values
        kernels = lx.limits.MLP(2, activation, 1.0, scale, bias, rate_scale=rates).lazy_kernels(TASK.x)
        return jnp.sum(kernels.tangent * jnp.arange(1.0, len(TASK.x) + 1))

    values = (np.array([0.9, 1.2, 0.8]), np.array(0.4), np.array([0.5, 2.0, 1.5]))
    direction = (np.array([0.3, -0.5, 0.4]), np.array(0.7), np.array([-0.2, 0.3, 0.5]))
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(total))(values)
        shifted = [total(jax.tree.map(lambda v, d, s=s: v + s * d, values, direction)) for s in (1e-5, -1e-5)]
    along = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(along, float(shifted[0] - shifted[1]) / 2e-5, rtol=1e-7)


def test_gradients_in_single_precision():
    """Computed in double precision whatever the caller's is; a gradient has the precision of what it is for."""
    slope = jax.jit(jax.grad(lambda scale: lx.limits.MLP(2, "tanh", 1.0, scale).lazy_kernels(TASK.x).tangent[0, 1]))
    with jax.enable_x64(True):
        exact = slope(jnp.asarray(0.9))
    found = slope(jnp.asarray(0.9))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, float(exact), rtol=1e-6)


def test_messages():
    limit = lx.limits.MLP(1, "tanh")
    with raises(ValueError, "x must have 2 axes; an array of shape (3,) was given."):
        limit.lazy_kernels(np.ones(3))
    with raises(ValueError, "x and z must have inputs of one dimension; the shapes are (2, 3) and (2, 4)."):
        limit.lazy_kernels(np.ones((2, 3)), np.ones((2, 4)))
