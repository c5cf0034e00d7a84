"""The limit on real images: what it predicts for digits that nobody trained on."""

import jax
import limitax as lx
import numpy as np
import pytest


@pytest.mark.slow
def test_held_out_digits():
    """Two classes, 50 images, two hidden layers that learn features: predictions on 50 other images."""
    task = lx.tasks.digits(jax.random.key(0), samples=50, test_samples=50)
    protocol = lx.GradientDescent(1.0, steps=20)
    limit = lx.limits.MLP(2, "tanh", richness=1.0)
    report = lx.compare(
        limit, task, protocol, sizes=(64, 128, 256), seeds=12, samples=8_000, keep="diagonal", test_batch=20
    )
    print(report.summary())
    for name in ("predictions", "test_predictions", "test_loss"):
        assert report.agreement[name] <= 3
    # narrow networks are off by a few percent, the mean over those of width 256 by about one
    assert report.errors["test_predictions"][-1] < 0.02 + 3 * report.standard_errors["test_predictions"][-1]
    assert report.theory.test_loss[-1] < 0.2 * report.theory.test_loss[0]
    right = np.mean(np.sign(report.theory.test_predictions[-1]) == np.asarray(task.y_test))
    assert right > 0.95
    # features have moved: the static kernel predicts something else
    lazy = limit.solve(task, protocol, approximation="static_kernel", samples=8_000, keep=None)
    distance = np.linalg.norm(lazy.test_predictions - report.theory.test_predictions)
    assert distance > 5 * report.errors["test_predictions"][-1] * np.linalg.norm(report.theory.test_predictions)
