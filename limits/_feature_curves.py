"""Learning curves of finitely many random features or of reused samples, in the time or in the frequency domain."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..problems import (
    CONVERGED,
    DIVERGED,
    NOT_CONVERGED,
    Gaussian,
    GradientDescent,
    MinibatchSGD,
    OnlineSGD,
    first_divergence,
)
from ..solvers import (
    Drive,
    ModeBins,
    as_float,
    double,
    exact_bins,
    feature_dynamics,
    linear_optimiser,
    log_graded_contour,
    one_point_loss,
    power_law_bins,
    spectral_edge,
    two_point_losses,
    two_point_tables,
)

METHODS = ("time", "contour")

# Relative errors that a solution may have: of the sum over nodes with the rounding in it, and of the fixed equation.
_CONTOUR, _RESIDUAL = 1e-4, 1e-6


def mode_bins(task) -> ModeBins:
    """The bins of a task, in the float type of the current precision context."""
    if isinstance(task, Gaussian):
        return exact_bins(*as_float((task.eigenvalues, task.teacher)))
    # sums over 1e12 modes leave the range of single precision before they are divided
    with double():
        bins = power_law_bins(task.modes, *as_float((task.capacity, task.decay)))
    return as_float(bins)


def inverse_features(limit):
    """$1/N$."""
    return 0.0 if limit.features is None else 1 / limit.features


def inverse_samples(task):
    """$1/P$ of the samples that are seen again."""
    if isinstance(task, Gaussian) and task.sample_ratio is not None:
        return 1 / (task.sample_ratio * len(task.eigenvalues))
    return 1 / task.samples


def drive_of(protocol) -> Drive:
    """What the optimiser does, in the float type of the current precision context."""
    rate, momentum = as_float((protocol.learning_rate, protocol.momentum))
    if isinstance(protocol, GradientDescent):
        return Drive(jnp.zeros_like(rate), rate, momentum, jnp.zeros_like(rate))
    extra_gradient = as_float(protocol.extra_gradient) if isinstance(protocol, OnlineSGD) else jnp.zeros_like(rate)
    return Drive(extra_gradient, rate, momentum, 1 / as_float(protocol.batch_size))


def batch_noise(protocol, drive: Drive, inverse_samples):
    """$1/B$ of batches drawn with replacement; without, what is left of it when the batch is part of $P$ samples."""
    if isinstance(protocol, MinibatchSGD) and not protocol.replace:
        others = jnp.maximum(1 - inverse_samples, jnp.finfo(drive.inverse_batch.dtype).eps)
        return jnp.maximum(drive.inverse_batch - inverse_samples, 0.0) / others
    return drive.inverse_batch


@eqx.filter_jit
def feature_curves(problem, method: str, nodes: int) -> tuple[dict[str, Any], Any, Any, Any]:
    """Losses; the step of divergence and the status; and the largest curvature of training.

    An ensemble of $E$ networks has the loss $L/E + (1 - 1/E)L_\\times$, with the correlation of two of them.
    """
    limit, task, protocol = problem
    bins, noise_power, drive = mode_bins(task), task.noise**2, drive_of(protocol)
    fresh = isinstance(protocol, OnlineSGD)
    sizes = inverse_features(limit), 0.0 if fresh else inverse_samples(task)
    edge = spectral_edge(bins, sizes[0], jnp.max(drive.inverse_batch) if fresh else sizes[1])
    alone = 1 / limit.members
    pairs = ({}, alone), ({"shared_features": False, "shared_samples": not limit.bagging}, 1 - alone)

    if method == "contour" and fresh:
        losses = one_point_loss(bins, noise_power, drive, sizes[0], nodes=nodes)
        test, train, missing = losses.test, None, losses.error / _CONTOUR
    elif method == "contour":
        contour = log_graded_contour(edge, drive, nodes)
        tables = [w * two_point_tables(bins, noise_power, contour, *sizes, **share) for share, w in pairs]
        losses = two_point_losses(tables[0] + tables[1], contour, drive)
        test, train = losses.test, losses.train
        missing = (losses.error + 1e-16 * losses.monitor**2) / _CONTOUR
    else:
        integrator, _ = linear_optimiser(drive.e2, drive.beta, jnp.zeros_like(drive.e2), drive.e1)
        sizes = *sizes, batch_noise(protocol, drive, sizes[1])
        curves = [feature_dynamics(bins, noise_power, integrator, *sizes, **share) for share, _ in pairs]
        one, two = curves
        test, train = alone * one.test + (1 - alone) * two.test, alone * one.train + (1 - alone) * two.train
        missing = one.residual / _RESIDUAL

    found = {"test_loss": test} if fresh or limit.bagging else {"test_loss": test, "train_loss": train}
    diverged = first_divergence(test).astype(jnp.int32)
    code = jnp.where(missing > 1, jnp.int32(NOT_CONVERGED), jnp.int32(CONVERGED))
    return found, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), code), edge
