"""How an optimum moves with what was held fixed."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..problems import continuous, replace, resolve
from ..solvers import as_float, double, to_host
from . import _controls
from ._known import unfold_known
from ._optimise import Optimum
from ._search import in_forward_mode


class Sensitivity(NamedTuple):
    r"""Derivatives at an optimum with respect to a parameter $p$ of any shape.

    - `value`: $dJ^*/dp$, in the shape of $p$.
    - `controls`: by name, $d x^*/dp$ of a scalar $p$ in the shape of the control; 0 where it is at its bound. `None`
      where $p$ is no scalar.
    - `residual`: relative, of the linear equation for them; `iterations` that it took.
    """

    value: Any
    controls: dict[str, np.ndarray] | None
    residual: float
    iterations: int


def sensitivity(best: Optimum, name: str, *, tolerance: float = 1e-6, max_iterations: int = 2000) -> Sensitivity:
    r"""The change of the optimal value, and of the optimal controls, with a parameter of the problem.

    At an optimum the value changes as if the controls stood still (the envelope theorem), $dJ^*/dp = \partial J /
    \partial p$. The controls follow, so that the gradient stays zero: on the scale $u$ of the search,

    $$\frac{\partial^2 \log J}{\partial u^2} \frac{du^*}{dp} = -\frac{\partial^2 \log J}{\partial u\, \partial p},$$

    solved by conjugate gradients from products with the Hessian, which no one forms. Controls at their bounds stay.

    **Arguments:**

    - `best`: what `optimise` returned, at a minimum.
    - `name`: a continuous number of protocol, limit or task that was not free, such as `"noise"`.
    - `tolerance`, `max_iterations`: of the conjugate gradients, relative to the right side.

    **Returns:** a `Sensitivity`; a large `residual` says that the point is no minimum, or a flat one.

    **Raises:** `TypeError` for what `optimise` did not return; `ValueError` for a name that is unknown, not continuous,
    or was free.
    """
    checks.instance("best", best, Optimum, "what lx.optimise returned")
    parameter = _parameter(best, name)
    problem = in_forward_mode(best.problem)
    with double():
        x = _controls.position(problem.controls, problem.owners)
        free = ~_controls.touching(x, *_controls.box(problem.controls))
        p = as_float(getattr(problem.owners[parameter.owner], parameter.field))
        arguments = x, p, problem.folded(), parameter
        slope = _value_slope(*arguments)
        rows = None
        residual, iterations = 0.0, 0
        if jnp.ndim(p) == 0:
            moved, residual, iterations = _follow(*arguments, free, tolerance, max_iterations)
            rows = _velocity(problem.controls, x, moved)
    slope, rows = to_host((slope, rows))
    return Sensitivity(slope, rows, float(residual), int(iterations))


class _Parameter(NamedTuple):
    owner: str
    field: str


def _parameter(best: Optimum, name: str) -> _Parameter:
    owners = best.problem.owners
    slot = resolve(name, **owners)
    if slot.field not in continuous(owners[slot.owner]):
        free = ", ".join(continuous(owners[slot.owner]))
        raise ValueError(f"{name} of this {slot.owner} is not a continuous number; these are: {free}.")
    if slot in {(c.owner, c.field) for c in best.problem.controls}:
        raise ValueError(f"{name} was free: at the optimum the value does not change with it.")
    return _Parameter(*slot)


def _log_value(x, p, problem, parameter: _Parameter):
    problem = unfold_known(problem)
    owners = dict(problem.owners)
    owners[parameter.owner] = replace(owners[parameter.owner], parameter.field, p)
    values = _controls.values(problem.controls, x)
    return jnp.log(problem.searched(_controls.with_values(problem.controls, values, owners)))


@eqx.filter_jit
def _value_slope(x, p, problem, parameter):
    def value(p):
        return jnp.exp(_log_value(x, p, problem, parameter)) - problem.floor

    return jax.grad(value)(p)


@eqx.filter_jit
def _follow(x, p, problem, parameter, free, tolerance, max_iterations):
    import lineax

    gradient = jax.grad(_log_value)
    cross = jax.jvp(lambda p: gradient(x, p, problem, parameter), (p,), (jnp.ones_like(p),))[1]
    right = -jnp.where(free, cross, 0)

    def curved(u):
        turned = jax.jvp(lambda x: gradient(x, p, problem, parameter), (x,), (jnp.where(free, u, 0),))[1]
        return jnp.where(free, turned, u)

    operator = lineax.FunctionLinearOperator(curved, jax.eval_shape(lambda: x), lineax.positive_semidefinite_tag)
    # in units of the right side, as the solver's tolerance goes by its entries, of which some are zero
    scale = jnp.maximum(jnp.linalg.norm(right), jnp.finfo(right.dtype).tiny)
    solver = lineax.CG(rtol=0.0, atol=tolerance, max_steps=max_iterations)
    solution = lineax.linear_solve(operator, right / scale, solver, throw=False)
    left = curved(solution.value) - right / scale
    return scale * solution.value, jnp.linalg.norm(left), solution.stats["num_steps"]


def _velocity(controls, x, moved):
    ends = np.cumsum([control.size for control in controls])[:-1]
    parts = zip(controls, jnp.split(x, ends), jnp.split(moved, ends), strict=True)
    return {c.name: jax.jvp(c.value, (u,), (v,))[1] for c, u, v in parts}
