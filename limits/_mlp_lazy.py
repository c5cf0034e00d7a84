"""The lazy limit of wide perceptrons, and the kernels that it has, without sampling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nets._activations import activation_function
from ..nets.rules import DirectFeedbackAlignment, FeedbackAlignment, GatedLinear, Hebb
from ..problems import CONVERGED, DIVERGED, first_divergence
from ..problems import _checks as checks
from ..solvers import (
    HIGHEST,
    LazyKernels,
    MarchInputs,
    as_float,
    context,
    descend,
    has_closed_form,
    in_precision,
    kernel_alignment,
    lazy_kernels,
    pair_averages,
    to_host,
)
from ._memory import Cost
from ._mlp_solution import Solution, between_outputs, diagnose, means

# The share that the series of an activation may leave in its upper half: what is dropped is far smaller.
_RESOLVED = 1e-8


def by_layer(limit, value):
    """One number for every layer."""
    return jnp.broadcast_to(jnp.asarray(value), (limit.depth + 1,))


def shares(limit) -> Float[Array, " depth+1"]:
    r"""$\langle g\tilde g\rangle/\langle gg\rangle$ at the start: how much of its gradient teaches a layer."""
    layers = jnp.arange(limit.depth + 1)
    if isinstance(limit.rule, FeedbackAlignment):
        return limit.rule.correlation ** (limit.depth - layers)
    if isinstance(limit.rule, (DirectFeedbackAlignment, Hebb)):
        return jnp.where(layers == limit.depth, 1.0, 0.0)
    return jnp.ones(limit.depth + 1)


def static(limit) -> dict[str, Any]:
    """What decides how kernels are computed."""
    averages = pair_averages(limit.activation, activation_function(limit.activation))
    return {"averages": averages, "biased": limit.has_biases, "gated": isinstance(limit.rule, GatedLinear)}


def kernels_of_the_start(limit, x, z) -> LazyKernels:
    """See `MLP.lazy_kernels`."""
    x, z = checks.array("x", x, ndim=(2,), place="sample"), checks.array("z", z, ndim=(2,), place="sample")
    if x.shape[1] != z.shape[1]:
        raise ValueError(f"x and z must have inputs of one dimension; the shapes are {x.shape} and {z.shape}.")
    how = static(limit)

    def run(floats, _):
        limit, x, z = floats
        taught = by_layer(limit, limit.rate_scale) * shares(limit)
        return lazy_kernels(x, z, by_layer(limit, limit.init_scale), limit.bias_scale, taught, **how)

    with context("double"):
        found = in_precision(run, "double")(as_float((limit, x, z)), None)
    return to_host(found)


def is_resolved(limit, x) -> bool:
    """Whether averages over Gaussians are exact to rounding; where scales are unknown, named activations are."""
    if has_closed_form(limit.activation):
        return True
    truncation = checks.concrete(kernels_of_the_start(limit, x[:1], x).truncation)
    return isinstance(limit.activation, str) if truncation is None else bool(truncation < _RESOLVED)


def lazy_cost(task, steps: int, depth: int, outputs: int, replicas: int, keep: str | None) -> Cost:
    """Of descent with a static kernel; see `Cost`."""
    P, T, rows = len(task.x), steps + 1, len(task.x) + (len(task.x_test) if task.has_test else 0)
    pairs = {"all": T * T * P * P, "diagonal": T * P * P}.get(keep or "", 0)
    needs = {
        "kernels": 8.0 * (2 * depth * pairs + (T * (P * outputs) ** 2 if keep else 0)),
        "kernels of the start": 8.0 * 5 * (depth + 1) * rows * P,
        "outputs": 8.0 * 3 * replicas * T * rows * outputs,
    }
    remedies = {
        "kernels": 'use fewer steps or data samples, or keep="diagonal"',
        "kernels of the start": "use fewer data samples or test samples",
        "outputs": "use fewer steps, samples or replicas",
    }
    flops = 2.0 * rows * P * (depth + 1) * (replicas * T * outputs + 400)
    return Cost(needs, flops, remedies, f"steps={steps}, {P} data samples")


@partial(jax.jit, static_argnames=("averages", "biased", "gated", "error", "loss", "feedback", "keep"))
def solve_lazy(
    inputs: MarchInputs,
    y_test: Array | None,
    shares: Float[Array, " layers"],
    *,
    averages: Any,
    biased: bool,
    gated: bool,
    error: Any,
    loss: Any,
    feedback: str,
    keep: str | None,
) -> Solution:
    r"""What training adds to layer l is $\sum_\mu a^l_\mu\, \tilde g^{l+1}_\mu\phi^l_\mu$, and the coefficients follow
    the optimiser: $f = \sum_l K^l a^l$ with the static kernel $K^l$ of every layer, and forces $m_\mu\Delta_\mu$.

    `inputs.sample_weights` have an axis of replicas in front; the layers' rates are in `inputs.rate_scale`.
    """
    samples, times = len(inputs.x), len(inputs.learning_rate) + 1
    y = inputs.y if inputs.y.ndim == 2 else inputs.y[:, None]
    everything = jnp.concatenate([inputs.x, inputs.x_test])
    scales = inputs.init_scale, inputs.bias_scale, shares
    start = lazy_kernels(everything, inputs.x, *scales, averages, biased=biased, gated=gated)
    K = jnp.stack(start.of_layers)
    rates = jnp.asarray(inputs.rate_scale)[:, None, None]

    def step(state, now):
        (position, velocity), (rate, momentum, decay, sample) = state, now
        f = jnp.einsum("lmn,lnk->mk", K, position, precision=HIGHEST)
        errors = error(f[:samples], y)
        force = jnp.broadcast_to(sample[:, None] * errors, position.shape)
        return descend(position, velocity, force, rate * rates, momentum, decay), (f, errors)

    def run(sample_weights):
        at_rest = jnp.zeros((len(K), *y.shape), y.dtype)
        schedules = inputs.learning_rate, inputs.momentum, inputs.weight_decay
        rows = *(jnp.append(schedule, 0.0) for schedule in schedules), jnp.pad(sample_weights, ((0, 1), (0, 0)))
        f, errors = jax.lax.scan(step, (at_rest, at_rest), rows)[1]
        f = f if inputs.y.ndim == 2 else f[..., 0]
        return {"predictions": f[:, :samples], "test_predictions": f[:, samples:]}, errors

    seen, errors = jax.lax.map(run, inputs.sample_weights)
    mean, deviation = means(loss, inputs.y, y_test, seen)
    diverged = first_divergence(mean["train_loss"]).astype(jnp.int32)
    code = jnp.where(diverged >= 0, DIVERGED, CONVERGED).astype(jnp.int32)

    tangent = jnp.sum(rates * K[:, :samples], axis=0)
    largest = jnp.linalg.eigvalsh(jax.lax.stop_gradient(tangent))[-1] / samples
    if keep is None:
        return Solution(mean, {}, {}, deviation, code, diverged, largest, {})

    still = lambda value: jnp.broadcast_to(value, (times, *value.shape))  # noqa: E731
    twice = (lambda value: still(still(value))) if keep == "all" else still
    Phi = [kernel[:samples] for kernel in start.Phi[1:]]
    kernels = {("Phi", l): twice(kernel) for l, kernel in enumerate(Phi, start=1)}
    sent = {"direct": start.slopes, "hebbian": start.Phi[1:]}.get(feedback, start.G)
    sent = [twice(kernel[:samples]) for kernel in sent[: len(Phi)]]
    if feedback == "hebbian":  # of one output: the error times the features
        pairs = "rtmk,rtnk->tmn" if keep == "diagonal" else "rtmk,rsnk->tsmn"
        sent = [kernel * jnp.einsum(pairs, errors, errors, precision=HIGHEST) / len(errors) for kernel in sent]
    kernels |= {("G", l): kernel for l, kernel in enumerate(sent, start=1)}
    extras = {"ntk": tangent[None]} | diagnose(inputs, {"ntk": tangent[None]})
    extras |= {f"alignment_{l}": kernel_alignment(kernel[None], inputs.y) for l, kernel in enumerate(Phi, start=1)}
    if inputs.y.ndim == 2:
        extras["ntk"] = between_outputs(extras["ntk"], *inputs.y.shape)
    extras = {name: still(value[0]) for name, value in extras.items()}
    return Solution(mean, kernels, extras, deviation, code, diverged, largest, {})
