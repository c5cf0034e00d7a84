"""Progress on a terminal, silence elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_shown = False
_written = False


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
    if not _shown:
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, description=description)


@contextmanager
def counting(total: int, done: int, description: str) -> Iterator[Callable[[int], None]]:
    """How much of a whole is done, `done` from the start on, and the time left: a function that takes what is new."""
    start, fresh = time.monotonic(), 0

    def write(new: int) -> None:
        nonlocal fresh
        fresh += new
        left = (total - done - fresh) * (time.monotonic() - start) / max(fresh, 1)
        about = f", about {left:.0f} s left" if fresh and done + fresh < total else ""
        print(f"{description}: {done + fresh} of {total} points done{about}", flush=True)

    if _written:
        write(0)
        yield write
        return
    if not _shown:
        yield lambda new: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(description, total=total, completed=done)
        yield lambda new: progress.advance(bar, new)


@contextmanager
def working(description: str):
    """While one long step runs: a spinner with the time so far, where `show_progress` asked for it."""
    if not _shown:
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(description)
        yield
