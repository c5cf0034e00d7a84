"""Finite width: how predictions, losses and kernels of single networks and of ensembles deviate from the limit."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..nets._activations import activation_function
from ..nets.rules import Backpropagation
from ..problems import ConvergenceError, Dataset, DivergedError, GradientDescent, default_key
from ..problems import _checks as checks
from ..solvers import (
    HiddenLayer,
    LinearNetwork,
    as_float,
    double,
    from_lower,
    gaussian_grid,
    in_precision,
    initial_units,
    linear_fluctuations,
    linear_parameter_count,
    to_host,
    width_expansion,
)
from ._base import AbstractLimit
from ._fluctuation_record import Fluctuations, equal_times
from ._memory import check_memory
from ._mlp import MLP


def fluctuations(
    limit: AbstractLimit,
    task,
    protocol,
    *,
    networks: Literal["single", "pairs", "centred"] = "single",
    method: Literal["units", "action"] | None = None,
    nodes: Literal["grid", "samples"] | None = None,
    spacing: float | None = None,
    samples: int = 20_000,
    key=None,
    memory_limit: float | None = None,
) -> Fluctuations:
    r"""The first correction in inverse width: N times covariances and mean shifts of networks of width N.

    Over random initialisations of *single* networks predictions start with the variance
    $\Phi/\gamma_0^2N$, which dominates where the richness is small; the other choices of `networks` are without it.

    With `method="units"`, one hidden layer: every unit is a functional of the history of errors, and a network is a
    mean over N of them that closes on itself; see `solvers.width_expansion`. With `method="action"`, linear networks of
    any depth on few samples and steps: the order parameters have a weight exp(N S); see `solvers.linear_fluctuations`.

    **Arguments:**

    - `limit`: `limits.MLP`, trained by backpropagation on the half mean square; with one hidden layer and a smooth
        activation, or with `"identity"` at any depth. `richness` above zero.
    - `task`: a fixed data set with one output. `protocol`: `GradientDescent`, with all its schedules.
    - `networks`: `"single"`; `"pairs"`, means of two networks that differ in the sign of the readout, as
        `limit.ensemble` draws them; or `"centred"`, where the output less its initial value is trained.
    - `method`: by default `"units"` where there is one hidden layer.
    - `nodes`: averages over units on a trapezoid `"grid"` (geometric convergence), the default up to 4 Gaussians a unit
        (rank of the inputs, a readout, a bias), or over random `"samples"`.
    - `spacing`: of the grid in standard deviations; by default 0.35, with more Gaussians up to 0.5. Halve it to see its
        error.
    - `samples`: number of random units, in antithetic pairs; errors are O(`samples`$^{-1/2}$) of the value.
    - `key`: random key of these.
    - `memory_limit`: bytes that may be used; by default what is free.

    **Returns:** `Fluctuations`, computed in float64, with derivatives.

    **Raises:** `TypeError`, `ValueError` for what is not covered; `DivergedError`; `MemoryError` before any work.

    ??? cite "Source"
        Dynamics of Finite Width Kernel and Prediction Fluctuations in Mean Field Neural Networks, arXiv 2304.03408.
        Time there has no factor 1/P; the mean shifts of deep linear networks are derived here.
    """
    limit = _check_problem(limit, task, protocol)
    checks.choice("networks", networks, ("single", "pairs", "centred"))
    checks.choice("method", method, (None, "units", "action"))
    checks.choice("nodes", nodes, (None, "grid", "samples"))
    linear = limit.activation == "identity"
    if method is None:
        method = "units" if limit.depth == 1 else "action"
    if method == "units":
        if limit.depth > 1:
            raise ValueError(
                f'method "units" is for one hidden layer, where units meet in the error only; depth is {limit.depth}. '
                + ('Use method="action".' if linear else "Deeper networks must be linear, and small.")
            )
        expand, extra = _units, _nodes(limit, task, protocol, nodes, spacing, samples, key, memory_limit)
    else:
        if not linear:
            raise ValueError('method "action" is for linear networks; it needs activation="identity".')
        if networks == "pairs":
            raise ValueError('networks "pairs" is for one hidden layer: the two share all their hidden weights.')
        expand, extra = _action, None
        _check_action_memory(limit, task, protocol, memory_limit)
    with double():
        found, residual = _run(expand, as_float((limit, task, protocol, extra)), networks)
    found, residual = to_host((found, residual))
    mean, slope = checks.concrete(found.predictions), checks.concrete(residual)
    if mean is not None and not np.all(np.isfinite(mean)):
        step = int(np.argmin(np.all(np.isfinite(mean), axis=1)))
        raise DivergedError(f"the limit diverges at step {step}, and has no fluctuations; use a smaller learning_rate.")
    if slope is not None and not slope < 1e-6:
        raise ConvergenceError(f"the saddle of the action was not found (slope {slope:.1g}); use fewer steps.")
    return found


def _check_problem(limit, task, protocol) -> MLP:
    checks.instance("limit", limit, MLP, "limits.MLP, the family whose fluctuations are known")
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays) for fluctuations")
    checks.instance("protocol", protocol, GradientDescent, "GradientDescent for fluctuations")
    if task.y.ndim != 1:
        raise ValueError(f"y must have the shape [samples] for fluctuations; it has {task.y.shape}.")
    checks.instance("rule", limit.rule, Backpropagation, "Backpropagation() for fluctuations")
    if limit.loss != "half_mean_square":
        raise ValueError(f'loss must be "half_mean_square" for fluctuations; it is {limit.loss!r}.')
    richness = checks.concrete(limit.richness)
    if richness is not None and richness == 0:
        raise ValueError(
            "richness must be above 0 for fluctuations: initial predictions have the variance Phi/(richness^2 width). "
            'A small value with networks="pairs" or "centred" is the lazy limit.'
        )
    if limit.activation == "relu":
        raise ValueError(
            'activation "relu" has a kink, where second derivatives are missing; use "gelu" or "softplus".'
        )
    if limit.depth > 1 and limit.activation != "identity":
        raise ValueError(
            f"depth must be 1 for fluctuations of nonlinear networks; it is {limit.depth}. The responses of "
            "their layers to each other are not solved."
        )
    return limit


def _nodes(limit, task, protocol, nodes, spacing, samples, key, memory_limit):
    """Coordinates of the inputs `[all, rank]`; the Gaussians of units `[rank + 1 (+ 1), units]` and their weights."""
    tests, P = (len(task.x_test) if task.has_test else 0), len(task.y)
    inputs = np.concatenate if isinstance(task.x, np.ndarray) else jnp.concatenate
    coordinates = _coordinates(inputs([task.x, task.x_test]) if tests else task.x)
    dim = coordinates.shape[1] + 1 + limit.has_biases
    if nodes is None:
        nodes = "grid" if dim <= 4 else "samples"
    if nodes == "grid":
        if dim > 6:
            raise ValueError(f'nodes "grid" is for up to 6 Gaussians a unit; here are {dim}. Use nodes="samples".')
        spacing = {3: 0.4, 4: 0.5}.get(dim, 0.35) if spacing is None else spacing
        spacing = float(checks.number("spacing", spacing, above=0.0, high=2.0))
        points, weights = gaussian_grid(dim, spacing, 6.0 if dim <= 3 else 5.5)
    else:
        count = -(-checks.integer("samples", samples, low=2) // 2)
        half = np.asarray(jax.random.normal(default_key(key), (dim, count), jnp.float32), np.float64)
        points = np.concatenate([half, np.concatenate([half[:-1], -half[-1:]])], axis=1)
        weights = np.full(2 * count, 0.5 / count)
    times, numbers = protocol.steps + 1, P + tests + 3 * P**2
    needs = {
        "responses": 8.0 * 6 * (times * P) * times * numbers + 8.0 * times * tests**2,
        "units": 8.0 * 20 * len(weights) * (dim + P + tests),
    }
    remedies = {"responses": "use fewer steps or data samples", "units": "use a larger spacing, or fewer samples"}
    sizes = f"steps={protocol.steps}, {P} data samples, {len(weights)} units"
    check_memory(needs, remedies, "fluctuations", sizes, memory_limit)

    return coordinates, points, weights


def _units(problem, networks):
    limit, task, protocol, (coordinates, points, weights) = problem
    P, tests = len(task.y), task.has_test
    layer = HiddenLayer(
        coordinates[:P],
        coordinates[P:],
        task.y,
        protocol.learning_rate,
        protocol.momentum,
        protocol.weight_decay,
        jnp.broadcast_to(limit.rate_scale, (2,)),
        limit.richness,
        biased=jnp.asarray(float(len(points) > coordinates.shape[1] + 1)),
        centred=jnp.asarray(float(networks == "centred")),
    )
    units = initial_units(points, coordinates.shape[1], jnp.broadcast_to(limit.init_scale, (2,)), limit.bias_scale)
    activation = activation_function(limit.activation)
    found = width_expansion(layer, units, weights, activation=activation, paired=networks == "pairs")
    named = lambda rows: {name: rows[:, i] for i, name in enumerate(_KERNELS)}  # noqa: E731
    return Fluctuations(
        predictions=found.predictions[:, :P],
        test_predictions=found.predictions[:, P:] if tests else None,
        kernels=named(found.kernels),
        prediction_covariance=found.covariance,
        prediction_bias=found.shift[:, :P],
        test_prediction_covariance=found.test_covariance if tests else None,
        test_prediction_bias=found.shift[:, P:] if tests else None,
        kernel_variance=named(found.kernel_variance),
        kernel_bias=named(found.kernel_shift),
        targets=task.y,
        test_targets=task.y_test if tests else None,
        networks=networks,
    ), jnp.zeros(())


_KERNELS = (("Phi", 1), ("G", 1), ("NTK", 0))


def _check_action_memory(limit, task, protocol, memory_limit):
    times, samples = protocol.steps + 1, len(task.y) + (len(task.x_test) if task.has_test else 0)
    needs = {"the action": 8.0 * 6 * linear_parameter_count(limit.depth, times * samples, times) ** 2}
    remedies = {"the action": "use fewer steps or samples (their product counts to the fourth power)"}
    sizes = f"depth={limit.depth}, {times} times {samples} samples"
    check_memory(needs, remedies, "fluctuations", sizes, memory_limit)


def _action(problem, networks):
    limit, task, protocol, _ = problem
    x = jnp.concatenate([task.x, task.x_test]) if task.has_test else task.x
    depth, P, everything, times = limit.depth, len(task.y), len(x), protocol.steps + 1
    points = times * everything
    network = LinearNetwork(
        gram=jnp.einsum("ad,bd->ab", x, x, precision="highest") / task.dim,
        y=jnp.pad(task.y, (0, everything - P)),
        trained=jnp.pad(jnp.ones(P), (0, everything - P)),
        learning_rate=protocol.learning_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        richness=limit.richness,
        init_scale=jnp.broadcast_to(limit.init_scale, (depth + 1,)),
        bias_scale=limit.bias_scale,
        rate_scale=jnp.broadcast_to(limit.rate_scale, (depth + 1,)),
        biased=jnp.sign(limit.bias_scale),
        centred=jnp.asarray(float(networks == "centred")),
    )
    found = linear_fluctuations(network, depth)
    split = ravel_pytree(found.saddle)[1]
    index = split(jnp.arange(len(found.shift), dtype=float)).f.astype(int)
    covariance = found.covariance[index][:, index].reshape(times, everything, times, everything)
    shift = found.shift[index].reshape(times, everything)
    if networks == "centred":
        # The action counts predictions with their start.
        covariance = covariance - covariance[:1]
        covariance, shift = covariance - covariance[:, :, :1], shift - shift[0]
    f, equal = found.saddle.f.reshape(times, everything), equal_times(covariance)

    def kernels(q):
        H = lambda row: equal_times(from_lower(row, points).reshape(times, everything, times, everything))  # noqa: E731
        G = lambda row: jnp.broadcast_to(from_lower(row, times).diagonal()[:, None, None], (times, P, P))  # noqa: E731
        named = {("Phi", l + 1): H(q.H[l])[:, :P, :P] for l in range(depth)}
        return named | {("G", l + 1): G(q.G[l]) for l in range(depth)}

    tests = task.has_test
    return Fluctuations(
        predictions=f[:, :P],
        test_predictions=f[:, P:] if tests else None,
        kernels=kernels(found.saddle),
        prediction_covariance=covariance[:, :P, :, :P],
        prediction_bias=shift[:, :P],
        test_prediction_covariance=equal[:, P:, P:] if tests else None,
        test_prediction_bias=shift[:, P:] if tests else None,
        kernel_variance=kernels(split(found.covariance.diagonal())),
        kernel_bias=kernels(split(found.shift)),
        targets=task.y,
        test_targets=task.y_test if tests else None,
        networks=networks,
    ), found.slope


@eqx.filter_jit
def _run(expand, problem, networks):
    return in_precision(lambda problem, _: expand(problem, networks), "double")(problem, None)


def _coordinates(x):
    r"""Inputs over $\sqrt D$ in orthonormal directions, `[samples, rank]`; where they are traced, the rank is full."""
    x = x / x.shape[1] ** 0.5
    known = checks.concrete(x)
    if known is None:
        return x if x.shape[1] <= x.shape[0] else jnp.linalg.qr(x.T)[1].T
    left, sizes, _ = np.linalg.svd(np.asarray(known, np.float64), full_matrices=False)
    # Inputs in single precision have this much beside their true rank.
    kept = sizes > max(known.shape) * np.finfo(np.float32).eps * sizes.max(initial=0.0)
    return (left * sizes)[:, : max(int(kept.sum()), 1)]
