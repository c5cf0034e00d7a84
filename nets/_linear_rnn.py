"""Linear recurrent networks that learn an impulse response, on the exact loss over white-noise inputs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import GradientDescent, ImpulseResponse, default_key
from ..problems import _checks as checks
from ..solvers import (
    UNRESOLVED,
    arnoldi,
    descend,
    fit_impulse_response,
    laguerre_terms,
    spread_map,
    two_largest_eigenvalues,
)
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps

# Entries of recurrent matrices that train side by side: one matrix at a time is fastest from 64 units on.
_ENTRIES_AT_ONCE = 2**13


class RecurrentWeights(eqx.Module):
    """`recurrent` $W$ `[size, size]`, `source` $u$ `[size]`, `readout` $v$ `[size]`."""

    recurrent: Any
    source: Any
    readout: Any


class LinearRNN(AbstractNet):
    r"""A linear recurrent network in continuous time, $\dot h = -h + Wh + u\,x(t)$, $f = v\cdot h$.

    Its output is the input convolved with the impulse response $\kappa(t) = v^Te^{(W-I)t}u$. At initialisation $u$ and
    $v$ have independent entries of variance 1/size, and $W$ entries of variance `init_scale`² / size. The raw step is
    the protocol's learning rate.

    ??? cite "Source"
        Dynamics of learning to integrate in linear recurrent neural networks, arXiv 2503.18754.
    """

    weights: RecurrentWeights
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, size: int, key) -> "LinearRNN":
        """One random network."""
        return cls(_draw(design, checks.integer("size", size, low=2), default_key(key)), Frozen(design))

    @classmethod
    def ensemble(cls, design, size: int, seeds: int, key) -> Ensemble:
        """`seeds` independent random networks."""
        size, seeds = checks.integer("size", size, low=2), checks.integer("seeds", seeds)
        keys = jax.random.split(default_key(key), seeds)
        return Ensemble(cls(jax.vmap(lambda k: _draw(design, size, k))(keys), Frozen(design)), paired=False)

    @property
    def size(self) -> int:
        """Number of units."""
        return self.weights.source.shape[-1]

    @property
    def learning_rate_scale(self) -> float:
        """Raw step over learning rate, 1."""
        return 1.0

    def __call__(self, time):
        r"""The impulse response $\kappa$ at one lag, a scalar."""
        w = self.weights
        drift = w.recurrent - jnp.eye(self.size, dtype=w.recurrent.dtype)
        return w.readout @ jax.scipy.linalg.expm(drift * time) @ w.source

    def learn(self, weights, task, protocol, *, key, steps):
        r"""Gradient descent on $\tfrac12\int_0^\infty(\kappa-\kappa^*)^2dt$, the loss over white-noise inputs.

        The record has `test_loss` `[time]` and in `extras` `eigenvalue_real` and `eigenvalue_imag` `[time, 2]`, the two
        eigenvalues of $W$ of largest modulus, the larger real part first. A run counts as diverged, with an infinite
        loss, from the step at which an eigenvalue of $W$ is at or beyond 1, or so close to it, or so far from it, that
        the response is not resolved.
        """
        del key
        checks.instance("task", task, ImpulseResponse, "integrator or oscillator")
        checks.instance("protocol", protocol, GradientDescent, "GradientDescent for a LinearRNN")
        no_steps(steps)
        terms = response_terms(task)
        final, loss, matrices = _run(weights, task, protocol, self.design.recurrent_only, terms)
        real, imag = two_largest_eigenvalues(matrices)
        return final, {
            "test_loss": loss,
            "extras": {"eigenvalue_real": jnp.asarray(real), "eigenvalue_imag": jnp.asarray(imag)},
            "loss_convention": "half_mean_square",
            "attributes": (("size", self.size), ("terms", terms)),
        }


def response_terms(task: ImpulseResponse) -> int:
    """Number of Laguerre functions for a task; 256 where its numbers are not known yet.

    **Raises:** `ValueError` for a response that is too long or too fast to be resolved.
    """
    decay, frequency = checks.concrete(task.decay), checks.concrete(task.frequency)
    if decay is None or frequency is None:
        return 256
    terms = laguerre_terms(float(decay), float(frequency))
    if terms is None:
        raise ValueError(
            f"decay must not be so far from frequency and from 1, the inverse time constant of a unit, that no set of "
            f"functions resolves all three; decay is {decay:g} and frequency {frequency:g}."
        )
    return terms


def training_step(weights, velocity, task, schedule, recurrent_only: bool, terms: int):
    """One heavy-ball step on the loss; also the loss before it, infinite where nothing is resolved.

    `task` is the pair of decay and frequency, `schedule` learning rate, momentum and weight decay of this step.
    """
    fit = fit_impulse_response(weights.recurrent, weights.source, weights.readout, *task, terms=terms)
    force = jax.tree.map(jnp.negative, RecurrentWeights(*fit.gradient))
    trained, held = eqx.partition(weights, _trained(recurrent_only))
    trained, velocity = descend(trained, velocity, eqx.filter(force, _trained(recurrent_only)), *schedule)
    resolved = fit.remainder < UNRESOLVED
    return eqx.combine(trained, held), velocity, jnp.where(resolved, fit.loss, jnp.inf)


def rest(weights: RecurrentWeights, recurrent_only: bool) -> RecurrentWeights:
    """The velocities at the start, zero; `None` for what does not train."""
    return eqx.filter(jax.tree.map(jnp.zeros_like, weights), _trained(recurrent_only))


def _trained(recurrent_only: bool) -> RecurrentWeights:
    return RecurrentWeights(True, not recurrent_only, not recurrent_only)


def _draw(design, size: int, key) -> RecurrentWeights:
    keys = jax.random.split(key, 3)
    source, readout = (jax.random.normal(k, (size,)) / size**0.5 for k in keys[1:])
    scale = jnp.asarray(design.init_scale, source.dtype)
    return RecurrentWeights(scale * jax.random.normal(keys[0], (size, size)) / size**0.5, source, readout)


@eqx.filter_jit
def _run(weights, task, protocol, recurrent_only: bool, terms: int):
    """Final weights, losses `[seeds, time]` and compressed recurrent matrices `[seeds, time, count, count]`."""
    dtype = weights.source.dtype
    target = jnp.asarray(task.decay, dtype), jnp.asarray(task.frequency, dtype)
    schedule = tuple(jnp.asarray(s, dtype) for s in (protocol.learning_rate, protocol.momentum, protocol.weight_decay))

    def step(carry, now):
        weights, velocity = carry
        after, velocity, loss = training_step(weights, velocity, target, now, recurrent_only, terms)
        return (after, velocity), (loss, arnoldi(weights.recurrent, weights.source))

    def run(weights):
        carry, (losses, matrices) = jax.lax.scan(step, (weights, rest(weights, recurrent_only)), schedule)
        _, (loss, matrix) = step(carry, tuple(s[-1] for s in schedule))
        return carry[0], jnp.append(losses, loss), jnp.concatenate([matrices, matrix[None]])

    single = jax.tree.map(lambda w: w[:, 0], weights)
    together = max(1, min(single.source.shape[0], _ENTRIES_AT_ONCE // single.source.shape[-1] ** 2))
    final, losses, matrices = spread_map(run, single, "seeds", batch_size=together)
    return jax.tree.map(lambda w: w[:, None], final), losses, matrices
