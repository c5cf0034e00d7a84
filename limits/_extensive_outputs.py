"""As many outputs as there are units: the whole bulk of a hidden weight matrix is rebuilt, without outliers."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nets import Ensemble
from ..nets import ExtensiveOutputs as Network
from ..problems import (
    CONVERGED,
    DIVERGED,
    GradientDescent,
    LinearMap,
    Trajectory,
    check,
    first_divergence,
)
from ..problems import _checks as checks
from ..solvers import (
    as_float,
    descend,
    double,
    in_precision,
    marchenko_pastur_nodes,
    sample_covariance_density,
    sample_covariance_edge,
    to_host,
)
from ._base import AbstractLimit
from ._memory import Cost
from ._spectrum import missing

_NODES = 400
_BISECTIONS = 47  # that halve an interval to 1e-14


class ExtensiveOutputs(AbstractLimit):
    r"""A linear network with a frozen random readout and a number of outputs as large as its width.

    $$f = \frac{A W x}{\sqrt D}, \qquad A_{ij} \sim N(0, 1/N), \quad W_{ij}(0) \sim N(0, \sigma_W^2)$$

    learns a random linear map of white inputs by gradient descent on the population, $W \mathrel{+}= \eta A^T
    (W_\star - A W)$. Its size is the input dimension $D$; $N = \nu D$.

    **Arguments:**

    - `width_ratio`: $\nu > 0$.
    - `init_scale`: $\sigma_W \ge 0$.

    ??? cite "Source"
        *Spectral Dynamics in Deep Networks: Feature Learning, Outlier Escape, and Learning Rate Transfer*, arXiv
        2605.07870, whose point on many outputs this model makes.
    """

    size_name: ClassVar[str] = "input dimension"

    width_ratio: Any
    init_scale: Any

    def __init__(self, width_ratio=1.0, init_scale=1.0):
        self.width_ratio = checks.number("width_ratio", width_ratio, above=0.0)
        self.init_scale = checks.number("init_scale", init_scale, low=0.0)

    def finite(self, task, *, size: int, key=None) -> Network:
        """One random network on `size` inputs."""
        return self.ensemble(task, size=size, seeds=1, key=key).member(0)

    def ensemble(self, task, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent networks on `size` inputs; each will draw its own target."""
        return Network.ensemble(self, _linear_map(task), size, seeds, key)

    def solve(self, task, protocol, *, key=None, memory_limit=None, throw: bool = True) -> Trajectory:
        r"""The exact dynamics, mode by mode of the readout; computed in float64.

        **Arguments:**

        - `task`: `linear_map`. `protocol`: `GradientDescent` without weight decay.
        - `key`: not used; nothing is random. `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `test_loss` `[steps + 1]`, the half mean square over outputs and inputs, and in `extras` the upper
        edge `bulk_edge`, and the first two moments, of the singular values' squares of $W/\sqrt D$, `[steps + 1]`. Its
        spectrum is `lx.spectrum(limit, trajectory, layer=0)`.
        """
        _linear_map(task)
        checks.instance("protocol", protocol, GradientDescent, "GradientDescent for ExtensiveOutputs")
        decay = checks.concrete(protocol.weight_decay)
        if decay is None or decay.any():
            raise ValueError("weight_decay must be 0: ExtensiveOutputs is not solved with weight decay.")
        checks.flag("throw", throw)
        self.cost(task, protocol).check("ExtensiveOutputs.solve", memory_limit)
        with double():
            solution = in_precision(lambda problem, _: _solve(problem), "double")(as_float((self, task, protocol)), ())
        loss, extras, code, diverged = to_host(solution)
        trajectory = Trajectory(test_loss=loss, extras=extras, status_code=code, diverged_step=diverged)
        return check(trajectory) if throw else trajectory

    def cost(self, task, protocol, **options) -> Cost:
        """Time as steps, most of it for the edge of the bulk by bisection. See `AbstractLimit.cost`."""
        steps = protocol.steps
        return Cost(
            {"modes": 8.0 * 5 * (steps + 1) * _NODES},
            6.0 * _BISECTIONS * (steps + 1) * _NODES,
            {"modes": "use fewer steps"},
            f"steps={steps}",
        )

    def spectrum(self, trajectory: Trajectory, layer: int, *, count: int = 4) -> "BroadeningBulk":
        """See `lx.spectrum`; there are no outliers to count."""
        checks.integer("layer", layer, low=0, high=0)
        names = "bulk_edge", "population", "population_weights"
        missing(trajectory, names)
        edge, population, weights = (trajectory.extras[name] for name in names)
        return BroadeningBulk(edge, population, weights, self.width_ratio)


