"""Two-layer linear networks from small random weights, trained by gradient flow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import _checks as checks
from ..problems import default_key
from ..solvers import as_float, double, integrate, spread_map
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps
from ._gradient_flow import check_inputs, check_problem, learned, losses, normal_equations

# Time of a step over the shortest time of the flow, and the largest number of steps from one time to the next.
_RESOLUTION = 0.03
_MOST_STEPS = 2**16


class TwoLayerWeights(eqx.Module):
    """`hidden` $W$ `[width, dim]` and `readout` $w$ `[width]`."""

    hidden: Any
    readout: Any


class SmallInitialization(AbstractNet):
    r"""The two-layer linear network $f(x) = w\cdot Wx$; all entries start with variance `init_scale`² / width.

    ??? cite "Source"
        Neural Networks as Kernel Learners: The Silent Alignment Effect, arXiv 2111.00034.
    """

    weights: TwoLayerWeights
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def init(cls, design, dim: int, width: int, key) -> "SmallInitialization":
        """One random network."""
        return cls(_draw(design, dim, checks.integer("size", width), default_key(key)), Frozen(design))

    @classmethod
    def ensemble(cls, design, dim: int, width: int, seeds: int, key) -> Ensemble:
        """`seeds` independent random networks."""
        width, seeds = checks.integer("size", width), checks.integer("seeds", seeds)
        weights = jax.vmap(lambda k: _draw(design, dim, width, k))(jax.random.split(default_key(key), seeds))
        return Ensemble(cls(weights, Frozen(design)), paired=False)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.weights.readout.shape[-1]

    @property
    def learning_rate_scale(self) -> float:
        """Time of the weights over the time of the protocol, 1."""
        return 1.0

    def __call__(self, x):
        """The output, a scalar, for one input `[dim]`."""
        return self.weights.readout @ (self.weights.hidden @ x)

    def learn(self, weights, task, protocol, *, key, steps):
        r"""Gradient flow on the half mean square over the samples.

        The record has `train_loss`, `test_loss` where the task has test targets, and in `extras` `coefficients`
        $\hat\beta = W^Tw$ `[time, dim]`, `kernel_share` `[time]`, the part of the trace of the tangent kernel
        $|w|^2 + W^TW$ that lies in the direction of the target, and `kernel_alignment` `[time]`, the squared overlap of
        its first eigenvector with that direction.
        """
        del key
        no_steps(steps)
        check_problem(task, protocol, "a SmallInitialization")
        single = jax.tree.map(lambda w: w[:, 0], weights)
        check_inputs(task, single.hidden)
        with double():
            final, record, hidden, direction = _run(
                single, task, protocol, steps_between(task, protocol, self.design.init_scale)
            )
        hidden, direction = np.asarray(hidden), np.asarray(direction)
        finite = np.all(np.isfinite(hidden), axis=(-2, -1))
        first = np.linalg.eigh(np.where(finite[..., None, None], hidden, 0.0))[1][..., -1]
        record["extras"]["kernel_alignment"] = np.where(finite, (first @ direction) ** 2, np.nan)
        return learned(weights, final, record, self.width)


def steps_between(task, protocol, init_scale) -> int:
    """Steps of integration between two times that resolve the fastest rate of the flow; 64 where it is traced."""
    if checks.is_traced((task, protocol, init_scale)):
        return 64
    gram, correlation = (a.T @ np.asarray(task.x) / task.x.shape[0] for a in (np.asarray(task.x), np.asarray(task.y)))
    length = np.linalg.norm(np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ correlation)
    rate = 2 * float(np.linalg.norm(gram, 2)) * (float(length) + float(init_scale) ** 2)
    count = rate * float(np.max(np.diff(np.asarray(protocol.times), prepend=0.0))) / _RESOLUTION  # pyright: ignore[reportArgumentType]
    if not count <= _MOST_STEPS:
        raise ValueError(
            f"times must be closer than {_MOST_STEPS * _RESOLUTION / rate:.3g} to one another, as this flow has the "
            f"rate {rate:.3g}; or scale the targets down."
        )
    # powers of two: other numbers do not compile again
    return 1 << max(0, int(np.ceil(np.log2(max(count, 1.0)))))


def target_direction(gram, correlation):
    """Unit vector along the least-squares solution, without the directions that the inputs do not have."""
    values, vectors = jnp.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1]
    solution = vectors @ jnp.where(kept, (vectors.T @ correlation) / jnp.where(kept, values, 1.0), 0.0)
    return solution / jnp.linalg.norm(solution)


def kernel_share(readout, hidden, direction):
    """Part of the trace of `readout + hidden`, `[...]` and `[..., dim, dim]`, that lies in a direction."""
    along = readout + jnp.einsum("i,...ij,j->...", direction, hidden, direction, precision="highest")
    return along / (readout * direction.size + jnp.trace(hidden, axis1=-2, axis2=-1))


def _draw(design, dim: int, width: int, key) -> TwoLayerWeights:
    key_hidden, key_readout = jax.random.split(key)
    scale = jnp.asarray(design.init_scale, float) / width**0.5
    return TwoLayerWeights(
        scale * jax.random.normal(key_hidden, (width, dim)), scale * jax.random.normal(key_readout, (width,))
    )


@eqx.filter_jit
def _run(weights, task, protocol, substeps: int):
    gram, correlation = normal_equations(task)
    weights, times = as_float((weights, protocol.times))
    direction = target_direction(gram, correlation)

    def rate(w):
        force = correlation - gram @ (w.readout @ w.hidden)
        return TwoLayerWeights(jnp.outer(w.readout, force), w.hidden @ force)

    def run(weights):
        path = integrate(rate, weights, times, substeps)
        coefficients = jnp.einsum("tn,tnd->td", path.readout, path.hidden)
        hidden = jnp.einsum("tnd,tne->tde", path.hidden, path.hidden)
        readout = jnp.sum(path.readout**2, axis=-1)
        extras = {
            "coefficients": coefficients,
            "kernel_share": kernel_share(readout, hidden, direction),
        }
        return jax.tree.map(lambda w: w[-1], path), losses(task, coefficients) | {"extras": extras}, hidden

    final, record, hidden = spread_map(run, weights, "seeds", batch_size=min(8, weights.readout.shape[0]))
    return final, record, hidden, direction
