"""How optima move: against optima of neighbouring problems, and in closed form."""

import limitax as lx
import numpy as np
import pytest

from .helpers import raises

LIMIT = lx.limits.RandomFeatures()


def best_at(noise, **options):
    task = lx.tasks.power_law(modes=50, capacity=1.5, decay=2.5, noise=noise)
    return lx.optimise(
        LIMIT, task, lx.OnlineSGD(0.05, steps=30), over="learning_rate", method="lbfgs", tolerance=1e-11, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"bounds": {"learning_rate": (None, 0.1)}}, {"knots": 6}], ids=["free", "bounded", "knots"]
)
def test_against_neighbouring_optima(options):
    best, step = best_at(0.7, **options), 1e-3
    found = lx.sensitivity(best, "noise", tolerance=1e-9)
    low, high = best_at(0.7 - step, **options), best_at(0.7 + step, **options)
    np.testing.assert_allclose(found.value, (high.value - low.value) / (2 * step), rtol=1e-5)
    moved = (high.protocol.learning_rate - low.protocol.learning_rate) / (2 * step)
    held = best.at_bound["learning_rate"]
    assert held.any() == ("bounds" in options)
    np.testing.assert_allclose(found.controls["learning_rate"][held], 0, atol=1e-12)
    # the neighbours are known to the tolerance of their stationarity, over the step
    np.testing.assert_allclose(found.controls["learning_rate"], moved, rtol=2e-3, atol=2e-3 * np.abs(moved).max())
    assert found.residual < 1e-8


def test_one_mode_in_closed_form():
    """With one step and one mode the optimum is eta = L / (lambda [(1 + 2/B) L + s^2/B])."""
    lam, w, noise = 0.7, 1.3, 0.5
    task = lx.tasks.gaussian([lam], [w], noise=noise)
    best = lx.optimise(LIMIT, task, lx.OnlineSGD(0.05, steps=1), over="learning_rate", method="lbfgs", tolerance=1e-12)
    found = lx.sensitivity(best, "noise")
    L = lam * w**2
    eta = L / (lam * (3 * L + noise**2))
    np.testing.assert_allclose(best.protocol.learning_rate, eta, rtol=1e-6)
    np.testing.assert_allclose(found.controls["learning_rate"], -2 * noise * lam * eta**2 / L, rtol=1e-6)
    # the loss after the step is L (1 - eta lambda)
    np.testing.assert_allclose(found.value, 2 * noise * (eta * lam) ** 2, rtol=1e-6)


def test_parameters_with_a_shape_have_a_value_only():
    task = lx.tasks.gaussian([0.7, 0.2], [1.3, 0.5], noise=0.5)
    best = lx.optimise(LIMIT, task, lx.OnlineSGD(0.05, steps=3), over="learning_rate", method="lbfgs")
    found = lx.sensitivity(best, "teacher")
    assert found.controls is None
    assert found.value.shape == (2,)
    assert np.all(found.value > 0)


def test_messages():
    task = lx.tasks.gaussian([0.7], [1.3], noise=0.5)
    best = lx.optimise(LIMIT, task, lx.OnlineSGD(0.05, steps=2), over="learning_rate")
    with raises(TypeError, "best must be what lx.optimise returned"):
        lx.sensitivity(task, "noise")
    with raises(ValueError, 'name "colour" is unknown'):
        lx.sensitivity(best, "colour")
    with raises(ValueError, "learning_rate was free"):
        lx.sensitivity(best, "learning_rate")
