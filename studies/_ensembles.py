"""What an ensemble of networks says about bias and variance."""

from typing import NamedTuple

import numpy as np


class EnsembleError(NamedTuple):
    r"""Mean squares over samples; every field has the axes of the outputs between seeds and samples.

    - `single`: of one network, the mean over seeds.
    - `ensemble`: of the mean output of all seeds.
    - `variance`: of outputs over seeds, without bias.
    - `infinite`: `single - variance`, that of the mean of infinitely many networks, without bias.
    """

    single: np.ndarray
    ensemble: np.ndarray
    variance: np.ndarray
    infinite: np.ndarray


def ensemble_error(outputs, y) -> EnsembleError:
    """Errors of networks and of their mean, from outputs `[seeds, ..., samples]` and targets `[samples]`."""
    outputs, y = np.asarray(outputs, np.float64), np.asarray(y, np.float64)
    single = np.mean((outputs - y) ** 2, axis=(0, -1))
    variance = np.mean(np.var(outputs, axis=0, ddof=1), axis=-1)
    return EnsembleError(single, np.mean((outputs.mean(0) - y) ** 2, axis=-1), variance, single - variance)


def log_slope(x, y) -> float:
    """Slope of a straight line through log y against log x, where y is positive and finite; nan for fewer than two."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(y) & (y > 0)
    return float(np.polyfit(np.log(x[good]), np.log(y[good]), 1)[0]) if np.sum(good) > 1 else np.nan


def crossing(x, y, level: float) -> float:
    """Where y first exceeds `level`, by lines between logarithms; infinity if nowhere, the first x if there already."""
    above = np.flatnonzero(np.asarray(y) > level)
    if len(above) == 0:
        return np.inf
    i = above[0]
    if i == 0:
        return float(x[0])
    ratio = (np.log(level) - np.log(y[i - 1])) / (np.log(y[i]) - np.log(y[i - 1]))
    return float(np.exp(np.log(x[i - 1]) + ratio * (np.log(x[i]) - np.log(x[i - 1]))))
