"""What depth_limit refuses."""

import limitax as lx

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
