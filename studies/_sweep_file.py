"""Sweeps as TOML files: data only, every entry checked by name before it is used."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from ..problems import _checks as checks

_LONGEST = 1_000_000
_ENTRIES = ("system", "full", "settings", "grid", "list", "solve", "record", "seed", "chunk")
_RANGE = ("start", "stop", "num")
_NOT_OPTIONS = ("key", "throw", "grid", "record", "chunk", "out")


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """What a file asks for; `grid` is as `lx.sweep` takes it, `solve` its options."""

    system: str
    grid: dict[Any, Any]
    full: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    solve: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: tuple[str, ...] | None = None
    seed: int = 0
    chunk: int | None = None


def read_sweep_file(path: str | os.PathLike) -> SweepFile:
    """Reads a file such as

    ```toml
    system = "deep-linear"
    record = ["train_loss"]        # beyond the losses: what lx.sweep can record
    seed = 0                       # and full = true, chunk = 64

    [settings]                     # as --set takes them
    steps = 40

    [grid]                         # all combinations; depth, learning_rate, ...: arguments of protocol, limit and task
    richness = [0.5, 1.0, 2.0]
    learning_rate = { start = 0.01, stop = 1.0, num = 20, scale = "log" }

    [list]                         # lists whose values go together
    noise = [0.1, 0.3]
    sample_ratio = [1.0, 2.0]

    [solve]                        # options of the limit's solve
    precision = "double"
    ```

    **Raises:** `OSError` for a file that cannot be read; `ValueError` and `TypeError` for anything else that is wrong.
    """
    try:
        content = tomllib.loads(Path(path).read_bytes().decode())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error or 'it is nested too deeply'}.") from None
    for name in content:
        if name not in _ENTRIES:
            raise ValueError(f'{path}: entry "{name}" is unknown; there are: {", ".join(_ENTRIES)}.')
    if "system" not in content:
        raise ValueError(f'{path} names no system; the first line may be system = "deep-linear".')
    system = _text("system", content["system"])
    grid: dict[Any, Any] = {name: _values(f"grid.{name}", value) for name, value in _table("grid", content).items()}
    listed = {name: _values(f"list.{name}", value) for name, value in _table("list", content).items()}
    if listed:
        lengths = {name: len(values) for name, values in listed.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ValueError(f"lists under [list] must have one length; {shown}.")
        grid[tuple(listed)] = list(zip(*listed.values(), strict=True))
    if not grid:
        raise ValueError(f"{path} sweeps nothing; give names and values under [grid] or [list].")
    for name in _table("solve", content):
        if name in _NOT_OPTIONS:
            raise ValueError(f"{path}: {name} cannot stand under [solve], which is for what else the theory takes.")
    record = content.get("record")
    if record is not None:
        record = tuple(_text("record", name) for name in checks.instance("record", record, list, "a list of names"))
    return SweepFile(
        system=system,
        grid=grid,
        full=checks.flag("full", content.get("full", False)),
        settings={name: _datum(f"settings.{name}", value) for name, value in _table("settings", content).items()},
        solve={name: _single(f"solve.{name}", value) for name, value in _table("solve", content).items()},
        record=record,
        seed=checks.integer("seed", content.get("seed", 0), low=0, high=2**32 - 1),
        chunk=checks.integer("chunk", content["chunk"]) if "chunk" in content else None,
    )


def _table(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return checks.instance(name, content.get(name, {}), dict, f"a table, [{name}]")


def _values(name: str, value: Any) -> Any:
    """A list of numbers, texts or rows of numbers; or a range."""
    if isinstance(value, dict):
        return _range(name, value)
    checks.instance(name, value, list, "a list of values, or { start = , stop = , num = }")
    if not value:
        raise ValueError(f"{name} must have at least one value; its list is empty.")
    return [_datum(name, entry) for entry in value]


def _range(name: str, value: dict[str, Any]) -> np.ndarray:
    if unknown := set(value) - {*_RANGE, "scale"}:
        raise ValueError(f'{name} has an unknown entry "{min(unknown)}"; a range has start, stop, num and scale.')
    if missing := [entry for entry in _RANGE if entry not in value]:
        raise ValueError(f"{name} is a range without {missing[0]}.")
    scale = checks.choice(f"{name}.scale", value.get("scale", "linear"), ("linear", "log"))
    above = 0.0 if scale == "log" else None
    start, stop = (checks.number(f"{name}.{end}", _number(name, value[end]), above=above) for end in ("start", "stop"))
    num = checks.integer(f"{name}.num", value["num"], high=_LONGEST)
    return np.geomspace(start, stop, num) if scale == "log" else np.linspace(start, stop, num)


def _datum(name: str, value: Any) -> Any:
    """A number, a text, true or false, or lists of these."""
    return [_datum(name, entry) for entry in value] if isinstance(value, list) else _single(name, value)


def _single(name: str, value: Any) -> Any:
    return value if isinstance(value, (str, bool)) else _number(name, value)


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be numbers, texts, true or false; {checks.shown(value)} was given.")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{name} must be numbers below 2^63; one has {len(str(abs(value)))} digits.")
    return value


def _text(name: str, value: Any) -> str:
    return checks.instance(name, value, str, "text")
