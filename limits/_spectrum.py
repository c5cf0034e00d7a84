"""Spectra of hidden weights along training: a bulk that stays, and outliers that training pulls out of it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Trajectory
from ..problems import _checks as checks
from ..solvers import (
    SpikedMatrix,
    as_float,
    bulk_density,
    bulk_edge,
    double,
    in_precision,
    orthonormal_basis,
    outliers,
    to_host,
)
from ._base import AbstractLimit


class Spectrum(eqx.Module):
    r"""Singular values of $W^l/\sqrt{\rm fan\ in}$ along training; time is 0..steps.

    **Fields:**

    - `bulk_edge`: upper edge of the bulk, `[time]`.
    - `outliers`: singular values above it, largest first, `[time, k]`; nan where there is none, with zero derivative.
    - `largest`: `[time]`, the largest singular value: the first outlier, or the edge where there is none.
    - `margin`: `[time]`, above 0 where an outlier exists: by how much the spikes exceed what the bulk hides. It is
      smooth, and so the quantity to control before an outlier escapes; -1 without any spike.
    - `left_overlaps`, `right_overlaps`: `[time, k, field]`, cosines between the singular vectors of an outlier and the
      fields of `SpikedMatrix`: for `DeepLinear` $g^{l+1}(s)$ and $k^l(s)$ at every time s, for `MLP` the orthonormal
      directions of the march. Zero where there is no outlier.
    - `scale`, `aspect`: standard deviation of the random part's entries, times $\sqrt{\rm fan\ in}$, `[time]`; rows
      over columns.
    - `residual`: of the outliers' equation, at most. `sampling_error`: standard error of `outliers`, or `None`.
    """

    bulk_edge: Any
    outliers: Any
    largest: Any
    margin: Any
    left_overlaps: Any
    right_overlaps: Any
    scale: Any
    aspect: Any
    residual: Any
    sampling_error: Any = None

    @property
    def escape_step(self) -> int | None:
        """The first time at which there is an outlier; `None` if never.

        **Raises:** `TypeError` inside a transformation; use `margin` there.
        """
        margin = checks.concrete(self.margin)
        if margin is None:
            raise TypeError("escape_step is a whole number and has no derivative; inside a transformation use margin.")
        return int(np.argmax(margin > 0)) if np.any(margin > 0) else None

    @property
    def converged(self) -> bool:
        """Whether every outlier solves its equation to 1e-8."""
        return bool(np.all(np.asarray(self.residual) < 1e-8))

    def density(self, x, step: int = -1):
        """Density of the bulk's singular values at `x`, any shape, after `step` updates; outliers have no weight in it.

        **Raises:** `ValueError` for a step outside of the run.
        """
        times = len(self.bulk_edge)
        checks.integer("step", step, low=-times, high=times - 1)
        with double():
            density = bulk_density(*as_float((x, self.scale[step], self.aspect)))
        return to_host(density)


def spectrum(limit: AbstractLimit, trajectory: Trajectory, layer: int, *, count: int = 4) -> Any:
    r"""Bulk and outliers of a hidden weight matrix along a solution of its limit.

    Training adds to a random matrix a sum of few outer products of fields. These have felt the random matrix, and this
    changes at which size they are visible, and where: the outliers solve $\det(1 - J\,\Omega(z)) = 0$, with the
    responses of the theory in $\Omega$; see `solvers.overlap_matrix`.

    **Arguments:**

    - `limit`, `trajectory`: a `DeepLinear` or `MLP` limit, and what its `solve` returned. Rounded to single precision,
      as it is on the way into a caller's compiled function without the global flag, it gives outliers to a few 1e-3
      only; solve inside of that function instead.
    - `layer`: which weight matrix: 0..depth-1 for `DeepLinear`; 1..depth-1 for `MLP`, whose first matrix has a fixed
      number of columns.
    - `count`: outliers to look for at each time.

    **Returns:** a `Spectrum`, in float64, differentiable with respect to everything the solution depends on; for
    `ExtensiveOutputs`, whose whole bulk moves, a `BroadeningBulk`.

    **Raises:** `TypeError` for a limit without hidden weights; `ValueError` for a layer that does not exist or a
    trajectory that does not hold its order parameters.

    ??? cite "Source"
        *Spectral Dynamics in Deep Networks: Feature Learning, Outlier Escape, and Learning Rate Transfer*, arXiv
        2605.07870.
    """
    checks.instance("limit", limit, AbstractLimit, "a limit such as limits.DeepLinear")
    checks.instance("trajectory", trajectory, Trajectory, "a trajectory that the limit solved for")
    count = checks.integer("count", count)
    if trajectory.model != "limit":
        raise ValueError("trajectory must be the limit's own solution; that of a network was given.")
    return limit.spectrum(trajectory, layer, count=count)


def spiked_spectrum(matrices: SpikedMatrix, trajectory: Trajectory, count: int) -> Spectrum:
    """The spectrum of a matrix with a leading axis for replicas on every field, and then a time axis on `core`
    (diagonals of square ones will do) and `scale`; made of the order parameters of a trajectory, which may have been
    rounded to single precision.
    """
    rounding = max(float(np.finfo(leaf.dtype).eps) for leaf in trajectory.extras.values())
    with double():
        matrices = as_float(matrices)
        room = _room(matrices, rounding)
        # what is bound would be traced among the arguments
        found = in_precision(lambda matrices, _: _spectra(matrices, room, rounding, count), "double")(matrices, ())
    found = to_host(found)
    most = checks.concrete(found.outliers)
    if most is not None:
        used = max(1, int(np.sum(np.any(~np.isnan(most), axis=0))))
        kept = {name: getattr(found, name)[:, :used] for name in ("outliers", "left_overlaps", "right_overlaps")}
        error = None if found.sampling_error is None else found.sampling_error[:, :used]
        found = Spectrum(**(vars(found) | kept | {"sampling_error": error}))
    return found


def _room(matrices: SpikedMatrix, rounding: float) -> int | None:
    """The number of directions that the fields of all times span, a little rounded up; unknown when traced."""
    if checks.is_traced(matrices):
        return None
    ranks = [int(np.max(_ranks(C, rounding))) for C in (matrices.correlation_k, matrices.correlation_g)]
    return -(-max(ranks) // 8) * 8


@eqx.filter_jit
def _ranks(correlation, rounding: float):
    return jnp.max(jax.lax.map(lambda C: orthonormal_basis(C, len(C), rounding)[1], correlation))


@eqx.filter_jit
def _spectra(matrices: SpikedMatrix, room: int | None, rounding: float, count: int) -> Spectrum:
    """All times of all replicas (the leading axis of every field)."""
    each = jax.lax.map(lambda matrix: _spectrum(matrix, room, rounding, count), matrices)
    replicas = len(matrices.core)
    mean = jax.tree.map(lambda a: jnp.mean(a, axis=0), each)
    # a mean over replicas in some of which there is no outlier would be biased
    error = jnp.std(each.outliers, axis=0, ddof=1) / replicas**0.5 if replicas > 1 else None
    return Spectrum(**(vars(mean) | {"residual": jnp.max(each.residual), "sampling_error": error}))


def _spectrum(matrix: SpikedMatrix, room: int | None, rounding: float, count: int) -> Spectrum:
    C_k, C_g = matrix.correlation_k, matrix.correlation_g
    right, _ = orthonormal_basis(C_k, min(room or len(C_k), len(C_k)), rounding)
    left, _ = orthonormal_basis(C_g, min(room or len(C_g), len(C_g)), rounding)

    def at(now):
        core, scale = now
        core = jnp.diag(core) if core.ndim == 1 else core
        return outliers(matrix._replace(core=core, scale=scale), left, right, count=count)

    found = jax.lax.map(at, (matrix.core, matrix.scale))
    edge = bulk_edge(matrix.scale, matrix.aspect)
    return Spectrum(
        bulk_edge=edge,
        outliers=found.values,
        largest=jnp.where(found.exist[:, 0], found.values[:, 0], edge),
        margin=found.margin,
        left_overlaps=found.left_overlap,
        right_overlaps=found.right_overlap,
        scale=matrix.scale,
        aspect=matrix.aspect,
        residual=jnp.max(found.residual),
    )


def missing(trajectory: Trajectory, names) -> None:
    """**Raises:** `ValueError` if the trajectory does not hold one of the order parameters."""
    for name in names:
        if name not in trajectory.extras:
            raise ValueError(f'trajectory does not hold the order parameter "{name}"; it must come from solve().')


def check_layer(layer: Any, low: int, depth: int) -> int:
    """A layer within `low..depth - 1`."""
    if low > depth - 1:
        raise ValueError(f"layer {layer} does not exist: depth {depth} has no weights between hidden layers.")
    return checks.integer("layer", layer, low=low, high=depth - 1)
