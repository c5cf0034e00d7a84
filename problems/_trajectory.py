"""One record for theory and simulation: what training did, with its status and its sampling error."""

import json
import os
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._files import replaced

STATUS = ("converged", "diverged", "not converged", "overflow")
CONVERGED, DIVERGED, NOT_CONVERGED, OVERFLOW = range(4)


class DivergedError(FloatingPointError):
    """Training left the stable region: a loss is not finite, or above a million times the first."""


class ConvergenceError(ArithmeticError):
    """A solver stopped before it reached its tolerance, or ran out of the room it was given."""


class Trajectory(eqx.Module):
    """What came of learning a task by a protocol, from a limit or from a finite network.

    Index `t` of the time axis is before update `t`; there are `steps + 1` entries. Ensembles put one axis `seed` in
    front of every array. `None` stands for what a model does not define.

    **Fields:**

    - `train_loss`, `test_loss`: `[time]`, in the convention named by `loss_convention`.
    - `predictions`: `[time, sample]`, `test_predictions`: `[time, test_sample]`.
    - `kernels`: `kernels["Phi", l]` `[time, time, sample, sample]`, or `[time, sample, sample]` at equal times.
    - `extras`: further arrays that a family of models adds, by name; time first where there is one.
    - `sampling_error`: standard errors of what was sampled, by the names of `curves` (kernels as `Phi_1`: JAX cannot
      sort text among tuples); `None` for a theory without sampling and for a network.
    - `status_code`, `diverged_step`: integers; `status` says the former in words, the latter is -1 for none.
    - `loss_convention`: `"half_mean_square"`, `"mean_square"`, `"cross_entropy"` (mean over samples), or `"mean_loss"`
      for a loss of one's own.
    - `model`: `"limit"` or `"network"`.
    - `attributes`: pairs of name and value that say how the record was made.
    """

    train_loss: Any = None
    test_loss: Any = None
    predictions: Any = None
    test_predictions: Any = None
    kernels: dict[tuple[str, int], Any] = eqx.field(default_factory=dict)
    extras: dict[str, Any] = eqx.field(default_factory=dict)
    sampling_error: dict[str, Any] | None = None
    status_code: Any = CONVERGED
    diverged_step: Any = -1
    loss_convention: str = eqx.field(static=True, default="half_mean_square")
    model: str = eqx.field(static=True, default="limit")
    attributes: tuple[tuple[str, Any], ...] = eqx.field(static=True, default=())

    @property
    def status(self) -> str:
        """The worst status of the record in words; `"traced"` inside a transformation."""
        code = checks.concrete(self.status_code)
        return "traced" if code is None else STATUS[int(np.max(code))]

    @property
    def steps(self) -> int:
        """Number of updates."""
        return self._loss().shape[-1] - 1

    def _loss(self):
        loss = self.test_loss if self.train_loss is None else self.train_loss
        if loss is None:
            raise ValueError("this trajectory holds no loss.")
        return loss

    def curves(self) -> dict[str, Any]:
        """Every recorded quantity by a plain name: losses, predictions, kernels as `Phi_1`, and extras."""
        named = {name: getattr(self, name) for name in _CURVES}
        named |= {f"{kind}_{layer}": value for (kind, layer), value in self.kernels.items()}
        return {name: value for name, value in (named | self.extras).items() if value is not None}

    def errors(self) -> dict[str, Any]:
        """The sampling errors under the names of `curves`."""
        return {name: value for name, value in (self.sampling_error or {}).items() if value is not None}

    def to_dataset(self):
        """The record as a labelled `xarray.Dataset`; attributes say how it was made."""
        import xarray

        lead = ("seed",) if self._loss().ndim == 2 else ()
        variables = {}
        for name, value in self.curves().items():
            variables[name] = _variable(name, value, lead, self)
        for name, value in self.errors().items():
            variables[f"{name}_sampling_error"] = _variable(name, value, lead, self)
        for name in ("status_code", "diverged_step"):
            value = np.asarray(getattr(self, name))
            variables[name] = (lead[: value.ndim], value)
        kernels = json.dumps([[kind, layer] for kind, layer in self.kernels])
        return xarray.Dataset(
            variables,
            coords={"time": np.arange(self.steps + 1)},
            attrs={
                "loss_convention": self.loss_convention,
                "model": self.model,
                "status": self.status,
                "kernels": kernels,
                "extras": json.dumps(list(self.extras)),
                "attributes": json.dumps(self.attributes, default=str),
            },
        )

    def to_plain(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All arrays by name, and the rest as plain JSON data: what `from_plain` takes."""
        dataset = self.to_dataset()
        return {str(name): dataset[name].values for name in dataset.data_vars}, dict(dataset.attrs)

    @classmethod
    def from_plain(cls, values: dict[str, Any], about: dict[str, Any]) -> Self:
        """The record that `to_plain` took apart."""
        return cls(**_fields(values, about))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the record to a netCDF file; a file that is there is replaced only when the new one is complete."""
        write_netcdf(self.to_dataset(), path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads what `save` wrote.

        **Raises:** `ValueError` when the file is not such a record.
        """
        import xarray

        try:
            with xarray.open_dataset(path, engine="netcdf4") as data:
                data = data.load()
            values = {str(name): data[name].values for name in data.data_vars}
            return cls.from_plain(values, data.attrs)
        except FileNotFoundError:
            raise
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            # the netCDF library reports damage by any of these
            raise ValueError(f"{os.fspath(path)} is not a trajectory saved by limitax: {error}") from None


def _fields(values: dict[str, Any], attrs: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of the `Trajectory` that became these arrays and attributes."""
    keyed = {f"{kind}_{layer}": (kind, int(layer)) for kind, layer in json.loads(attrs["kernels"])}
    suffix = "_sampling_error"
    errors = {name.removesuffix(suffix): value for name, value in values.items() if name.endswith(suffix)}
    return {name: values.get(name) for name in _CURVES} | {
        "kernels": {key: values[name] for name, key in keyed.items()},
        "extras": {name: values[name] for name in json.loads(attrs["extras"])},
        "sampling_error": errors or None,
        "status_code": values["status_code"],
        "diverged_step": values["diverged_step"],
        "loss_convention": attrs["loss_convention"],
        "model": attrs["model"],
        "attributes": tuple((str(name), value) for name, value in json.loads(attrs["attributes"])),
    }


_CURVES = ("train_loss", "test_loss", "predictions", "test_predictions")
_DIMS = {
    "train_loss": ("time",),
    "test_loss": ("time",),
    "predictions": ("time", "sample"),
    "test_predictions": ("time", "test_sample"),
}


def _variable(name: str, value, lead: tuple[str, ...], record: Trajectory):
    value = np.asarray(value)
    dims = _DIMS.get(name)
    if dims is None:
        inner = value.ndim - len(lead)
        if name in record.extras:
            timed = value.shape[len(lead) : len(lead) + 1] == np.shape(record._loss())[-1:]
            dims = tuple("time" if i == 0 and timed else f"{name}_axis_{i}" for i in range(inner))
        elif inner == 4:
            dims = ("time", "other_time", "sample", "other_sample")
        else:
            dims = ("time", "sample", "other_sample")
    return ((*lead, *dims), value)


def write_netcdf(dataset, path: str | os.PathLike) -> None:
    """Writes a dataset to a netCDF file that is never half written."""
    with replaced(path) as file:
        dataset.to_netcdf(file, engine="netcdf4")


def first_divergence(loss) -> Any:
    """First step at which `loss` `[..., time]` is not finite or above a million times the first; -1 where none is."""
    first = loss[..., :1]
    bad = ~jnp.isfinite(loss) | ((loss > 1e6 * first) & (first > 0))
    # of 32 bits: a default integer would depend on when the caller's program is lowered
    first_bad = jax.lax.argmax(bad, bad.ndim - 1, jnp.int32)
    return jnp.where(jnp.any(bad, axis=-1), first_bad, -1)


def check(trajectory: Trajectory, stable_below: float | None = None) -> Trajectory:
    """Returns the record, or raises what its status says. Inside a transformation the status stays in the record.

    **Raises:** `DivergedError` with the step and the loss, and the linear stability bound where one is known;
    `ConvergenceError` for the other failures.
    """
    step = checks.concrete(trajectory.diverged_step)
    if step is not None and np.any(step >= 0):
        loss = np.asarray(trajectory._loss())
        flat, losses = np.ravel(step).astype(np.int64), loss.reshape(-1, loss.shape[-1])
        worst = int(np.argmin(np.where(flat >= 0, flat, np.iinfo(np.int64).max)))
        seeds = f" in {int(np.sum(flat >= 0))} of {flat.size} runs, first" if flat.size > 1 else ""
        hint = (
            ""
            if stable_below is None
            else (f"; at initialisation it is linearly stable for learning_rate < {stable_below:.3g}")
        )
        first = int(flat[worst])
        raise DivergedError(
            f"training left the stable region{seeds} at step {first} (loss {losses[worst, first]:.2g}){hint}."
        )
    code = checks.concrete(trajectory.status_code)
    if code is not None and np.any(code > DIVERGED):
        raise ConvergenceError(f"the solution is not to be trusted: {STATUS[int(np.max(code))]}.")
    return trajectory
