"""Several devices: the same numbers as on one, laid out as they should be.

This process has one device, so programs of their own with four are asked.
"""

import json
import subprocess
import sys
from pathlib import Path

import limitax as lx
import pytest

# Rounding, by the order in which sums over devices are taken: measured at 1e-15, and to 1e-13 for sums of particles.
EXACT, SAMPLED = 1e-10, 1e-7


def asked(question: str) -> dict:
    program = [sys.executable, str(Path(__file__).with_name("on_devices.py")), question]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_four_devices_and_one():
    found = asked("quick")
    assert found["counts"] == [4, 1]
    assert found["after"] == 1
    assert found["one program, in turn"] == [1, 4, 2, 1]
    assert found["outside"] == [[4, ["modes"]], "float64"]
    assert found["traced"] == [4, [None, "modes"]]
    assert found["uneven stays"] == "ndarray"
    assert found["spread_map"] == [x * x + 1 for x in range(6)]
    assert found["recursion"] < EXACT
    assert found["host"] == [0, 3]
    assert found["host differs"] == 0
    assert found["seeds"]["difference"] < EXACT
    assert found["seeds"]["curve"] == [4, ["seeds"]]
    assert all(layout == [4, ["seeds"]] for layout in found["seeds"]["weights"])


@pytest.mark.slow
def test_families_of_networks_and_slopes():
    found = asked("families")
    assert all(case["difference"] < EXACT for case in found.values()), found
    assert all(layout == [4, ["width"]] for layout in found["width"].pop("weights"))
    del found["width"]
    # the records of flows go through the host, to take the type of the weights
    devices = {name: case["devices"] for name, case in found.items()}
    assert devices == dict.fromkeys(found, 4) | {"learned features": 1}


@pytest.mark.slow
def test_particles_and_replicas():
    assert all(difference < SAMPLED for difference in asked("sampled").values())


@pytest.mark.slow
def test_runs_that_go_on_on_other_devices():
    found = asked("resumed")
    assert len(found) == 8
    assert all(difference < EXACT for difference in found.values()), found


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"count": 99}, ValueError, "count must be between 1 and the number of devices present, 1 of kind cpu"),
        ({"count": 0}, ValueError, "it is 0"),
        ({"count": True}, TypeError, "count must be an integer or None; True was given"),
        ({"axis": "time"}, ValueError, "axis 'time' is unknown; one of: sweep, samples, modes, seeds, width"),
    ],
)
def test_bad_devices(arguments, kind, sentence):
    with pytest.raises(kind, match=sentence), lx.devices(**arguments):
        pass


def test_one_mesh_at_a_time():
    with lx.devices(), pytest.raises(ValueError, match="inside of another mesh"), lx.devices(axis="seeds"):
        pass
