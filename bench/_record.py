"""A recorded table of ratios: repeats of it in one, its headline rows in the README, and a new run beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ._clock import line

BEGIN, END = "<!-- benchmarks: written by python -m limitax.bench --readme -->", "<!-- end of benchmarks -->"

_NOTHING = 1e-7  # below it a difference says only that there is none

# Benchmark, entries of the row, the entry that is shown, and what it says.
HEADLINES = (
    ("recursion", {"what": "gradient over forward", "adjoint": "blocked", "momentum": False, "steps": 20_000}, "ratio",
     "gradient of a final loss in 20 000 learning rates, over the solution itself"),
    ("scaling_laws", {"what": "plain scan over ours", "steps": 10_000}, "gradient_ratio",
     "the gradient in 10 000 learning rates by a plain JAX scan over 2000 modes, over ours on bins"),
    ("deep_linear", {"what": "gradient over forward", "adjoint": "tape"}, "ratio",
     "gradient of a deep linear theory in everything, 100 steps, over its solution"),
    ("march", {"what": "gradient over forward", "adjoint": "tape"}, "ratio",
     "gradient of a wide tanh perceptron's limit, over its solution"),
    ("outer_iterations", {"what": "usual way over march at equal error", "samples": 2, "steps": 20}, "ratio",
     "damped outer iterations over the causal march, at equal error, 2 samples and 20 steps"),
    ("sweep", {"what": "points a second, sweep over loop", "limit": "RandomFeatures"}, "ratio",
     "points a second of `lx.sweep` on power laws, over a loop of `solve`"),
    ("control", {"controls": 4, "method": "gradients"}, "evaluations",
     "solutions of the theory until a schedule of 4 knots is within .1 % of the best, by gradients"),
    ("control", {"controls": 4, "method": "bayesian"}, "evaluations", "the same by Bayesian search (Optuna)"),
)  # fmt: skip


def merged(tables: list[dict[str, list[dict]]]) -> dict[str, list[dict]]:
    """Medians of the numbers of several tables, and in `spread` by how much they differ: half of the range over the
    median, of every entry that is a floating-point number. A table may have some of the benchmarks only."""
    found: dict[str, list[dict]] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        found[name] = []
        for rows in zip(*(table[name] for table in tables if name in table), strict=True):
            last = rows[-1]
            numbers = {key: [row.get(key) for row in rows] for key, value in last.items() if isinstance(value, float)}
            numbers = {key: np.array(values) for key, values in numbers.items() if None not in values}
            medians = {key: float(np.median(values)) for key, values in numbers.items()}
            spread = {
                key: float(np.ptp(values) / 2 / abs(medians[key]))
                for key, values in numbers.items()
                if len(rows) > 1 and medians[key] != 0 and np.all(np.isfinite(values))
            }
            found[name].append(last | medians | ({"spread": spread} if spread else {}))
    return found


def headlines(record: dict[str, Any]) -> str:
    """The README's rows: those that the record has."""
    lines = ["| measured in one process | |", "|---|---|"]
    for name, wanted, entry, text in HEADLINES:
        rows = [row for row in record["rows"].get(name, []) if wanted.items() <= row.items()]
        if rows:
            lines.append(f"| {text} | {_two_digits(rows[-1][entry])} |")
    machine = record["machine"]
    made = f"{record['date']}, {machine['cores']} cores ({machine['processor']}), jax {record['versions']['jax']}"
    return "\n".join([*lines, "", f"*{made}. The whole table: `python -m limitax.bench`.*"])


def _two_digits(value) -> str:
    if value is None:  # beyond all numbers
        return "not reached"
    return str(value) if isinstance(value, int) else f"{float(f'{value:.2g}'):g}"


def into(text: str, record: dict[str, Any]) -> str:
    """A page with its block of headlines written anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no block between {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{headlines(record)}\n\n{END}{after}"


def compare(record: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Rows of a new run beside those of a record, as factors between the two; and how many of its ratios, which is all
    but times, are within three times their stated spread. A few passes say little of the spread of a single one, so
    that the typical spread of the record is the least."""
    found, total, beyond = [], 0, []
    typical = typical_spread(record)
    for name, rows in new["rows"].items():
        earlier = list(record["rows"].get(name, []))
        for row in rows:
            known = next((known for known in earlier if _subject(known) == _subject(row)), None)
            if known is not None:
                earlier.remove(known)
                factors = {
                    key: value / known[key]
                    for key, value in row.items()
                    if isinstance(value, float) and isinstance(known.get(key), float) and known[key]
                }
                found.append(f"{name}: {line({'what': row['what']} | factors)}")
                spread = known.get("spread", {})
                for key in factors.keys() & spread.keys():
                    if "second" in key:  # the machine's, from hour to hour
                        continue
                    total += 1
                    least = max(spread[key], typical)
                    if max(abs(row[key]), abs(known[key])) < _NOTHING:
                        continue
                    if factors[key] <= 0 or abs(np.log(factors[key])) > np.log1p(3 * least):
                        beyond.append(f"{name}, {row['what']}, {key}: {factors[key]:.3g}, spread {spread[key]:.2g}")
    if total:
        found += [f"{total - len(beyond)} of {total} ratios agree within their stated spread", *sorted(beyond)]
    return found


def _subject(row: dict[str, Any]) -> dict[str, Any]:
    """What a row is about: its words and choices."""
    return {key: value for key, value in row.items() if isinstance(value, (str, bool))}


def typical_spread(record: dict[str, Any]) -> float:
    """The median of the stated spreads of ratios, without those that are always the same; 0 if there are none."""
    spreads = [row.get("spread", {}) for rows in record["rows"].values() for row in rows]
    stated = [value for spread in spreads for key, value in spread.items() if value and "second" not in key]
    return float(np.median(stated)) if stated else 0.0


def read(path: Path) -> dict[str, Any]:
    """A record. **Raises:** `ValueError` where the file is none, `OSError` where there is no file."""
    try:
        record = json.loads(path.read_text())
        if isinstance(record["rows"], dict) and isinstance(record["machine"], dict):
            return record
    except (KeyError, TypeError, json.JSONDecodeError):
        pass
    raise ValueError(f"{path} is no table of benchmarks.")
