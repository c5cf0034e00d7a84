"""Distribution tasks: linear teachers on Gaussian inputs, from which every finite network draws its own data."""

import abc
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
    """A linear teacher on Gaussian inputs, from which problems of any `size` are drawn."""

    @abc.abstractmethod
    def population(self, size: int = 1, key=None) -> LinearProblem:
        """One problem of the given size, without a sample."""

    @abc.abstractmethod
    def sample_count(self, size: int = 1) -> int | None:
        """Number of samples that are reused at the given size; `None` where the task has no fixed sample."""

    def draw(self, size: int = 1, key=None) -> LinearProblem:
        """One problem of the given size, with its sample if the task has one."""
        key_teacher, key_data = jax.random.split(default_key(key))
        problem, count = self.population(size, key_teacher), self.sample_count(size)
        if count is None:
            return problem
        x, y = problem.batch(key_data, count)
        return LinearProblem(problem.eigenvalues, problem.teacher, problem.noise, x, y)


class PowerLaw(AbstractDistribution):
    r"""Power-law spectrum and power-law target, $\lambda_k = k^{-b}$ and $\lambda_k w_k^2 = k^{-a}$, $k = 1, 2, \dots$

    **Fields:** `modes` (static; `None`: infinitely many), `capacity` $b$, `decay` $a$, `noise` $\sigma$, and `samples`,
    the number of samples that a protocol with reused data sees (infinity: the population; `None`: not given).
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
        self.samples = None if samples is None else checks.number("samples", samples, low=1.0, finite=False)

    def population(self, size: int = 1, key=None) -> LinearProblem:
        r"""`size` copies of every mode with $w_k^2$ shared among them."""
        size = checks.integer("size", size)
        if self.modes is None:
            raise ValueError("power_law(modes=None) cannot be drawn: a finite network needs a finite number of modes.")
        k = np.arange(1, self.modes + 1, dtype=np.float64)
        eigenvalues = k**-self.capacity
        teacher = k ** ((self.capacity - self.decay) / 2)
        return _replicated(eigenvalues, teacher, self.noise, size)

    def sample_count(self, size: int = 1) -> int | None:
        """`size * samples`, if there are `samples`."""
        return _times(self.samples, size)


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
        self.samples = None if samples is None else checks.number("samples", samples, low=1.0, finite=False)
        self.sample_ratio = None if sample_ratio is None else _ratio(sample_ratio)

    def population(self, size: int = 1, key=None) -> LinearProblem:
        r"""`size` copies of every mode with $w_k^2$ shared among them."""
        return _replicated(self.eigenvalues, self.teacher, self.noise, checks.integer("size", size))

    def sample_count(self, size: int = 1) -> int | None:
        """`size * samples`, or `sample_ratio` times the number of input dimensions, if either is given."""
        if self.sample_ratio is not None:
            return _finite_ratio(self.sample_ratio, self.eigenvalues.shape[0] * size)
        return _times(self.samples, size)


class Isotropic(AbstractDistribution):
    r"""White Gaussian inputs and a random linear teacher of unit norm, for proportional limits.

    **Fields:** `sample_ratio` $\alpha = P/D$ (infinity: the population), `noise` $\sigma$.
    """

    sample_ratio: Any
    noise: Any

    def __init__(self, sample_ratio=np.inf, noise=0.0):
        self.sample_ratio = _ratio(sample_ratio)
        self.noise = checks.number("noise", noise, low=0.0)

    def population(self, size: int = 1, key=None) -> LinearProblem:
        r"""A problem in `size` dimensions."""
        size = checks.integer("size", size)
        key = default_key(key)
        with jax.enable_x64(True):
            teacher = normal_double(key, (size,)) / np.sqrt(size)
        return LinearProblem(np.ones(size), teacher, self.noise)

    def sample_count(self, size: int = 1) -> int | None:
        """`sample_ratio * size`; none for an infinite ratio."""
        return _finite_ratio(self.sample_ratio, size)


def power_law(modes: int | None = None, capacity=1.5, decay=2.5, noise=0.0, samples=None) -> PowerLaw:
    r"""A power-law spectrum $\lambda_k = k^{-b}$ with power-law target $\lambda_k w_k^2 = k^{-a}$.

    **Arguments:**

    - `modes`: number of modes; `None` means infinitely many (then $a, b > 1$). `10**12` costs no more than a thousand.
    - `capacity`: exponent $b > 0$ of the spectrum.
    - `decay`: exponent $a > 0$ of the target.
    - `noise`: standard deviation $\sigma \ge 0$ of the label noise.
    - `samples`: size of the training set where a protocol reuses data, infinity for the population; `OnlineSGD` is
      always fresh.
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


def _times(samples, size: int) -> int | None:
    if samples is None:
        return None
    known = checks.concrete(samples)
    if known is None:
        raise TypeError("samples must be concrete to draw data: it fixes the shape of the sample.")
    return None if np.isinf(known) else round(float(known) * size)


def _replicated(eigenvalues, teacher, noise, size: int) -> LinearProblem:
    xp = jnp if checks.is_traced((eigenvalues, teacher)) else np
    return LinearProblem(xp.repeat(eigenvalues, size), xp.repeat(teacher, size) / size**0.5, noise)
