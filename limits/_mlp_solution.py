"""From a march to what is observed: losses, kernels, diagnostics, approximations, and the mean over replicas."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..nets._losses import sample_losses
from ..problems import CONVERGED, DIVERGED, OVERFLOW, Trajectory, first_divergence
from ..solvers import (
    HIGHEST,
    AbstractFieldAxis,
    MarchInputs,
    MarchOptions,
    device_count,
    kernel_alignment,
    march,
    spread_map,
)

# Richness at which the leading order is read off: small enough for the next orders, large enough for rounding.
_SMALL_RICHNESS = 0.02


class Solution(NamedTuple):
    """Means over replicas, standard errors of all of them by name (`"Phi_1"`), and the state of the solution."""

    curves: dict[str, Array]
    kernels: dict[tuple[str, int], Array]
    extras: dict[str, Array]
    error: dict[str, Array] | None
    code: Int[Array, ""]
    diverged: Int[Array, ""]
    largest_eigenvalue: Float[Array, ""] | None  # of K(0) / P, on the training samples; where K is known
    trained: dict[str, Array]  # see `trained_matrices`


STATIC = ("options", "loss", "capacity", "replicas", "keep", "leading_order", "adjoint")


@partial(jax.jit, static_argnames=STATIC)
def solve_mlp(
    inputs: MarchInputs,
    y_test: Array | None,
    key,
    tolerance: Float[Array, ""],
    axis: AbstractFieldAxis,
    *,
    options: MarchOptions,
    loss: Any,
    capacity: int,
    replicas: int,
    keep: str | None,
    leading_order: bool,
    adjoint: str,
) -> Solution:
    """Marches every replica, and averages; `inputs.sample_weights` have an axis of replicas in front."""
    how = {"options": options, "capacity": capacity, "keep": keep, "leading_order": leading_order, "adjoint": adjoint}
    seen = march_replicas(inputs, key, tolerance, jnp.arange(replicas), axis, **how)
    return average(inputs, y_test, *seen, loss=loss, keep=keep)


def march_replicas(
    inputs: MarchInputs,
    key,
    tolerance: Float[Array, ""],
    numbers: Int[Array, " replicas"],
    axis: AbstractFieldAxis,
    *,
    options: MarchOptions,
    capacity: int,
    keep: str | None,
    leading_order: bool,
    adjoint: str,
):
    """What is seen of the replicas with these numbers, each with an axis of replicas in front: fields by name,
    overflow, and trained matrices."""
    if not options.lazy:
        # A traced richness may be 0. Everything is even in it, so a small one is as good, and the derivative is 0.
        small = jnp.finfo(inputs.y.dtype).eps ** 0.25
        inputs = inputs._replace(richness=jnp.where(inputs.richness == 0, small, inputs.richness))
    at_richness = partial(_observe, axis=axis, options=options, capacity=capacity, keep=keep, adjoint=adjoint)

    def replica(this, inputs, key, tolerance):
        index, weights = this
        mine, own = inputs._replace(sample_weights=weights), jax.random.fold_in(key, index)
        if not leading_order:
            return at_richness(mine, own, tolerance)
        several = [at_richness(mine._replace(richness=n * _SMALL_RICHNESS), own, tolerance) for n in (1, 2, 3)]
        quadratic = (inputs.richness / _SMALL_RICHNESS) ** 2
        # All is even in the richness: three values give the constant and the quadratic term, up to the sixth order.
        weights = [c + d * quadratic for c, d in ((1.5, -13 / 24), (-0.6, 2 / 3), (0.1, -1 / 8))]
        add = lambda *values: sum(w * value for w, value in zip(weights, values, strict=True))  # noqa: E731
        found = jax.tree.map(add, *(found for found, _, _ in several))
        return found, jnp.any(jnp.stack([overflow for _, overflow, _ in several])), None

    # One after the other: batched thin products are several times slower on a CPU.
    shared, over = (inputs, key, tolerance), (numbers, inputs.sample_weights)
    if len(numbers) % device_count("samples") == 0:
        return spread_map(replica, over, "samples", shared=shared)
    # the particles are what is spread
    return jax.lax.map(lambda this: replica(this, *shared), over)


def average(inputs: MarchInputs, y_test: Array | None, observed, overflow, trained, *, loss, keep) -> Solution:
    """Means over replicas, and what follows from them."""
    if keep is not None and "ntk" in observed:
        observed |= jax.vmap(partial(diagnose, inputs))(observed)
    mean, error = means(loss, inputs.y, y_test, observed)
    diverged = first_divergence(mean["train_loss"]).astype(jnp.int32)
    code = jnp.where(jnp.any(overflow), OVERFLOW, jnp.where(diverged >= 0, DIVERGED, CONVERGED)).astype(jnp.int32)
    largest = None
    if "ntk" in mean:
        largest = jnp.linalg.eigvalsh(jax.lax.stop_gradient(mean["ntk"][0]))[-1] / len(inputs.y)
    if keep is None:
        mean.pop("ntk", None)
    elif "ntk" in mean and inputs.y.ndim == 2:
        for values in (mean, error or {}):
            values |= {"ntk": between_outputs(values["ntk"], *inputs.y.shape)} if values else {}
    take = lambda names: {name: mean.pop(name) for name in names if name in mean}  # noqa: E731
    curves = take(("predictions", "test_predictions", "train_loss", "test_loss"))
    kernels = [(kind, l) for kind in ("Phi", "G") for l in range(1, len(inputs.init_scale))]
    kernels = {(kind, l): K for kind, l in kernels for K in take((f"{kind}_{l}",)).values()}
    matrices = {} if trained is None else trained_matrices(trained)
    return Solution(curves, kernels, mean, error, code, diverged, largest, matrices)


def means(loss, y, y_test, observed) -> tuple[dict[str, Array], dict[str, Array] | None]:
    """Means over the first axis, the losses of these means, and standard errors where there are several replicas."""
    replicas = len(observed["predictions"])
    error = None
    if replicas > 1:
        every = observed | losses(loss, y, y_test, observed)
        error = {name: jnp.std(value, axis=0, ddof=1) / replicas**0.5 for name, value in every.items()}
    mean = {name: jnp.mean(value, axis=0) for name, value in observed.items()}
    return mean | losses(loss, y, y_test, mean), error


def record(solution: Solution, has_test: bool, convention: str, attributes) -> Trajectory:
    """The solution as a trajectory, without what there is only for a test side."""
    absent = set() if has_test else {"test_predictions"}
    present = lambda values: values and {name: v for name, v in values.items() if name not in absent}  # noqa: E731
    return Trajectory(
        **present(solution.curves),
        kernels=solution.kernels,
        sampling_error=present(solution.error),
        extras=solution.extras | solution.trained,
        status_code=solution.code,
        diverged_step=solution.diverged,
        loss_convention=convention,
        attributes=attributes,
    )


def _observe(inputs: MarchInputs, key, tolerance, *, axis, options: MarchOptions, capacity, keep, adjoint):
    """One march, and what is seen of it: fields by name, overflow, and trained matrices."""
    out = march(inputs, key, options, axis=axis, capacity=capacity, tolerance=tolerance, adjoint=adjoint)
    found = {"predictions": out.predictions, "test_predictions": out.test_predictions}
    by_layer = lambda name, values: {f"{name}_{l + 1}": values[:, l] for l in range(values.shape[1])}  # noqa: E731
    if keep == "all":
        for kind in ("Phi", "G"):
            found |= {f"{kind}_{l}": K for l, K in enumerate(two_time_kernels(out, kind, axis), start=1)}
    if keep == "diagonal":
        found |= by_layer("Phi", out.Phi.equal_time) | by_layer("G", out.G.equal_time)
    if out.gradients is not None:
        found |= {"ntk": tangent_kernel(inputs, out.Phi.equal_time, out.gradients)}
        if keep is not None:
            found |= by_layer("alignment", kernel_alignment(out.Phi.equal_time, inputs.y))
    if keep is not None:
        found |= by_layer("directions", out.directions)
    if out.densities is not None:
        found |= by_layer("density", out.densities)
    return found, out.overflow, out.trained


def between_outputs(K, samples: int, outputs: int) -> Float[Array, "time samples outputs samples outputs"]:
    """A tangent kernel with axes for outputs."""
    if K.shape[-1] == samples:  # all outputs have one kernel; nothing else needs the large one
        return K[:, :, None, :, None] * jnp.eye(outputs, dtype=K.dtype)[:, None, :]
    return K.reshape(-1, samples, outputs, samples, outputs)


def diagnose(inputs: MarchInputs, observed) -> dict[str, Array]:
    """Sharpness of the tangent kernel, and its alignment with the targets."""
    K, y = observed["ntk"], inputs.y
    K = (K + K.swapaxes(1, 2)) / 2
    # The derivative of an eigenvalue needs its vector only; that of the vector is singular where eigenvalues meet.
    top = jnp.linalg.eigh(jax.lax.stop_gradient(K))[1][..., -1]
    sharpness = jnp.einsum("tm,tmn,tn->t", top, K, top, precision=HIGHEST) / len(y)
    return {"alignment": kernel_alignment(K, y if K.shape[1] == len(y) else y.ravel()), "sharpness": sharpness}


def trained_matrices(trained) -> dict[str, Array]:
    """What the spectrum of hidden weight l needs, in every replica: `core_l` `[time, replicas, slots, slots]`,
    `response_phi_l` and `response_g_l` `[replicas, slots, slots]`, and `decay` `[time, replicas, depth + 1]`."""
    found = {"decay": trained.decay.swapaxes(0, 1)}
    for b, matrices in enumerate(zip(trained.core, trained.response_phi, trained.response_g, strict=True)):
        names = f"core_{b + 1}", f"response_phi_{b + 1}", f"response_g_{b + 1}"
        found |= dict(zip(names, (matrices[0].swapaxes(0, 1), *matrices[1:]), strict=True))
    return found if trained.core else {}


def losses(loss, y, y_test, observed) -> dict[str, Array]:
    """Means on the training samples, and on the test samples if they have targets."""
    outputs = (lambda values: values) if y.ndim == 2 else (lambda values: values[..., None])
    mean = lambda f, y: jnp.mean(sample_losses(loss, outputs(f), outputs(y)), axis=-1)  # noqa: E731
    found = {"train_loss": mean(observed["predictions"], y)}
    if y_test is not None:
        found["test_loss"] = mean(observed["test_predictions"], y_test)
    return found


def two_time_kernels(out, kind: str, axis) -> list[Float[Array, "time time samples samples"]]:
    """Layers 1 to depth, of the training samples."""

    def between(inner, field):
        times, samples, length = field.shape
        rows = field.reshape(-1, length)
        return inner(rows, rows).reshape(times, samples, times, samples).swapaxes(1, 2)

    fields = getattr(out, kind)
    tables = [between(lambda a, b: jax.lax.dot(a, b.T, precision=HIGHEST), table) for table in fields.tables]
    end = between(axis.inner, fields.end)
    return [*tables, end] if kind == "Phi" else [end, *tables]


def tangent_kernel(inputs: MarchInputs, Phi, G) -> Float[Array, "time rows rows"]:
    r"""$K = \sum_{l=0}^{L} r_l G^{l+1}\Phi^l$, and $\sum_{l=1}^{L} r_{l-1} G^l$ with biases; $\Phi^0 = x\cdot x/D$,
    $G^{L+1} = 1$.

    `Phi` and `G` are `[time, depth, samples, samples]`; G is the kernel of gradients with what trains in their place,
    or that of samples and outputs, and then so is the result, with $\delta$ between outputs in the readout's term.
    """
    biased = (inputs.bias_scale > 0).astype(Phi.dtype)
    start = jax.lax.dot(inputs.x, inputs.x.T, precision=HIGHEST) / inputs.x.shape[1]
    below = jnp.concatenate([jnp.broadcast_to(start, Phi[:, :1].shape), Phi], axis=1)
    rate = jnp.ones(len(inputs.init_scale)) if inputs.rate_scale is None else inputs.rate_scale
    rate = rate[:, None, None]
    outputs = G.shape[-1] // below.shape[-1]
    fill = lambda K: jnp.repeat(jnp.repeat(K, outputs, axis=-2), outputs, axis=-1) if outputs > 1 else K  # noqa: E731
    readout = below[:, -1] if outputs == 1 else jnp.kron(below[:, -1], jnp.eye(outputs, dtype=G.dtype))
    return jnp.sum(rate[:-1] * G * fill(below[:, :-1] + biased), axis=1) + rate[-1] * readout
