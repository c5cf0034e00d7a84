"""Residual networks converge as their depth grows, and depth_limit says where."""

import limitax as lx
import numpy as np
import pytest

from .helpers import raises

LIMIT = lx.limits.DeepLinear(2, 1.0, 1.5, 0.7, residual=True)
TASK, PROTOCOL = lx.tasks.isotropic(2.0), lx.GradientDescent(0.05, steps=10)


@pytest.mark.slow
def test_increments_halve_and_the_extrapolation_stays():
    losses = [
        lx.limits.DeepLinear(1 + branches, 1.0, 1.5, 0.7, residual=True).solve(TASK, PROTOCOL).test_loss[-1]
        for branches in (2, 4, 8, 16)
    ]
    first, second, third = np.abs(np.diff(losses))
    assert 0.35 < second / first < 0.55
    assert 0.4 < third / second < 0.55
    shallow = lx.depth_limit(LIMIT, TASK, PROTOCOL, depths=(2, 3, 5))
    deep = lx.depth_limit(LIMIT, TASK, PROTOCOL, depths=(5, 9, 17))
    error = deep.extras["test_loss_error"][-1]
    assert error < 0.3 * third
    assert abs(deep.test_loss[-1] - shallow.test_loss[-1]) < 3 * shallow.extras["test_loss_error"][-1]


def test_bad_input():
    with raises(ValueError, "residual must be True"):
        lx.depth_limit(lx.limits.DeepLinear(2), TASK, PROTOCOL)
    with raises(ValueError, "depths must be three or more increasing whole numbers; (5, 3, 9) was given."):
        lx.depth_limit(LIMIT, TASK, PROTOCOL, depths=(5, 3, 9))
    with raises(ValueError, "depths must be at least 2; it is 1."):
        lx.depth_limit(LIMIT, TASK, PROTOCOL, depths=(1, 3, 9))
