"""Progress on a terminal, silence elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_shown = False
_written = False
_drawn = False  # whether a bar is on the terminal: there is room for one


@contextmanager
def show_progress(*, lines: bool = False):
    """Within this context `track` draws progress bars, if standard error is a terminal; if it is none, `counting`
    prints `lines`, for the logs of batch jobs."""
    global _shown, _written
    before = _shown, _written
    _shown = sys.stderr.isatty()
    _written = lines and not _shown
    try:
        yield
    finally:
        _shown, _written = before


def track(items: Iterable[Any], description: str) -> Iterator[Any]:
    """Iterates over `items`, with a progress bar where `show_progress` asked for one."""
    items = list(items)
    if not _shown or _drawn:
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with _drawing(*columns) as progress:
        yield from progress.track(items, description=description)


@contextmanager
def counting(total: int, done: int, description: str, unit: str = "points") -> Iterator[Callable[[int], None]]:
    """How much of a whole is done, `done` from the start on, and the time left: a function that takes what is new."""
    start, fresh = time.monotonic(), 0

    def write(new: int) -> None:
        nonlocal fresh
        fresh += new
        left = (total - done - fresh) * (time.monotonic() - start) / max(fresh, 1)
        about = f", about {left:.0f} s left" if fresh and done + fresh < total else ""
        print(f"{description}: {done + fresh} of {total} {unit} done{about}", flush=True)

    if _written:
        write(0)
        yield write
        return
    if not _shown or _drawn:
        yield lambda new: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _drawing(*columns) as progress:
        bar = progress.add_task(description, total=total, completed=done)
        yield lambda new: progress.advance(bar, new)


@contextmanager
def working(description: str):
    """While one long step runs: a spinner with the time so far, where `show_progress` asked for it."""
    if not _shown or _drawn:
        yield
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with _drawing(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        progress.add_task(description)
        yield


@contextmanager
def _drawing(*columns):
    global _drawn
    from rich.console import Console
    from rich.progress import Progress

    _drawn = True
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            yield progress
    finally:
        _drawn = False
