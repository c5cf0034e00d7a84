"""Kernel regression that is stopped after a time."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def kernel_flow(
    kernel: Float[ndarray, "samples samples"],
    cross: Float[ndarray, "others samples"],
    y: Float[ndarray, " samples"],
    time: float,
) -> Float[ndarray, " others"]:
    r"""Predictions of gradient flow with a static kernel, from zero: $\dot f = \frac1PK(y - f)$ until `time`.

    $$f(x) = k_x^T\,\frac{1 - e^{-K\tau/P}}{K}\,y$$

    **Arguments:**

    - `kernel`, `cross`: $K$ between training samples, and from other inputs to them; $K$ may be singular.
    - `time`: $\tau$, the learning rate times the number of steps.

    **Returns:** predictions on the other inputs.
    """
    values, vectors = np.linalg.eigh(np.asarray(kernel, np.float64))
    values = np.maximum(values, 0.0)
    exponent = values * time / len(y)
    small = exponent < 1e-12
    gains = np.where(small, time / len(y), -np.expm1(-exponent) / np.where(small, 1.0, values))
    return np.asarray(cross, np.float64) @ (vectors @ (gains * (vectors.T @ y)))
