"""The proof of an optimum: finite networks trained by it and by its rivals, from the same start on the same data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .. import nets
from ..limits import AbstractLimit
from ..problems import AbstractProtocol, Trajectory, default_key, key_name, objectives, write_netcdf
from ..problems import _checks as checks
from ..solvers import track, working
from ._optimise import Optimum

#: A mean difference counts when it is this many times its standard error.
SIGNIFICANT = 2.0
BEST = "best"


@dataclass(frozen=True)
class Verification:
    r"""What `verify` found. Dictionaries go by the name of a rival; those marked * have an entry `"best"` too.

    - `losses`*: `[seeds]`, the final loss of every network (or pair of networks); infinite where training `diverged`.
    - `difference`: mean over seeds of `best` minus the rival, over the pairs in which neither diverged, and its
      `standard_error`; `nan` where too few are left.
    - `relative_difference`: the same over the rival's mean loss, and its `relative_error`.
    - `median`: the median difference over all seeds, a diverged network having an infinite loss; 0 where both did.
    - `mean`*, `mean_error`*: of the losses that did not diverge, with standard error.
    - `diverged`*: number of seeds that diverged.
    - `expected`*: the loss that the theory promises.
    - `runs`*, `theory`*: the records, with leading axis `[seeds]` and without.

    A mean over the pairs that are left hides divergence, a median hides rare ones: look at both, and at `diverged`.
    """

    best: Optimum
    against: dict[str, tuple[AbstractLimit, Any]]
    runs: dict[str, Trajectory]
    theory: dict[str, Trajectory]
    loss: Callable[[Trajectory], Any]
    size: int
    seeds: int
    key: str = ""

    @property
    def losses(self) -> dict[str, np.ndarray]:
        return {name: self._final(run) for name, run in self.runs.items()}

    @property
    def expected(self) -> dict[str, float]:
        return {name: float(self._final(theory)) for name, theory in self.theory.items()}

    @property
    def diverged(self) -> dict[str, int]:
        return {name: int(np.sum(np.isinf(loss))) for name, loss in self.losses.items()}

    @property
    def mean(self) -> dict[str, float]:
        return {name: _mean(loss[np.isfinite(loss)]) for name, loss in self.losses.items()}

    @property
    def mean_error(self) -> dict[str, float]:
        return {name: _standard_error(loss[np.isfinite(loss)]) for name, loss in self.losses.items()}

    @property
    def difference(self) -> dict[str, float]:
        return {name: _mean(ours - theirs) for name, (ours, theirs) in self._pairs().items()}

    @property
    def standard_error(self) -> dict[str, float]:
        return {name: _standard_error(ours - theirs) for name, (ours, theirs) in self._pairs().items()}

    @property
    def relative_difference(self) -> dict[str, float]:
        return {name: _ratio(ours, theirs) - 1 for name, (ours, theirs) in self._pairs().items()}

    @property
    def relative_error(self) -> dict[str, float]:
        # of a ratio of two means over the same seeds, to first order
        return {
            name: _standard_error(ours - _ratio(ours, theirs) * theirs) * _ratio(np.ones(1), theirs)
            for name, (ours, theirs) in self._pairs().items()
        }

    @property
    def median(self) -> dict[str, float]:
        ours = self.losses[BEST]
        return {name: _median_difference(ours, self.losses[name]) for name in self.against}

    @property
    def better(self) -> dict[str, bool]:
        """Whether `best` beats the rival by more than two standard errors, or the rival left no two seeds to compare
        with."""
        left = {name: len(ours) for name, (ours, _) in self._pairs().items()}
        return {
            name: left[name] < 2 or self.difference[name] < -SIGNIFICANT * self.standard_error[name]
            for name in self.against
        }

    @property
    def accepted(self) -> bool:
        """Whether no network trained by `best` diverged and it is `better` than every rival."""
        return self.diverged[BEST] == 0 and all(self.better.values())

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data, for JSON."""
        names = (
            *("difference", "standard_error", "relative_difference", "relative_error", "median", "better"),
            *("mean", "mean_error", "diverged", "expected"),
        )
        return {"size": self.size, "seeds": self.seeds, "accepted": self.accepted} | {
            name: getattr(self, name) for name in names
        }

    def plot(self, path=None):
        """Draws rates, losses and paired differences, writes them to `path` if given, and returns the figure."""
        from ._plots import plot_verification

        return plot_verification(self, path)

    def to_dataset(self):
        """Losses of every network and the theory's curves, by `protocol`, as one labelled `xarray.Dataset`."""
        import xarray

        names = list(self.runs)
        by_name = {
            "final_loss": (("protocol", "seed"), np.stack([self.losses[name] for name in names])),
            "expected": (("protocol",), [self.expected[name] for name in names]),
        }
        rival = {"difference": np.nan, "standard_error": np.nan, "median": np.nan}
        for name in rival:
            by_name[name] = (("protocol",), [getattr(self, name).get(protocol, np.nan) for protocol in names])
        curves = {name: self.curves(name) for name in names}
        if len({runs.shape for runs, _ in curves.values()}) == 1:
            by_name["loss"] = (("protocol", "seed", "time"), np.stack([runs for runs, _ in curves.values()]))
            by_name["loss_theory"] = (("protocol", "time"), np.stack([theory for _, theory in curves.values()]))
        attributes = {"size": self.size, "seeds": self.seeds, "key": self.key, "accepted": int(self.accepted)}
        attributes["loss_convention"] = self.theory[BEST].loss_convention
        return xarray.Dataset(by_name, coords={"protocol": names}, attrs=attributes)

    def save(self, path) -> None:
        """Writes `to_dataset()` to a netCDF file."""
        write_netcdf(self.to_dataset(), path)

    def curves(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the networks `[seeds, time]` and of the theory `[time]`: on the test side if there is one."""
        side = "train_loss" if self.theory[name].test_loss is None else "test_loss"
        return np.asarray(getattr(self.runs[name], side)), np.asarray(getattr(self.theory[name], side))

    def protocol(self, name: str) -> Any:
        """The protocol called `name`."""
        return self.best.protocol if name == BEST else self.against[name][1]

    def _final(self, record: Trajectory) -> np.ndarray:
        loss = np.asarray(self.loss(record), np.float64)
        return np.where((np.asarray(record.diverged_step) >= 0) | ~np.isfinite(loss), np.inf, loss)

    def _pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Losses of `best` and of each rival on the seeds where neither diverged."""
        losses = self.losses
        both = {name: np.isfinite(losses[BEST]) & np.isfinite(losses[name]) for name in self.against}
        return {name: (losses[BEST][kept], losses[name][kept]) for name, kept in both.items()}


def verify(
    best: Optimum,
    against: dict[str, Any] | None = None,
    *,
    size: int = 400,
    seeds: int = 16,
    key=None,
    loss: Callable[[Trajectory], Any] = objectives.final_loss,
    **options,
) -> Verification:
    """Trains finite networks by an optimum and by its rivals, and compares their losses pair by pair.

    The networks of one seed start from the same weights, and see the same data in the same order, whatever trains
    them (for protocols with the same number of steps and limits with networks of the same shape). A schedule that
    is best in theory but leaves the stable region of finite networks is found out here.

    **Arguments:**

    - `best`: from `optimise`. All networks learn its task.
    - `against`: rivals by name, each a protocol (for the limit of `best`), a pair `(limit, protocol)` or another
      `Optimum`; by default the tuned `best.benchmarks`.
    - `size`: of the networks, as the limit means it. `seeds`: of networks or pairs of them, at least 2.
    - `key`: random key of networks, data and theory. Monte-Carlo limits are solved anew with it, so that an optimum
      found with another one is judged on samples that it has not seen.
    - `loss`: what is compared, a function of a `Trajectory` that may have an axis of seeds in front: any plain
      function of `lx.objectives`.
    - `options`: for `limit.solve`, such as `samples`.

    **Returns:** a `Verification`; diverged networks are counted, never dropped in silence.

    **Raises:** `ValueError` and `TypeError` for rivals that are none, or that were found for another task.
    """
    checks.instance("best", best, Optimum, "what optimise returned")
    rivals = _rivals(best, against)
    size = checks.integer("size", size)
    seeds = checks.integer("seeds", seeds, low=2)
    if not callable(loss):
        raise TypeError(f"loss must be a function of a trajectory; {checks.shown(loss)} was given.")
    key = default_key(key)
    key_theory, key_nets = jax.random.split(key)
    key_init, key_train = jax.random.split(key_nets)

    problems = {BEST: (best.limit, best.protocol)} | rivals
    with working("theory"):
        theory = {
            name: limit.solve(best.task, protocol, key=key_theory, throw=False, **options)
            for name, (limit, protocol) in problems.items()
        }
    runs = {}
    for name, (limit, protocol) in track(problems.items(), "finite networks"):
        ensemble = limit.ensemble(best.task, size=size, seeds=seeds, key=key_init)
        runs[name] = jax.block_until_ready(nets.train(ensemble, best.task, protocol, key=key_train, throw=False))
    return Verification(best, rivals, runs, theory, loss, size, seeds, key_name(key))


def _rivals(best: Optimum, against) -> dict[str, tuple[AbstractLimit, Any]]:
    if against is None:
        against = best.benchmarks
    if not isinstance(against, dict):
        raise TypeError(f"against must be protocols by name; {checks.shown(against)} was given.")
    if not against:
        raise ValueError("against is needed: best has no benchmarks; give protocols by name, or optimise with them.")
    return {name: _rival(best, name, given) for name, given in against.items()}


def _rival(best: Optimum, name, given) -> tuple[AbstractLimit, Any]:
    if not isinstance(name, str) or name == BEST:
        raise ValueError(f'against must have names other than "{BEST}"; {name!r} was given.')
    if isinstance(given, Optimum):
        if not _equal(given.task, best.task):
            raise ValueError(f'against["{name}"] was found for another task; both must be trained on the same one.')
        return given.limit, given.protocol
    limit, protocol = given if isinstance(given, tuple) and len(given) == 2 else (best.limit, given)
    if not isinstance(limit, AbstractLimit) or not isinstance(protocol, AbstractProtocol):
        raise TypeError(
            f'against["{name}"] must be a protocol, a pair (limit, protocol) or an Optimum; '
            f"{checks.shown(given)} was given."
        )
    return limit, protocol


def _equal(a, b) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    below = _mean(theirs)
    return _mean(ours) / below if below else np.nan


def _standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def _median_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    both = np.isinf(ours) & np.isinf(theirs)
    difference = np.where(both, 0.0, np.where(both, 0.0, ours) - np.where(both, 0.0, theirs))
    return float(np.median(difference))
