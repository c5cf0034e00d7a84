"""Theory beside finite networks: errors, spread, the rate of approach, and whether they agree."""

import inspect
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import nets
from ..limits import AbstractLimit, Fluctuations
from ..limits import fluctuations as width_fluctuations
from ..problems import DivergedError, Trajectory, default_key, key_name, write_netcdf
from ..problems import _checks as checks
from ..solvers import track, working

#: Theory and simulation agree when they differ by at most this many combined standard errors.
AGREEMENT = 3.0


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. Dictionaries go by the name of a quantity (`Trajectory.curves`), lists by size.

    With norms over time (and samples):

    - `errors`: |seed mean - theory| / |theory|; `standard_errors`: the standard error of that mean in the same units.
    - `spread`: root mean square over seeds of |single run - theory| / |theory|.
    - `rate`: log-log slope of `spread` in size, expected -1/2, and `rate_error`, its standard error from the number of
      seeds; `None` where the size does not matter.
    - `agreement`: |seed means extrapolated linearly in 1/size - theory| over its combined standard error, that of the
      fit and the sampling error of the theory; at most 3 passes.

    `fluctuations` predict mean and spread of the runs to first order in 1/size, if they were asked for.
    """

    limit: AbstractLimit
    task: Any
    protocol: Any
    theory: Trajectory
    runs: dict[int, Trajectory]
    sizes: tuple[int, ...] | None
    seeds: int
    errors: dict[str, list[float]] = field(default_factory=dict)
    standard_errors: dict[str, list[float]] = field(default_factory=dict)
    spread: dict[str, list[float]] = field(default_factory=dict)
    rate: dict[str, float | None] = field(default_factory=dict)
    rate_error: dict[str, float | None] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    key: str = ""
    fluctuations: Fluctuations | None = None

    @property
    def agrees(self) -> bool:
        """Whether every quantity's `agreement` is at most 3."""
        return all(value <= AGREEMENT for value in self.agreement.values())

    @property
    def status(self) -> str:
        """Status of the theory."""
        return self.theory.status

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data, for JSON."""
        names = ("errors", "standard_errors", "spread", "rate", "rate_error", "agreement", "status", "seconds")
        sizes = None if self.sizes is None else list(self.sizes)
        return {"sizes": sizes, "seeds": self.seeds} | {name: getattr(self, name) for name in names}

    def plot(self, path=None):
        """Draws the comparison, writes it to `path` if given, and returns the `matplotlib` figure."""
        from ._plots import plot_comparison

        return plot_comparison(self, path)

    def to_dataset(self):
        """Theory, and mean and standard deviation over seeds at every size, as one labelled `xarray.Dataset`."""
        theory = self.theory.to_dataset()
        result = theory.rename({name: f"{name}_theory" for name in self.theory.curves()})
        if self.sizes is not None:
            result = result.assign_coords(size=list(self.sizes))
        for name in self.errors:
            dims = theory[name].dims
            for statistic, function in (("mean", np.mean), ("std", np.std)):
                values = [function(np.asarray(run.curves()[name]), axis=0) for run in self.runs.values()]
                if self.sizes is None:
                    result[f"{name}_{statistic}"] = (dims, values[0])
                else:
                    result[f"{name}_{statistic}"] = (("size", *dims), np.stack(values))
        for name in self.errors:
            for label, table in (("error", self.errors), ("spread", self.spread)):
                numbers = np.asarray(table[name])
                result[f"{name}_{label}"] = ((), numbers[0]) if self.sizes is None else (("size",), numbers)
            result[f"{name}_error"].attrs["long_name"] = "relative distance of the seed mean from the theory"
            result[f"{name}_spread"].attrs["long_name"] = "relative distance of a single run from the theory"
            result[f"{name}_error"].attrs["agreement"] = self.agreement[name]
            if (rate := self.rate[name]) is not None:
                result[f"{name}_spread"].attrs["rate"] = rate
        result.attrs["seeds"] = self.seeds
        result.attrs["key"] = self.key
        return result

    def save(self, path) -> None:
        """Writes `to_dataset()` to a netCDF file."""
        write_netcdf(self.to_dataset(), path)


def compare(
    limit: AbstractLimit,
    task,
    protocol,
    *,
    sizes=(64, 128, 256),
    seeds: int = 32,
    key=None,
    record: tuple[str, ...] = (),
    quantities: tuple[str, ...] | None = None,
    fluctuations: bool = False,
    out: str | os.PathLike | None = None,
    **options,
) -> Comparison:
    """Solves a limit, trains finite networks of growing size, and measures how they approach it.

    **Arguments:**

    - `limit`, `task`, `protocol`: the problem.
    - `sizes`: sizes of the finite networks (what size means is said by the limit); ignored where the mean over
      networks equals the theory at every size.
    - `seeds`: independent networks (or pairs) at every size, at least 2.
    - `key`: random key of the theory's samples and of the networks.
    - `record`: names of what else the networks record, see `nets.train`: `("kernels",)` to compare kernels too.
    - `quantities`: names to compare; by default all that theory and networks both record.
    - `fluctuations`: whether to predict mean and spread of the runs at every size too, see `lx.fluctuations`; the
        picture then shows them. They are those of pairs of networks, which is what is trained.
    - `out`: a folder, in which networks of every size have one of their own (`out/256`), and so has the theory if it is
        that of `limits.MLP` (`out/theory`): what is done is saved there, and the same call goes on where a killed one
        stopped, see `nets.train`.
    - `options`: passed on to `limit.solve`.

    **Returns:** a `Comparison`.
    """
    checks.instance("limit", limit, AbstractLimit, "a limit such as limits.MLP")
    seeds = checks.integer("seeds", seeds, low=2)
    checks.instance("record", record, (tuple, list), "a list of names")
    if quantities is not None:
        checks.instance("quantities", quantities, (tuple, list), "a list of names")
    checks.flag("fluctuations", fluctuations)
    sizes = checks.sizes(sizes)
    if limit.exact_at_any_size(task, protocol):
        sizes = None
    key = default_key(key)
    key_theory, key_nets = jax.random.split(key)

    part = lambda name: {} if out is None else {"out": Path(out) / str(name)}  # noqa: E731
    if "out" in inspect.signature(type(limit).solve).parameters:
        options |= part("theory")
    start = time.perf_counter()
    with working("theory"):
        theory = jax.block_until_ready(limit.solve(task, protocol, key=key_theory, **options))
        expected = width_fluctuations(limit, task, protocol, networks="pairs", key=key_theory) if fluctuations else None
    seconds = {"theory": time.perf_counter() - start}
    for name in quantities or ():
        if name not in theory.curves():
            raise ValueError(f'quantities "{name}" is not recorded; one of: {", ".join(theory.curves())}.')

    start = time.perf_counter()
    runs = {}
    for size in track(sizes or (1,), "finite networks"):
        key_init, key_train = jax.random.split(jax.random.fold_in(key_nets, size))
        ensemble = limit.ensemble(task, size=size, seeds=seeds, key=key_init)
        extra: dict[str, Any] = dict.fromkeys(record, True) | part(size)
        runs[size] = jax.block_until_ready(nets.train(ensemble, task, protocol, key=key_train, throw=False, **extra))
        _check_runs(runs[size], size, seeds)
    seconds["finite"] = time.perf_counter() - start

    report = Comparison(
        limit,
        task,
        protocol,
        theory,
        runs,
        sizes,
        seeds,
        seconds=seconds,
        key=key_name(key),
        fluctuations=expected,
    )
    for name in _common(theory, runs, quantities):
        _measure(report, name)
    return report


def _measure(report: Comparison, name: str) -> None:
    """Fills in the numbers of one quantity."""
    theory = np.asarray(report.theory.curves()[name], np.float64)
    theory_error = np.asarray(report.theory.errors().get(name, 0.0), np.float64)
    norm = np.linalg.norm(theory) or 1.0
    means, variances, spread, log_variances = [], [], [], []
    for run in report.runs.values():
        values = np.asarray(run.curves()[name], np.float64)
        means.append(values.mean(0))
        variances.append(values.var(0, ddof=1) / report.seeds)
        squares = np.sum((values - theory) ** 2, axis=tuple(range(1, values.ndim))) / norm**2
        spread.append(np.sqrt(np.mean(squares)))
        log_variances.append(squares.var(ddof=1) / report.seeds / (2 * max(np.mean(squares), 1e-150)) ** 2)
    report.errors[name] = [float(np.linalg.norm(m - theory) / norm) for m in means]
    report.standard_errors[name] = [float(np.sqrt(np.sum(v)) / norm) for v in variances]
    report.spread[name] = [float(s) for s in spread]
    report.rate[name] = report.rate_error[name] = None
    weights = np.ones(1)
    if report.sizes is not None and len(report.sizes) > 1:
        if min(spread) > 0:
            centred = np.log(report.sizes) - np.mean(np.log(report.sizes))
            slope = centred / np.sum(centred**2)
            report.rate[name] = float(slope @ np.log(spread))
            report.rate_error[name] = float(np.sqrt(slope**2 @ np.asarray(log_variances)))
        weights = extrapolation([np.sum(v) for v in variances], report.sizes)
    limit = sum(w * m for w, m in zip(weights, means, strict=True))
    variance = sum(w**2 * v for w, v in zip(weights, variances, strict=True)) + theory_error**2
    distance, error = np.linalg.norm(limit - theory), np.sqrt(np.sum(variance))
    report.agreement[name] = float(distance / error) if error > 0 else (0.0 if distance <= 1e-6 * norm else np.inf)


def extrapolation(variances, sizes) -> np.ndarray:
    """Coefficients of the seed means in their weighted straight-line fit in 1/size, at 1/size = 0."""
    design = np.stack([np.ones(len(sizes)), 1.0 / np.asarray(sizes)], axis=1)
    precision = 1.0 / np.maximum(variances, 1e-300)
    normal = design.T @ (precision[:, None] * design)
    return np.linalg.solve(normal, design.T * precision)[0]


def _check_runs(run: Trajectory, size: int, seeds: int) -> None:
    diverged = np.asarray(run.diverged_step) >= 0
    if np.any(diverged):
        first = int(np.min(np.asarray(run.diverged_step)[diverged]))
        raise DivergedError(
            f"{int(np.sum(diverged))} of {seeds} finite networks of size {size} left the stable region, the first at "
            f"step {first}; a mean over them has no meaning. Use a smaller learning_rate or larger sizes."
        )


def _common(theory: Trajectory, runs: dict[int, Trajectory], quantities) -> list[str]:
    known = theory.curves()
    first = next(iter(runs.values())).curves()
    common = [n for n in known if n in first and np.shape(first[n])[1:] == np.shape(known[n])]
    if quantities is None:
        return common
    for name in quantities:
        if name not in common:
            raise ValueError(f'quantities "{name}" is not recorded by both sides; one of: {", ".join(common)}.')
    return list(quantities)
