"""What a published system is: how its problem is built, what is compared, and what it claims."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..limits import AbstractLimit
from ..problems import replace, resolve
from ..studies import Comparison, compare


class Problem(NamedTuple):
    """A limit with the task and the protocol that it is solved for."""

    limit: AbstractLimit
    task: Any
    protocol: Any


@dataclass(frozen=True)
class System:
    """One row of `limitax list`.

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
    def settings(self) -> dict[str, Any]:
        """The default settings."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    def problem(self, settings: Mapping[str, Any] | None = None, *, full: bool = False) -> Problem:
        """The problem at the given settings: arguments of `build` first, then any argument of protocol, limit or task.

        **Raises:** `ValueError` for an unknown name, and whatever the constructors say of a value.
        """
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

    def run(self, settings=None, *, full: bool = False, sizes=None, seeds=None, key=None, **options) -> Comparison:
        """Theory beside finite networks at the given settings; `options` go to `solve`, over those of the system."""
        limit, task, protocol = self.problem(settings, full=full)
        return compare(
            limit,
            task,
            protocol,
            sizes=self.sizes if sizes is None else sizes,
            seeds=self.seeds if seeds is None else seeds,
            key=key,
            record=self.record,
            **{**self.options, **options},
        )

    def plot(self, report: Comparison, path=None):
        """Draws a comparison as this system does, writes it to `path` if given, and returns the figure."""
        return (self.figure or Comparison.plot)(report, path)

    def measured(self, report: Comparison) -> dict[str, Any]:
        """Numbers of this system beyond those of every comparison; empty if it has none."""
        return {} if self.measure is None else self.measure(report)

    def status(self) -> str:
        """What runs of it, found by building it: `"theory and networks"`, or why it does not build."""
        try:
            self.problem()
            if self.full:
                self.problem(full=True)
        except Exception as error:
            return f"broken: {error}"
        return "theory and networks"


def parse_settings(pairs) -> dict[str, Any]:
    """Settings from `name=value` texts; values are JSON (numbers, true, lists), anything else is text.

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
            settings[name] = json.loads(text)
        except json.JSONDecodeError:
            settings[name] = text
    return settings
