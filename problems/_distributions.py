"""Distribution tasks: linear teachers on Gaussian inputs, from which every finite network draws its own data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._datasets import AbstractTask
from ._keys import default_key, normal_double


class LinearProblem(eqx.Module):
    r"""One draw of a linear teacher: $x_k \sim N(0, \lambda_k)$, $y = \sum_k w_k x_k + \sigma\epsilon$.

    **Fields:** `eigenvalues` $\lambda$ and `teacher` $w$, both `[dim]`; `noise` $\sigma$; `x` `[samples, dim]` and `y`
    `[samples]`, the data to reuse, or `None` where only fresh samples are wanted.
    """

    eigenvalues: Any
    teacher: Any
    noise: Any
    x: Any = None
    y: Any = None

    @property
    def dim(self) -> int:
        """Number of modes."""
        return self.eigenvalues.shape[0]

    def batch(self, key, count: int):
        """`count` fresh samples `(x, y)` of shapes `[count, dim]` and `[count]`, in the global float type."""
        key_x, key_noise = jax.random.split(key)
        scale, teacher = jnp.sqrt(jnp.asarray(self.eigenvalues, float)), jnp.asarray(self.teacher, float)
        x = jax.random.normal(key_x, (count, self.dim), scale.dtype) * scale
        noise = jnp.asarray(self.noise, float) * jax.random.normal(key_noise, (count,), scale.dtype)
        return x, x @ teacher + noise


class AbstractDistribution(AbstractTask):
    """A linear teacher on Gaussian inputs; `draw(size, key)` gives a `LinearProblem`."""


class PowerLaw(AbstractDistribution):
    r"""Power-law spectrum and power-law target, $\lambda_k = k^{-b}$ and $\lambda_k w_k^2 = k^{-a}$, $k = 1, 2, \dots$

    **Fields:** `modes` (static; `None`: infinitely many), `capacity` $b$, `decay` $a$, `noise` $\sigma$, and `samples`,
    the number of samples that a protocol with reused data sees (`None`: not given).
    """

    modes: int | None = eqx.field(static=True)
    capacity: Any
    decay: Any
    noise: Any
    samples: Any

    def __init__(self, modes=None, capacity=1.5, decay=2.5, noise=0.0, samples=None):
        self.modes = None if modes is None else checks.integer("modes", modes)
        self.capacity = checks.number("capacity", capacity, above=0.0)
        self.decay = checks.number("decay", decay, above=0.0)
        for name, value in (("capacity", self.capacity), ("decay", self.decay)):
            known = checks.concrete(value)
            if self.modes is None and known is not None and known <= 1:
                raise ValueError(
                    f"{name} must be above 1 with infinitely many modes, or the sum over them diverges; "
                    f"it is {known:g}."
                )
        self.noise = checks.number("noise", noise, low=0.0)
        self.samples = None if samples is None else checks.number("samples", samples, low=1.0)

    def draw(self, size: int = 1, key=None) -> LinearProblem:
        r"""`size` copies of every mode with $w_k^2$ shared among them, and `size * samples` samples if asked for."""
        size = checks.integer("size", size)
        if self.modes is None:
            raise ValueError("power_law(modes=None) cannot be drawn: a finite network needs a finite number of modes.")
        k = np.arange(1, self.modes + 1, dtype=np.float64)
        eigenvalues = k**-self.capacity
        teacher = k ** ((self.capacity - self.decay) / 2)
        return _draw(eigenvalues, teacher, self.noise, _replicated(self.samples, size), size, key)


class Gaussian(AbstractDistribution):
    r"""Gaussian inputs with a given covariance spectrum and a given linear teacher, in the eigenbasis.

    **Fields:** `eigenvalues` $\lambda$ `[modes]`, `teacher` $w$ `[modes]` with $y = w \cdot x + \sigma\epsilon$,
    `noise` $\sigma$, and one of `samples` (a number of samples) and `sample_ratio` (samples over input dimension;
    infinity: the population), or neither.
    """

    eigenvalues: Any
    teacher: Any
    noise: Any
    samples: Any
    sample_ratio: Any

    def __init__(self, eigenvalues, teacher, noise=0.0, samples=None, sample_ratio=None):
        self.eigenvalues = checks.array("eigenvalues", eigenvalues, ndim=1, low=0.0)
        self.teacher = checks.array("teacher", teacher, ndim=1)
        if self.teacher.shape != self.eigenvalues.shape:
            raise ValueError(
                "teacher must have one entry an eigenvalue; "
                f"there are {self.teacher.shape[0]} and {self.eigenvalues.shape[0]}."
            )
        if samples is not None and sample_ratio is not None:
            raise ValueError("samples and sample_ratio were both given; give one of them.")
        self.noise = checks.number("noise", noise, low=0.0)
        self.samples = None if samples is None else checks.number("samples", samples, low=1.0)
        self.sample_ratio = None if sample_ratio is None else _ratio(sample_ratio)

    def draw(self, size: int = 1, key=None) -> LinearProblem:
        r"""`size` copies of every mode with $w_k^2$ shared among them, with `size * samples` samples, or `sample_ratio`
        times as many samples as input dimensions."""
        size = checks.integer("size", size)
        samples = _replicated(self.samples, size)
        if self.sample_ratio is not None:
            samples = _finite_ratio(self.sample_ratio, self.eigenvalues.shape[0] * size)
        return _draw(self.eigenvalues, self.teacher, self.noise, samples, size, key)


class Isotropic(AbstractDistribution):
    r"""White Gaussian inputs and a random linear teacher of unit norm, for proportional limits.

    **Fields:** `sample_ratio` $\alpha = P/D$ (infinity: the population), `noise` $\sigma$.
    """

    sample_ratio: Any
    noise: Any

    def __init__(self, sample_ratio=np.inf, noise=0.0):
        self.sample_ratio = _ratio(sample_ratio)
        self.noise = checks.number("noise", noise, low=0.0)

    def draw(self, size: int, key=None) -> LinearProblem:
        r"""A problem in `size` dimensions with `sample_ratio * size` samples; none for an infinite ratio."""
        size = checks.integer("size", size)
        key_teacher, key_data = jax.random.split(default_key(key))
        with jax.enable_x64(True):
            teacher = normal_double(key_teacher, (size,)) / np.sqrt(size)
        samples = _finite_ratio(self.sample_ratio, size)
        return _draw(np.ones(size), teacher, self.noise, samples, 1, key_data)


def power_law(modes: int | None = None, capacity=1.5, decay=2.5, noise=0.0, samples=None) -> PowerLaw:
    r"""A power-law spectrum $\lambda_k = k^{-b}$ with power-law target $\lambda_k w_k^2 = k^{-a}$.

    **Arguments:**

    - `modes`: number of modes; `None` means infinitely many (then $a, b > 1$). `10**12` costs no more than a thousand.
    - `capacity`: exponent $b > 0$ of the spectrum.
    - `decay`: exponent $a > 0$ of the target.
    - `noise`: standard deviation $\sigma \ge 0$ of the label noise.
    - `samples`: size of the training set where a protocol reuses data; `OnlineSGD` is always fresh.
    """
    return PowerLaw(modes, capacity, decay, noise, samples)


def gaussian(eigenvalues, teacher, noise=0.0, samples=None, sample_ratio=None) -> Gaussian:
    """Gaussian inputs with covariance `eigenvalues` `[modes]` and a linear `teacher` `[modes]`; see `Gaussian`."""
    return Gaussian(eigenvalues, teacher, noise, samples, sample_ratio)


def isotropic(sample_ratio=np.inf, noise=0.0) -> Isotropic:
    """White Gaussian inputs, a random teacher of unit norm, `sample_ratio` samples an input dimension."""
    return Isotropic(sample_ratio, noise)


def _ratio(value):
    return checks.number("sample_ratio", value, above=0.0, finite=False)


def _finite_ratio(ratio, dim: int) -> int | None:
    known = checks.concrete(ratio)
    if known is None:
        raise TypeError("sample_ratio must be concrete to draw data: it fixes the shape of the sample.")
    return None if np.isinf(known) else max(1, round(float(known) * dim))


def _replicated(samples, size: int) -> int | None:
    if samples is None:
        return None
    known = checks.concrete(samples)
    if known is None:
        raise TypeError("samples must be concrete to draw data: it fixes the shape of the sample.")
    return round(float(known) * size)


def _draw(eigenvalues, teacher, noise, samples: int | None, size: int, key) -> LinearProblem:
    xp = jnp if checks.is_traced((eigenvalues, teacher)) else np
    problem = LinearProblem(xp.repeat(eigenvalues, size), xp.repeat(teacher, size) / size**0.5, noise)
    if samples is None:
        return problem
    x, y = problem.batch(default_key(key), samples)
    return LinearProblem(problem.eigenvalues, problem.teacher, noise, x, y)
