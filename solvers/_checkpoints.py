"""Checkpoints: numbered trees of arrays in one folder, each of them there as a whole or not at all."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

from ._devices import gather

_CONFIGURATION = "configuration.json"
_LOCK = ".lock"
# Between two saves there is this many times as much work, so that they take less than 2 % of the time.
_SHARE = 100.0
_USUAL = 0.1  # seconds that a save takes, whatever is in it, until one has been measured
_SAVED = re.compile(r"\d{8}(\.json)?")
_WRITING = re.compile(r"\.(configuration|\d{8})\.json")
_UNFINISHED = re.compile(r"\d{8}\.orbax-checkpoint-tmp.*")


class Checkpoints:
    """A folder of checkpoints of one computation, which a `configuration` of plain JSON data describes.

    A process that is killed at any moment leaves every checkpoint whose `save` returned, and nothing else that `steps`
    would name. Several processes call everything together, on a folder that all of them see.

    **Arguments:**

    - `path`: the folder; it is made if it is not there.
    - `configuration`: what is computed. A folder that was made for anything else is refused.
    - `choices`: what the computation is free to choose, as plain JSON data: those of the first run are kept.

    **Fields:** `path`; `choices`, those of the first run.

    **Raises:** `ValueError` where the folder holds something else, and `OSError` where it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, configuration: dict[str, Any], choices: dict[str, Any] | None = None):
        self.path = Path(path).absolute()
        self._saved_at, self._seconds = time.monotonic(), _USUAL
        self.path.mkdir(parents=True, exist_ok=True)
        found = self._entries()
        wanted = json.loads(json.dumps({"configuration": configuration, "choices": choices or {}}))
        if _CONFIGURATION not in found:
            if saved := sorted(name for name in found - {_LOCK} if not _WRITING.fullmatch(name)):
                raise ValueError(
                    f"{self.path} holds {saved[0]} and no {_CONFIGURATION}: it is not a checkpoint of ours."
                )
            self.choices = wanted["choices"]
            if jax.process_index() == 0:
                self._write(_CONFIGURATION, wanted)
            return
        known = self._read()
        difference = _difference(known["configuration"], wanted["configuration"])
        if difference:
            raise ValueError(f"{self.path} was made for another configuration: {difference}; use another folder.")
        self.choices = known["choices"]
        if jax.process_index() == 0:
            self._sweep_up(found)

    def steps(self) -> tuple[int, ...]:
        """The numbers of what is saved, in order."""
        found = self._entries()
        return tuple(sorted(int(name) for name in found if f"{name}.json" in found))

    def is_due(self) -> bool:
        """Whether so much time has passed since the last save that another one costs less than 2 % of it."""
        due = time.monotonic() - self._saved_at >= _SHARE * self._seconds
        if jax.process_count() > 1:  # clocks differ, and all must do the same
            due = bool(multihost_utils.broadcast_one_to_all(np.asarray(due)))
        return due

    def save(self, step: int, tree: Any, about: Any = None, *, alone: bool = False) -> None:
        """Saves a tree of arrays under a number, and returns when it is there.

        **Arguments:**

        - `about`: plain JSON data that belongs to it, for `about`.
        - `alone`: whether all that was saved before is then removed, as for the state of one computation.

        **Raises:** `OSError` where it cannot be written, as on a full disk; what was saved before is intact.
        """
        folder, first = self._folder(step), jax.process_index() == 0
        # what is without entries cannot be stored: a number is, and the seal knows the shape
        empty = {name: np.shape(leaf) for name, leaf in _named(tree) if 0 in np.shape(leaf)}
        tree = _exchanged(tree, dict.fromkeys(empty, (1,)), np.zeros)
        try:
            if first:
                self._seal(step).unlink(missing_ok=True)
            with _quiet() as orbax, _checkpointer(orbax) as checkpointer:
                start = time.monotonic()
                checkpointer.save(folder, args=orbax.args.StandardSave({"tree": tree}), force=True)
            if first:
                self._write(self._seal(step).name, {"about": about, "files": _digests(folder), "empty": empty})
        except Exception as error:  # the storage library reports a full disk by errors of many classes
            with contextlib.suppress(OSError):
                self._sweep_up(self._entries())
            raise OSError(
                f"checkpoint {step} could not be written to {self.path}: {_sentence(error)}; "
                "what was saved before is intact."
            ) from None
        if alone and first:
            for other in set(self.steps()) - {step}:
                self._seal(other).unlink()
                shutil.rmtree(self._folder(other), ignore_errors=True)
        if jax.process_count() > 1:  # nobody reads before the first has sealed
            multihost_utils.sync_global_devices(f"limitax checkpoint {step}")
        self._saved_at = time.monotonic()
        self._seconds = self._saved_at - start

    def about(self, step: int) -> Any:
        """The data that was saved beside a tree.

        **Raises:** `ValueError` where it is damaged.
        """
        try:
            return json.loads(self._seal(step).read_text())["about"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged(step, "its seal is broken") from None

    def restore(self, step: int, like: Any = None) -> Any:
        """What was saved under a number, laid out as `like`: arrays, or `jax.ShapeDtypeStruct` with a sharding; by
        default NumPy arrays in dictionaries and lists.

        **Raises:** `ValueError` where it is damaged, or has other shapes.
        """
        folder = self._folder(step)
        try:
            seal = json.loads(self._seal(step).read_text())
            if seal["files"] != _digests(folder):
                raise ValueError("its files are not those that were written")
            empty = {name: tuple(shape) for name, shape in seal.get("empty", {}).items()}
            stored = (
                None if like is None else {"tree": _exchanged(like, dict.fromkeys(empty, (1,)), jax.ShapeDtypeStruct)}
            )
            with _quiet() as orbax, _checkpointer(orbax) as checkpointer:
                tree = checkpointer.restore(folder, args=orbax.args.StandardRestore(stored))["tree"]
            tree = _exchanged(tree, empty, np.zeros)
            if like is not None:
                shapes = [[(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(one)] for one in (tree, like)]
                if shapes[0] != shapes[1]:
                    raise ValueError("its arrays have other shapes")
        except Exception as error:  # and damage by as many
            raise self._damaged(step, _sentence(error)) from None
        return tree

    def _damaged(self, step: int, reason: str) -> ValueError:
        return ValueError(
            f"checkpoint {self._folder(step)} cannot be read: {reason}. Remove it to compute again what it held."
        )

    def _folder(self, step: int) -> Path:
        return self.path / f"{step:08d}"

    def _seal(self, step: int) -> Path:
        """The file that makes a folder count: it comes last, and knows the folder's files."""
        return self.path / f"{step:08d}.json"

    def _entries(self) -> set[str]:
        """**Raises:** `ValueError` for content that no checkpoint has."""
        found = {entry.name for entry in self.path.iterdir()}
        for name in sorted(found - {_CONFIGURATION, _LOCK}):
            if not any(known.fullmatch(name) for known in (_SAVED, _WRITING, _UNFINISHED)):
                raise ValueError(f"{self.path} holds {name}, which is not part of a checkpoint; use another folder.")
        return found

    def _write(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.path / f".{name}"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, self.path / name)

    def _read(self) -> dict[str, Any]:
        file = self.path / _CONFIGURATION
        try:
            content = json.loads(file.read_text())
            if isinstance(content["configuration"], dict) and isinstance(content["choices"], dict):
                return content
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ValueError(f"{file} is damaged or not a configuration of ours; use another folder.")

    def _sweep_up(self, found: set[str]) -> None:
        """Removes what a killed process had begun to write."""
        for name in found:
            if _UNFINISHED.fullmatch(name):
                shutil.rmtree(self.path / name, ignore_errors=True)


@contextlib.contextmanager
def resumable(out: str | os.PathLike | None, describe: Callable[[], dict[str, Any]]) -> Iterator[Checkpoints | None]:
    """The checkpoints in `out/checkpoints` of a computation that `describe()` tells from others, for this run alone;
    `None` without a folder."""
    if out is None:
        yield None
        return
    folder = Path(out) / "checkpoints"
    with one_run_in(folder):
        saved = Checkpoints(folder, describe())
        try:
            yield saved
        finally:
            if not saved.steps() and jax.process_index() == 0:  # what came to nothing is not to refuse what comes next
                (folder / _CONFIGURATION).unlink(missing_ok=True)


def to_leaves(tree: Any) -> list[np.ndarray]:
    """The arrays of a tree, for a checkpoint: whole on every process, and random keys by their bits."""
    leaves = (jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree))
    return [np.asarray(leaf) for leaf in gather(list(leaves))]


def from_leaves(leaves: list[Any], like: Any) -> Any:
    """A tree from what `to_leaves` made of one with the structure and the types of `like`."""
    kinds, structure = jax.tree.flatten(like)
    found = [
        jax.random.wrap_key_data(leaf) if _is_key(kind) else as_jax(leaf)
        for leaf, kind in zip(leaves, kinds, strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def as_jax(array: np.ndarray) -> Any:
    """A JAX array, or the same NumPy array where that would round it."""
    return jnp.asarray(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@contextlib.contextmanager
def one_run_in(path: str | os.PathLike) -> Iterator[None]:
    """Within this context no other run may use the folder; the file that says so ends with the process.

    **Raises:** `ValueError` where another run does; `OSError` where the folder cannot be written.
    """
    path = Path(path).absolute()
    path.mkdir(parents=True, exist_ok=True)
    if fcntl is None or jax.process_index() != 0:
        yield
        return
    with open(path / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work in {path}; one at a time may use a folder.") from None
        except OSError:  # a file system that knows no locks
            pass
        yield


@contextlib.contextmanager
def _quiet():
    """Orbax, imported when it is used, without its remarks about layouts that a restore on other devices changes."""
    import orbax.checkpoint as orbax

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield orbax
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _checkpointer(orbax):
    """One that has written when `save` returns, and rounds no number."""
    with jax.enable_x64(True), orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        yield checkpointer


def _digests(folder: Path) -> dict[str, str]:
    """Of every file in a folder: the storage itself has none of its large arrays."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Leaves by names that stay when named tuples come back as dictionaries."""
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    return [(name(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _exchanged(tree: Any, shapes: dict[str, tuple[int, ...]], make: Callable[..., Any]) -> Any:
    """The tree with leaves of these shapes in place of those with these names."""
    leaves = [make(shapes[name], leaf.dtype) if name in shapes else leaf for name, leaf in _named(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _difference(known: Any, wanted: Any, name: str = "") -> str | None:
    """The first entry in which two configurations differ, in words."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in {**known, **wanted}:
            inner = f"{name}.{key}" if name else str(key)
            if key not in known or key not in wanted:
                return f"{inner} is {'new' if key not in known else 'missing'}"
            if found := _difference(known[key], wanted[key], inner):
                return found
        return None
    return None if known == wanted else f"{name} was {_shown(known)} and is {_shown(wanted)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
