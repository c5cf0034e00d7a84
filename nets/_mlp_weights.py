"""What a perceptron is made of: weights that train, and random arrays of its learning rule that never do."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..solvers import shard
from .rules import DirectFeedbackAlignment, FeedbackAlignment, GatedLinear


class MLPWeights(eqx.Module):
    """All that trains: `hidden[l]` `[fan_out, fan_in]` for l = 0..depth-1, `readout` `[width]` or `[outputs, width]`,
    and `biases[l]` `[width]` (`None` without biases); entries of order one."""

    hidden: tuple[Any, ...]
    readout: Any
    biases: tuple[Any, ...] | None


def spread_width(weights: MLPWeights) -> MLPWeights:
    """Weights of any leading axes with the units of every layer spread over the devices of the axis `"width"`."""
    biases = shard(weights.biases, "width", -1)
    return MLPWeights(shard(weights.hidden, "width", -2), shard(weights.readout, "width", -1), biases)


class Fixed(eqx.Module):
    r"""Random arrays of a learning rule, one for each layer l = 1..depth, held as whole numbers of the same bits: loops
    that train, or decay, whatever floats in a network leave them alone.

    - `FeedbackAlignment`: $F^l$ `[width, width]`, and last the readout's, shaped like the readout.
    - `DirectFeedbackAlignment`: $\tilde z^l$, shaped like the readout.
    - `GatedLinear`: $V^l$ `[width, dim]`, of order one.
    """

    words: tuple[Any, ...]
    dtype: str = eqx.field(static=True)

    @classmethod
    def of(cls, arrays) -> "Fixed":
        """Holds `arrays` of one float type."""
        return cls(tuple(jax.lax.bitcast_convert_type(a, jnp.uint32) for a in arrays), arrays[0].dtype.name)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays as floats."""
        # a network of doubles may be looked at outside of the context in which it was made
        with jax.enable_x64(self.dtype == "float64"):
            return tuple(jax.lax.bitcast_convert_type(w, jnp.dtype(self.dtype)) for w in self.words)


def fixed_arrays(fixed: Fixed | None, dtype) -> tuple[Any, ...]:
    """The arrays of a rule in the weights' float type; empty for a rule that has none."""
    return () if fixed is None else tuple(a.astype(dtype) for a in fixed.arrays)


def learning_rate_scale(design, width: int):
    """Richness squared times width."""
    return design.richness**2 * width


def forward_factors(design, dim: int, width: int) -> tuple[float, ...]:
    r"""What multiplies the weights of every layer in the forward pass, the readout last: $1/\sqrt D$, $1/\sqrt N$ and
    $1/(\gamma_0 N)$. Biases have none."""
    return (dim**-0.5, *[width**-0.5] * (design.depth - 1), 1 / (float(design.richness) * width))


def layer_scales(design, dim: int, width: int) -> tuple[dict[str, Any], ...]:
    """The `layer_scales` of a network."""
    scale = float(learning_rate_scale(design, width))
    rates = np.broadcast_to(np.asarray(design.rate_scale, float), (design.depth + 1,)).tolist()

    def entry(rate, factor):
        # a weight that contains its factor moves by the factor once more, and so does its gradient
        return {"learning_rate": rate * scale * factor**2, "weight_decay": 1 / (scale * factor**2)}

    layers = []
    for l, factor in enumerate(forward_factors(design, dim, width)):
        biased = design.has_biases and l < design.depth
        layers.append({"kernel": entry(rates[l], factor), "bias": entry(rates[l], 1.0) if biased else None})
    return tuple(layers)


def scale_updates(design, updates: MLPWeights) -> MLPWeights:
    """Updates times the `rate_scale` of their layer; biases go with the weights that come before them."""
    rates = jnp.broadcast_to(jnp.asarray(design.rate_scale, float), (design.depth + 1,))

    def scaled(values):
        return tuple((rate * value).astype(value.dtype) for rate, value in zip(rates, values, strict=True))

    *hidden, readout = scaled((*updates.hidden, updates.readout))
    biases = None if updates.biases is None else scaled((*updates.biases, updates.readout))[:-1]
    return MLPWeights(tuple(hidden), readout, biases)


@eqx.filter_jit
def draw_one(design, biased: bool, dim: int, width: int, outputs: int | None, key):
    """The weights and the fixed arrays of one network."""
    weights, fixed = _draw(design, biased, dim, width, outputs, key)
    return spread_width(weights), _held(fixed)


@eqx.filter_jit
def draw_pairs(design, biased: bool, dim: int, width: int, outputs: int | None, key, seeds: int):
    """Those of `seeds` pairs, axes `[seeds, 2]`, in which the readout and what it sends back differ in sign."""

    def pair(key):
        weights, fixed = _draw(design, biased, dim, width, outputs, key)
        other = eqx.tree_at(lambda w: w.readout, weights, -weights.readout)
        flipped = fixed
        if isinstance(design.rule, FeedbackAlignment):
            flipped = (*fixed[:-1], -fixed[-1])
        elif isinstance(design.rule, DirectFeedbackAlignment):
            flipped = tuple(-a for a in fixed)
        return jax.tree.map(lambda a, b: jnp.stack([a, b]), (weights, _held(fixed)), (other, _held(flipped)))

    weights, fixed = jax.vmap(pair)(shard(jax.random.split(key, seeds), "seeds"))
    return spread_width(weights), fixed


def _held(fixed) -> Fixed | None:
    return Fixed.of(fixed) if fixed else None


def _draw(design, biased: bool, dim: int, width: int, outputs: int | None, key):
    depth, rule = design.depth, design.rule
    readout = (width,) if outputs is None else (outputs, width)
    shapes = [(width, dim)] + [(width, width)] * (depth - 1) + [readout] + [(width,)] * (depth if biased else 0)
    scales = [jnp.broadcast_to(jnp.asarray(design.init_scale, float), (depth + 1,))]
    scales += [jnp.broadcast_to(jnp.asarray(design.bias_scale, float), (depth,))] * biased
    trained = len(shapes)
    if isinstance(rule, FeedbackAlignment):
        shapes += shapes[1 : depth + 1]
    elif isinstance(rule, DirectFeedbackAlignment):
        shapes += [readout] * depth
    elif isinstance(rule, GatedLinear):
        shapes += [(width, dim)] * depth
    # One call for all: every call of the generator costs a second of compilation. What the rule needs comes last, so
    # that networks of different rules begin with the same weights.
    sizes = [math.prod(shape) for shape in shapes]
    drawn = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    normal = [z.reshape(shape) for z, shape in zip(drawn, shapes, strict=True)]
    scale = jnp.concatenate(scales)
    scaled = [s * z for s, z in zip(scale, normal[:trained], strict=True)]
    hidden, biases, fixed = scaled[:depth], scaled[depth + 1 :], tuple(normal[trained:])
    if isinstance(rule, FeedbackAlignment):
        rho = jnp.asarray(rule.correlation, float)
        rest = jnp.sqrt(1 - rho**2)
        forward = scaled[1 : depth + 1]
        fixed = tuple(rho * w + rest * s * z for w, s, z in zip(forward, scale[1 : depth + 1], fixed, strict=True))
    return MLPWeights(tuple(hidden), scaled[depth], tuple(biases) if biased else None), fixed
