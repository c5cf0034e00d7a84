"""Quasi-Newton minimisation inside a box, as one compiled loop."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._checkpoints import from_leaves

_DECREASE = 1e-4  # of the fall that the slope promises, how much a step must bring
_HALVINGS = 30
_PATIENCE = 10  # iterations in a row without a new best before the search is called off


class Minimum(NamedTuple):
    """Where the search ended; `gradient` is projected, `history` is the value at each point, then `nan`."""

    x: Float[Array, " variables"]
    value: Float[Array, ""]
    gradient: Float[Array, " variables"]
    history: Float[Array, " max_evaluations+1"]
    evaluations: Int[Array, ""]
    converged: Bool[Array, ""]


class _Search(NamedTuple):
    x: Array
    value: Array
    gradient: Array
    steps: Array  # the last steps, newest first, zero where there is none yet
    turns: Array  # the changes of the gradient along them
    history: Array
    iteration: Array
    evaluations: Array
    best: Array
    idle: Array


@eqx.filter_jit
def minimise(
    function: Callable[[Float[Array, " variables"], Any], Float[Array, ""]],
    x: Float[Array, " variables"],
    args: Any,
    *,
    low: Any = -jnp.inf,
    high: Any = jnp.inf,
    max_evaluations: int = 500,
    tolerance: Any = 1e-8,
    memory: int = 30,
    derivative: Literal["reverse", "forward"] = "reverse",
) -> Minimum:
    r"""L-BFGS on `function(x, args)` for `low <= x <= high`.

    A variable at its bound whose gradient points outward is held. The others move along the quasi-Newton direction of
    their own block, and the step is shortened along the path that is clipped to the box until the value falls
    (two-metric projection). A trial without a finite value and gradient counts as too long a step. The start is not
    guarded: if its value is not finite it is returned as it is.

    It stands here because schedules have bounds (rates under a cap, batches of at least one sample), which the
    maintained quasi-Newton solvers for JAX do not take; without bounds it needs as many evaluations as they do.

    **Arguments:**

    - `function`: a module-level function, so that a second call with other numbers compiles nothing.
    - `x`: the start; its float type is that of the search.
    - `args`: anything else that `function` reads.
    - `low`, `high`: bounds, numbers or arrays like `x`.
    - `max_evaluations`: of value and gradient together; the last line search may pass it.
    - `tolerance`: converged when no component of the projected gradient is larger.
    - `memory`: number of past steps from which curvature is learnt.
    - `derivative`: `"forward"` costs a pass for each variable and no memory.

    ??? cite

        *Projected Newton methods for optimization problems with simple constraints* (Bertsekas 1982); *Updating
        quasi-Newton matrices with limited storage* (Nocedal 1980).
    """
    descent = _Descent(function, args, low, high, tolerance, max_evaluations, derivative)
    return descent.end(jax.lax.while_loop(descent.is_unfinished, descent.iterate, descent.begin(x, memory)))


def minimise_in_pieces(
    function: Callable[[Float[Array, " variables"], Any], Float[Array, ""]],
    x: Float[Array, " variables"],
    args: Any,
    *,
    low: Any = -jnp.inf,
    high: Any = jnp.inf,
    max_evaluations: int = 500,
    tolerance: Any = 1e-8,
    memory: int = 30,
    derivative: Literal["reverse", "forward"] = "reverse",
    state: list[Any] | None = None,
    after: Callable[[Any], None],
) -> Minimum:
    """`minimise`, one iteration after the other. `after` gets the state of the search after each of them; where its
    leaves are given as `state`, a later call goes on from there."""
    problem = function, args, low, high, tolerance, max_evaluations, derivative
    now = _begin(x, memory, *problem)
    if state is not None:
        now = from_leaves(state, now)
    while bool(_is_unfinished(now, *problem)):
        now = jax.block_until_ready(_iterate(now, *problem))
        after(now)
    return _end(now, *problem)


@eqx.filter_jit
def _begin(x, memory: int, *problem):
    return _Descent(*problem).begin(x, memory)


@eqx.filter_jit
def _iterate(now, *problem):
    return _Descent(*problem).iterate(now)


@eqx.filter_jit
def _is_unfinished(now, *problem):
    return _Descent(*problem).is_unfinished(now)


@eqx.filter_jit
def _end(now, *problem):
    return _Descent(*problem).end(now)


class _Descent:
    """The parts of a search, which one loop or another puts together."""

    def __init__(self, function, args, low, high, tolerance, max_evaluations: int, derivative: str):
        self.value_and_gradient = jax.value_and_grad(function) if derivative == "reverse" else _pushed_forward(function)
        self.args, self.low, self.high = args, low, high
        self.tolerance, self.max_evaluations = tolerance, max_evaluations

    def box(self, x):
        """The bounds, like `x`."""
        return tuple(jnp.broadcast_to(bound, x.shape).astype(x.dtype) for bound in (self.low, self.high))

    def slope(self, x, gradient):
        """The projected gradient."""
        return projected(gradient, x, *self.box(x))

    def size(self, x, gradient):
        """Its largest component."""
        return jnp.max(jnp.abs(self.slope(x, gradient)))

    def begin(self, x, memory: int) -> _Search:
        """A search at its start, which is evaluated as the first trial, of length zero, so that the function is
        compiled once."""
        x, zero = jnp.clip(x, *self.box(x)), jnp.int32(0)
        unknown = jnp.asarray(jnp.inf, x.dtype)
        rows = jnp.zeros((memory, *x.shape), x.dtype)
        history = jnp.full(self.max_evaluations + 1, jnp.nan, x.dtype)
        best = jnp.stack([unknown, unknown])
        return _Search(x, unknown, jnp.zeros_like(x), rows, rows, history, zero, zero, best, zero)

    def iterate(self, now: _Search) -> _Search:
        """One step along the quasi-Newton direction, shortened until the value falls."""
        slope, rounding = self.slope(now.x, now.gradient), 4 * jnp.finfo(now.x.dtype).eps
        free = slope != 0
        direction = -_curvature_scaled(slope, jnp.where(free, now.steps, 0), jnp.where(free, now.turns, 0))

        def attempt(trial):
            length, *_, count = trial
            x = jnp.clip(now.x + length * direction, *self.box(now.x))
            value, gradient = self.value_and_gradient(x, self.args)
            return length * jnp.where(jnp.isfinite(value), 0.4, 0.1), x, value, gradient, count + 1

        def too_long(trial):
            _, x, value, gradient, count = trial
            # at the level of rounding the value says nothing any more, and every step that keeps it is good
            allowed = now.value + _DECREASE * jnp.sum(slope * (x - now.x)) + rounding * jnp.abs(now.value)
            good = (value <= allowed) & jnp.all(jnp.isfinite(gradient))
            return (count == 0) | (~good & (count <= _HALVINGS) & (now.iteration > 0))

        untried = jnp.ones_like(now.value), now.x, jnp.full_like(now.value, jnp.inf), now.gradient, jnp.int32(0)
        _, x, value, gradient, count = jax.lax.while_loop(too_long, attempt, untried)
        failed = (count > _HALVINGS) & (now.iteration > 0)
        x, value, gradient = jax.tree.map(
            lambda new, old: jnp.where(failed, old, new), (x, value, gradient), (now.x, now.value, now.gradient)
        )
        merit = jnp.stack([value, self.size(x, gradient)])
        # after a failed line search the memory is dropped, and the next one goes down the gradient
        remember = lambda rows, row: jnp.where(failed, 0, jnp.roll(rows, 1, axis=0).at[0].set(row))  # noqa: E731
        return _Search(
            x=x,
            value=value,
            gradient=gradient,
            steps=remember(now.steps, x - now.x),
            turns=remember(now.turns, gradient - now.gradient),
            history=now.history.at[now.iteration].set(value),
            iteration=now.iteration + 1,
            evaluations=now.evaluations + count,
            best=jnp.minimum(merit, now.best),
            idle=jnp.where(jnp.any(merit < now.best), 0, now.idle + 1),
        )

    def is_unfinished(self, now: _Search):
        """Whether another iteration is due."""
        done = self.size(now.x, now.gradient) <= self.tolerance
        fresh = (now.idle < _PATIENCE) & (now.evaluations < self.max_evaluations)
        return (now.iteration == 0) | (~done & jnp.isfinite(now.value) & fresh)

    def end(self, now: _Search) -> Minimum:
        """What a search found."""
        slope = self.slope(now.x, now.gradient)
        converged = jnp.max(jnp.abs(slope)) <= self.tolerance
        return Minimum(now.x, now.value, slope, now.history, now.evaluations, converged)


def _pushed_forward(function):
    def twice(x, args):
        value = function(x, args)
        return value, value

    def value_and_gradient(x, args):
        gradient, value = jax.jacfwd(twice, has_aux=True)(x, args)
        return value, gradient

    return value_and_gradient


def projected(gradient: Array, x: Array, low: Any, high: Any) -> Array:
    """The gradient without the components that push a variable out of the box."""
    slack = 8 * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(x), 1)
    held = ((x - low <= slack) & (gradient > 0)) | ((high - x <= slack) & (gradient < 0))
    return jnp.where(held, 0, gradient)


def _curvature_scaled(gradient, steps, turns):
    """The inverse Hessian learnt from `steps` and `turns`, newest first, applied to `gradient`."""
    products, squares = jnp.sum(steps * turns, axis=1), jnp.sum(turns**2, axis=1)
    usable = products > jnp.finfo(gradient.dtype).eps * squares
    weights = jnp.where(usable, 1 / jnp.where(usable, products, 1), 0)

    def down(q, row):
        step, turn, weight = row
        share = weight * jnp.sum(step * q)
        return q - share * turn, share

    def up(q, row):
        step, turn, weight, share = row
        return q + step * (share - weight * jnp.sum(turn * q)), None

    q, shares = jax.lax.scan(down, gradient, (steps, turns, weights))
    newest = jnp.argmax(usable)
    length = jnp.sqrt(jnp.sum(gradient**2))
    scale = jnp.where(
        usable[newest], products[newest] / jnp.where(usable, squares, 1)[newest], 1 / jnp.maximum(length, 1)
    )
    q, _ = jax.lax.scan(up, scale * q, (steps, turns, weights, shares), reverse=True)
    return q
