"""What every benchmark shares: a clock, and the printing of rows."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def best_seconds(function: Callable, *args, repeats: int = 3) -> float:
    """Best of a few runs, after one to warm up."""
    return min([_seconds(function, *args) for _ in range(repeats + 1)][1:])


def median_seconds(functions: dict[str, Callable], *args, repeats: int = 9) -> dict[str, float]:
    """Median over a few rounds in which the functions take turns, so that a busy moment meets all of them."""
    rounds = [{name: _seconds(f, *args) for name, f in functions.items()} for _ in range(repeats + 1)]
    return _medians(rounds)


def median_ratios(
    functions: dict[str, Callable], reference: Callable, *args, repeats: int = 15
) -> tuple[dict[str, float], float]:
    """Median ratios of the functions' times to that of a reference, which runs before each of them as a machine's pace
    changes within a round; and the median time of the reference."""
    pairs = [
        {name: (_seconds(reference, *args), _seconds(f, *args)) for name, f in functions.items()}
        for _ in range(repeats + 1)
    ]
    ratios = _medians([{name: own / other for name, (other, own) in found.items()} for found in pairs])
    return ratios, float(np.median([other for found in pairs[1:] for other, _ in found.values()]))


def _seconds(function: Callable, *args) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Without the first round, which warms up."""
    return {name: float(np.median([found[name] for found in rounds[1:]])) for name in rounds[0]}


def print_rows(rows: Callable[[bool], list[dict[str, Any]]], description: str) -> None:
    """The command line of a benchmark: computes the rows, small ones with `--quick`, and prints them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    for row in rows(parser.parse_args().quick):
        print(line(row), flush=True)


def line(row: dict[str, Any]) -> str:
    """A row as one line."""
    cells = (f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items())
    return "  ".join(cells)
