"""Diagonal linear networks from vanishing initial weights: plateaus and jumps."""

from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from ..nets import DiagonalLinear as Network
from ..nets import Ensemble
from ..nets._gradient_flow import check_problem, losses, normal_equations
from ..problems import CONVERGED, NOT_CONVERGED, Dataset, Trajectory, check
from ..problems import _checks as checks
from ..solvers import Jumps, alternating_flow, as_float, double, in_precision, to_host
from ._base import AbstractLimit
from ._memory import Cost


class DiagonalLinear(AbstractLimit):
    r"""The linear function $\hat\beta_i = (w_{+i}^2 - w_{-i}^2)/2$, learned by gradient flow from $w_\pm(0) = a \to 0$.

    In the time $\tau = t/\ln(1/a)$ the network rests on plateaus and jumps between them at once, one coordinate at a
    time; see `solvers.alternating_flow`. What moves on a plateau is the progress $z_i = \ln|\hat\beta_i|/2\ln(1/a) + 1$
    of the dormant coordinates, with the sign of what they will be, straight lines in $[-1, 1]$. The first jump is at
    $1/\max_i|X^Ty/P|_i$; on whitened data coordinate $i$ jumps at $1/|\beta^*_i|$.

    **Arguments:**

    - `init_spread`: standard deviation of the logarithms of the initial weights of finite networks. The limit does not
      depend on it.

    The size of a finite network is $\ln(1/a)$. Its progress approaches the theory like 1/size, and so do its jump
    times: the constant is of order one, so that $a = 0.01$ is still far from the limit.

    ??? cite "Source"
        Alternating Gradient Flows, arXiv 2506.06489.
    """

    size_name: ClassVar[str] = "ln(1/a)"

    init_spread: Any

    def __init__(self, init_spread=0.5):
        self.init_spread = checks.number("init_spread", init_spread, low=0.0)

    def solve(
        self, task, protocol, *, key=None, jumps: int | None = None, memory_limit=None, throw: bool = True
    ) -> Trajectory:
        r"""The staircase.

        **Arguments:**

        - `task`: a fixed data set with one output.
        - `protocol`: `GradientFlow`, with times in units of $\ln(1/a)$.
        - `key`: not used; nothing is random.
        - `jumps`: number of jumps to follow, by default twice the dimension.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether too few `jumps` for the last time raise.

        **Returns:**

        A record with `train_loss` `[times]`, `test_loss` where the task has test targets, and in `extras`
        `coefficients` $\hat\beta$ and `progress` $z$, both `[times, dim]`.

        **Raises:** `ConvergenceError` when more than `jumps` jumps come before the last time.
        """
        check_problem(task, protocol, "a DiagonalLinear")
        count = _count(task, jumps)
        self.cost(task, protocol, jumps=jumps).check("DiagonalLinear.solve", memory_limit)
        with double():
            solution = _solve(task, protocol, count)
        record, code = to_host(solution)
        trajectory = Trajectory(**record, status_code=code, attributes=(("jumps", count),))
        if throw:
            check(trajectory)
        return trajectory

    def cost(self, task, protocol, *, jumps: int | None = None, **options) -> Cost:
        """Time as jumps times dimension³, for the linear equations at each jump. See `AbstractLimit.cost`."""
        (samples, dim), times = task.x.shape, protocol.times.size
        tests = task.x_test.shape[0] if task.has_test else 0
        count = _count(task, jumps) + 1
        return Cost(
            {"the staircase": 8.0 * (8 * dim**2 + 4 * count * dim + times * (4 * dim + samples + tests))},
            2.0 * (count * dim**3 + dim**2 * samples + times * dim * (samples + tests)),
            {"the staircase": "use fewer times or input dimensions"},
            f"{dim} dimensions, {count - 1} jumps, {times} times",
        )

    def jumps(self, task, *, count: int | None = None) -> Jumps:
        """When the network jumps, and what it is on the plateaus; see `solvers.Jumps`.

        **Arguments:**

        - `task`: a fixed data set with one output.
        - `count`: number of jumps, by default twice the dimension.

        Jump times are differentiable in the data, away from ties.
        """
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        count = _count(task, count)
        with double():
            found = _jumps(task, count)
        return to_host(found)

    def finite(self, task: Any, *, size: int, key=None) -> Network:
        r"""One network with $a = e^{-\mathrm{size}}$."""
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        return Network.init(self, task.dim, size, key)

    def ensemble(self, task: Any, *, size: int, seeds: int, key=None) -> Ensemble:
        r"""`seeds` networks with $a = e^{-\mathrm{size}}$, which differ by their `init_spread`."""
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays)")
        return Network.ensemble(self, task.dim, size, seeds, key)


def _count(task, jumps) -> int:
    return 2 * task.dim if jumps is None else checks.integer("jumps", jumps)


@eqx.filter_jit
def _jumps(task, count: int) -> Jumps:
    return in_precision(lambda task, _: alternating_flow(*normal_equations(task), count), "double")(
        as_float(task), None
    )


@eqx.filter_jit
def _solve(task, protocol, count: int):
    record, missed = in_precision(partial(_staircase, count), "double")(as_float((task, protocol)), None)
    return record, jnp.where(missed > 0, jnp.int32(NOT_CONVERGED), jnp.int32(CONVERGED))


def _staircase(count: int, floats, _):
    task, protocol = floats
    times = protocol.times
    # one jump more shows whether the others were enough
    path = alternating_flow(*normal_equations(task), count + 1)
    plateau = jnp.searchsorted(path.times, times, side="right")
    start = jnp.where(plateau > 0, path.times[plateau - 1], 0.0)
    coefficients = path.coefficients[plateau]
    progress = path.progress[plateau] + path.slopes[plateau] * (times - start)[:, None]
    extras = {"coefficients": coefficients, "progress": progress}
    missed = (path.times[-1] <= times[-1]).astype(times.dtype)
    return losses(task, coefficients) | {"extras": extras}, missed
