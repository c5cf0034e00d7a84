"""A scaling law of language models in the number of bits that they are trained and served with."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..solvers import as_float, double, in_precision, to_host

_NEWTON_STEPS = 64
_ANY = tuple(range(9))  # numbers of axes


class ComputeOptimum(NamedTuple):
    """The best use of a budget: `parameters`, `tokens`, `bits`, and the `loss` that they reach."""

    parameters: Any
    tokens: Any
    bits: Any
    loss: Any


class PrecisionLaw(eqx.Module):
    r"""The loss of a model of $N$ parameters trained on $D$ tokens with weights, activations and cache of $P_x$ bits,

    $$L = A N_\mathrm{eff}^{-\alpha} + B D^{-\beta} + E + \delta, \qquad
      N_\mathrm{eff} = N \prod_{x \in \{w, a, kv\}} \big(1 - e^{-P_x/\gamma_x}\big) ,$$

    where rounding the weights to $P_\mathrm{post}$ bits after training adds

    $$\delta = C_T \frac{D^{\gamma_D}}{N^{\gamma_N}} e^{-P_\mathrm{post}/\gamma_\mathrm{post}}
      \prod_x \big(1 - e^{-C_x (P_x - P_\mathrm{post})}\big) .$$

    A factor of the last product is zero for $P_x \le P_\mathrm{post}$, where there is nothing left to round, and one
    for parts trained without rounding, $P_x = \infty$.

    **All constants are the user's to set.** Fits of this law in circulation disagree with each other, and the optimal
    precision follows from them: about 3.5 bits with the defaults, against the 7 to 8 bits that the paper speaks of.
    The defaults are one such set, completed by $\beta = \alpha$ and $C_x = 1$, for which it has no numbers; they are
    there to draw pictures with, and none is endorsed.

    **Arguments:**

    - `parameter_scale`, `parameter_exponent`: $A$, $\alpha$.
    - `token_scale`, `token_exponent`: $B$, $\beta$.
    - `irreducible_loss`: $E$, at least 0.
    - `weight_bits_scale`, `activation_bits_scale`, `cache_bits_scale`: $\gamma_w$, $\gamma_a$, $\gamma_{kv}$.
    - `post_scale`, `post_token_exponent`, `post_parameter_exponent`, `post_bits_scale`: $C_T$, $\gamma_D$, $\gamma_N$,
      $\gamma_\mathrm{post}$.
    - `weight_gap_rate`, `activation_gap_rate`, `cache_gap_rate`: $C_w$, $C_a$, $C_{kv}$.

    Methods take numbers and arrays that broadcast, compute in float64, and may be differentiated and batched in all
    that they are given, constants included.

    !!! example

        ```python
        law = lx.PrecisionLaw(weight_bits_scale=3.0, activation_bits_scale=3.0, cache_bits_scale=3.0)
        law.best_precision()  # 5.712
        ```

    ??? cite "Source"
        Scaling Laws for Precision, arXiv 2411.04330.
    """

    parameter_scale: Any
    parameter_exponent: Any
    token_scale: Any
    token_exponent: Any
    irreducible_loss: Any
    weight_bits_scale: Any
    activation_bits_scale: Any
    cache_bits_scale: Any
    post_scale: Any
    post_token_exponent: Any
    post_parameter_exponent: Any
    post_bits_scale: Any
    weight_gap_rate: Any
    activation_gap_rate: Any
    cache_gap_rate: Any

    def __init__(
        self,
        parameter_scale=4.299e3,
        parameter_exponent=0.4965,
        token_scale=1.806e4,
        token_exponent=0.4965,
        irreducible_loss=2.7648,
        weight_bits_scale=2.6745,
        activation_bits_scale=2.2102,
        cache_bits_scale=0.9578,
        post_scale=0.0598,
        post_token_exponent=0.5068,
        post_parameter_exponent=0.3439,
        post_bits_scale=0.5907,
        weight_gap_rate=1.0,
        activation_gap_rate=1.0,
        cache_gap_rate=1.0,
    ):
        self.parameter_scale = checks.number("parameter_scale", parameter_scale, above=0.0)
        self.parameter_exponent = checks.number("parameter_exponent", parameter_exponent, above=0.0)
        self.token_scale = checks.number("token_scale", token_scale, above=0.0)
        self.token_exponent = checks.number("token_exponent", token_exponent, above=0.0)
        self.irreducible_loss = checks.number("irreducible_loss", irreducible_loss, low=0.0)
        self.weight_bits_scale = checks.number("weight_bits_scale", weight_bits_scale, above=0.0)
        self.activation_bits_scale = checks.number("activation_bits_scale", activation_bits_scale, above=0.0)
        self.cache_bits_scale = checks.number("cache_bits_scale", cache_bits_scale, above=0.0)
        self.post_scale = checks.number("post_scale", post_scale, above=0.0)
        self.post_token_exponent = checks.number("post_token_exponent", post_token_exponent, above=0.0)
        self.post_parameter_exponent = checks.number("post_parameter_exponent", post_parameter_exponent, low=0.0)
        self.post_bits_scale = checks.number("post_bits_scale", post_bits_scale, above=0.0)
        self.weight_gap_rate = checks.number("weight_gap_rate", weight_gap_rate, above=0.0)
        self.activation_gap_rate = checks.number("activation_gap_rate", activation_gap_rate, above=0.0)
        self.cache_gap_rate = checks.number("cache_gap_rate", cache_gap_rate, above=0.0)

    def loss(
        self,
        parameters,
        tokens,
        weight_bits: Any = np.inf,
        activation_bits: Any = np.inf,
        cache_bits: Any = np.inf,
        post_training_bits=None,
    ):
        r"""The loss $L$.

        **Arguments:**

        - `parameters`, `tokens`: $N$, $D$.
        - `weight_bits`, `activation_bits`, `cache_bits`: $P_w$, $P_a$, $P_{kv}$ in training; infinite: no rounding.
        - `post_training_bits`: $P_\mathrm{post}$; `None` for a model that is served as it was trained.
        """
        sizes = _positive(parameters=parameters, tokens=tokens)
        post = () if post_training_bits is None else _bits(post_training_bits=post_training_bits)
        trained = _bits(weight_bits=weight_bits, activation_bits=activation_bits, cache_bits=cache_bits)
        return _evaluate(_loss, self, *sizes, trained, *post)

    def effective_parameters(
        self, parameters, weight_bits: Any = np.inf, activation_bits: Any = np.inf, cache_bits: Any = np.inf
    ):
        r"""$N_\mathrm{eff}$: how many parameters without rounding are worth as much in training."""
        trained = _bits(weight_bits=weight_bits, activation_bits=activation_bits, cache_bits=cache_bits)
        return _evaluate(_effective_parameters, self, *_positive(parameters=parameters), trained)

    def best_precision(self):
        r"""The bits $P^*$, the same for all three parts, that are best at any cost $N D P$: the root of
        $\sum_x \frac{P/\gamma_x}{e^{P/\gamma_x} - 1} = 1$.

        A budget leaves $N_\mathrm{eff} D \propto \prod_x (1 - e^{-P/\gamma_x}) / P$, which is to be largest and knows
        nothing of the budget. Three equal $\gamma$ have $P^* = 1.904\,\gamma$.
        """
        return _evaluate(_best_precision, self)

    def compute_optimal(self, compute, bits=None) -> ComputeOptimum:
        r"""The best $N$, $D$ and $P$ at the cost $N D P$.

        **Arguments:**

        - `compute`: the cost, in parameters times tokens times bits.
        - `bits`: $P$ where it is given, so that only $N$ and $D$ are free; by default `best_precision()`.
        """
        fixed = () if bits is None else _positive(bits=bits)
        return _evaluate(_compute_optimal, self, *_positive(compute=compute), *fixed)

    def critical_tokens(
        self,
        parameters,
        post_training_bits,
        weight_bits: Any = np.inf,
        activation_bits: Any = np.inf,
        cache_bits: Any = np.inf,
    ):
        r"""The $D$ beyond which more training makes the rounded model worse,

        $$D = \Big[\frac{B \beta N^{\gamma_N} e^{P_\mathrm{post}/\gamma_\mathrm{post}}}{C_T \gamma_D
          \prod_x (1 - e^{-C_x (P_x - P_\mathrm{post})})}\Big]^{1/(\beta + \gamma_D)} ;$$

        infinite where nothing is left to round.
        """
        sizes, post = _positive(parameters=parameters), _bits(post_training_bits=post_training_bits)
        trained = _bits(weight_bits=weight_bits, activation_bits=activation_bits, cache_bits=cache_bits)
        return _evaluate(_critical_tokens, self, *sizes, *post, trained)


def _positive(**values) -> tuple[Any, ...]:
    return tuple(checks.array(name, value, ndim=_ANY, above=0.0) for name, value in values.items())


def _bits(**values) -> tuple[Any, ...]:
    return tuple(checks.array(name, value, ndim=_ANY, above=0.0, finite=False) for name, value in values.items())


def _evaluate(formula, *arguments):
    with double():
        run = in_precision(lambda floats, _: formula(*floats), "double")
        found = run(as_float(arguments), ())
    return to_host(found)


@eqx.filter_jit
def _loss(law: PrecisionLaw, parameters, tokens, trained, post=None):
    effective = _effective_parameters(law, parameters, trained)
    learned = law.parameter_scale * effective**-law.parameter_exponent + law.token_scale * tokens**-law.token_exponent
    if post is None:
        return learned + law.irreducible_loss
    sizes = tokens**law.post_token_exponent * parameters**-law.post_parameter_exponent
    rounded = law.post_scale * sizes * _remainder(post, law.post_bits_scale) * _unrounded(law, trained, post)
    return learned + law.irreducible_loss + rounded


@eqx.filter_jit
def _effective_parameters(law: PrecisionLaw, parameters, trained):
    scales = law.weight_bits_scale, law.activation_bits_scale, law.cache_bits_scale
    for bits, scale in zip(trained, scales, strict=True):
        parameters = parameters * _saturation(bits, scale)
    return parameters


@eqx.filter_jit
def _best_precision(law: PrecisionLaw):
    scales = jnp.stack([law.weight_bits_scale, law.activation_bits_scale, law.cache_bits_scale])
    fixed = jax.lax.stop_gradient(scales)

    def excess(bits, scales):
        x = bits / scales
        return jnp.sum(x * jnp.exp(-x) / -jnp.expm1(-x)) - 1

    # The sum falls and is convex, so that from below Newton's method climbs to the root and never passes it.
    def climb(bits, _):
        value, slope = jax.value_and_grad(excess)(bits, fixed)
        return bits - value / slope, None

    bits, _ = jax.lax.scan(climb, 1.9 * jnp.min(fixed), None, length=_NEWTON_STEPS)
    bits = jax.lax.stop_gradient(bits)
    # one step more has the derivative of the root
    return bits - (excess(bits, scales) - excess(bits, fixed)) / jax.grad(excess)(bits, fixed)


@eqx.filter_jit
def _compute_optimal(law: PrecisionLaw, compute, bits=None) -> ComputeOptimum:
    bits = _best_precision(law) if bits is None else bits
    share = _effective_parameters(law, jnp.ones_like(bits), (bits, bits, bits))
    alpha, beta = law.parameter_exponent, law.token_exponent
    balance = jnp.log(alpha * law.parameter_scale / (beta * law.token_scale)) - alpha * jnp.log(share)
    pairs = jnp.log(compute / bits)
    parameters = jnp.exp((balance + beta * pairs) / (alpha + beta))
    tokens = jnp.exp((alpha * pairs - balance) / (alpha + beta))
    loss = _loss(law, parameters, tokens, (bits, bits, bits))
    return ComputeOptimum(parameters, tokens, jnp.broadcast_to(bits, loss.shape), loss)


@eqx.filter_jit
def _critical_tokens(law: PrecisionLaw, parameters, post, trained):
    gain = law.token_scale * law.token_exponent * parameters**law.post_parameter_exponent
    harm = law.post_scale * law.post_token_exponent * _remainder(post, law.post_bits_scale)
    harm = harm * _unrounded(law, trained, post)
    harmless = harm == 0
    found = (gain / jnp.where(harmless, 1.0, harm)) ** (1 / (law.token_exponent + law.post_token_exponent))
    return jnp.where(harmless, jnp.inf, found)


def _unrounded(law: PrecisionLaw, trained, post):
    product = 1.0
    for bits, rate in zip(trained, (law.weight_gap_rate, law.activation_gap_rate, law.cache_gap_rate), strict=True):
        wider = bits > post
        gap = jnp.where(wider, bits - jnp.where(wider, post, 0.0), 1.0)
        product = product * jnp.where(wider, _saturation(gap, 1 / rate), 0.0)
    return product


def _saturation(bits, scale):
    """$1 - e^{-P/\\gamma}$; without bounds on $P$ its derivative needs care."""
    finite = jnp.isfinite(bits)
    return jnp.where(finite, -jnp.expm1(-jnp.where(finite, bits, 1.0) / scale), 1.0)


def _remainder(bits, scale):
    """$e^{-P/\\gamma}$."""
    finite = jnp.isfinite(bits)
    return jnp.where(finite, jnp.exp(-jnp.where(finite, bits, 1.0) / scale), 0.0)
