"""Linear recurrent networks of infinite size: a closed system of few dimensions, exact in the initial disorder."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..nets import Ensemble
from ..nets import LinearRNN as Network
from ..nets._linear_rnn import RecurrentWeights, response_terms, rest, training_step
from ..problems import CONVERGED, DIVERGED, GradientDescent, ImpulseResponse, Trajectory, check, first_divergence
from ..problems import _checks as checks
from ..solvers import as_float, context, reverse_scan, to_host, two_largest_eigenvalues
from ._base import AbstractLimit
from ._memory import Cost

_HIGHEST_ORDER = 6


class LinearRNN(AbstractLimit):
    r"""A linear recurrent network $\dot h = -h + Wh + u\,x(t)$, $f = v\cdot h$, trained to integrate or to oscillate.

    The loss $\mathcal{L} = \tfrac12\int_0^\infty(\kappa-\kappa^*)^2dt$ compares impulse responses, $\kappa(t) =
    v^Te^{(W-I)t}u$. With $W(0) = 0$ training never leaves the span of $u(0)$ and $v(0)$, two orthogonal unit vectors
    at infinite size: the same equations with a $2\times2$ matrix are exact. With $W(0) = gZ$ they hold on the span of
    all words of $Z$ and $Z^T$ applied to $u(0)$ and $v(0)$. There, at infinite size, $Z$ acts as the circular element
    $\ell_1 + \ell_2^*$ on words of two letters ($\ell_1$ puts a 1 in front, $\ell_2^*$ takes a 2 away), so that words
    of at most $k$ letters give a closed system of $2(2^{k+1}-1)$ dimensions with an error of order $g^{2k+2}$.

    The outliers of $W$, a real eigenvalue for the integrator, a complex pair for the oscillator, carry what is learned.

    **Arguments:**

    - `init_scale`: $g \ge 0$, the radius of the disc of eigenvalues of $W(0)$, whose entries have variance $g^2/N$.
    - `recurrent_only`: whether only $W$ trains, and $u$, $v$ stay as drawn.

    Size is the number of units $N$. The mean over networks has a bias of order 1/N, single networks fluctuate by
    $1/\sqrt N$ (lengths and overlap of $u$ and $v$).

    ??? cite "Source"
        Dynamics of learning to integrate in linear recurrent neural networks, arXiv 2503.18754.
    """

    size_name: ClassVar[str] = "units"

    init_scale: Any
    recurrent_only: bool = eqx.field(static=True)

    def __init__(self, init_scale=0.0, recurrent_only: bool = False):
        self.init_scale = checks.number("init_scale", init_scale, low=0.0)
        self.recurrent_only = checks.flag("recurrent_only", recurrent_only)

    def solve(
        self,
        task,
        protocol,
        *,
        key=None,
        order: int | None = None,
        precision: str = "double",
        memory_limit=None,
        throw: bool = True,
    ) -> Trajectory:
        r"""The learning curve and the outliers at infinite size.

        **Arguments:**

        - `task`: `integrator` or `oscillator`.
        - `protocol`: `GradientDescent`.
        - `key`: not used; nothing is random.
        - `order`: number of letters $k$ of the longest word of $Z$ and $Z^T$, at most 6; by default 0 (exact) for
          `init_scale=0`, else 4. Cost grows as $4^k$ to $8^k$.
        - `precision`: `"double"` or `"single"`.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `test_loss` `[steps + 1]`, the loss over white-noise inputs (`"half_mean_square"`), and in
        `extras` `eigenvalue_real` and `eigenvalue_imag` `[steps + 1, 2]`: the two eigenvalues of $W$ of largest
        modulus, the larger real part first, of a complex pair the positive imaginary part first. Eigenvalues of modulus
        below `init_scale` are inside the disc and no outliers. At order 0 they are differentiable away from a
        collision; at higher orders they are NaN inside a transformation.

        **Raises:** `DivergedError` with the step at which an eigenvalue of $W$ reaches 1 (or is so close to it, or
        so far from it, that the response is not resolved; from there the loss is infinite).
        """
        checks.instance("task", task, ImpulseResponse, "integrator or oscillator")
        checks.instance("protocol", protocol, GradientDescent, "GradientDescent for a LinearRNN")
        checks.choice("precision", precision, ("double", "single"))
        order = self._order(order)
        self.cost(task, protocol, order=order, precision=precision).check("LinearRNN.solve", memory_limit)
        with context(precision):
            solution = _solve(self.init_scale, task, protocol, self.recurrent_only, order, response_terms(task))
            loss, matrices, diverged, code = solution
            outliers = _outliers(matrices)
        loss, (real, imag), diverged, code = to_host((loss, outliers, diverged, code))
        trajectory = Trajectory(
            test_loss=loss,
            extras={"eigenvalue_real": real, "eigenvalue_imag": imag},
            status_code=code,
            diverged_step=diverged,
            attributes=(("precision", precision), ("order", order)),
        )
        if throw:
            check(trajectory)
        return trajectory

    def cost(self, task, protocol, *, order: int | None = None, precision: str = "double", **options) -> Cost:
        """With $n = 2(2^{k+1} - 1)$ words at order $k$: memory as steps times n², time as steps times n² times the
        Laguerre functions plus n. See `AbstractLimit.cost`."""
        order, steps, terms = self._order(order), protocol.steps, response_terms(task)
        words = 2 * (2 ** (order + 1) - 1)
        word = 8.0 if precision == "double" else 4.0
        return Cost(
            {"recurrent matrices": word * words * (words * (2 * steps + 12) + 8 * terms)},
            2.0 * (steps + 1) * words**2 * (8 * words + 6 * terms),
            {"recurrent matrices": "use fewer steps or a lower order"},
            f"steps={steps}, order={order}",
        )

    def _order(self, order) -> int:
        if order is None:
            scale = checks.concrete(self.init_scale)
            order = 0 if scale is not None and not np.any(scale) else 4
        return checks.integer("order", order, low=0, high=_HIGHEST_ORDER)

    def finite(self, task, *, size: int, key=None) -> Network:
        """One random network of `size` units."""
        checks.instance("task", task, ImpulseResponse, "integrator or oscillator")
        return Network.init(self, size, key)

    def ensemble(self, task, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent random networks of `size` units."""
        checks.instance("task", task, ImpulseResponse, "integrator or oscillator")
        return Network.ensemble(self, size, seeds, key)


