"""Objectives: what is made small, a number from a trajectory. Any function of a trajectory may serve as one."""

import jax.numpy as jnp

from ._trajectory import Trajectory


def final_loss(trajectory: Trajectory):
    """Test loss after the last update if there is a test side, else the training loss."""
    return _side(trajectory)[..., -1]


def final_test_loss(trajectory: Trajectory):
    """Test loss after the last update. **Raises:** `ValueError` where the task has no test side."""
    return _test(trajectory)[..., -1]


def final_train_loss(trajectory: Trajectory):
    """Training loss after the last update. **Raises:** `ValueError` where the model has none."""
    if trajectory.train_loss is None:
        raise ValueError("objective final_train_loss needs a training loss; this model has a test loss only.")
    return trajectory.train_loss[..., -1]


def area_under_curve(trajectory: Trajectory):
    """Mean over all times of the test loss if there is a test side, else of the training loss."""
    return jnp.mean(_side(trajectory), axis=-1)


def _side(trajectory: Trajectory):
    return trajectory.train_loss if trajectory.test_loss is None else trajectory.test_loss


def _test(trajectory: Trajectory):
    if trajectory.test_loss is None:
        raise ValueError("objective final_test_loss needs a task with a test side; this one has none.")
    return trajectory.test_loss
