"""What every benchmark shares: a clock, and the printing of rows."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def best_seconds(function: Callable, *args, repeats: int = 3) -> float:
    """Best of a few runs, after one to warm up."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return float(np.min(times))


def median_seconds(functions: dict[str, Callable], *args, repeats: int = 9) -> dict[str, float]:
    """Median over a few rounds in which the functions take turns, so that a busy moment meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):  # the first round warms up
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found[1:])) for name, found in times.items()}


def median_ratios(
    functions: dict[str, Callable], reference: Callable, *args, repeats: int = 15
) -> tuple[dict[str, float], float]:
    """Median ratios of the functions' times to that of a reference, which runs before each of them as a machine's pace
    changes within a round; and the median time of the reference."""
    ratios: dict[str, list[float]] = {name: [] for name in functions}
    times = []

    def seconds(function):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        return time.perf_counter() - start

    for _ in range(repeats + 1):  # the first round warms up
        for name, function in functions.items():
            times.append(seconds(reference))
            ratios[name].append(seconds(function) / times[-1])
    return {name: float(np.median(found[1:])) for name, found in ratios.items()}, float(np.median(times[1:]))


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
