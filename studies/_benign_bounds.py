"""How far averaged SGD is from its bounds: exact bias and variance beside the published leading forms."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..limits import RandomFeatures
from ..limits._feature_curves import mode_bins
from ..problems import Gaussian, PowerLaw
from ..problems import _checks as checks
from ..solvers import ModeBins, as_float, averaged_moment, double, in_precision, power_sum, to_host


class BenignBounds(NamedTuple):
    r"""Excess risk of SGD with and without averaging, in two parts, and the bounds on them; all are numbers.

    Modes with $\lambda_k \ge 1/(\eta n)$ are the head, $k^*$ of them; the rest is the tail.

    **Fields:**

    - `bias`, `variance`: exact risk of the average without label noise, and that from label noise alone; their sum is
      `risk`.
    - `last_bias`, `last_variance`: the same of the last iterate.
    - `k_star`: $k^*$.
    - `variance_head`, `variance_tail`: $\tfrac{\sigma^2}{B} \tfrac{k^*}{n}$ and $\tfrac{\sigma^2}{B} \eta^2 n
      \sum_{k > k^*} \lambda_k^2$.
    - `bias_head`, `bias_tail`: $\sum_{k \le k^*} \tfrac{w_k^2}{\lambda_k} / (\eta n)^2$ and $\sum_{k > k^*} \lambda_k
      w_k^2$.
    - `bias_noise`: the unlearned signal is noise for the gradient too: the variance bound with $\sigma^2$ replaced by
      $\tfrac{1}{\eta n} \sum_{k \le k^*} w_k^2 + \sum_{k > k^*} \lambda_k w_k^2$.
    - `effective_dimension`: $k^* + \eta^2 n^2 \sum_{k > k^*} \lambda_k^2$.
    - `noise_gain`: $1/(1 - F)$ with $F = \sum_k \eta\lambda_k/(2B - (B+1)\eta\lambda_k)$, by how much SGD that has
      settled multiplies label noise. The bounds are leading forms for small rates, $F \ll 1$; this is the factor that
      they leave out, and at the edge of stability it is infinite.
    """

    bias: Any
    variance: Any
    last_bias: Any
    last_variance: Any
    k_star: Any
    variance_head: Any
    variance_tail: Any
    bias_head: Any
    bias_tail: Any
    bias_noise: Any
    effective_dimension: Any
    noise_gain: Any

    @property
    def risk(self):
        """Exact risk of the average."""
        return self.bias + self.variance

    @property
    def last_risk(self):
        """Exact risk of the last iterate."""
        return self.last_bias + self.last_variance

    @property
    def variance_bound(self):
        """`variance_head + variance_tail`."""
        return self.variance_head + self.variance_tail

    @property
    def bias_bound(self):
        """The leading form, `bias_head + bias_tail`: it bounds what the mean path leaves, not its gradient noise."""
        return self.bias_head + self.bias_tail

    @property
    def variance_ratio(self):
        """`variance / variance_bound`; it knows nothing of the noise, and is not a number without any."""
        return _ratio(self.variance, self.variance_bound)

    @property
    def bias_ratio(self):
        """`bias / bias_bound`."""
        return _ratio(self.bias, self.bias_bound)

    @property
    def whole_bias_ratio(self):
        """`bias / (bias_bound + bias_noise)`."""
        return _ratio(self.bias, self.bias_bound + self.bias_noise)


def _ratio(exact, bound):
    with np.errstate(invalid="ignore"):
        return exact / bound


def benign_bounds(task, learning_rate, steps: int, batch_size=1.0) -> BenignBounds:
    r"""Bias and variance of the mean of the last $n$ of $2n$ iterates of one-pass SGD at a constant rate.

    Exact values come from `solvers.averaged_moment`, bounds from sums over head and tail of the spectrum:

    $$\mathrm{variance} \lesssim \frac{\sigma^2}{B}\Big[\frac{k^*}{n} + \eta^2 n \sum_{k > k^*} \lambda_k^2\Big], \qquad
      \mathrm{bias} \lesssim \sum_{k \le k^*} \frac{w_k^2}{\lambda_k (\eta n)^2} + \sum_{k > k^*} \lambda_k w_k^2 .$$

    Differentiable in the rate, the batch size, and in what the task has; the bounds jump where $k^*$ does.

    **Arguments:**

    - `task`: `power_law`, of any number of modes, or `gaussian`; its `samples` say nothing here.
    - `learning_rate`: $\eta$, above 0, below $1/\sum_k\lambda_k$ and where SGD is stable.
    - `steps`: $2n$, even; the average is over iterates $n + 1, \dots, 2n$.
    - `batch_size`: fresh samples a step $B$, at least 1.

    **Returns:** a `BenignBounds`, in float64.

    **Raises:** `ValueError` for a rate beyond its range.

    !!! example

        ```python
        found = lx.benign_bounds(lx.tasks.power_law(None, 1.5, 2.0, noise=1.0), learning_rate=0.1, steps=2000)
        found.variance_ratio, found.bias_ratio  # 0.75, 0.30
        ```

    ??? cite "Source"
        A Simplified Analysis of SGD for Linear Regression with Weight Averaging, arXiv 2506.15535.
    """
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian")
    rate = checks.number("learning_rate", learning_rate, above=0.0)
    batch_size = checks.number("batch_size", batch_size, low=1.0)
    steps = checks.integer("steps", steps, low=2)
    if steps % 2:
        raise ValueError(f"steps must be even, as the later half of them is averaged; it is {steps}.")
    check_bounded_rate(task, rate, batch_size)
    with double():
        run = in_precision(lambda problem, _: _bounds(problem, steps), "double")
        found = run(as_float((task, rate, batch_size)), ())
    return to_host(found)


def check_bounded_rate(task, rate, batch_size=1.0) -> None:
    """Refuses a constant rate at which the bounds mean nothing, if its value is known."""
    if checks.is_traced((task, rate, batch_size)):
        return
    with double():
        trace, room, feedback = (float(value) for value in _margins(*as_float((task, rate, batch_size))))
    if rate * trace >= 1:
        raise ValueError(f"learning_rate must be below 1/tr(Lambda) = {1 / trace:.4g}; it is {float(rate):g}.")
    # Gaussian inputs have heavier fourth moments than the trace alone knows of, which matters for a few equal modes.
    if room <= 0 or feedback >= 1:
        edge = float(RandomFeatures().stable_rate(task, batch_size))
        raise ValueError(f"learning_rate must be below {edge:.4g}, where SGD is stable; it is {float(rate):g}.")


@eqx.filter_jit
def _margins(task, rate, batch_size):
    bins = mode_bins(task)
    return jnp.sum(bins.weights), *_feedback(bins, rate, batch_size)


def _feedback(bins: ModeBins, rate, batch_size):
    """How far the fastest mode is from its own edge, and the share of noise that comes back as noise if it is."""
    room = 2 * batch_size - (batch_size + 1) * rate * bins.eigenvalues
    return jnp.min(room), jnp.sum(bins.weights * rate / room)


@eqx.filter_jit
def _bounds(problem, steps: int) -> BenignBounds:
    task, rate, batch_size = problem
    bins, noise_power, count = mode_bins(task), task.noise**2, steps // 2

    def risks(noise_power, teacher_power):
        start = ModeBins(bins.eigenvalues, bins.weights, teacher_power)
        return averaged_moment(start, noise_power, rate, 1 / batch_size, burn_in=count, count=count)

    nothing = jnp.zeros_like(bins.teacher_power)
    average, last = jax.vmap(risks)(
        jnp.stack([jnp.zeros_like(noise_power), noise_power]), jnp.stack([bins.teacher_power, nothing])
    )
    time = rate * count
    sums = _power_law_sums(task, time) if isinstance(task, PowerLaw) else _sums(task, time)
    k_star, distance, power, unlearned, squares = sums
    bias_head, noise = distance / time**2, noise_power / batch_size
    dimension = k_star + time**2 * squares
    return BenignBounds(
        bias=average[0],
        variance=average[1],
        last_bias=last[0],
        last_variance=last[1],
        k_star=k_star,
        variance_head=noise * k_star / count,
        variance_tail=noise * rate**2 * count * squares,
        bias_head=bias_head,
        bias_tail=unlearned,
        bias_noise=(power / time + unlearned) / batch_size * dimension / count,
        effective_dimension=dimension,
        noise_gain=1 / (1 - _feedback(bins, rate, batch_size)[1]),
    )


def _sums(task: Gaussian, time):
    r"""$k^*$; the sums of $w^2/\lambda$ and $w^2$ over the head; of $\lambda w^2$ and $\lambda^2$ over the tail."""
    eigenvalues, power = task.eigenvalues, task.teacher**2
    head = eigenvalues * time >= 1
    inside = jnp.where(head, power, 0.0)
    return (
        jnp.sum(jnp.where(head, 1.0, 0.0)),
        jnp.sum(inside / jnp.where(head, eigenvalues, 1.0)),
        jnp.sum(inside),
        jnp.sum(jnp.where(head, 0.0, eigenvalues * power)),
        jnp.sum(jnp.where(head, 0.0, eigenvalues**2)),
    )


def _power_law_sums(task: PowerLaw, time):
    """The same for a power law, where a bin may lie on both sides of $k^*$."""
    b, a, modes = task.capacity, task.decay, None if task.modes is None else float(task.modes)
    k_star = jnp.floor(time ** (1 / b))
    # the root may round to the wrong side of a whole number
    k_star = k_star + (time * (k_star + 1) ** -b >= 1)
    k_star = k_star - (time * jnp.maximum(k_star, 1.0) ** -b < 1) * (k_star > 0)
    k_star = jax.lax.stop_gradient(k_star if modes is None else jnp.minimum(k_star, modes))
    one, last = jnp.ones_like(k_star), None if modes is None else jnp.full_like(k_star, modes)
    head = [power_sum(power, one, k_star) for power in (a - 2 * b, a - b)]
    tail = [power_sum(power, k_star + 1, last) for power in (a, 2 * b)]
    return k_star, *head, *tail
