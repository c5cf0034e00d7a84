"""What `lx.sweep` gains over a loop, and what its checkpoints cost: `python -m limitax.bench.sweep [--quick]`.

Every row is a ratio of two things timed in one process; seconds are printed to be read, not to be tested.
"""

import tempfile
import time
from typing import Any

import numpy as np

from .. import nets
from ..limits import MLP, DeepLinear, RandomFeatures
from ..problems import GradientDescent, OnlineSGD, tasks
from ..solvers import Checkpoints
from ..studies import _sweep
from ._clock import print_rows


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    steps, points = (100 if quick else 1000), 256
    recursion = RandomFeatures(), tasks.power_law(10**6, 1.5, 2.5, 1.0), OnlineSGD(0.05, steps=steps)
    descent = DeepLinear(2, 1.0, 2.0), tasks.isotropic(2.0, 0.3), GradientDescent(0.05, steps=20 if quick else 100)
    return [
        _against_a_loop(*recursion, points),
        _against_a_loop(*descent, points),
        _checkpoints(*descent, points if quick else 6 * points, chunks=16 if quick else 384),
        _saved_training(quick),
    ]


def _against_a_loop(limit, task, protocol, points: int) -> dict[str, Any]:
    """Points a second of a sweep over those of a loop of solves, all compiled; and what the sweep takes to compile."""
    rates = np.geomspace(0.005, 0.05, points)
    work = lambda: _sweep.sweep(limit, task, protocol, {"learning_rate": rates})  # noqa: E731
    first, *others = _seconds(_sweep, "_compute", work)
    each = [type(protocol)(rate, steps=protocol.steps) for rate in rates]
    limit.solve(task, each[0])  # compiles
    start = time.perf_counter()
    for one in each:
        limit.solve(task, one)
    alone, together = (time.perf_counter() - start) / points, float(np.median(others)) / points * (1 + len(others))
    return {
        "what": "points a second, sweep over loop",
        "limit": type(limit).__name__,
        "points": points,
        "chunks": 1 + len(others),
        "steps": protocol.steps,
        "ratio": alone / together,
        "sweep_points_per_second": 1 / together,
        "loop_points_per_second": 1 / alone,
        "compile_seconds": first - float(np.median(others)),
    }


def _checkpoints(limit, task, protocol, points: int, chunks: int) -> dict[str, Any]:
    """Seconds that saving takes over all of a sweep of many chunks."""
    rates = np.geomspace(0.005, 0.05, points)
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        _go(limit, task, protocol, rates[: points // chunks], chunks=1, out=warm)
        start = time.perf_counter()
        spent = _seconds(Checkpoints, "save", lambda: _go(limit, task, protocol, rates, chunks=chunks, out=folder))
        whole = time.perf_counter() - start
    return {
        "what": "saving over the whole sweep",
        "limit": type(limit).__name__,
        "points": points,
        "chunks": chunks,
        "steps": protocol.steps,
        "ratio": sum(spent) / whole,
        "saves": len(spent),
        "seconds_a_save": float(np.median(spent)),
        "seconds": whole,
    }


def _saved_training(quick: bool) -> dict[str, Any]:
    """Seconds that saving takes over all of one long training, which is timed without it too; both are compiled."""
    task = tasks.sphere(samples=20, dim=20)
    limit, protocol = MLP(2, "tanh"), GradientDescent(0.05, steps=100 if quick else 6_000)
    net = limit.ensemble(task, size=256, seeds=8)
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        nets.train(net, task, protocol, out=warm)
        nets.train(net, task, protocol)
        start = time.perf_counter()
        nets.train(net, task, protocol).train_loss.block_until_ready()
        plain = time.perf_counter() - start
        start = time.perf_counter()
        spent = _seconds(Checkpoints, "save", lambda: nets.train(net, task, protocol, out=folder))
        whole = time.perf_counter() - start
    return {
        "what": "saving over the whole training",
        "seeds": net.seeds,
        "width": 256,
        "steps": protocol.steps,
        "ratio": sum(spent) / whole,
        "saves": len(spent),
        "seconds_a_save": float(np.median(spent)),
        "seconds": whole,
        "seconds_without": plain,
    }


def _go(limit, task, protocol, rates, chunks: int, **options):
    return _sweep.sweep(limit, task, protocol, {"learning_rate": rates}, chunk=len(rates) // chunks, **options)


def _seconds(owner: Any, name: str, work) -> list[float]:
    """What every call of a function takes while some work is done."""
    function, spent = getattr(owner, name), []

    def timed(*args, **options):
        start = time.perf_counter()
        result = function(*args, **options)
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
