"""A search that is saved as it goes: what its minimisations have found, and where the last of them is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..solvers import Checkpoints, Minimum, counting, minimise_in_pieces, resumable, to_leaves


@contextmanager
def saved_search(out, describe: Callable[[], dict[str, Any]], most: int) -> Iterator["SavedSearch | None"]:
    """The search that `describe()` tells from others, with its checkpoints in `out/checkpoints`, of which all is saved
    at the end; `None` without a folder. `most` evaluations are its progress's whole."""
    with resumable(out, describe) as saved:
        if saved is None:
            yield None
            return
        search = SavedSearch(saved)
        with counting(most, search.evaluations, "search, at most", "evaluations") as search.report:
            yield search
            search.save()


class SavedSearch:
    """Minimisations one after the other, always in the same order; those that were done before are not repeated."""

    def __init__(self, saved: Checkpoints):
        self.report: Callable[[int], None] = lambda new: None
        self._saved, self._number, self._place, self._is_new = saved, 0, 0, False
        self._finished: list[dict[str, Any]] = []
        self._state: list[Any] | None = None
        self._evaluations = 0  # of the one that is not finished
        if steps := saved.steps():
            found, self._number = saved.restore(steps[-1]), steps[-1] + 1
            self._finished = [entry for _, entry in sorted(found.get("finished", {}).items())]
            self._state, self._evaluations = found.get("state"), saved.about(steps[-1])
        self._reported = self.evaluations

    @property
    def evaluations(self) -> int:
        """How many there have been."""
        return sum(int(entry["evaluations"][0]) for entry in self._finished) + self._evaluations

    def once(self, compute: Callable[[], dict[str, Any]]) -> dict[str, list[Any]]:
        """Arrays by name, `evaluations` among them, each as a list of leaves; computed if they were not before."""
        if len(self._finished) == self._place:
            found = {name: to_leaves(value) for name, value in compute().items()}
            self._finished.append(found)
            self._state, self._evaluations, self._is_new = None, 0, True
            if self._saved.is_due():
                self.save()
        self._place += 1
        return self._finished[self._place - 1]

    def minimise(self, function, x, problem, **options) -> Minimum:
        """As `solvers.minimise`."""

        def after(now):
            self._state, self._evaluations, self._is_new = to_leaves(now), int(now.evaluations), True
            if self._saved.is_due():
                self.save()

        def search():
            return minimise_in_pieces(function, x, problem, state=self._state, after=after, **options)._asdict()

        found: dict[str, Any] = {name: np.asarray(leaf) for name, (leaf,) in self.once(search).items()}
        return Minimum(**found)

    def save(self) -> None:
        """Saves what there is, if some of it is new."""
        if not self._is_new:
            return
        finished = {f"{place:06d}": entry for place, entry in enumerate(self._finished)}
        tree = {name: value for name, value in (("finished", finished), ("state", self._state)) if value}
        self._saved.save(self._number, tree, self._evaluations, alone=True)
        self._number, self._is_new = self._number + 1, False
        self.report(self.evaluations - self._reported)
        self._reported = self.evaluations
