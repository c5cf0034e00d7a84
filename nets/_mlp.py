"""Multilayer perceptrons of finite width in the mean-field parameterisation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import Dataset, GradientDescent, MinibatchSGD, OnlineSGD, default_key
from ..problems import _checks as checks
from ..solvers import Checkpoints
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import check_batch, no_steps, whole_batch_size
from ._losses import check_targets, loss_name
from ._mlp_fields import fields, forward
from ._mlp_pieces import run_in_pieces
from ._mlp_run import run
from ._mlp_weights import (
    Fixed,
    MLPWeights,
    draw_one,
    draw_pairs,
    fixed_arrays,
    layer_scales,
    learning_rate_scale,
    scale_updates,
)
from .rules import Hebb, is_trained_by_gradient


class MLP(AbstractNet):
    r"""A perceptron of finite width $N$, every entry of its weights of order one.

    $$h^1 = \frac{W^0 x}{\sqrt D} + b^1, \quad h^{l+1} = \frac{W^l\phi(h^l)}{\sqrt N} + b^{l+1}, \quad
      f = \frac{w\cdot\phi(h^L)}{\gamma_0 N}.$$

    A raw step of $\eta r_l\gamma_0^2 N$ on layer $l$ (`learning_rate_scale` times the learning rate, times the layer's
    `rate_scale`) makes features move by an amount of order $\gamma_0$ at any width. Several outputs are rows of $w$.

    **Fields:** `weights`, all that trains; `fixed`, the random arrays of the design's learning rule, which never do, or
    `None`.

    ??? cite "Source"
        Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural Networks, arXiv 2205.09653.
        The Influence of Learning Rule on Representation Dynamics in Wide Neural Networks, arXiv 2210.02157.
    """

    weights: MLPWeights
    frozen: Frozen = eqx.field(static=True)
    fixed: Fixed | None

    @classmethod
    def init(cls, design, dim: int, width: int, key=None, *, outputs: int | None = None) -> "MLP":
        r"""Random weights: $W^l_{ij} \sim N(0, s_l^2)$, $b^l_i \sim N(0, \sigma_b^2)$ with the scales of `design`.

        `outputs`: for targets `[samples, outputs]`; `None` for one output without an axis of its own.
        """
        outputs = _check_finite(design, dim, width, outputs)
        weights, fixed = draw_one(design, design.has_biases, dim, width, outputs, default_key(key))
        return cls(weights, Frozen(design), fixed)

    @classmethod
    def pairs(cls, design, dim: int, width: int, seeds: int, key=None, *, outputs: int | None = None) -> Ensemble:
        """`seeds` pairs of networks that differ in the sign of the readout, and of what it sends back in rules with
        feedback of their own."""
        outputs = _check_finite(design, dim, width, outputs)
        seeds = checks.integer("seeds", seeds)
        weights, fixed = draw_pairs(design, design.has_biases, dim, width, outputs, default_key(key), seeds)
        return Ensemble(cls(weights, Frozen(design), fixed), paired=True)

    @property
    def width(self) -> int:
        """Number of units in each hidden layer."""
        return self.weights.readout.shape[-1]

    @property
    def learning_rate_scale(self):
        """Raw step over learning rate, richness squared times width, before the layers' `rate_scale`."""
        return learning_rate_scale(self.design, self.width)

    @property
    def layer_scales(self) -> tuple[dict[str, Any], ...]:
        r"""For standard layers, whose weights contain the factor $a_l$ by which the forward pass multiplies $W^l$, the
        readout last: what the protocol's `learning_rate` and `weight_decay` are multiplied with.

        $$\eta_l = \eta\, r_l\gamma_0^2 N a_l^2, \qquad \lambda_l = \lambda / (\gamma_0^2 N a_l^2)$$

        for its `kernel`, and the same with $a = 1$ for its `bias` (`None` without).
        """
        return layer_scales(self.design, self.weights.hidden[0].shape[-1], self.width)

    def scale_updates(self, updates):
        """Updates of every layer times its `rate_scale`; shaped like the network or like its weights."""
        if isinstance(updates, MLP):
            return eqx.tree_at(lambda net: net.weights, updates, scale_updates(self.design, updates.weights))
        return scale_updates(self.design, updates)

    def __call__(self, x):
        """The output for one input `[dim]`: a scalar, or `[outputs]`."""
        fan_in = self.weights.hidden[0].shape[-1]
        if jnp.shape(x) != (fan_in,):
            raise ValueError(
                f"x must have shape [{fan_in}], one input (jax.vmap takes many); its shape is {jnp.shape(x)}."
            )
        fixed = fixed_arrays(self.fixed, self.weights.readout.dtype)
        return forward(self.weights, self.design, jnp.asarray(x)[None, :], fixed)[0]

    def learn(
        self,
        weights,
        task,
        protocol,
        *,
        key,
        steps,
        saved: Checkpoints | None = None,
        kernels: bool = False,
        singular_values: bool = False,
        ntk: bool = False,
        alignment: bool = False,
        sharpness: bool = False,
        densities: bool = False,
    ):
        r"""See `nets.train`. What is recorded is the mean of the two networks in pairs, and otherwise than the kernels
        goes to `extras`.

        - `kernels`: Phi and G of every layer on training samples, `[time, time, sample, sample]`. G is that of the
          pseudo-gradients $\tilde g^l$ which the rule teaches with: $\gamma_0 N\,\partial f/\partial h^l$ in
          backpropagation, $\Delta\phi(h^l)$ for `Hebb`. With several outputs it is that of
          $\sum_k\Delta_k\tilde g^l_k$, and depends on the targets.
        - `singular_values`: those of $W^l/\sqrt N$, l = 1..depth-1, in decreasing order, as `singular_values_l`
          `[time, width]`.
        - `ntk`: the tangent kernel by which the rule moves the output, $df/d\tau = K\Delta/P$, as `ntk`
          `[time, sample, sample]`: with gradient fields $g$ and layer rates $r$

          $$K_{\mu\nu} = \sum_{l<L} r_l\langle g^{l+1}_\mu\tilde g^{l+1}_\nu\rangle(\Phi^l_{\mu\nu} + 1_{\rm biases})
            + r_L\Phi^L_{\mu\nu}.$$

        - `alignment`: $y^TKy/(|y|^2|K|_F)$ of its symmetric part as `alignment` `[time]`, and the same of
          $\Phi^l$, for several outputs of $\Phi^l\otimes 1$, as `alignment_l`.
        - `sharpness`: the largest Gauss-Newton eigenvalue of the half mean square, that of $K/P$, as `sharpness`
          `[time]`; for rules that follow a gradient.
        - `densities`: the density of preactivations $h^l$ over units and training samples as `density_l`
          `[time, bins]`, on 60 equal bins from -6 to 6; what lies outside is not shown.

        Of several outputs the tangent kernel is `[time, samples, outputs, samples, outputs]`.
        """
        asked = {
            "kernels": kernels,
            "singular_values": singular_values,
            "ntk": ntk,
            "alignment": alignment,
            "sharpness": sharpness,
            "densities": densities,
        }
        recorded = tuple(name for name, value in asked.items() if checks.flag(name, value))
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays) for a nets.MLP")
        self._check_targets(task)
        self._check_record(recorded, task)
        steps = _check_protocol(protocol, steps, task)
        fan_in = weights.hidden[0].shape[-1]
        if fan_in != task.dim:
            raise ValueError(f"task must have the network's {fan_in} input dimensions; it has {task.dim}.")
        # the axes that a single network's weights were given on the way here
        added = ((), (1,), (0, 1))[weights.readout.ndim - self.weights.readout.ndim]
        fixed = jax.tree.map(lambda a: jnp.expand_dims(a, added), self.fixed)
        keys = jax.random.split(key, weights.readout.shape[0])
        largest = whole_batch_size(protocol) if isinstance(protocol, MinibatchSGD) else 0
        problem = self.design, task, protocol, steps, recorded, largest
        if saved is None:
            final, record = run(weights, fixed, keys, *problem)
        else:
            final, record = run_in_pieces(weights, fixed, keys, saved, *problem)
        static = {"loss_convention": loss_name(self.design.loss), "attributes": (("size", self.width),)}
        return final, record | static

    def fields(self, x, y=None):
        """For inputs `[samples, dim]`: the activations of every layer and the fields that teach it, whose averages are
        the kernels of `learn`, each `[samples, width]`. Targets `y` are for those that depend on them: several
        outputs, and `Hebb`."""
        if y is None and ((self._outputs or 1) > 1 or isinstance(self.design.rule, Hebb)):
            raise ValueError("y is needed for what teaches several outputs, or by the rule Hebb; none was given.")
        return fields(self.weights, self.design, x, fixed_arrays(self.fixed, self.weights.readout.dtype), y)

    @property
    def _outputs(self) -> int | None:
        """Number of outputs, `None` for one without an axis; of one network, or of the members of an ensemble."""
        w = self.weights
        alone = w.readout.ndim - w.hidden[0].ndim + 1
        return None if alone == 0 else w.readout.shape[-2]

    def _check_targets(self, task):
        outputs, shape = self._outputs, task.y.shape
        if outputs is None and len(shape) != 1:
            raise ValueError(f"y must have shape [samples] for a network with one output; its shape is {shape}.")
        if outputs is not None and shape[1:] != (outputs,):
            raise ValueError(
                f"y must have shape [samples, {outputs}] for a network with {outputs} outputs; its shape is {shape}."
            )
        check_targets(self.design.loss, task.y)

    def _check_record(self, recorded, task):
        if "sharpness" in recorded:
            if not is_trained_by_gradient(self.design.rule):
                raise TypeError(
                    "sharpness is recorded of rules that follow a gradient, Backpropagation and GatedLinear; "
                    f"this rule is {type(self.design.rule).__name__}."
                )
            if self.design.loss != "half_mean_square":
                loss = loss_name(self.design.loss)
                raise ValueError(f'sharpness is recorded of the loss "half_mean_square"; this one is "{loss}".')


