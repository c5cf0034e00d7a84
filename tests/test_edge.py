"""Schedules that follow the edge of stability: the rule they obey, known values, and networks trained by them."""

import jax
import limitax as lx
import numpy as np
import pytest

from .helpers import raises

LIMIT = lx.limits.DeepLinear(1, 1.0, richness=6.0, init_scale=0.5)
TASK = lx.tasks.isotropic(sample_ratio=np.inf)
PROTOCOL = lx.GradientDescent(0.05, steps=12)


def test_every_step_is_at_its_share():
    found = lx.follow_edge(LIMIT, TASK, PROTOCOL, tolerance=1e-12)
    assert found.status == "converged"
    assert found.sweeps <= 13
    np.testing.assert_allclose(found.stability, 0.5, rtol=1e-9)
    rates = found.protocol.learning_rate
    np.testing.assert_allclose(rates[:4], [0.5, 0.081, 0.0639, 0.0648], rtol=1e-3)
    np.testing.assert_allclose((2 * found.stability / rates)[:4], [2.0, 12.35, 15.65, 15.43], rtol=1e-3)
    again = lx.sharpness(LIMIT, TASK, found.protocol)
    np.testing.assert_allclose(again.stability, found.stability)


@pytest.mark.slow
def test_a_warm_up_ends_at_the_balanced_and_flatter_solution():
    rule = {"upper": 0.05 * 2.0 ** np.arange(12)}
    kicked, warm = lx.follow_edge(LIMIT, TASK, PROTOCOL), lx.follow_edge(LIMIT, TASK, PROTOCOL, **rule)
    assert warm.status == "converged"
    np.testing.assert_array_equal(warm.protocol.learning_rate[:3], [0.05, 0.1, 0.2])
    np.testing.assert_allclose(warm.stability[3:], 0.5, rtol=1e-6)
    curvature = 2 * warm.stability[-1] / warm.protocol.learning_rate[-1]
    # a solution with equal layers has (L + 1) gamma^(2L / (L + 1)) = 12
    np.testing.assert_allclose(curvature, 12.0, rtol=2e-3)
    assert 2 * kicked.stability[-1] / kicked.protocol.learning_rate[-1] > 15
    assert warm.trajectory.test_loss[-1] < 0.05 * kicked.trajectory.test_loss[-1]


def test_stopped_early_it_says_so():
    found = lx.follow_edge(LIMIT, TASK, PROTOCOL, max_sweeps=5)
    assert found.status == "not converged"
    assert found.residual > 1e-6


@pytest.mark.slow
def test_perceptrons_with_momentum():
    limit = lx.limits.MLP(1, "tanh", richness=2.0)
    task = lx.tasks.sphere(jax.random.key(0), samples=3, dim=4)
    protocol = lx.GradientDescent(0.1, momentum=0.5, steps=4)
    found = lx.follow_edge(limit, task, protocol, share=0.3, samples=400, replicas=2)
    assert found.status == "converged"
    np.testing.assert_allclose(found.stability, 0.3, rtol=1e-5)


@pytest.mark.slow
def test_networks_have_the_curvature_of_the_theory():
    found = lx.follow_edge(LIMIT, TASK, PROTOCOL)
    theory = 2 * found.stability / found.protocol.learning_rate
    nets = LIMIT.ensemble(TASK, size=400, seeds=6)
    run = lx.nets.train(nets, TASK, found.protocol, sharpness=True)
    measured = np.asarray(run.extras["sharpness"])[:, : len(theory)]
    mean, error = np.mean(measured, axis=0), np.std(measured, axis=0, ddof=1) / 6**0.5
    # the edge of the spectrum at the start is a property of large matrices, reached from below
    assert np.all(np.abs(mean / theory - 1)[1:] < 3 * (error / theory)[1:] + 0.005)


def test_bad_input():
    with raises(ValueError, "share must be finite, above 0 and below 1; it is 1."):
        lx.follow_edge(LIMIT, TASK, PROTOCOL, share=1.0)
    with raises(ValueError, "upper must be a number or have 12 entries, one for every step; it has 3."):
        lx.follow_edge(LIMIT, TASK, PROTOCOL, upper=np.ones(3))
    with raises(ValueError, "learning_rate must be above 0 at every step; step 11 is 0."):
        lx.follow_edge(LIMIT, TASK, lx.GradientDescent(lx.schedules.linear(0.05, 12) * (np.arange(12) < 11)))
    with raises(TypeError, "RandomFeatures does not follow its sharpness"):
        task = lx.tasks.power_law(10, 1.5, 2.5)
        lx.follow_edge(lx.limits.RandomFeatures(), task, lx.OnlineSGD(0.05, steps=3))
