"""Perceptrons as flax modules of standard layers and back, and the optimiser that trains them alike."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..problems import schedules
from ._activations import activation_function
from ._base import Frozen
from ._mlp import MLP
from ._mlp_weights import MLPWeights, forward_factors
from .rules import Backpropagation, GatedLinear, Hebb


def to_flax(net: MLP) -> Any:
    r"""The network as a `flax.nnx.Sequential` of `nnx.Linear` layers with the activation between them.

    Its kernels are the effective weights, `[fan_in, fan_out]`: $W^{lT}/\sqrt{\rm fan\ in}$, and for the readout
    $w^T/(\gamma_0 N)$; biases are as they were, and the readout has none. It maps `[..., dim]` to `[..., outputs]`,
    where a scalar output becomes an axis of length one. Outputs agree to rounding.

    **Arguments:**

    - `net`: one `nets.MLP`, of any learning rule but `GatedLinear`. The module has the forward pass only: a loop that
      follows its gradient is backpropagation, whatever the rule was.

    **Raises:** `TypeError` for anything else.
    """
    from flax import nnx

    _check_one(net)
    if isinstance(net.design.rule, GatedLinear):
        raise TypeError("net must be a perceptron of standard layers; the gates of the rule GatedLinear are none.")
    weights, phi = net.weights, activation_function(net.design.activation)
    dtype = weights.readout.dtype
    layers = []
    # a network of doubles may be looked at outside of the context in which it was made
    with jax.enable_x64(dtype == jnp.float64):
        for l, (kernel, factor) in enumerate(zip(_matrices(weights), _factors(net), strict=True)):
            biased = weights.biases is not None and l < net.design.depth
            kernel = jnp.asarray(factor * np.asarray(kernel, np.float64).T, dtype)
            bias = jnp.asarray(weights.biases[l]) if weights.biases is not None and biased else None
            layer = nnx.Linear(
                *kernel.shape,
                use_bias=biased,
                param_dtype=dtype,
                kernel_init=lambda *_, value=kernel: value,
                bias_init=lambda *_, value=bias: value,
                rngs=nnx.Rngs(0),
            )
            layers += [layer, phi]
        return nnx.Sequential(*layers[:-1])


def from_flax(module, design) -> MLP:
    """The `nets.MLP` that computes what a flax module does; the inverse of `to_flax`.

    The weights are the module's, whatever they are; the limit of `design` describes them if they were drawn by its
    scales. A module with one output gives a network whose output is a scalar, for targets `[samples]`.

    **Arguments:**

    - `module`: a `flax.nnx.Sequential`, or any `nnx.Module` with a sequence `layers`, that has the parameters of
      `depth + 1` layers `nnx.Linear` and no others; hidden layers of one width, the last without a bias.
    - `design`: the `limits.MLP` whose depth, activation, richness, biases and rates apply. Its learning rule must be
      one without frozen arrays of its own, `Backpropagation` or `Hebb`.

    **Raises:** `TypeError` for other modules and rules; `ValueError` for shapes that do not fit the design, and if the
    module computes something else, for instance with another activation.
    """
    from flax import nnx

    if not all(hasattr(design, name) for name in ("depth", "activation", "richness", "rule", "has_biases")):
        raise TypeError(f"design must be a limits.MLP; {checks.shown(design)} was given.")
    if not isinstance(design.rule, (Backpropagation, Hebb)):
        raise TypeError(
            "design must have the rule Backpropagation or Hebb: a flax module has none of the frozen arrays of "
            f"{type(design.rule).__name__}."
        )
    if not float(design.richness) > 0:
        raise ValueError("richness must be above 0 for a finite network: its output carries 1/richness; it is 0.")
    layers = getattr(module, "layers", None)
    if not isinstance(module, nnx.Module) or not isinstance(layers, Sequence):
        raise TypeError(
            f"module must be a flax.nnx.Sequential, or an nnx.Module with a sequence layers; "
            f"{type(module).__name__} was given."
        )
    linear = [layer for layer in layers if isinstance(layer, nnx.Linear)]
    _check_layers(linear, design, len(jax.tree.leaves(nnx.state(module, nnx.Param))))
    dim, width = linear[0].in_features, linear[0].out_features
    dtype = linear[-1].kernel[...].dtype
    with jax.enable_x64(dtype == jnp.float64):
        *hidden, readout = [
            jnp.asarray(np.asarray(layer.kernel[...], np.float64).T / factor, dtype)
            for layer, factor in zip(linear, forward_factors(design, dim, width), strict=True)
        ]
        biases = tuple(jnp.asarray(layer.bias[...], dtype) for layer in linear[:-1] if layer.bias is not None)
        readout = readout[0] if readout.shape[0] == 1 else readout
        net = MLP(MLPWeights(tuple(hidden), readout, biases or None), Frozen(design), None)
        _check_same(nnx.clone(module), net)
    return net


def flax_optimiser(protocol, net: MLP) -> Any:
    r"""The protocol as an optax transformation for `to_flax(net)`: trains the module as `nets.train` trains `net`.

    A kernel $\theta = aW$ contains the factor $a$ of the forward pass, so that its gradient is $1/a$ of that of $W$ and
    its steps are $a$ times as long:

    $$\theta \leftarrow \theta - \eta\,(r_l\gamma_0^2 N a^2)\, v, \qquad
      v \leftarrow \beta v + \nabla_\theta\mathcal{L} + \frac{\lambda}{\gamma_0^2 N a^2}\theta,$$

    with the factors in brackets given by `net.layer_scales`. The same loss is needed, which for the default is
    `0.5 * jnp.mean(jnp.sum((y - module(x)) ** 2, -1))` with `y` `[samples, outputs]`.

    **Arguments:**

    - `protocol`: `GradientDescent`, `MinibatchSGD` or `OnlineSGD`.
    - `net`: the network that the module came from, or any of the same design, width and input dimension; its rule must
      be `Backpropagation`.

    **Returns:** an `optax.GradientTransformation` for `nnx.Optimizer(module, ..., wrt=nnx.Param)`, or for the tree of
    `nnx.split`.

    **Raises:** `TypeError` for other protocols, networks and rules; when used, `ValueError` for parameters that are
    not those of such a module.
    """
    _check_one(net)
    if not isinstance(net.design.rule, Backpropagation):
        raise TypeError(
            f"net must learn by Backpropagation, as a flax module does; its rule is {type(net.design.rule).__name__}."
        )
    shapes, factors = tuple(m.shape[::-1] for m in _matrices(net.weights)), _factors(net)
    bare = schedules.to_optax(protocol)
    raw = schedules.transformation(protocol, float(net.learning_rate_scale))
    rates = np.broadcast_to(np.asarray(net.design.rate_scale, float), len(factors)).tolist()

    def init(params):
        _places(params, shapes)
        return raw.init(params)

    def update(updates, state, params=None):
        # in the network's own weights, where the protocol is the same for all layers
        places = _places(updates, shapes)
        a = [factors[layer] if kernel else 1.0 for layer, kernel in places]
        gradient = _scaled(a, updates)
        params = None if params is None else _scaled([1 / factor for factor in a], params)
        steps, state = raw.update(gradient, state, params)
        return _scaled([rates[layer] * factor for (layer, _), factor in zip(places, a, strict=True)], steps), state

    return type(bare)(init, update)


def _scaled(factors: list[float], tree):
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [factor * leaf for factor, leaf in zip(factors, leaves, strict=True)])


def _places(tree, shapes) -> list[tuple[int, bool]]:
    """For every leaf of a tree like a module's parameters: its layer, and whether it is the kernel."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", None))) for key in path]
        start = names.index("layers") + 1 if "layers" in names else len(names)
        index, kind = [*names[start : start + 2], None, None][:2]
        if not isinstance(index, int) or kind not in ("kernel", "bias"):
            raise ValueError(
                f"parameter {jax.tree_util.keystr(path)} is not a kernel or a bias in layers, as those of "
                "nets.to_flax are."
            )
        found.append((index, kind, leaf.shape))
    order = sorted({index for index, _, _ in found})
    kernels = tuple(shape for _, kind, shape in sorted(found) if kind == "kernel")
    if kernels != shapes:
        raise ValueError(
            f"the kernels must have the shapes {_shown(shapes)} of the network; they have {_shown(kernels)}."
        )
    return [(order.index(index), kind == "kernel") for index, kind, _ in found]


