"""Fixed data sets: what is learned is the same few samples at every width."""

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._keys import default_key, normal_double


class AbstractTask(eqx.Module):
    """What is learned. `draw(size, key)` gives the data of one finite network; fixed data sets give themselves."""


class Dataset(AbstractTask):
    """Training samples and, where wanted, test samples.

    **Arguments:**

    - `x`: inputs `[samples, dim]`, with entries of order one: the input kernel of the theory is `x @ x.T / dim`.
    - `y`: targets `[samples]`, or `[samples, outputs]`.
    - `x_test`, `y_test`: the same for the test side, both or neither; targets may be left out (predictions only).
    """

    x: Any
    y: Any
    x_test: Any
    y_test: Any

    def __init__(self, x, y, x_test=None, y_test=None):
        self.x = checks.array("x", x, ndim=2)
        self.y = checks.array("y", y, ndim=(1, 2))
        _same_length("x", self.x, "y", self.y)
        if x_test is None and y_test is not None:
            raise ValueError("y_test was given without x_test; give both or neither.")
        self.x_test = None if x_test is None else checks.array("x_test", x_test, ndim=2)
        self.y_test = None if y_test is None else checks.array("y_test", y_test, ndim=self.y.ndim)
        if self.x_test is not None and self.x_test.shape[1] != self.x.shape[1]:
            raise ValueError(
                f"x_test must have the {self.x.shape[1]} input dimensions of x; its shape is {self.x_test.shape}."
            )
        if self.y_test is not None:
            _same_length("x_test", self.x_test, "y_test", self.y_test)
            if self.y_test.shape[1:] != self.y.shape[1:]:
                raise ValueError(
                    f"y_test must have the outputs of y; the shapes are {self.y_test.shape} and {self.y.shape}."
                )

    @property
    def has_test(self) -> bool:
        """Whether there are test inputs."""
        return self.x_test is not None

    @property
    def dim(self) -> int:
        """Input dimension."""
        return self.x.shape[1]

    def draw(self, size: int | None = None, key=None) -> Self:
        """Fixed data are the same for every network."""
        return self


def from_arrays(x, y, x_test=None, y_test=None) -> Dataset:
    """A data set from arrays: inputs `[samples, dim]`, targets `[samples]`; see `Dataset`."""
    return Dataset(x, y, x_test, y_test)


_SPHERE_TARGETS = ("linear", "sign", "gegenbauer")


def sphere(
    key=None,
    *,
    samples: int,
    dim: int,
    test_samples: int = 0,
    target: str = "linear",
    degree: int | None = None,
) -> Dataset:
    r"""Inputs uniform on the sphere $|x|^2 = $ `dim`, targets a function of one random direction $b$, $|b| = 1$.

    With $u = b \cdot x / \sqrt{\mathtt{dim}}$ in $[-1, 1]$, the target is of unit variance over the sphere:
    `"linear"` is $\sqrt{\mathtt{dim}}\,u$, `"sign"` is $\mathrm{sign}(u)$, and `"gegenbauer"` the polynomial of the
    given `degree` that is orthogonal to all lower ones.

    **Arguments:**

    - `key`: random key; `None` is `jax.random.key(0)`.
    - `samples`, `test_samples`: number of training and test samples.
    - `dim`: input dimension, at least 2.
    - `target`, `degree`: see above; `degree` goes with `"gegenbauer"` only.

    The data are drawn in float64 whatever the global flag, so that one key means one data set.
    """
    _count("sphere", "samples", samples, 1)
    _count("sphere", "test_samples", test_samples, 0)
    _count("sphere", "dim", dim, 2)
    checks.choice("target", target, _SPHERE_TARGETS)
    if (degree is not None) != (target == "gegenbauer"):
        raise ValueError(f'degree goes with target="gegenbauer"; target is "{target}" and degree is {degree}.')
    if degree is not None:
        degree = checks.integer("degree", degree)
    # a key that is made inside would have an integer seed of 64 bits, which a caller's program cannot hold
    key = default_key(key)
    with jax.enable_x64(True):
        key_x, key_b = jax.random.split(key)
        x = normal_double(key_x, (samples + test_samples, dim))
        b = normal_double(key_b, (dim,))
        xp = np if isinstance(x, np.ndarray) else jnp
        x = x * (np.sqrt(dim) / xp.linalg.norm(x, axis=1, keepdims=True))
        u = x @ b / (xp.linalg.norm(b) * np.sqrt(dim))
        y = xp.where(u < 0, -1.0, 1.0) if target == "sign" else _unit_gegenbauer(u, degree or 1, dim)
    if test_samples == 0:
        return Dataset(x, y)
    return Dataset(x[:samples], y[:samples], x[samples:], y[samples:])


