"""Wide layers of units with a quadratic activation: full-batch descent at infinite width, and how it groks."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..nets import Ensemble
from ..nets import QuadraticNetwork as Network
from ..nets._quadratic_network import check_problem
from ..problems import CONVERGED, DIVERGED, Dataset, Trajectory, check, first_divergence
from ..problems import _checks as checks
from ..solvers import (
    DescentDrive,
    Samples,
    UnitMoments,
    as_float,
    centred_alignment,
    double,
    in_precision,
    quadratic_kernel,
    quadratic_moments,
    quadratic_output,
    to_host,
)
from ._base import AbstractLimit
from ._memory import Cost

_STATIC_KERNEL = "static_kernel"


class QuadraticNetwork(AbstractLimit):
    r"""$f(x) = \frac\alpha N\sum_i\phi(h_i)$, $h_i = w_i\cdot x/\sqrt D$, $\phi(h) = h + \frac\epsilon2h^2$, at
    infinite width $N$, by full-batch descent on half the mean square with the raw step $\eta N/\alpha^2$.

    The first two moments of the weights over the units obey a closed map, see `solvers.quadratic_moments`, which starts
    from $\bar w = 0$, $M = I$. The same map holds for a finite network from the moments of its own start, so that
    networks differ from the theory by $1/\sqrt N$.

    $\alpha$ sets how far the weights must travel: the larger, the lazier. $\epsilon$ sets the power of quadratic
    functions in the initial tangent kernel: the smaller, the worse that kernel for a quadratic target. With both, the
    training set is fitted through the kernel first, and learned, in the test loss, only when the weights have turned.

    **Arguments:**

    - `output_scale`: $\alpha > 0$.
    - `curvature`: $\epsilon \ge 0$; zero makes the network linear.

    ??? cite "Source"
        Grokking as the Transition from Lazy to Rich Training Dynamics, arXiv 2310.06110. Its loss has no factor 1/2:
        its rate $\eta_0$ is half the learning rate here.
    """

    output_scale: Any
    curvature: Any

    def __init__(self, output_scale=1.0, curvature=0.05):
        self.output_scale = checks.number("output_scale", output_scale, above=0.0)
        self.curvature = checks.number("curvature", curvature, low=0.0)

    def solve(
        self,
        task,
        protocol,
        *,
        key=None,
        approximation: str | None = None,
        teacher=None,
        kernel_alignment: bool = False,
        memory_limit=None,
        throw: bool = True,
    ) -> Trajectory:
        r"""The learning curve.

        **Arguments:**

        - `task`: a fixed data set with one output, `x` with entries of order one.
        - `protocol`: `GradientDescent`, with or without momentum and weight decay.
        - `key`: not used; nothing is random.
        - `approximation`: `None`, or `"static_kernel"` for the lazy network, whose tangent kernel stays as it starts.
        - `teacher`: $b$ `[dim]`, if the targets are $(b\cdot x)^2/2D$ and the inputs Gaussian (`tasks.quadratic`): adds
          the three parts of the population's test loss.
        - `kernel_alignment`: whether to record the alignment of the kernel with the targets; costs $P^2D$ a step.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `train_loss` `[steps + 1]`, `test_loss` where there are test targets, and in `extras`, all
        `[steps + 1]`, `mean_square_weight` $\mathrm{tr}M/D$; `kernel_alignment`
        $y^TKy/|K||y|^2$, all centred over the samples; and with a teacher, where $A = bb^T - \alpha\epsilon M$,

        - `scale_error` $(\mathrm{tr}A/D)^2/8$,
        - `misalignment` $|A|^2/4D^2$,
        - `linear_power` $\alpha^2|\bar w|^2/2D$,

        whose sum is the expected test loss. It is computed in float64.

        **Raises:** `DivergedError`; `MemoryError` before any work.
        """
        check_problem(task, protocol)
        checks.flag("throw", throw)
        checks.flag("kernel_alignment", kernel_alignment)
        checks.choice("approximation", approximation, (None, _STATIC_KERNEL))
        static = approximation == _STATIC_KERNEL
        if static and _not_zero(protocol.weight_decay):
            raise ValueError("weight_decay must be 0 with a static kernel: decay shrinks the weights that make it.")
        if teacher is not None:
            teacher = checks.array("teacher", teacher, ndim=1)
            if teacher.shape != (task.dim,):
                raise ValueError(f"teacher must have the {task.dim} dimensions of x; its shape is {teacher.shape}.")
        cost = self.cost(task, protocol, kernel_alignment=kernel_alignment)
        cost.check("QuadraticNetwork.solve", memory_limit)
        flags = _Flags(_not_zero(protocol.momentum), static, bool(kernel_alignment))
        with double():
            solution = _solve((self, task, protocol, teacher), flags)
        record, diverged, code = to_host(solution)
        attributes = (("approximation", approximation),) if static else ()
        trajectory = Trajectory(**record, status_code=code, diverged_step=diverged, attributes=attributes)
        return check(trajectory) if throw else trajectory

    def kernel(self, x, other=None):
        r"""The initial tangent kernel times $N/\alpha^2$, $k + \epsilon^2k^2$ with $k = x\cdot x'/D$.

        **Arguments:**

        - `x`: inputs `[samples, dim]`.
        - `other`: inputs `[others, dim]`; by default `x`.

        **Returns:** the kernel `[samples, others]`.
        """
        x = checks.array("x", x, ndim=2)
        k = x @ (x if other is None else checks.array("other", other, ndim=2)).T / x.shape[1]
        return k + self.curvature**2 * k**2

    def cost(self, task, protocol, *, kernel_alignment: bool = False, **options) -> Cost:
        """Time as steps times dimensions² times samples plus dimensions. See `AbstractLimit.cost`."""
        (samples, dim), steps = task.x.shape, protocol.steps
        tests = task.x_test.shape[0] if task.has_test else 0
        block = 2 + steps**0.5
        needs = {
            "moments": 8.0 * dim * (dim * (block + 20) + 4 * samples + 2 * tests),
            "records": 64.0 * steps,
            "the kernel": 32.0 * samples**2 if kernel_alignment else 0.0,
        }
        remedies = {
            "moments": "use fewer input dimensions",
            "records": "use fewer steps",
            "the kernel": "use kernel_alignment=False",
        }
        products = 10.0 * dim**3 + 2.0 * dim**2 * (2 * samples + tests) + 6.0 * samples**2 * dim * kernel_alignment
        return Cost(needs, steps * products, remedies, f"{dim} dimensions, {samples} samples, steps={steps}")

    def finite(self, task: Any, *, size: int, key=None) -> Network:
        """One random network of width `size`."""
        checks.instance("task", task, Dataset, "a fixed data set (quadratic, sphere, digits, from_arrays)")
        return Network.init(self, task.dim, size, key)

    def ensemble(self, task: Any, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent random networks of width `size`."""
        checks.instance("task", task, Dataset, "a fixed data set (quadratic, sphere, digits, from_arrays)")
        return Network.ensemble(self, task.dim, size, seeds, key)


