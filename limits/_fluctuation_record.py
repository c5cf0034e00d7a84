"""What is of order 1/width, and what follows from it: losses of networks and of ensembles, bands around them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..solvers import double, in_precision


def _anywhere(method: Callable) -> Callable:
    """Lets a method see tracers of float64 in a caller's context of single precision, backward passes included."""

    @wraps(method)
    def run(self, *args, **options):
        if not checks.is_traced(self):
            return method(self, *args, **options)
        with double():
            return in_precision(lambda self, _: method(self, *args, **options), "double")(self, None)

    return run


class Fluctuations(eqx.Module):
    r"""What is of order 1/width: covariances and mean shifts over random initialisations, *times the width N*.

    **Fields:** time is 0..steps; test fields are `None` without test samples.

    - `predictions` `[time, sample]`, `test_predictions`, `kernels`: the infinite network's, without sampling error on a
      grid.
    - `prediction_covariance` `[time, sample, time, sample]`: $N\,\mathrm{Cov}(f_\mu(t), f_\nu(s))$.
    - `prediction_bias` `[time, sample]`: $N\,\mathrm E[f - f_\infty]$.
    - `test_prediction_covariance` `[time, test, test]`, at equal times; `test_prediction_bias` `[time, test]`.
    - `kernel_variance`, `kernel_bias`: by name, `[time, sample, sample]`, at equal times: `("Phi", l)`, `("G", l)`, and
      `("NTK", 0)` (with all its layers) where the limit has one hidden layer.
    - `targets`, `test_targets`: of the losses; `networks`: what fluctuates, see `fluctuations`.

    Losses are half mean squares of the prediction, or of the mean prediction of an ensemble.
    """

    predictions: Any
    test_predictions: Any
    kernels: dict
    prediction_covariance: Any
    prediction_bias: Any
    test_prediction_covariance: Any
    test_prediction_bias: Any
    kernel_variance: dict
    kernel_bias: dict
    targets: Any
    test_targets: Any
    networks: str = eqx.field(static=True)

    @property
    @_anywhere
    def prediction_variance(self):
        """N Var of the predictions on training samples, `[time, sample]`."""
        return _diagonal(equal_times(self.prediction_covariance))

    @property
    @_anywhere
    def test_prediction_variance(self):
        """N Var of the predictions on test samples, `[time, test]`; `None` without any."""
        return None if self.test_predictions is None else _diagonal(self.test_prediction_covariance)

    @_anywhere
    def loss_shift(self, test: bool = False):
        r"""$N\,\mathrm E[\mathcal L - \mathcal L_\infty]$ of single networks, `[time]`: variance and bias."""
        error, covariance, bias = self._side(test)
        return (_trace(covariance) / 2 - (error * bias).sum(axis=1)) / error.shape[1]

    @_anywhere
    def ensemble_loss_shift(self, test: bool = False):
        """The same for the mean prediction of infinitely many networks of width N: the bias alone, `[time]`."""
        error, _, bias = self._side(test)
        return -(error * bias).sum(axis=1) / error.shape[1]

    @_anywhere
    def loss(self, test: bool = False):
        """Loss of the infinite network, `[time]`."""
        return (self._side(test)[0] ** 2).mean(axis=1) / 2

    @_anywhere
    def predicted_loss(self, size: int, ensemble: int = 1, test: bool = False):
        """Mean loss of ensembles of so many networks of width `size`, to first order in 1/size, `[time]`."""
        size, ensemble = checks.integer("size", size), checks.integer("ensemble", ensemble)
        bias = self.ensemble_loss_shift(test)
        return self.loss(test) + (bias + (self.loss_shift(test) - bias) / ensemble) / size

    @_anywhere
    def band(self, size: int) -> dict[str, Any]:
        r"""Standard deviations over networks of width `size`, by the names of a `Trajectory`.

        `"predictions"` `[time, sample]`, `"train_loss"` `[time]`, and with test samples `"test_predictions"`,
        `"test_loss"`; those of losses for Gaussian predictions around their shifted mean,
        $\mathrm{Var}\,\mathcal L = (\Delta^T\Sigma\Delta/N + \mathrm{tr}\,\Sigma^2/2N^2)/P^2$.
        """
        size = checks.integer("size", size)
        found = {"predictions": _root(self.prediction_variance / size), "train_loss": self._loss_deviation(size, False)}
        if self.test_predictions is not None:
            found["test_predictions"] = _root(_diagonal(self.test_prediction_covariance) / size)
            if self.test_targets is not None:
                found["test_loss"] = self._loss_deviation(size, True)
        return found

    def _loss_deviation(self, size, test):
        error, covariance, bias = self._side(test)
        error = error - bias / size
        linear = (error * (covariance * error[:, None]).sum(axis=2)).sum(axis=1)
        return _root(linear / size + (covariance**2).sum(axis=(1, 2)) / (2 * size**2)) / error.shape[1]

    def _side(self, test):
        """Errors, equal-time covariance and bias, on test or on training samples."""
        checks.flag("test", test)
        if not test:
            covariance = equal_times(self.prediction_covariance)
            return self.targets - self.predictions, covariance, self.prediction_bias
        if self.test_targets is None:
            raise ValueError("test=True needs a task with test samples and their targets.")
        return self.test_targets - self.test_predictions, self.test_prediction_covariance, self.test_prediction_bias


def equal_times(covariance):
    """`[time, a, b]` of `[time, a, time, b]`."""
    time = np.arange(covariance.shape[0])
    return covariance[time, :, time]


def _diagonal(matrices):
    return matrices.diagonal(axis1=1, axis2=2)


def _trace(matrices):
    return _diagonal(matrices).sum(axis=1)


def _root(variance):
    return jnp.sqrt(jnp.maximum(variance, 0.0)) if checks.is_traced(variance) else np.sqrt(np.maximum(variance, 0.0))
