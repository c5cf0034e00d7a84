"""A protocol as a file that any training script can read: JSON, plain numbers and sentences."""

import inspect
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from . import _checks as checks
from ._files import replaced
from ._protocols import AbstractSteps, GradientDescent, MinibatchSGD, NormalisedSGD, OnlineSGD

FORMAT, VERSION = "limitax schedule", 1

_DESCENT = (
    "v starts at 0; at step t, with g the gradient of the mean loss over {samples} and p the parameters: "
    "v = momentum[t] * v + g + weight_decay[t] * p; then p = p - learning_rate[t] * v."
)
_KINDS: dict[str, tuple[type[AbstractSteps], str]] = {
    "GradientDescent": (GradientDescent, _DESCENT.format(samples="all samples")),
    "MinibatchSGD": (MinibatchSGD, _DESCENT.format(samples="batch_size[t] samples drawn anew from the data set")),
    "OnlineSGD": (
        OnlineSGD,
        "v starts at 0; at step t, with g the gradient of the mean loss over batch_size[t] fresh samples (or "
        "batch_ratio[t] times the input dimension) and p the parameters: "
        "v = momentum[t] * v + g; then p = p - learning_rate[t] * v - extra_gradient[t] * g.",
    ),
    "NormalisedSGD": (
        NormalisedSGD,
        "at step t, with g the gradient of the mean loss over batch_size[t] fresh samples and p the parameters: "
        "p = p - learning_rate[t] * g / r, where r is the root mean square over runs of the norm of g.",
    ),
}
_OPTIONS = {"MinibatchSGD": ("replace", "seed")}
_RATES = ("learning_rate", "extra_gradient")
_OPTIONAL = ("batch_size", "batch_ratio")


def save(protocol: AbstractSteps, path: str | os.PathLike, net=None) -> None:
    r"""Writes a protocol as JSON that a training script reads without limitax.

    Keys of the file: `format`, `version`, `protocol` (its name), `steps`, `update` (the rule as a sentence),
    `schedules` (for each one a list of `steps` numbers, every bit of them), `options` (what is not a schedule), and
    `network`, which is null without `net` and otherwise holds

    - `learning_rate_scale`: the raw step over the learning rate, for weights as limitax holds them;
    - `raw`: the schedules that this scale changes, `learning_rate` and `extra_gradient` times it, `weight_decay` over
      it;
    - `layers`: for a perceptron of standard layers, whose weights contain all factors of the forward pass, one entry a
      layer, the readout last: what the learning rate and the weight decay of its `kernel` and `bias` are multiplied
      with; see `nets.flax_optimiser`. It is null for other networks.

    A file that is there is replaced only when the new one is complete.

    **Arguments:**

    - `protocol`: `GradientDescent`, `OnlineSGD`, `MinibatchSGD` or `NormalisedSGD`.
    - `path`: of the file, by custom `.json`.
    - `net`: the network to train, or `None`. Not for `NormalisedSGD`, whose steps know no scale of the gradient.

    **Raises:** `TypeError` for anything else, and for schedules that are traced or batched; `ValueError` for raw rates
    that are no longer finite.
    """
    name = type(protocol).__name__
    if _KINDS.get(name, (None,))[0] is not type(protocol):
        raise TypeError(f"protocol must be {_listed('or')}; {checks.shown(protocol)} was given.")
    if checks.is_traced(protocol):
        raise TypeError("protocol must hold concrete numbers; save it outside of the transformation.")
    record = {
        "format": FORMAT,
        "version": VERSION,
        "protocol": name,
        "steps": protocol.steps,
        "update": _KINDS[name][1],
        "schedules": {},
        "options": {option: getattr(protocol, option) for option in _OPTIONS.get(name, ())},
        "network": None,
    }
    for schedule in _schedules(name):
        values = getattr(protocol, schedule)
        if values is None:
            continue
        if np.ndim(values) != 1:
            raise TypeError(f"{schedule} must have shape [steps] to be saved; its shape is {np.shape(values)}.")
        # a float of fewer bits is also a double
        record["schedules"][schedule] = np.asarray(values).astype(np.float64).tolist()
    if net is not None:
        record["network"] = _network(name, record["schedules"], net)
    with replaced(path) as file:
        file.write_text(_text(record), encoding="utf-8")


def load(path: str | os.PathLike) -> AbstractSteps:
    """Reads a protocol that `save` wrote: the same numbers to the last bit, as doubles.

    What describes a network, and the sentence of the update, is for other readers and is passed over.

    **Raises:** `ValueError` naming the file and what is wrong with it.
    """
    try:
        content = Path(path).read_bytes()
    except IsADirectoryError:
        raise ValueError(f"{os.fspath(path)} is not a schedule saved by limitax: it is a folder.") from None
    try:
        record = json.loads(content.decode(), parse_constant=_no_number, object_pairs_hook=_once)
        return _protocol(record)
    except RecursionError:
        problem = "it is nested too deeply."
    except UnicodeDecodeError:
        problem = "it is not text."
    except json.JSONDecodeError as error:
        problem = f"it is not JSON: {error}."
    except (TypeError, ValueError, OverflowError) as error:
        problem = str(error)
    raise ValueError(f"{os.fspath(path)} is not a schedule saved by limitax: {problem}")