def _check_finite(design, dim, width, outputs):
    checks.integer("dim", dim)
    checks.integer("size", width)
    richness = checks.concrete(design.richness)
    if richness is not None and richness == 0:
        raise ValueError(
            "richness must be above 0 for a finite network: its output carries 1/richness; it is 0. "
            "A small value such as 0.01 with an ensemble of pairs is the lazy limit's network."
        )
    outputs = None if outputs is None else checks.integer("outputs", outputs)
    if isinstance(design.rule, Hebb) and outputs is not None and outputs > 1:
        raise ValueError(f"the rule Hebb is for one output; this network would have {outputs}.")
    return outputs


def _check_protocol(protocol, steps, task):
    """The number of steps; optax transformations pass as they are."""
    if isinstance(protocol, (GradientDescent, MinibatchSGD)):
        no_steps(steps)
        if isinstance(protocol, MinibatchSGD):
            whole_batch_size(protocol)
            check_batch(protocol, task.y.shape[0])
        return protocol.steps
    if isinstance(protocol, OnlineSGD):
        raise TypeError("protocol OnlineSGD draws fresh samples, which a fixed data set cannot give; use MinibatchSGD.")
    if hasattr(protocol, "init") and hasattr(protocol, "update"):
        if steps is None:
            raise ValueError("steps is needed with an optax optimiser.")
        return checks.integer("steps", steps)
    raise TypeError(
        "protocol must be GradientDescent, MinibatchSGD or an optax.GradientTransformation; "
        f"{type(protocol).__name__} was given."
    )
