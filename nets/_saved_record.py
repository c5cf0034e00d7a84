"""Records of what is done, among the checkpoints of what is not."""

from typing import Any

import jax

from ..problems import Trajectory
from ..solvers import Checkpoints, as_jax, to_leaves

WHOLE = 99_999_999  # the number of the record, above all others


def save_record(saved: Checkpoints, trajectory: Trajectory, tree: Any = None, about: Any = None) -> None:
    """Saves a record, and the arrays of `tree` beside it, in the place of all that was saved on the way there."""
    values, attributes = trajectory.to_plain()
    saved.save(WHOLE, {"record": values, "tree": to_leaves(tree)}, {"record": attributes, "about": about}, alone=True)


def saved_record(saved: Checkpoints) -> tuple[Trajectory, list[Any], Any]:
    """What `save_record` saved, the tree by its leaves; the record is written to `result.nc` too."""
    found, about = saved.restore(WHOLE), saved.about(WHOLE)
    values = {name: as_jax(value) for name, value in found["record"].items()}
    trajectory = Trajectory.from_plain(values, about["record"])
    if jax.process_index() == 0:
        trajectory.save(saved.path.parent / "result.nc")
    return trajectory, found.get("tree", []), about["about"]
