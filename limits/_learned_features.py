"""Linear models whose random features learn: gradient flow at infinite and at finite width, and its scaling laws."""

from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..nets import Ensemble
from ..nets import LearnedFeatures as Network
from ..nets._learned_features import check_problem
from ..problems import CONVERGED, NOT_CONVERGED, GradientFlow, Trajectory, check, default_key
from ..problems import _checks as checks
from ..solvers import as_float, double, in_precision, learned_features, to_host
from ._base import AbstractLimit
from ._feature_curves import inverse_features, mode_bins
from ._memory import Cost

_TRUSTED = 1e-4  # the largest relative error of a loss that a solution may have


class LearnedFeatures(AbstractLimit):
    r"""$f(x) = w^TW_1Ax/\sqrt N$ on $x_k \sim N(0, \lambda_k)$, with frozen $A_{ij} \sim N(0, 1)$, $w(0) = 0$,
    $W_1(0) = 1$; both layers learn $y = \sum_kw_kx_k + \sigma\epsilon$ from the population, $W_1$ $\gamma$ times as
    fast as $w$.

    The tangent kernel grows by $a = 1 + \gamma|w|^2$ and turns to what has been learned, and the whole flow is that of
    linear modes which see one another through $a$ only, see `solvers.learned_features`. On a power law $\lambda_k =
    k^{-b}$, $\lambda_kw_k^2 = k^{-1-br}$ the loss falls in time like

    $$t^{-r}\;(\gamma = 0), \qquad t^{-r\max(1,\, 2/(1+r))}\;(\gamma > 0):$$

    learned features help where the target is hard, $r < 1$. At a fixed budget $C = Nt$ the best $N$ gives
    $C^{-br/(1+b)}$, or $C^{-2br/(2+b(1+r))}$ with learned features.

    Size is the replication $s$: $s$ copies of each mode, $s$ times the features. Networks with `features=None` equal
    the theory at every size.

    **Arguments:**

    - `richness`: $\gamma \ge 0$, the speed of $W_1$; zero leaves the features as they are.
    - `features`: number of random features $N$, a real number; `None` for infinitely many.

    ??? cite "Source"
        How Feature Learning Can Improve Neural Scaling Laws, arXiv 2409.17858.
    """

    size_name: ClassVar[str] = "replication"

    richness: Any
    features: Any

    def __init__(self, richness=1.0, features=None):
        self.richness = checks.number("richness", richness, low=0.0)
        self.features = None if features is None else checks.number("features", features, above=0.0)

    def solve(
        self, task, protocol, *, key=None, steps: int = 512, nodes: int = 320, memory_limit=None, throw: bool = True
    ) -> Trajectory:
        r"""The learning curve.

        **Arguments:**

        - `task`: `power_law` or `gaussian`. Label noise adds nothing to the gradient of the population.
        - `protocol`: `GradientFlow`, to any time.
        - `key`: not used; nothing is random.
        - `steps`: of the integrator, even in the logarithm of time; an even number.
        - `nodes`: of the contour, where `features` is given.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether a solution whose `error` is above 1e-4 at some time raises. On a contour losses far
          below 1e-9 of the first are not resolved.

        **Returns:**

        A record with `test_loss` `[times]`, the excess risk, of `loss_convention` `"mean_square"`, and in `extras`,
        all `[times]`, the `kernel_scale` $a$, `coefficients_square` $|W_1^Tw|^2$, the `clock` $\int a\,dt$, the time
        that lazy features would need, and `error`, the estimated relative error of the loss.

        **Raises:** `ConvergenceError`.
        """
        check_problem(task, protocol, (GradientFlow,))
        checks.integer("nodes", nodes, low=8)
        if checks.integer("steps", steps, low=4) % 2:
            raise ValueError(f"steps must be even, so that half of them tell the error; it is {steps}.")
        checks.flag("throw", throw)
        self.cost(task, protocol, steps=steps, nodes=nodes).check("LearnedFeatures.solve", memory_limit)
        with double():
            solution = _solve(self, task, protocol, steps, nodes)
        record, code = to_host(solution)
        loss = record.pop("test_loss")
        attributes = ("steps", steps), ("nodes", None if self.features is None else nodes)
        trajectory = Trajectory(
            test_loss=loss, extras=record, status_code=code, loss_convention="mean_square", attributes=attributes
        )
        return check(trajectory) if throw else trajectory

    def cost(self, task, protocol, *, steps: int = 512, nodes: int = 320, **options) -> Cost:
        """Time as steps times bins, or nodes. See `AbstractLimit.cost`."""
        with double():
            bins = jax.eval_shape(lambda: mode_bins(task)).eigenvalues.size
        modes = bins if self.features is None else nodes
        contour = 0.0 if self.features is None else 100.0 * nodes * bins
        return Cost(
            {"modes": 8.0 * modes * (2 * steps + 60) + 64.0 * (steps + protocol.times.size)},
            1.5 * steps * modes * 200 + contour,
            {"modes": "use fewer steps or nodes"},
            f"steps={steps}, {modes} modes",
        )

    def finite(self, task: Any, *, size: int = 1, key=None) -> Network:
        """One network on one draw of the features, at replication `size`.

        **Raises:** `ValueError` for more modes than a network can hold.
        """
        return Network.init(self, task, self._replication(size), default_key(key))

    def ensemble(self, task: Any, *, size: int = 1, seeds: int, key=None) -> Ensemble:
        """`seeds` networks, which differ by their features; without random features they are all the same."""
        return Network.ensemble(self, task, self._replication(size), seeds, default_key(key))

    def exact_at_any_size(self, task, protocol) -> bool:
        """True without random features: nothing is random then."""
        return self.features is None

    def _replication(self, size) -> int:
        size = checks.integer("size", size)
        return 1 if self.features is None else size


@eqx.filter_jit
def _solve(limit, task, protocol, steps: int, nodes: int):
    record = in_precision(partial(_curves, steps, nodes), "double")(as_float((limit, task, protocol)), None)
    # not a number compares as false
    trusted = jnp.all(record["error"] <= _TRUSTED)
    return record, jnp.where(trusted, jnp.int32(CONVERGED), jnp.int32(NOT_CONVERGED))


def _curves(steps: int, nodes: int, problem, _) -> dict[str, Any]:
    limit, task, protocol = problem
    features = None if limit.features is None else inverse_features(limit)
    flow = learned_features(mode_bins(task), limit.richness, protocol.times, features, steps=steps, nodes=nodes)
    return {
        "test_loss": flow.loss,
        "kernel_scale": flow.scale,
        "coefficients_square": flow.square,
        "clock": flow.clock,
        "error": flow.error,
    }
