"""Two-layer linear networks from small random weights: how their kernel aligns before the loss moves."""

from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..nets import Ensemble
from ..nets import SmallInitialization as Network
from ..nets._gradient_flow import check_problem, losses, normal_equations
from ..nets._small_initialization import kernel_share, steps_between, target_direction
from ..problems import CONVERGED, DIVERGED, Dataset, Trajectory, check, first_divergence
from ..problems import _checks as checks
from ..solvers import as_float, double, in_precision, to_host, two_layer_flow
from ._base import AbstractLimit
from ._memory import Cost


class SmallInitialization(AbstractLimit):
    r"""Gradient flow of $f(x) = w\cdot Wx$ from weights of variance $\epsilon^2/N$, at infinite width $N$.

    $\hat\beta = W^Tw$, $n = |w|^2$ and $C = W^TW$ obey closed equations (`solvers.two_layer_flow`) at every width. At
    infinite width and fixed input dimension they start from $0$, $\epsilon^2$, $\epsilon^2 I$, without fluctuations. On
    whitened data everything happens in the direction of the target, of length $s^*$:

    $$\dot s = 2\sqrt{s^2 + \epsilon^4}\,(s^* - s),$$

    for small $\epsilon$ the logistic curve from $s_0 = \epsilon^2/2$, with half of the loss's change at about
    $\ln(2s^*/\epsilon^2)/2s^*$. Long before that the tangent kernel $n + C$ has turned from isotropic to $n(I + ee^T)$,
    whose share $2/(D+1)$ of the trace lies in the direction of the target: it aligns in silence.

    **Arguments:**

    - `init_scale`: $\epsilon > 0$.

    Size is the width $N$; networks differ from the theory by $1/\sqrt N$, mostly in the time at which they learn.

    ??? cite "Source"
        Neural Networks as Kernel Learners: The Silent Alignment Effect, arXiv 2111.00034.
    """

    init_scale: Any

    def __init__(self, init_scale=0.01):
        self.init_scale = checks.number("init_scale", init_scale, above=0.0)

    def solve(self, task, protocol, *, key=None, memory_limit=None, throw: bool = True) -> Trajectory:
        r"""The learning curve and the alignment of the kernel.

        **Arguments:**

        - `task`: a fixed data set with one output.
        - `protocol`: `GradientFlow`. Steps between two times follow from the rate of the flow; inside a transformation,
          where that is not known, there are 64.
        - `key`: not used; nothing is random.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `train_loss` `[times]`, `test_loss` where the task has test targets, and in `extras`
        `coefficients` $\hat\beta$ `[times, dim]` and `kernel_share` `[times]`, the part of the trace of the tangent
        kernel that lies in the direction of the least-squares solution: $1/D$ at first, $2/(D+1)$ when aligned.
        """
        check_problem(task, protocol, "a SmallInitialization")
        self.cost(task, protocol).check("SmallInitialization.solve", memory_limit)
        with double():
            solution = _solve(self.init_scale, task, protocol, steps_between(task, protocol, self.init_scale))
        record, diverged, code = to_host(solution)
        trajectory = Trajectory(**record, diverged_step=diverged, status_code=code)
        if throw:
            check(trajectory)
        return trajectory

    def cost(self, task, protocol, **options) -> Cost:
        """Memory as times times dimension², time as the steps between two times more. See `AbstractLimit.cost`."""
        (samples, dim), times = task.x.shape, protocol.times.size
        tests = task.x_test.shape[0] if task.has_test else 0
        substeps = steps_between(task, protocol, self.init_scale)
        return Cost(
            {"the flow": 8.0 * (dim**2 * (2 * times + 12) + times * (2 * dim + samples + tests))},
            60.0 * times * substeps * dim**2 + 2.0 * dim * samples * (dim + times),
            {"the flow": "use fewer times or input dimensions"},
            f"{dim} dimensions, {times} times",
        )

    def finite(self, task: Any, *, size: int, key=None) -> Network:
        """One random network of width `size`."""
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        return Network.init(self, task.dim, size, key)

    def ensemble(self, task: Any, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent random networks of width `size`."""
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        return Network.ensemble(self, task.dim, size, seeds, key)


@eqx.filter_jit
def _solve(init_scale, task, protocol, substeps: int):
    curves = partial(_curves, substeps)
    record = in_precision(curves, "double")(as_float((init_scale, task, protocol)), None)
    diverged = first_divergence(record["train_loss"]).astype(jnp.int32)
    return record, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))


def _curves(substeps: int, floats, _):
    init_scale, task, protocol = floats
    gram, correlation = normal_equations(task)
    zero, power = jnp.zeros_like(correlation), init_scale**2
    start = zero, power, power * jnp.eye(zero.size, dtype=zero.dtype)
    coefficients, readout, hidden = two_layer_flow(gram, correlation, *start, protocol.times, substeps=substeps)
    share = kernel_share(readout, hidden, target_direction(gram, correlation))
    return losses(task, coefficients) | {"extras": {"coefficients": coefficients, "kernel_share": share}}
