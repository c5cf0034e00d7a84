"""Two-layer linear networks on random features, both of whose layers train: finite networks that learn features."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Gaussian, GradientDescent, GradientFlow, PowerLaw, schedules
from ..problems import _checks as checks
from ..solvers import as_float, device_count, double, gather, shard
from ._base import Frozen
from ._batches import no_steps
from ._features import AbstractFeatureNet
from ._small_initialization import TwoLayerWeights

_TOLERANCE = 1e-8
_SEEDS_AT_ONCE = 8


class LearnedFeatures(AbstractFeatureNet):
    r"""The linear function $f(x) = w^TW_1Ax/\sqrt N$ of inputs $x_k \sim N(0, \lambda_k)$.

    $A_{ij} \sim N(0, 1)$ is frozen; $w$ trains from zero and $W_1$ from the identity, with the learning rate of $w$ and
    $\gamma$ times that. Without random features $f = w^TW_1x$. Of size $s$ there are $s$ copies of each mode, which
    share $w_k^2$, and $s$ times as many features; this leaves the theory as it is.

    ??? cite "Source"
        How Feature Learning Can Improve Neural Scaling Laws, arXiv 2409.17858.
    """

    weights: TwoLayerWeights
    features: Any  # [features, modes], or None for the modes themselves
    frozen: Frozen = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @staticmethod
    def start(design, count: int):
        return TwoLayerWeights(jnp.eye(count), jnp.zeros(count)), ()

    @property
    def coefficients(self):
        r"""What multiplies the inputs, $A^TW_1^Tw/\sqrt N$ `[modes]`."""
        theta = self.weights.readout @ self.weights.hidden
        return theta if self.features is None else theta @ self.features / self.features.shape[-2] ** 0.5

    def learn(self, weights, task, protocol, *, key, steps):
        r"""Trains both layers on the half mean square over the population, by `GradientFlow` or `GradientDescent`.

        The record has `test_loss`, the excess risk $\sum_k\lambda_k(\hat w_k - w_k)^2$, and in `extras`, with
        $\theta = W_1^Tw$, the `kernel_scale` $1 + \gamma|w|^2$, `coefficients_square` $|\theta|^2$ and `clock`, the
        integral of the first over time.
        """
        del key
        no_steps(steps)
        check_problem(task, protocol, (GradientFlow, GradientDescent))
        self.check_modes(task, weights.hidden.shape[-1])
        single = jax.tree.map(lambda w: w[:, 0], weights)
        features = self.features
        if features is not None:
            features = features.reshape(len(single.readout), *features.shape[-2:])
        with double():
            final, record = _run(single, features, self.design.richness, task, protocol, self.size)
        dtype = weights.readout.dtype
        final, record = jax.tree.map(lambda a: jnp.asarray(np.asarray(gather(a)), dtype), (final, record))
        fields = {"loss_convention": "mean_square", "attributes": (("size", self.size),)}
        return jax.tree.map(lambda w: w[:, None], final), record | fields


def check_problem(task, protocol, protocols) -> None:
    """**Raises:** `TypeError` and `ValueError` for what a network that learns features does not learn, or not so."""
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian for LearnedFeatures")
    allowed = " or ".join(kind.__name__ for kind in protocols)
    checks.instance("protocol", protocol, protocols, f"{allowed} for LearnedFeatures")
    if isinstance(protocol, GradientDescent):
        decay = checks.concrete(protocol.weight_decay)
        if decay is None or decay.any():
            raise ValueError("weight_decay must be 0: LearnedFeatures trains without weight decay.")


@eqx.filter_jit
def _run(weights, features, richness, task, protocol, size: int):
    """Final weights and the record, leading axis `[seeds]`."""
    weights, features, richness, protocol = as_float((weights, features, richness, protocol))
    problem = task.population(size)
    eigenvalues, teacher = as_float((problem.eigenvalues, problem.teacher))

    def run(inputs):
        weights, features = inputs
        expand = None if features is None else features / features.shape[0] ** 0.5
        covariance = None if expand is None else (expand * eigenvalues) @ expand.T
        target = eigenvalues * teacher if expand is None else expand @ (eigenvalues * teacher)

        def force(weights):
            """The negative gradient."""
            theta = weights.readout @ weights.hidden
            g = target - (eigenvalues * theta if covariance is None else covariance @ theta)
            return TwoLayerWeights(richness * jnp.outer(weights.readout, g), weights.hidden @ g)

        def observe(weights):
            theta = weights.readout @ weights.hidden
            found = theta if expand is None else theta @ expand
            scale = 1 + richness * jnp.sum(weights.readout**2)
            loss = jnp.sum(eigenvalues * (found - teacher) ** 2)
            return {"test_loss": loss, "kernel_scale": scale, "coefficients_square": jnp.sum(theta**2)}

        learn = _flow if isinstance(protocol, GradientFlow) else _descend
        final, rows = learn(weights, protocol, force, observe)
        return final, {"test_loss": rows.pop("test_loss"), "extras": rows}

    # The solver of the flow does not go where every device has a program of its own.
    together = min(_SEEDS_AT_ONCE * device_count("seeds"), weights.readout.shape[0])
    return jax.lax.map(run, shard((weights, features), "seeds"), batch_size=together)


def _flow(weights, protocol, force, observe):
    import diffrax

    def rate(_, state, __):
        weights, _ = state
        return force(weights), observe(weights)["kernel_scale"]

    def save(_, state, __):
        weights, clock = state
        return observe(weights) | {"clock": clock}

    times = protocol.times
    each = diffrax.SubSaveAt(ts=times, fn=save)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rate),
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=(weights, jnp.zeros_like(times[0])),
        saveat=diffrax.SaveAt(subs=[each, diffrax.SubSaveAt(t1=True)]),
        stepsize_controller=diffrax.PIDController(rtol=_TOLERANCE, atol=_TOLERANCE),
        adjoint=diffrax.ForwardMode(),
        max_steps=2**17,
    )
    rows, (last, _) = solution.ys  # pyright: ignore[reportGeneralTypeIssues]
    return jax.tree.map(lambda w: w[0], last), rows


def _descend(weights, protocol, force, observe):
    optimiser = schedules.transformation(protocol, 1.0)

    def step(carry, rate):
        weights, state, clock = carry
        row = observe(weights)
        moves, state = optimiser.update(jax.tree.map(jnp.negative, force(weights)), state, weights)
        weights = jax.tree.map(jnp.add, weights, moves)
        return (weights, state, clock + rate * row["kernel_scale"]), row | {"clock": clock}

    start = weights, optimiser.init(weights), jnp.zeros(())
    (weights, _, clock), rows = jax.lax.scan(step, start, protocol.learning_rate)
    last = observe(weights) | {"clock": clock}
    return weights, jax.tree.map(lambda a, b: jnp.append(a, b), rows, last)