class _Flags(eqx.Module):
    momentum: bool = eqx.field(static=True)
    static_kernel: bool = eqx.field(static=True)
    alignment: bool = eqx.field(static=True)


def _not_zero(schedule) -> bool:
    known = checks.concrete(schedule)
    return known is None or bool(known.any())


@eqx.filter_jit
def _solve(problem, flags: _Flags):
    record = in_precision(_curves, "double")(as_float(problem), flags)
    diverged = first_divergence(record["train_loss"]).astype(jnp.int32)
    return record, diverged, jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))


def _curves(problem, flags: _Flags) -> dict[str, Any]:
    limit, task, protocol, teacher = problem
    alpha, epsilon, dim = limit.output_scale, limit.curvature, task.dim
    train = Samples(task.x / dim**0.5, task.y)

    def observe(moments: UnitMoments):
        row: dict[str, Any] = {}
        if task.has_test and task.y_test is not None:
            outputs = quadratic_output(task.x_test / dim**0.5, moments, alpha, epsilon)
            row["test_loss"] = jnp.mean((task.y_test - outputs) ** 2) / 2
        extras = {"mean_square_weight": jnp.trace(moments.second) / dim}
        if flags.alignment:
            # a kernel that stays where it is has its first alignment for good
            seen = start if flags.static_kernel else moments
            extras["kernel_alignment"] = centred_alignment(quadratic_kernel(train.x, train.x, seen, epsilon), train.y)
        if teacher is not None:
            A = jnp.outer(teacher, teacher) - alpha * epsilon * moments.second
            extras["scale_error"] = (jnp.trace(A) / dim) ** 2 / 8
            extras["misalignment"] = jnp.sum(A**2) / (4 * dim**2)
            extras["linear_power"] = alpha**2 * jnp.sum(moments.mean**2) / (2 * dim)
        return row | {"extras": extras}

    start = UnitMoments(jnp.zeros(dim, train.x.dtype), jnp.eye(dim, dtype=train.x.dtype))
    drive = DescentDrive(protocol.learning_rate, protocol.momentum, protocol.weight_decay)
    loss, rows = quadratic_moments(
        train, start, drive, alpha, epsilon, observe, momentum=flags.momentum, static_kernel=flags.static_kernel
    )
    return {"train_loss": loss} | rows
