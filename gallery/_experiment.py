"""Systems whose result is an experiment on networks over a grid, and whose claims are measured numbers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from ..problems import _checks as checks
from ..problems import default_key
from ..studies import AGREEMENT
from ..studies._ensembles import log_slope
from ._system import AbstractSystem, Problem


class Claim(NamedTuple):
    """A measured number, and the interval in which the paper's claim, or the scatter of its measurement, puts it."""

    value: float
    low: float = -np.inf
    high: float = np.inf

    @property
    def holds(self) -> bool:
        """Whether the number is in its interval; one that could not be measured is not."""
        return bool(self.low <= self.value <= self.high)

    @property
    def expected(self) -> str:
        """The interval in words."""
        if np.isinf(self.high):
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if np.isinf(self.low) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Findings:
    """What an `Experiment` found.

    **Fields:**

    - `problem`: what was studied; `dataset`: all curves, labelled; `sizes`, `seeds`, `key`: of the networks.
    - `claims`: the measured claims by name.
    - `errors`, `standard_errors`, `spread`, `rate`: by quantity, as in a `Comparison`, but with the widest networks of
      the experiment in the place of a theory; `agreement`: with a theory, where there is one; all may be empty.
    - `measured`: further numbers by name.
    """

    problem: Any
    dataset: Any
    sizes: tuple[int, ...]
    seeds: int
    claims: Mapping[str, Claim]
    errors: Mapping[str, list[float]] = field(default_factory=dict)
    standard_errors: Mapping[str, list[float]] = field(default_factory=dict)
    spread: Mapping[str, list[float]] = field(default_factory=dict)
    rate: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    key: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every claim holds, and every `agreement` with a theory is at most 3."""
        return all(c.holds for c in self.claims.values()) and all(a <= AGREEMENT for a in self.agreement.values())

    @property
    def status(self) -> str:
        """`"converged"`: networks that diverge raise."""
        return "converged"

    def to_dataset(self):
        """The curves as a labelled `xarray.Dataset`."""
        return self.dataset.assign_attrs(seeds=self.seeds, key=self.key)

    def summary(self) -> dict[str, Any]:
        """The entries of every summary, `None` where they have no meaning, and `claims`."""
        names = ("errors", "standard_errors", "spread", "rate", "agreement")
        claims = {
            name: {"value": claim.value, "low": claim.low, "high": claim.high, "holds": claim.holds}
            for name, claim in self.claims.items()
        }
        return (
            {"sizes": list(self.sizes), "seeds": self.seeds}
            | {name: dict(getattr(self, name)) or None for name in names}
            | {"rate_error": None, "status": self.status, "seconds": dict(self.seconds), "claims": claims}
        )


@dataclass(frozen=True)
class Experiment(AbstractSystem):
    """Networks over a grid of sizes, sample sizes or times, and what is claimed of them.

    **Fields:**

    - `name`, `title`, `paper`, `solves`: as in `System`.
    - `build`: makes what is studied, any object; its keyword arguments, all with defaults, are the settings.
    - `conduct`: `(problem, sizes, seeds, key)`, trains the networks and returns `Findings`.
    - `figure`: `(findings, path)`, draws them.
    - `sizes`, `seeds`: defaults; sizes come to `conduct` in increasing order, at least two of them.
    - `theory`: whether a theory is run beside the networks.
    - `full`, `measure`, `claims`: as in `System`; by default `measure` gives the findings' own numbers.
    """

    name: str
    title: str
    paper: str
    solves: str
    build: Callable[..., Any]
    conduct: Callable[..., Findings]
    figure: Callable[..., Any]
    sizes: tuple[int, ...]
    seeds: int
    theory: bool = False
    full: Mapping[str, Any] = field(default_factory=dict)
    measure: Callable[[Findings], dict[str, Any]] | None = lambda findings: dict(findings.measured)
    claims: tuple[str, ...] = ()

    @property
    def runs(self) -> str:
        return "theory and networks" if self.theory else "networks only"

    def check(self, settings=None, *, full: bool = False) -> None:
        self.build(**self.arguments(settings, full=full))

    def problem(self, settings=None, *, full: bool = False) -> Problem:
        raise ValueError(f"{self.name} is an experiment on networks and has no theory to optimise or to sweep.")

    def run(self, settings=None, *, full: bool = False, sizes=None, seeds=None, key=None, **options) -> Findings:
        """The experiment at the given settings.

        **Raises:** `ValueError` and `TypeError` for settings, sizes or seeds that are none; `DivergedError`.
        """
        for name in options:
            raise TypeError(f"{name} is no option of {self.name}: there is no theory to pass it to.")
        problem = self.build(**self.arguments(settings, full=full))
        sizes = checks.sizes(self.sizes if sizes is None else sizes, least=2)
        seeds = checks.integer("seeds", self.seeds if seeds is None else seeds, low=2)
        return self.conduct(problem, sizes, seeds, default_key(key))

    def show(self, report: Findings) -> None:
        from ..studies.tables import show

        rows = [
            (name, f"{claim.value:.3g}", claim.expected, "yes" if claim.holds else "NO")
            for name, claim in report.claims.items()
        ]
        show(("claim", "measured", "expected", "holds"), rows, f"{self.name} (arXiv {self.paper})")
        seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items() if value is not None)
        print(f"{seconds}; widths {', '.join(map(str, report.sizes))}; {report.seeds} networks each")

    def plot(self, report: Findings, path=None):
        return self.figure(report, path)

    def disagreement(self, report: Findings) -> str:
        failed = [name for name, claim in report.claims.items() if not claim.holds]
        failed += [f"agreement of {name} with the theory" for name, a in report.agreement.items() if a > AGREEMENT]
        return f"not as claimed: {'; '.join(failed)}"


class Stopwatch:
    """Seconds spent on each of several kinds of work."""

    def __init__(self):
        self.seconds: dict[str, float | None] = {"theory": None, "finite": None}
        self._last = time.perf_counter()

    def lap(self, kind: str) -> None:
        """Books the time since the last lap."""
        now = time.perf_counter()
        self.seconds[kind] = (self.seconds[kind] or 0.0) + now - self._last
        self._last = now


def widest(reference_width: int | None, sizes) -> int:
    """The width of the networks in the place of a theory, by default twice the largest size.

    **Raises:** `ValueError` for one that is not above all sizes.
    """
    width = reference_width or 2 * sizes[-1]
    if width <= sizes[-1]:
        raise ValueError(f"reference_width must be above the largest size, {sizes[-1]}; it is {width}.")
    return width


def deviations(sizes, seeds: int, outputs: Mapping[str, tuple[Any, Any, Any]]) -> dict[str, dict[str, Any]]:
    """`errors`, `standard_errors`, `spread` and `rate` of `Findings`.

    **Arguments:**

    - `outputs`: by quantity, the mean outputs of the widest networks `[samples]`, those of every size
        `[sizes, samples]`, and the mean over samples of the variance over networks, `[sizes]`.
    """
    found = {"errors": {}, "standard_errors": {}, "spread": {}, "rate": {}}
    for name, (reference, means, variances) in outputs.items():
        norm = np.linalg.norm(reference)
        spread = np.sqrt(np.asarray(variances) * reference.size) / norm
        found["errors"][name] = (np.linalg.norm(np.asarray(means) - reference, axis=1) / norm).tolist()
        found["standard_errors"][name] = (spread / seeds**0.5).tolist()
        found["spread"][name] = spread.tolist()
        found["rate"][name] = log_slope(sizes, spread)
    return found


def label(data, meaning: Mapping[str, str]) -> None:
    """Writes the meaning of every variable of a dataset into its attributes."""
    for name in data.data_vars:
        data[name].attrs |= {"long_name": meaning[name], "units": "samples" if name.startswith("onset") else "1"}


def size_keys(key, sizes) -> dict[int, jax.Array]:
    """A random key for the networks of every size, whatever the other sizes."""
    return {size: jax.random.fold_in(key, size) for size in sizes}
