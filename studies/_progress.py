"""Progress on a terminal, silence elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_shown = False


@contextmanager
def show_progress():
    """Within this context `track` draws progress bars, if standard error is a terminal."""
    global _shown
    before, _shown = _shown, sys.stderr.isatty()
    try:
        yield
    finally:
        _shown = before


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