def _shown(shapes) -> str:
    return ", ".join(str(shape) for shape in shapes) or "none"


def _check_one(net) -> None:
    checks.instance("net", net, MLP, "a nets.MLP (of an ensemble, one member: ensemble.member(seed))")
    if net.weights.hidden[0].ndim != 2:
        raise TypeError("net must be one network; these weights are stacked, take one by ensemble.member(seed).")


def _check_layers(linear, design, parameters: int) -> None:
    if len(linear) != design.depth + 1:
        raise ValueError(
            f"module must have {design.depth + 1} layers nnx.Linear for a design of depth {design.depth}; "
            f"it has {len(linear)}."
        )
    width = linear[0].out_features
    for l, layer in enumerate(linear):
        if (l > 0 and layer.in_features != width) or (l < design.depth and layer.out_features != width):
            raise ValueError(
                f"module must have hidden layers of one width, {width} as the first; "
                f"layer {l} is {layer.in_features} to {layer.out_features}."
            )
        biased = design.has_biases and l < design.depth
        if (layer.bias is not None) != biased:
            why = "the readout has none" if l == design.depth else f"bias_scale is {float(design.bias_scale):g}"
            raise ValueError(
                f"layer {l} must have use_bias={biased} to fit the design, where {why}; it has use_bias={not biased}."
            )
    own = len(linear) + design.depth * design.has_biases
    if parameters != own:
        raise ValueError(f"module must have the {own} parameters of its linear layers only; it has {parameters}.")


