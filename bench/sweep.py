"""What `lx.sweep` gains over a loop, and what its checkpoints cost: `python -m limitax.bench.sweep [--quick]`.

Every row is a ratio of two things timed in one process; seconds are printed to be read, not to be tested.
"""

import tempfile
import time
from typing import Any

import numpy as np

from ..limits import DeepLinear, RandomFeatures
from ..problems import GradientDescent, OnlineSGD, tasks
from ..solvers import Checkpoints
from ..studies import _sweep
from ._clock import print_rows

_CHUNKS = 4


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    steps, points = (100, 64) if quick else (1000, 256)
    recursion = RandomFeatures(), tasks.power_law(10**6, 1.5, 2.5, 1.0), OnlineSGD(0.05, steps=steps)
    descent = DeepLinear(2, 1.0, 2.0), tasks.isotropic(2.0, 0.3), GradientDescent(0.05, steps=20 if quick else 100)
    slow = RandomFeatures(), tasks.power_law(10**12, 1.5, 2.5, 1.0), OnlineSGD(0.05, steps=steps * 20)
    return [
        _against_a_loop(*recursion, points),
        _against_a_loop(*descent, points),
        _checkpoints(*recursion, points),
        _checkpoints(*slow, points),
    ]


def _against_a_loop(limit, task, protocol, points: int) -> dict[str, Any]:
    """Points a second of a sweep over those of a loop of solves, all compiled; and what the sweep takes to compile."""
    rates = np.geomspace(0.005, 0.05, points)
    first, *others = _seconds(_sweep, "_compute", lambda: _go(limit, task, protocol, rates))
    each = [type(protocol)(rate, steps=protocol.steps) for rate in rates]
    limit.solve(task, each[0])  # compiles
    start = time.perf_counter()
    for one in each:
        limit.solve(task, one)
    alone, together = (time.perf_counter() - start) / points, float(np.median(others)) / (points / _CHUNKS)
    return {
        "what": "points a second, sweep over loop",
        "limit": type(limit).__name__,
        "points": points,
        "steps": protocol.steps,
        "ratio": alone / together,
        "sweep_points_per_second": 1 / together,
        "loop_points_per_second": 1 / alone,
        "compile_seconds": first - float(np.median(others)),
    }


def _checkpoints(limit, task, protocol, points: int) -> dict[str, Any]:
    """Seconds that saving takes over all of a sweep. They go by the number of chunks, whatever it took to compute
    these: a sweep of long solves pays less."""
    rates = np.geomspace(0.005, 0.05, points)
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        _go(limit, task, protocol, rates[:_CHUNKS], out=warm)
        start = time.perf_counter()
        spent = _seconds(Checkpoints, "save", lambda: _go(limit, task, protocol, rates, out=folder))
        whole = time.perf_counter() - start
    return {
        "what": "saving over the whole sweep",
        "limit": type(limit).__name__,
        "points": points,
        "steps": protocol.steps,
        "ratio": sum(spent) / whole,
        "seconds_a_chunk": float(np.median(spent)),
        "seconds": whole,
    }


def _go(limit, task, protocol, rates, **options):
    return _sweep.sweep(limit, task, protocol, {"learning_rate": rates}, chunk=len(rates) // _CHUNKS, **options)


def _seconds(owner: Any, name: str, work) -> list[float]:
    """What every call of a function takes while some work is done."""
    function, spent = getattr(owner, name), []

    def timed(*args):
        start = time.perf_counter()
        result = function(*args)
        spent.append(time.perf_counter() - start)
        return result

    setattr(owner, name, timed)
    try:
        work()
    finally:
        setattr(owner, name, function)
    return spent


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "Sweeps against loops, and the cost of their checkpoints.")


if __name__ == "__main__":
    main()