def circular_element(order: int) -> np.ndarray:
    r"""$\ell_1 + \ell_2^*$ on the words of at most `order` letters, `[words, words]`; the empty word comes first."""
    words: list[tuple[int, ...]] = [()]
    for length in range(order):
        words += [(letter, *word) for word in words if len(word) == length for letter in (1, 2)]
    place = {word: i for i, word in enumerate(words)}
    matrix = np.zeros((len(words), len(words)))
    for word, i in place.items():
        if len(word) < order:
            matrix[place[(1, *word)], i] = 1.0
        if word[:1] == (2,):
            matrix[place[word[1:]], i] = 1.0
    return matrix


def initial_weights(init_scale, order: int) -> RecurrentWeights:
    """Weights of the closed system; the first half of the axes belongs to words on the source, the second half to
    those on the readout."""
    circular = circular_element(order)
    source, readout = np.zeros((2, 2 * len(circular)))
    source[0] = readout[len(circular)] = 1.0
    recurrent = init_scale * as_float(np.kron(np.eye(2), circular))
    return RecurrentWeights(recurrent, *as_float((source, readout)))


@eqx.filter_jit
def _solve(init_scale, task, protocol, recurrent_only: bool, order: int, terms: int):
    weights = initial_weights(as_float(init_scale), order)
    loss, matrices = train_closed(weights, task, protocol, recurrent_only, terms)
    diverged = first_divergence(loss).astype(jnp.int32)
    code = jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))
    return loss, matrices, diverged, code


def train_closed(weights: RecurrentWeights, task, protocol, recurrent_only: bool, terms: int):
    """Losses `[time]` and recurrent matrices `[time, dim, dim]` of training that starts at the given weights."""
    target = as_float((task.decay, task.frequency))
    schedule = as_float((protocol.learning_rate, protocol.momentum, protocol.weight_decay))

    def step(target, state, now):
        weights, velocity = state
        after, velocity, loss = training_step(weights, velocity, target, now, recurrent_only, terms)
        return (after, velocity), (loss, weights.recurrent)

    # one step more than there are, for the loss after the last
    schedule = tuple(jnp.append(values, values[-1]) for values in schedule)
    found: Any = reverse_scan(step, target, (weights, rest(weights, recurrent_only)), schedule)
    return found[1]


def _outliers(matrices):
    """Real and imaginary parts `[time, 2]` of the two largest eigenvalues, the larger real part first."""
    if matrices.shape[-1] > 2:
        known = checks.concrete(matrices)
        if known is None:
            return (jnp.full((matrices.shape[0], 2), jnp.nan, matrices.dtype),) * 2
        return two_largest_eigenvalues(known)
    a, b, c, d = (matrices[:, i, j] for i in (0, 1) for j in (0, 1))
    discriminant = (a - d) ** 2 / 4 + b * c
    # the square root of either sign, without its infinite slope where it is not taken
    real = jnp.where(discriminant > 0, jnp.sqrt(jnp.where(discriminant > 0, discriminant, 1.0)), 0.0)
    imag = jnp.where(discriminant < 0, jnp.sqrt(jnp.where(discriminant < 0, -discriminant, 1.0)), 0.0)
    mean = (a + d) / 2
    return jnp.stack([mean + real, mean - real], axis=-1), jnp.stack([imag, -imag], axis=-1)