def _check_same(module, net: MLP) -> None:
    """Compares outputs at a few inputs; the readout is replaced on both sides, since one of zeros would hide all."""
    dim, width, rng = net.weights.hidden[0].shape[-1], net.width, np.random.default_rng(0)
    readout = rng.standard_normal(net.weights.readout.shape)
    dtype = net.weights.readout.dtype
    factor = forward_factors(net.design, dim, width)[-1]
    last = [layer for layer in module.layers if hasattr(layer, "kernel")][-1]
    last.kernel[...] = jnp.asarray(factor * readout.reshape(-1, width).T, dtype)
    net = eqx.tree_at(lambda n: n.weights.readout, net, jnp.asarray(readout, dtype))
    x = jnp.asarray(rng.standard_normal((8, dim)), dtype)
    with jax.default_matmul_precision("highest"):
        theirs, ours = np.asarray(module(x)), np.asarray(eqx.filter_jit(jax.vmap(net))(x))
    ours = ours.reshape(8, -1)
    if theirs.shape != ours.shape:
        raise ValueError(f"module must map {x.shape} to {ours.shape}; it gives {theirs.shape}.")
    apart, size = float(np.linalg.norm(theirs - ours)), float(np.linalg.norm(ours))
    # wide enough for single precision, and too narrow for the tanh in place of erf in some gelus
    if not apart <= 3e-5 * size:
        raise ValueError(
            f"module must compute what a nets.MLP of this design does; at random inputs it is off by "
            f"{apart / max(size, 1e-300):.1e} of the output. Is {net.design.activation} its activation, after every "
            "layer but the last?"
        )


def _matrices(weights: MLPWeights) -> list[Any]:
    """All matrices `[fan_out, fan_in]`, the readout last, also where it is a vector."""
    return [*weights.hidden, weights.readout.reshape(-1, weights.readout.shape[-1])]


def _factors(net: MLP) -> tuple[float, ...]:
    return forward_factors(net.design, net.weights.hidden[0].shape[-1], net.width)
