"""Residual networks approach the limit of infinite depth, and what it refuses."""

import limitax as lx
import numpy as np
import pytest

from .helpers import raises

LIMIT = lx.limits.DeepLinear(2, 1.0, 1.5, 0.7, residual=True)
TASK, PROTOCOL = lx.tasks.isotropic(2.0), lx.GradientDescent(0.05, steps=10)


def test_bad_input():
    with raises(ValueError, "residual must be True"):
        lx.depth_limit(lx.limits.DeepLinear(2), TASK, PROTOCOL)
    with raises(ValueError, "depths must be three or more increasing whole numbers; (5, 3, 9) was given."):
        lx.depth_limit(LIMIT, TASK, PROTOCOL, depths=(5, 3, 9))
    with raises(ValueError, "depths must be at least 2; it is 1."):
        lx.depth_limit(LIMIT, TASK, PROTOCOL, depths=(1, 3, 9))


@pytest.mark.slow
def test_depths_approach_it_like_their_inverse():
    limit = lx.depth_limit(LIMIT, TASK, PROTOCOL)
    for loss in ("test_loss", "train_loss"):
        at, error = getattr(limit, loss), limit.extras[f"{loss}_error"]
        assert np.max(error / at) < 1.5e-3
        away = [
            getattr(lx.limits.DeepLinear(1 + n, 1.0, 1.5, 0.7, residual=True).solve(TASK, PROTOCOL), loss)[-1] - at[-1]
            for n in (24, 48)
        ]
        assert abs(away[1]) > 3 * error[-1]
        np.testing.assert_allclose(away[0] / away[1], 2.0, atol=0.1)
