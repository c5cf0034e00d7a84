"""From a march to what is observed: losses, kernels, static-kernel training, and the mean over replicas."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..problems import CONVERGED, DIVERGED, OVERFLOW, first_divergence
from ..solvers import HIGHEST, AbstractFieldAxis, MarchInputs, MarchOutputs, linear_optimiser, march


class Solution(NamedTuple):
    """Means over replicas, standard errors of all of them by name (`"Phi_1"`), and the state of the solution."""

    curves: dict[str, Array]
    kernels: dict[tuple[str, int], Array]
    error: dict[str, Array] | None
    code: Int[Array, ""]
    diverged: Int[Array, ""]
    largest_eigenvalue: Float[Array, ""]  # of K(0) / P, on the training samples
    trained: dict[str, Array]  # see `trained_matrices`


STATIC = ("activation", "capacity", "replicas", "keep", "lazy", "adjoint")


@partial(jax.jit, static_argnames=STATIC)
def solve_mlp(
    inputs: MarchInputs,
    y_test: Float[Array, " tests"] | None,
    key,
    tolerance: Float[Array, ""],
    axis: AbstractFieldAxis,
    *,
    activation,
    capacity: int,
    replicas: int,
    keep: str | None,
    lazy: bool,
    adjoint: str,
) -> Solution:
    """Marches every replica, and averages. With `lazy`, richness is 0 and the kernels are static."""
    if not lazy:
        # A traced richness may be 0. Everything is even in it, so a small one is as good, and the derivative is 0.
        small = jnp.finfo(inputs.y.dtype).eps ** 0.25
        inputs = inputs._replace(richness=jnp.where(inputs.richness == 0, small, inputs.richness))

    def replica(index):
        out = march(
            inputs,
            jax.random.fold_in(key, index),
            activation=activation,
            axis=axis,
            capacity=capacity,
            tolerance=tolerance,
            fields=lazy or keep == "all",
            test_backward=lazy,
            weights=keep is not None,
            adjoint=adjoint,
        )
        found = {"predictions": out.predictions, "test_predictions": out.test_predictions}
        if lazy:
            found = static_kernel_training(inputs, out, axis)
        ntk = tangent_kernel(inputs, out.Phi.equal_time[0], out.G.equal_time[0])
        return found, kernels(out, axis, keep, len(inputs.y)), ntk, out.overflow, out.trained

    # One after the other: batched thin products are several times slower on a CPU.
    curves, layers, ntk, overflow, trained = jax.lax.map(replica, jnp.arange(replicas))
    error = None
    if replicas > 1:
        many = curves | losses(inputs, y_test, **curves) | {f"{kind}_{l}": K for (kind, l), K in layers.items()}
        error = {name: jnp.std(value, axis=0, ddof=1) / replicas**0.5 for name, value in many.items()}
    curves, layers, ntk = jax.tree.map(lambda value: jnp.mean(value, axis=0), (curves, layers, ntk))
    curves |= losses(inputs, y_test, **curves)
    diverged = first_divergence(curves["train_loss"]).astype(jnp.int32)
    code = jnp.where(jnp.any(overflow), OVERFLOW, jnp.where(diverged >= 0, DIVERGED, CONVERGED)).astype(jnp.int32)
    eigenvalues = jnp.linalg.eigvalsh(jax.lax.stop_gradient(ntk))
    matrices = {} if trained is None else trained_matrices(trained)
    return Solution(curves, layers, error, code, diverged, eigenvalues[-1] / len(inputs.y), matrices)


def trained_matrices(trained) -> dict[str, Array]:
    """What the spectrum of hidden weight l needs, in every replica: `core_l` `[time, replicas, slots, slots]`,
    `response_phi_l` and `response_g_l` `[replicas, slots, slots]`, and `decay` `[time, replicas]`."""
    found = {"decay": trained.decay.T}
    for b, matrices in enumerate(zip(trained.core, trained.response_phi, trained.response_g, strict=True)):
        names = f"core_{b + 1}", f"response_phi_{b + 1}", f"response_g_{b + 1}"
        found |= dict(zip(names, (matrices[0].swapaxes(0, 1), *matrices[1:]), strict=True))
    return found if trained.core else {}


def losses(inputs: MarchInputs, y_test, predictions, test_predictions) -> dict[str, Array]:
    """Half mean squares on the training samples, and on the test samples if they have targets."""
    half_mean_square = lambda y, f: 0.5 * jnp.mean((y - f) ** 2, axis=-1)  # noqa: E731
    found = {"train_loss": half_mean_square(inputs.y, predictions)}
    if y_test is not None:
        found["test_loss"] = half_mean_square(y_test, test_predictions)
    return found


def kernels(out: MarchOutputs, axis: AbstractFieldAxis, keep: str | None, samples: int) -> dict[tuple[str, int], Array]:
    """The kernels of the training samples, by kind and layer."""
    depth = out.Phi.equal_time.shape[1]
    if keep is None:
        return {}
    if keep == "diagonal":
        both = {"Phi": out.Phi.equal_time, "G": out.G.equal_time}
        return {(kind, l + 1): K[:, l] for kind, K in both.items() for l in range(depth)}
    both = {kind: two_time_kernels(out, kind, axis, samples) for kind in ("Phi", "G")}
    return {(kind, l + 1): K[:, :, :samples] for kind, layers in both.items() for l, K in enumerate(layers)}


def two_time_kernels(out: MarchOutputs, kind: str, axis, samples: int) -> list[Float[Array, "time time rows samples"]]:
    """Layers 1 to depth, between all rows (test points behind training samples) and the training samples."""

    def between(inner, field):
        times, rows, length = field.shape
        pairs = inner(field.reshape(-1, length), field[:, :samples].reshape(-1, length))
        return pairs.reshape(times, rows, times, samples).swapaxes(1, 2)

    fields = getattr(out, kind)
    tables = [between(lambda a, b: jax.lax.dot(a, b.T, precision=HIGHEST), table) for table in fields.tables]
    end = between(axis.inner, fields.end)
    return [*tables, end] if kind == "Phi" else [end, *tables]


def tangent_kernel(inputs: MarchInputs, Phi, G):
    r"""$K = \sum_{l=0}^{L} G^{l+1}\Phi^l$, and $\sum_{l=1}^{L} G^l$ with biases; $\Phi^0 = x\cdot x/D$, $G^{L+1} = 1$.

    `Phi` and `G` hold layers 1 to depth in front of anything that ends in rows and training samples.
    """
    x = jnp.concatenate([inputs.x, inputs.x_test])[: Phi[0].shape[-2]]
    below = [jax.lax.dot(x, inputs.x.T, precision=HIGHEST) / x.shape[1], *Phi]
    biased = (inputs.bias_scale > 0).astype(x.dtype)
    return sum(g * (phi + biased) for g, phi in zip(G, below[:-1], strict=True)) + below[-1]


def static_kernel_training(inputs: MarchInputs, out: MarchOutputs, axis: AbstractFieldAxis) -> dict[str, Array]:
    r"""Gradient descent with the kernel of the network at initialisation (which decays with the weights).

    $$f_\mu(t) = \sum_{s<t} c(t,s)\, \frac1P \sum_\nu K_{\mu\nu}(t,s)\, (y_\nu - f_\nu(s))$$

    a triangular system for the training samples, and a sum for the test points.
    """
    samples, times = len(inputs.y), out.predictions.shape[0]
    c, _ = linear_optimiser(inputs.learning_rate, inputs.momentum, inputs.weight_decay)
    c = jnp.pad(c, ((0, 0), (0, 1))) / samples
    K = tangent_kernel(inputs, *(two_time_kernels(out, kind, axis, samples) for kind in ("Phi", "G")))
    response = (c[:, :, None, None] * K).swapaxes(1, 2)  # [time, row, time, sample]
    train, test = (part.reshape(-1, times * samples) for part in (response[:, :samples], response[:, samples:]))
    y = jnp.tile(inputs.y, times)
    system = jnp.eye(len(y), dtype=y.dtype) + train
    f = jax.scipy.linalg.solve_triangular(system, jax.lax.dot(train, y, precision=HIGHEST), lower=True)
    f_test = jax.lax.dot(test, y - f, precision=HIGHEST)
    return {"predictions": f.reshape(times, samples), "test_predictions": f_test.reshape(times, -1)}
