"""What a published system is: how its problem is built, what is compared, and what it claims."""

import abc
import inspect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..limits import AbstractLimit
from ..problems import replace, resolve
from ..studies import Comparison, compare, working


class Problem(NamedTuple):
    """A limit with the task and the protocol that it is solved for."""

    limit: AbstractLimit
    task: Any
    protocol: Any


class AbstractSystem(abc.ABC):
    """One row of `limitax list`.

    A system has `name`, `title`, `paper` (an arXiv number) and what it `solves`; `build`, whose keyword arguments are
    its settings, and `full`, those of the paper's figure. The command line runs it, shows, draws and writes its report.
    """

    name: str
    title: str
    paper: str
    solves: str
    build: Callable[..., Any]
    full: Mapping[str, Any]
    measure: Callable[[Any], dict[str, Any]] | None

    @property
    @abc.abstractmethod
    def runs(self) -> str:
        """What there is to run, in a few words."""

    @property
    def settings(self) -> dict[str, Any]:
        """The default settings."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    def arguments(self, settings: Mapping[str, Any] | None = None, *, full: bool = False) -> dict[str, Any]:
        """Settings of the paper's figure, if `full`, under the given ones. **Raises:** `ValueError` for an unknown
        name."""
        for name in settings or {}:
            if name not in self.settings:
                raise ValueError(f'name "{name}" is unknown; settings of {self.name}: {", ".join(self.settings)}.')
        return (dict(self.full) if full else {}) | dict(settings or {})

    @abc.abstractmethod
    def check(self, settings: Mapping[str, Any] | None = None, *, full: bool = False) -> None:
        """Builds what the settings describe, so that whatever is wrong with them is said before any work."""

    @abc.abstractmethod
    def problem(self, settings: Mapping[str, Any] | None = None, *, full: bool = False) -> Problem:
        """The problem at the given settings: arguments of `build` first, then any argument of protocol, limit or task.

        **Raises:** `ValueError` for an unknown name, whatever the constructors say of a value, and for a system in
        which nothing is trained.
        """

    @abc.abstractmethod
    def run(self, settings=None, *, full: bool = False, sizes=None, seeds=None, key=None, **options) -> Any:
        """The report at the given settings; it has `to_dataset()`, `summary()`, and whether it `agrees`."""

    @abc.abstractmethod
    def show(self, report) -> None:
        """Prints the report."""

    @abc.abstractmethod
    def plot(self, report, path=None):
        """Draws the report as this system does, writes it to `path` if given, and returns the figure."""

    def disagreement(self, report) -> str:
        """What is wrong with a report that does not agree."""
        return "theory and networks differ by more than 3 standard errors; see agreement above"

    def measured(self, report) -> dict[str, Any]:
        """Numbers of this system beyond those of every report of its kind; empty if it has none."""
        return {} if self.measure is None else self.measure(report)

    def status(self) -> str:
        """What runs of it, found by building it: such as `"theory and networks"`, or why it does not build."""
        try:
            self.check()
            if self.full:
                self.check(full=True)
        except ImportError as error:  # of a package that is not installed, which is no fault
            return str(error)
        except Exception as error:
            return f"broken: {error}"
        return self.runs


@dataclass(frozen=True)
class System(AbstractSystem):
    """A theory beside the finite networks that it describes.

    **Fields:**

    - `name`, `title`, `paper`: its name on the command line, what it is, and the arXiv number of its paper.
    - `solves`: what is solved, in a few words.
    - `build`: makes the `Problem`; its keyword arguments, all with defaults, are the settings.
    - `full`: the settings of the paper's figure, as `--full` takes them.
    - `sizes`, `seeds`, `record`, `options`: defaults of the comparison with finite networks; `options` go to `solve`.
    - `figure`: `(comparison, path)`, draws it in place of the usual picture; see `Comparison.plot`.
    - `measure`: `(comparison)`, further numbers of this system for the summary, by name.
    - `claims`: what of the paper it reproduces, a sentence each.
    """

    name: str
    title: str
    paper: str
    solves: str
    build: Callable[..., Problem]
    sizes: tuple[int, ...] = (64, 128, 256)
    seeds: int = 32
    record: tuple[str, ...] = ()
    full: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    figure: Callable[..., Any] | None = None
    measure: Callable[[Comparison], dict[str, Any]] | None = None
    claims: tuple[str, ...] = ()

    @property
    def runs(self) -> str:
        return "theory and networks"

    def check(self, settings=None, *, full: bool = False) -> None:
        self.problem(settings, full=full)

    def problem(self, settings=None, *, full: bool = False) -> Problem:
        settings = dict(settings or {})
        known = self.settings
        arguments = (dict(self.full) if full else {}) | {k: v for k, v in settings.items() if k in known}
        parts = self.build(**arguments)._asdict()
        for name, value in settings.items():
            if name in known:
                continue
            try:
                slot = resolve(name, **parts)
            except ValueError as error:
                raise ValueError(f"{error} Settings of {self.name}: {', '.join(known)}.") from None
            parts[slot.owner] = replace(parts[slot.owner], slot.field, value)
        return Problem(**parts)

    def run(
        self, settings=None, *, full: bool = False, sizes=None, seeds=None, key=None, out=None, **options
    ) -> Comparison:
        """Theory beside finite networks at the given settings; `options` go to `solve`, over those of the system.
        Theory and sizes that are done are saved in `out`, see `compare`."""
        limit, task, protocol = self.problem(settings, full=full)
        return compare(
            limit,
            task,
            protocol,
            sizes=self.sizes if sizes is None else sizes,
            seeds=self.seeds if seeds is None else seeds,
            key=key,
            record=self.record,
            out=out,
            **{**self.options, **options},
        )

    def show(self, report: Comparison) -> None:
        from ..studies.tables import show_comparison

        show_comparison(report, f"{self.name} (arXiv {self.paper})")

    def plot(self, report: Comparison, path=None):
        return (self.figure or Comparison.plot)(report, path)


@dataclass(frozen=True)
class Evaluation:
    """What running a `ClosedForm` gives: the `law` and its curves in `dataset`."""

    law: Any
    dataset: Any
    seconds: dict[str, float | None]

    @property
    def agrees(self) -> bool:
        """True: nothing is there that a formula could disagree with."""
        return True

    @property
    def status(self) -> str:
        """`"converged"` if all its numbers are finite, else `"overflow"`."""
        finite = all(np.all(np.isfinite(values)) for values in self.dataset.data_vars.values())
        return "converged" if finite else "overflow"

    def to_dataset(self):
        """The curves as a labelled `xarray.Dataset`."""
        return self.dataset

    def summary(self) -> dict[str, Any]:
        """The entries of every summary; what speaks of networks is `None`."""
        names = ("sizes", "seeds", "errors", "standard_errors", "spread", "rate", "rate_error", "agreement")
        return dict.fromkeys(names) | {"status": self.status, "seconds": self.seconds}


@dataclass(frozen=True)
class ClosedForm(AbstractSystem):
    """A published formula, without training and without networks.

    **Fields:**

    - `name`, `title`, `paper`, `solves`: as in `System`.
    - `build`: makes the law; its keyword arguments, all with defaults, are the settings.
    - `evaluate`: `(law)`, its curves as a labelled dataset.
    - `figure`: `(evaluation, path)`, draws it.
    - `full`, `measure`, `claims`: as in `System`.
    """

    name: str
    title: str
    paper: str
    solves: str
    build: Callable[..., Any]
    evaluate: Callable[[Any], Any]
    figure: Callable[..., Any]
    full: Mapping[str, Any] = field(default_factory=dict)
    measure: Callable[[Evaluation], dict[str, Any]] | None = None
    claims: tuple[str, ...] = ()

    @property
    def runs(self) -> str:
        return "theory only"

    def law(self, settings=None, *, full: bool = False) -> Any:
        """The law at the given settings. **Raises:** `ValueError` for an unknown name."""
        return self.build(**self.arguments(settings, full=full))

    def check(self, settings=None, *, full: bool = False) -> None:
        self.law(settings, full=full)

    def problem(self, settings=None, *, full: bool = False) -> Problem:
        raise ValueError(f"{self.name} is a closed form and has no schedule to optimise or to sweep.")

    def run(self, settings=None, *, full: bool = False, sizes=None, seeds=None, key=None, **options) -> Evaluation:
        for name, value in {"sizes": sizes, "seeds": seeds, **options}.items():
            if value is not None:
                raise ValueError(f"{name} must be left out: {self.name} is a closed form, without networks.")
        law = self.law(settings, full=full)
        start = time.perf_counter()
        with working("theory"):
            dataset = self.evaluate(law)
        return Evaluation(law, dataset, {"theory": time.perf_counter() - start, "finite": None})

    def show(self, report: Evaluation) -> None:
        print(f"{self.name} (arXiv {self.paper}): {report.status} in {report.seconds['theory']:.1f} s")

    def plot(self, report: Evaluation, path=None):
        return self.figure(report, path)


_PYTHON = {"True": True, "False": False, "None": None}


def parse_settings(pairs) -> dict[str, Any]:
    """Settings from `name=value` texts; values are JSON (numbers, true, lists) or True, False, None as Python writes
    them, anything else is text.

    **Raises:** `ValueError` for a text without a name and a value, or a name given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals or not text:
            raise ValueError(f'--set takes name=value; "{pair}" was given.')
        if name in settings:
            raise ValueError(f'--set gives "{name}" twice.')
        try:
            settings[name] = _PYTHON[text] if text in _PYTHON else json.loads(text)
        except json.JSONDecodeError:
            settings[name] = text
    return settings
