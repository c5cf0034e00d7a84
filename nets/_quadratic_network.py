"""Wide layers of units with a quadratic activation and fixed readouts, trained by full-batch gradient descent."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import Dataset, GradientDescent, default_key, schedules
from ..problems import _checks as checks
from ..solvers import UnitMoments, centred_alignment, quadratic_kernel, quadratic_output, spread_map
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps


class QuadraticNetwork(AbstractNet):
    r"""$f(x) = \frac\alpha N\sum_i\phi(h_i)$, $h_i = w_i\cdot x/\sqrt D$, $\phi(h) = h + \frac\epsilon2h^2$.

    `weights` $w$ `[width, dim]` start as standard normal numbers. The raw step is $\eta N/\alpha^2$, with which
    outputs move at a speed that depends neither on the width $N$ nor on the output scale $\alpha$.

    ??? cite "Source"
        Grokking as the Transition from Lazy to Rich Training Dynamics, arXiv 2310.06110.
    """

    weights: Any
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, dim: int, width: int, key) -> "QuadraticNetwork":
        """One random network."""
        shape = checks.integer("size", width), dim
        return cls(jax.random.normal(default_key(key), shape), Frozen(design))

    @classmethod
    def ensemble(cls, design, dim: int, width: int, seeds: int, key) -> Ensemble:
        """`seeds` independent random networks."""
        shape = checks.integer("seeds", seeds), checks.integer("size", width), dim
        return Ensemble(cls(jax.random.normal(default_key(key), shape), Frozen(design)), paired=False)

    @property
    def width(self) -> int:
        """Number of units."""
        return self.weights.shape[-2]

    @property
    def learning_rate_scale(self):
        """Raw step over learning rate, width over the square of the output scale."""
        return self.width / self.design.output_scale**2

    def __call__(self, x):
        """The output, a scalar, for one input `[dim]`."""
        h = self.weights @ x / self.weights.shape[-1] ** 0.5
        return self.design.output_scale * jnp.mean(h + self.design.curvature / 2 * h**2)

    def learn(self, weights, task, protocol, *, key, steps, kernel_alignment: bool = False):
        r"""Descends on half the mean square over all samples.

        The gradient at every unit is an affine function of its weights, the same for all of them, which a step makes
        use of.

        Records `train_loss`, `test_loss` where the task has test targets, and in `extras` `mean_square_weight`, that
        of all entries of $w$, and with `kernel_alignment=True` the centred alignment of the tangent kernel with the
        targets, under that name.
        """
        del key
        no_steps(steps)
        check_problem(task, protocol)
        checks.flag("kernel_alignment", kernel_alignment)
        weights = weights[:, 0]
        if weights.shape[-1] != task.dim:
            raise ValueError(f"task must have the network's {weights.shape[-1]} input dimensions; it has {task.dim}.")
        numbers = self.design.output_scale, self.design.curvature
        final, record = _run(weights, numbers, task, protocol, bool(kernel_alignment))
        fields = {"loss_convention": "half_mean_square", "attributes": (("size", self.width),)}
        return final[:, None], record | fields


def check_problem(task, protocol) -> None:
    """**Raises:** `TypeError` and `ValueError` for what a quadratic network does not learn."""
    checks.instance("task", task, Dataset, "a fixed data set (quadratic, sphere, digits, from_arrays)")
    checks.instance("protocol", protocol, GradientDescent, "GradientDescent for QuadraticNetwork")
    if task.y.ndim != 1:
        raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {task.y.shape}.")


@eqx.filter_jit
def _run(weights, numbers, task, protocol, kernel_alignment: bool):
    """Final weights `[seeds, width, dim]` and the record, leading axis `[seeds]`."""
    _, width, dim = weights.shape
    dtype = weights.dtype
    alpha, epsilon = (jnp.asarray(number, dtype) for number in numbers)
    x, y = jnp.asarray(task.x, dtype) / dim**0.5, jnp.asarray(task.y, dtype)
    sides = {"train_loss": (x, y)}
    if task.has_test and task.y_test is not None:
        sides["test_loss"] = jnp.asarray(task.x_test, dtype) / dim**0.5, jnp.asarray(task.y_test, dtype)
    optimiser = schedules.transformation(protocol, width / alpha**2)

    def moments_of(w):
        return UnitMoments(jnp.mean(w, 0), w.T @ w / width)

    def observe(moments):
        row = {
            name: jnp.mean((y - quadratic_output(x, moments, alpha, epsilon)) ** 2) / 2
            for name, (x, y) in sides.items()
        }
        extras = {"mean_square_weight": jnp.trace(moments.second) / dim}
        if kernel_alignment:
            extras["kernel_alignment"] = centred_alignment(quadratic_kernel(x, x, moments, epsilon), y)
        return row | {"extras": extras}

    def run(w):
        def step(carry, _):
            w, state = carry
            moments = moments_of(w)
            scaled = (quadratic_output(x, moments, alpha, epsilon) - y) * (alpha / (width * len(y)))
            gradient = scaled @ x + epsilon * w @ ((x.T * scaled) @ x)
            moves, state = optimiser.update(gradient, state, w)
            return (w + moves, state), observe(moments)

        (w, _), rows = jax.lax.scan(step, (w, optimiser.init(w)), None, length=protocol.steps)
        return w, jax.tree.map(jnp.append, rows, observe(moments_of(w)))

    # one by one: products of stacks of small matrices are slower
    return spread_map(run, weights, "seeds")