class BroadeningBulk(eqx.Module):
    r"""Singular values of $W/\sqrt D$ along training, all of which move together.

    **Fields:** `bulk_edge` `[time]`, the largest one; `population` `[time, node]` and `population_weights` `[node]`,
    the variances of the matrix's entries in the eigenbasis of the readout; `aspect`, rows over columns.
    """

    bulk_edge: Any
    population: Any
    population_weights: Any
    aspect: Any

    @property
    def largest(self):
        """The largest singular value `[time]`, the bulk's edge."""
        return self.bulk_edge

    @property
    def outliers(self):
        """None: nan `[time, 1]`."""
        return np.full((len(self.bulk_edge), 1), np.nan)

    @property
    def escape_step(self) -> None:
        """None: nothing leaves the bulk."""
        return None

    def density(self, x, step: int = -1):
        """Density of the singular values at `x > 0` after `step` updates, normalised over the rows."""
        times = len(self.bulk_edge)
        checks.integer("step", step, low=-times, high=times - 1)
        with double():
            x, tau, weights, aspect = as_float((x, self.population[step], self.population_weights, self.aspect))
            density = 2 * x * sample_covariance_density(x**2, tau, weights, aspect)
        return to_host(density)


@eqx.filter_jit
def _solve(problem):
    limit, task, protocol = problem
    ratio = task.output_ratio / limit.width_ratio
    nodes, weights = marchenko_pastur_nodes(ratio, _NODES)
    zero = jnp.zeros_like(protocol.learning_rate[0])

    def step(state, rates):
        left, velocity = descend(state[0], state[1], -nodes * state[0], rates[0], rates[1], zero)
        return (left, velocity), left

    start = jnp.ones_like(nodes), jnp.zeros_like(nodes)
    _, left = jax.lax.scan(step, start, (protocol.learning_rate, protocol.momentum))
    left = jnp.concatenate([jnp.ones((1, _NODES)), left])  # of the initial error of every mode
    target, initial = task.scale**2, limit.init_scale**2
    errors = jnp.sum(weights * left**2 * (target + nodes * initial), axis=1)
    learnable = jnp.minimum(1.0, 1 / ratio)
    loss = (learnable * errors + (1 - learnable) * target) / 2

    tau = initial * left**2 + target * (1 - left) ** 2 / nodes
    tau = jnp.concatenate([tau, jnp.full((len(tau), 1), initial)], axis=1)
    share = jnp.minimum(1.0, ratio)
    weights = jnp.append(share * weights, 1 - share)
    squares = jax.lax.map(lambda tau: sample_covariance_edge(tau, weights, limit.width_ratio), tau)
    first = jnp.sum(weights * tau, axis=1)
    second = jnp.sum(weights * tau**2, axis=1) + limit.width_ratio * first**2
    diverged = first_divergence(loss).astype(jnp.int32)
    code = jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))
    extras = {
        "bulk_edge": jnp.sqrt(squares),
        "first_moment": first,
        "second_moment": second,
        "population": tau,
        "population_weights": weights,
    }
    return loss, extras, code, diverged


def _linear_map(task) -> LinearMap:
    return checks.instance("task", task, LinearMap, "linear_map for ExtensiveOutputs")