def _protocol(record: Any) -> AbstractSteps:
    """The protocol of a record read from JSON, every part of which may be anything."""
    _object("the file", record)
    if record.get("format") != FORMAT:
        raise ValueError(f'format must be "{FORMAT}"; it is {_brief(record.get("format"))}.')
    version = record.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"version must be a whole number of at least 1; it is {_brief(version)}.")
    if version > VERSION:
        raise ValueError(f"version {version} is newer than this limitax, which reads up to {VERSION}.")
    name = record.get("protocol")
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError(f"protocol must be {_listed('or')}; it is {_brief(name)}.")
    steps = checks.integer("steps", record.get("steps"))
    known, options = _schedules(name), _OPTIONS.get(name, ())
    schedules = _object("schedules", record.get("schedules"), known)
    for schedule in known:
        if schedule not in schedules and schedule not in _OPTIONAL:
            raise ValueError(f"schedules has no {schedule}, which {name} needs.")
    if "batch_size" in known and not any(optional in schedules for optional in _OPTIONAL):
        raise ValueError(f"schedules has no batch_size, which {name} needs.")
    values = {schedule: _numbers(schedule, given, steps) for schedule, given in schedules.items()}
    given = _object("options", record.get("options", {}), options)
    return _KINDS[name][0](**values, **given)


def _numbers(name: str, values: Any, steps: int) -> np.ndarray:
    """A list of `steps` finite numbers; text and truth values, which NumPy would convert, are none."""
    if not isinstance(values, list):
        raise ValueError(f"{name} must be a list of numbers; it is {_brief(values)}.")
    if len(values) != steps:
        raise ValueError(f"{name} must have one value a step; it has {len(values)} and steps is {steps}.")
    for step, value in enumerate(values):
        if type(value) not in (int, float):
            raise ValueError(f"{name} must be a number at every step; step {step} is {_brief(value)}.")
    return np.asarray([float(value) for value in values])


def _object(name: str, value: Any, known: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object of names and values; it is {_brief(value)}.")
    for key in value:
        if known is not None and key not in known:
            can = f"one of: {', '.join(known)}" if known else "there are none for this protocol"
            raise ValueError(f"{name} has {_brief(key)}, which is unknown; {can}.")
    return value


def _network(name: str, schedules: dict[str, list[float]], net) -> dict[str, Any]:
    if not hasattr(net, "learning_rate_scale"):
        raise TypeError(f"net must be a network of limitax.nets or None; {checks.shown(net)} was given.")
    if name == "NormalisedSGD":
        raise TypeError("net must be None for NormalisedSGD: its steps know no scale of the gradient.")
    scale = float(checks.number("net.learning_rate_scale", net.learning_rate_scale, above=0.0))
    raw = {key: [scale * value for value in schedules[key]] for key in _RATES if key in schedules}
    raw |= {key: [value / scale for value in schedules[key]] for key in ("weight_decay",) if key in schedules}
    for key, values in raw.items():
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{key} with the network's scale {scale:g} leaves the range of doubles.")
    layers = getattr(net, "layer_scales", None)
    return {"learning_rate_scale": scale, "raw": raw, "layers": None if layers is None else list(layers)}


def _schedules(name: str) -> tuple[str, ...]:
    """The schedules of a protocol, in the order of its arguments."""
    names = inspect.signature(_KINDS[name][0].__init__).parameters
    return tuple(n for n in names if n not in ("self", "steps", *_OPTIONS.get(name, ())))


def _listed(word: str) -> str:
    *names, last = _KINDS
    return f"{', '.join(names)} {word} {last}"


def _text(record: dict[str, Any]) -> str:
    """JSON with a line for every schedule, that a person can look through."""

    def lines(value, indent):
        nested = isinstance(value, dict) and any(isinstance(entry, (list, dict)) for entry in value.values())
        if not nested:
            return json.dumps(value, allow_nan=False)
        pad = " " * (indent + 2)
        inner = ",\n".join(f"{pad}{json.dumps(key)}: {lines(entry, indent + 2)}" for key, entry in value.items())
        return "{\n" + inner + "\n" + " " * indent + "}"

    return lines(record, 0) + "\n"


def _no_number(text: str):
    raise ValueError(f"{text} is not a finite number.")


def _once(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_brief(twice)} is there twice.")
    return result


def _brief(value: Any) -> str:
    """What was read, as JSON shows it, cut to a readable length."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
