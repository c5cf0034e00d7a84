"""The published systems: each file here defines one `SYSTEM`, and is found by being here."""

import difflib
import importlib
import pkgutil

from ._experiment import Claim, Experiment, Findings
from ._system import AbstractSystem, ClosedForm, Problem, System, parse_settings


def systems() -> dict[str, AbstractSystem]:
    """All systems by name, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            system = importlib.import_module(f"{__name__}.{module.name}").SYSTEM
            found[system.name] = system
    return dict(sorted(found.items()))


def system(name: str) -> AbstractSystem:
    """The system called `name`. **Raises:** `ValueError` that names the nearest ones."""
    known = systems()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"one of: {', '.join(known)}."
    raise ValueError(f'system "{name}" is unknown; {hint}')


__all__ = [
    "AbstractSystem",
    "Claim",
    "ClosedForm",
    "Experiment",
    "Findings",
    "Problem",
    "System",
    "parse_settings",
    "system",
    "systems",
]
