"""Every theory under `jit` and `grad` of its caller without the global float64 flag: no number changes.

What a theory traces in its own precision context is lowered when the caller's program is, in the caller's context.
"""

import jax
import limitax as lx
import numpy as np
import pytest

LABELLED = lx.tasks.sphere(samples=4, dim=3)
FLOW = lx.GradientFlow([1.0, 5.0])
GROUND = lx.limits.DeepLinear(2, 0.8, 4.0, 0.5)


def descend(rate, steps=6):
    return lx.GradientDescent(rate, steps=steps)


def perceptron(rate):
    return lx.limits.MLP(2, "identity").solve(LABELLED, descend(rate, 3), keep=None).train_loss[-1]


def power_law(rate):
    return lx.final_loss(lx.limits.RandomFeatures(), lx.tasks.power_law(50), lx.OnlineSGD(rate, 0.3, steps=6))


def in_time(rate):
    task, protocol = lx.tasks.power_law(50, samples=20), lx.MinibatchSGD(rate, 3, steps=6)
    return lx.limits.RandomFeatures(15.0).solve(task, protocol).test_loss[-1]


def on_a_contour(rate):
    task = lx.tasks.power_law(50, samples=20)
    return lx.limits.RandomFeatures(15.0).solve(task, descend(rate), method="contour").test_loss[-1]


def normalised(rate):
    return lx.final_loss(lx.limits.RandomFeatures(), lx.tasks.power_law(50), lx.NormalisedSGD(rate, 3, steps=6))


def minibatches(rate):
    return lx.final_loss(lx.limits.LinearModel(), LABELLED, lx.MinibatchSGD(rate, 2, 0.3, steps=6))


def stable_rate(batch_size):
    return lx.limits.RandomFeatures().stable_rate(lx.tasks.power_law(50), batch_size)


def deep_linear(rate):
    return GROUND.solve(lx.tasks.isotropic(2.0), descend(rate)).test_loss[-1]


def outlier(rate):
    return lx.spectrum(GROUND, GROUND.solve(lx.tasks.isotropic(2.0), descend(rate, 12)), layer=1).largest[-1]


def residual(rate):
    return lx.limits.DeepLinear(3, residual=True).solve(lx.tasks.isotropic(2.0), descend(rate)).test_loss[-1]


def top_eigenvalue(rate):
    limit = lx.limits.DeepLinear(1, 1.0, 6.0, 0.4)
    return lx.sharpness(limit, lx.tasks.isotropic(6.0, 0.2), descend(rate)).eigenvalue[-1]


def edge(rate):
    limit = lx.limits.ExtensiveOutputs()
    return limit.solve(lx.tasks.linear_map(), descend(rate, 3)).extras["bulk_edge"][-1]


def recurrent(rate):
    return lx.limits.LinearRNN(0.1).solve(lx.tasks.integrator(0.3), descend(rate), order=1).test_loss[-1]


def small(scale):
    return lx.limits.SmallInitialization(scale).solve(LABELLED, FLOW).train_loss[-1]


def jumps(target):
    task = lx.tasks.from_arrays(LABELLED.x, target * LABELLED.y)
    return lx.limits.DiagonalLinear().solve(task, FLOW).train_loss[-1]


def learned(richness):
    return lx.limits.LearnedFeatures(richness, 8.0).solve(lx.tasks.power_law(50), FLOW).test_loss[-1]


def quadratic(scale):
    task = lx.tasks.quadratic(samples=9, dim=3, test_samples=2)
    return lx.final_loss(lx.limits.QuadraticNetwork(scale, 0.3), task, lx.GradientDescent(1.0, 0.3, 0.1, steps=6))


AT = {
    perceptron: 0.3,
    power_law: 0.05,
    in_time: 0.2,
    on_a_contour: 0.2,
    normalised: 0.1,
    minibatches: 0.1,
    stable_rate: 2.0,
    deep_linear: 0.05,
    outlier: 0.06,
    residual: 0.05,
    top_eigenvalue: 0.04,
    edge: 0.1,
    recurrent: 0.1,
    small: 0.1,
    jumps: 0.9,
    learned: 0.7,
    quadratic: 0.7,
}


@pytest.mark.slow
@pytest.mark.parametrize("theory", AT, ids=lambda theory: theory.__name__)
def test_under_jit_and_grad(theory):
    assert not jax.config.jax_enable_x64
    at = np.float32(AT[theory])
    step = 2e-3 * at
    value, slope = jax.jit(jax.value_and_grad(theory))(at)
    np.testing.assert_allclose(value, theory(float(at)), rtol=1e-5)
    difference = (theory(float(at + step)) - theory(float(at - step))) / (float(at + step) - float(at - step))
    np.testing.assert_allclose(slope, difference, rtol=2e-3)