def quadratic(key=None, *, samples: int, dim: int, test_samples: int = 0, teacher=None) -> Dataset:
    r"""Standard normal inputs, targets $y = (b\cdot x)^2/2D$, $D = $ `dim`.

    **Arguments:**

    - `key`: random key; `None` is `jax.random.key(0)`.
    - `samples`, `test_samples`: number of training and test samples.
    - `dim`: input dimension.
    - `teacher`: $b$ `[dim]`; by default all ones, of length $\sqrt D$. Its direction does not matter, since that of the
      inputs is random.

    The data are drawn in float64 whatever the global flag, so that one key means one data set.

    ??? cite "Source"
        Grokking as the Transition from Lazy to Rich Training Dynamics, arXiv 2310.06110.
    """
    _count("quadratic", "samples", samples, 1)
    _count("quadratic", "test_samples", test_samples, 0)
    _count("quadratic", "dim", dim, 1)
    if teacher is not None:
        teacher = checks.array("teacher", teacher, ndim=1)
        if teacher.shape != (dim,):
            raise ValueError(f"teacher must have the {dim} dimensions of the inputs; its shape is {teacher.shape}.")
    key = default_key(key)
    with jax.enable_x64(True):
        x = normal_double(key, (samples + test_samples, dim))
        y = (x @ (np.ones(dim) if teacher is None else teacher)) ** 2 / (2 * dim)
    if test_samples == 0:
        return Dataset(x, y)
    return Dataset(x[:samples], y[:samples], x[samples:], y[samples:])


def digits(
    key=None,
    *,
    samples: int = 100,
    test_samples: int = 100,
    classes: tuple[int, ...] | None = (0, 1),
) -> Dataset:
    """Scikit-learn's bundled images of handwritten digits (8 by 8 pixels, 1797 images), standardised.

    Every pixel has mean 0 and variance 1 over the training samples (pixels that never change are 0 everywhere).

    **Arguments:**

    - `key`: random key of the split; `None` is `jax.random.key(0)`.
    - `samples`, `test_samples`: numbers of training and test images; together at most those of the classes chosen.
    - `classes`: two digits give targets +1 (the first) and -1 (the second), shape `[samples]`; more, or `None` for
      all ten, give one-hot targets `[samples, classes]`.

    Needs scikit-learn (`pip install 'limitax[data]'`).
    """
    _count("digits", "samples", samples, 1)
    _count("digits", "test_samples", test_samples, 0)
    chosen = _digit_classes(classes)
    key = default_key(key)
    if checks.is_traced(key):
        raise TypeError("digits needs a concrete key: the split is made on the host.")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("digits needs scikit-learn: pip install 'limitax[data]'.") from None

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    kept = np.isin(labels, chosen)
    images, labels = images[kept], labels[kept]
    if samples + test_samples > len(labels):
        raise ValueError(
            f"digits(samples={samples}, test_samples={test_samples}): there are {len(labels)} images of the classes "
            f"{', '.join(map(str, chosen))}."
        )
    order = np.asarray(jax.random.permutation(key, len(labels)))[: samples + test_samples]
    images, labels = images[order], labels[order]
    mean, std = images[:samples].mean(0), images[:samples].std(0)
    x = np.where(std > 0, (images - mean) / np.where(std > 0, std, 1.0), 0.0)
    if len(chosen) == 2:
        y = np.where(labels == chosen[0], 1.0, -1.0)
    else:
        y = (labels[:, None] == np.asarray(chosen)[None, :]).astype(np.float64)
    if test_samples == 0:
        return Dataset(x, y)
    return Dataset(x[:samples], y[:samples], x[samples:], y[samples:])


def _digit_classes(classes) -> tuple[int, ...]:
    if classes is None:
        return tuple(range(10))
    try:
        chosen = tuple(checks.integer("classes", c, low=0, high=9) for c in classes)
    except TypeError:
        raise TypeError(f"classes must be None or a tuple of digits from 0 to 9; {classes!r} was given.") from None
    if len(chosen) < 2 or len(set(chosen)) != len(chosen):
        raise ValueError(f"classes must be at least two different digits; {classes!r} was given.")
    return chosen


def _unit_gegenbauer(u, degree: int, dim: int):
    """The polynomial of `degree` in u, of unit variance for u one coordinate of the unit sphere in `dim` dimensions."""
    previous, current = u**0, u
    for k in range(1, degree):
        previous, current = current, ((2 * k + dim - 2) * u * current - k * previous) / (k + dim - 2)
    return current * np.sqrt(float(_harmonics(dim, degree)))


def _harmonics(dim: int, degree: int) -> int:
    """Number of independent harmonic polynomials of `degree` in `dim` dimensions."""
    from math import comb

    return comb(dim + degree - 1, degree) - (comb(dim + degree - 3, degree - 2) if degree >= 2 else 0)


def _count(function: str, name: str, value, low: int) -> None:
    checks.integer(name, value, low=-(2**62))
    if value < low:
        noun = {"samples": "sample", "test_samples": "test samples", "dim": "input dimension"}[name]
        plural = "s are" if low > 1 else " is"
        sentence = f"at least {low} {noun}{plural} needed" if low else f"the number of {noun} cannot be negative"
        raise ValueError(f"{function}({name}={value}): {sentence}.")


def _same_length(first: str, a, second: str, b) -> None:
    if a.shape[0] != b.shape[0]:
        raise ValueError(
            f"{first} and {second} must have the same number of samples; they have {a.shape[0]} and {b.shape[0]}."
        )
