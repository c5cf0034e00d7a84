"""Checkpoints: complete or absent, of one configuration, on any number of devices."""

import json
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest
from limitax.solvers import Checkpoints

from .helpers import raises, same

TREE = {"loss": np.linspace(0, 1, 500), "step": np.arange(3, dtype=np.int32), "last": np.float32(0.3) * np.ones(())}
LIKE = jax.tree.map(np.zeros_like, TREE)
CONFIGURATION = {"limit": {"depth": 2, "richness": 1.0}, "key": "0-0"}


def test_saves_and_restores(tmp_path):
    saved = Checkpoints(tmp_path / "run", CONFIGURATION, {"chunk": 5})
    assert saved.steps() == ()
    for step in (3, 0):
        saved.save(step, TREE)
    again = Checkpoints(tmp_path / "run", CONFIGURATION, {"chunk": 7})
    assert again.steps() == (0, 3)
    assert again.choices == {"chunk": 5}
    same(again.restore(3, LIKE), TREE)
    assert all(isinstance(leaf, np.ndarray) for leaf in again.restore(3, LIKE).values())


def test_arrays_without_entries_come_back(tmp_path):
    class Fields(NamedTuple):
        z: np.ndarray
        a: np.ndarray

    tree = {"seen": [Fields(np.zeros((3, 0), np.float32), np.arange(2)), np.zeros(0, np.int32)], "x": np.ones(1)}
    saved = Checkpoints(tmp_path, CONFIGURATION)
    saved.save(0, tree)
    like = jax.tree.map(np.zeros_like, tree)
    found = saved.restore(0, like)
    assert isinstance(found["seen"][0], Fields)
    same(found, tree)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert saved.restore(0)["seen"][0]["z"].shape == (3, 0)
    with raises(ValueError, "its arrays have other shapes"):
        saved.restore(0, like | {"seen": [like["seen"][0], np.zeros(1, np.int32)]})


def test_refuses_another_configuration(tmp_path):
    Checkpoints(tmp_path, CONFIGURATION)
    with raises(
        ValueError, "was made for another configuration: limit.richness was 1.0 and is 2.0; use another folder"
    ):
        Checkpoints(tmp_path, {"limit": {"depth": 2, "richness": 2.0}, "key": "0-0"})
    with raises(ValueError, "another configuration: key is missing"):
        Checkpoints(tmp_path, {"limit": CONFIGURATION["limit"]})


def test_refuses_foreign_folders(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with raises(ValueError, "holds thesis.tex, which is not part of a checkpoint"):
        Checkpoints(tmp_path, CONFIGURATION)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_refuses_checkpoints_without_a_configuration(tmp_path):
    (tmp_path / "00000001").mkdir()
    with raises(ValueError, "holds 00000001 and no configuration.json"):
        Checkpoints(tmp_path, CONFIGURATION)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"configuration": 1, "choices": {}}', "[" * 5000])
def test_refuses_a_damaged_configuration(tmp_path, text):
    (tmp_path / "configuration.json").write_text(text)
    with raises(ValueError, "configuration.json is damaged or not a configuration of ours"):
        Checkpoints(tmp_path, CONFIGURATION)


def test_what_a_killed_process_left_is_removed(tmp_path):
    saved = Checkpoints(tmp_path, CONFIGURATION)
    saved.save(0, TREE)
    unfinished = tmp_path / "00000001.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "d").write_text("half")
    (tmp_path / ".configuration.json").write_text("{")
    assert Checkpoints(tmp_path, CONFIGURATION).steps() == (0,)
    assert not unfinished.exists()
    saved.save(1, TREE)
    assert saved.steps() == (0, 1)


def test_every_damaged_file_is_noticed(tmp_path):
    saved = Checkpoints(tmp_path, CONFIGURATION)
    saved.save(0, TREE)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "configuration.json"]
    assert len(files) > 4
    for file in files:
        content = file.read_bytes()
        for damaged in (content[: len(content) // 2], bytes([*content[:-1], content[-1] ^ 0x55])):
            file.write_bytes(damaged)
            with raises(ValueError, f"checkpoint {tmp_path / '00000000'} cannot be read: ") as caught:
                saved.restore(0, LIKE)
            assert str(caught.value).endswith("Remove it to compute again what it held.")
        file.write_bytes(content)
    same(saved.restore(0, LIKE), TREE)


def test_what_is_removed_or_not_sealed_does_not_count(tmp_path):
    saved = Checkpoints(tmp_path, CONFIGURATION)
    for step in range(3):
        saved.save(step, TREE)
    shutil.rmtree(tmp_path / "00000000")
    (tmp_path / "00000001.json").unlink()
    assert saved.steps() == (2,)
    saved.save(1, TREE)
    assert saved.steps() == (1, 2)


def test_other_shapes_are_refused(tmp_path):
    saved = Checkpoints(tmp_path, CONFIGURATION)
    saved.save(0, TREE)
    for like in (LIKE | {"loss": np.zeros(3)}, LIKE | {"more": np.zeros(2)}, {"loss": LIKE["loss"]}):
        with raises(ValueError, "cannot be read"):
            saved.restore(0, like)


FULL_DISK = """
import resource, sys, numpy as np
from limitax.solvers import Checkpoints
saved = Checkpoints(sys.argv[1], {})
saved.save(0, {"a": np.arange(10.0)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    saved.save(1, {"a": np.random.default_rng(0).normal(size=200_000)})
except OSError as error:
    print(error)
print(saved.steps(), saved.restore(0, {"a": np.zeros(10)})["a"].tolist() == list(range(10)))
"""


def test_a_full_disk_loses_nothing(tmp_path):
    shown = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    message, after = shown.stdout.splitlines()
    assert message.startswith(f"checkpoint 1 could not be written to {tmp_path}: ")
    assert message.endswith("; what was saved before is intact.")
    assert after == "(0,) True"


DEVICES = """
import json, sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
import limitax as lx
from limitax.solvers import Checkpoints, shard
saved = Checkpoints(sys.argv[1], {})
with lx.devices(axis="modes"):
    like = shard(np.arange(8.0) / 3, "modes")
    if not saved.steps():
        saved.save(0, like)
    back = saved.restore(0, jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=like.sharding))
print(json.dumps([len(back.sharding.device_set), str(back.dtype), np.asarray(back).tolist()]))
"""


@pytest.mark.slow
def test_saved_on_four_devices_and_restored_on_one(tmp_path):
    run = [sys.executable, "-c", DEVICES, tmp_path]
    count, dtype, values = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert (count, dtype) == (4, "float64")
    expected = np.arange(8.0) / 3
    np.testing.assert_array_equal(values, expected)
    with jax.enable_x64(True):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.ShapeDtypeStruct((8,), np.float64, sharding=sharding)
        one = Checkpoints(tmp_path, {}).restore(0, like)
    assert one.sharding == sharding
    np.testing.assert_array_equal(one, expected)
