"""Several processes that are one job: two on this machine, in the environment that SLURM would give them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray

SHORT = ("run", "power-law-sgd", "--set", "modes=5", "steps=4", "--seeds", "20")
LONG = ("run", "deep-linear", "--sizes", "10", "20", "--seeds", "4")
FILES = {"figure.png", "result.nc", "summary.json"}


def start(number: int | None, port: int, out: Path, *arguments: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "JAX"))}
    if number is not None:
        environment |= {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        environment |= {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "limitax", *arguments, "--out", str(out)]
    # files, since a full pipe would hold a process up
    with open(out.with_name(f"log{number}"), "w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_and_one(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert start(None, 0, alone, *SHORT).wait(200) == 0
    port = free_port()
    pair = [start(number, port, together, *SHORT, "--distributed") for number in (0, 1)]
    assert [process.wait(200) for process in pair] == [0, 0], (tmp_path / "log0").read_text()[-2000:]
    assert {path.name for path in together.iterdir()} == FILES
    one, two = (xarray.open_dataset(folder / "result.nc") for folder in (alone, together))
    assert set(one) == set(two)
    for name in one:
        # finite networks are in single precision
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6)
    errors = [json.loads((folder / "summary.json").read_text())["errors"]["test_loss"] for folder in (alone, together)]
    np.testing.assert_allclose(*errors, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_process_that_dies(tmp_path, victim):
    out, port = tmp_path / "out", free_port()
    pair = [start(number, port, out, *LONG, "--distributed", "--timeout", "10") for number in (0, 1)]
    log = tmp_path / f"log{victim}"
    until = time.monotonic() + 100
    while "Gloo" not in log.read_text() and time.monotonic() < until:  # it has met the other in its first networks
        time.sleep(0.05)
    pair[victim].send_signal(signal.SIGKILL)
    pair[victim].wait(10)
    survivor = 1 - victim
    assert pair[survivor].wait(100) == 4
    said = (tmp_path / f"log{survivor}").read_text().splitlines()[-1]
    assert said.startswith("limitax: ")
    assert "another" in said
    assert said.endswith("Nothing half-written is left; start the job again.")
    # nothing, or all of it: no file that is half written
    assert {path.name for path in out.iterdir()} - {"unfinished"} in (set(), FILES)
    if victim == 0:
        return
    port = free_port()
    pair = [start(number, port, out, *LONG, "--distributed") for number in (0, 1)]
    assert [process.wait(200) for process in pair] == [0, 0], (tmp_path / "log0").read_text()[-2000:]
    assert {path.name for path in out.iterdir()} == FILES


SWEEP = """
system = "power-law-sgd"
chunk = 4
[settings]
modes = 50
steps = 10
[grid]
learning_rate = { start = 0.01, stop = 0.1, num = 5 }
noise = [0.0, 0.5]
"""


@pytest.mark.slow
def test_a_sweep_of_two_processes(tmp_path):
    file, alone, together = tmp_path / "sweep.toml", tmp_path / "alone", tmp_path / "together"
    file.write_text(SWEEP)
    assert start(None, 0, alone, "sweep", str(file)).wait(200) == 0
    for _ in range(2):  # the second time all of it is there
        port = free_port()
        pair = [start(number, port, together, "sweep", str(file), "--distributed") for number in (0, 1)]
        assert [process.wait(200) for process in pair] == [0, 0], (tmp_path / "log0").read_text()[-2000:]
    one, two = (xarray.load_dataset(folder / "result.nc") for folder in (alone, together))
    assert one.test_loss.shape == (5, 2, 11)
    for name in one:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(two[name], one[name], rtol=1e-10)
        else:
            np.testing.assert_array_equal(two[name], one[name])


@pytest.mark.slow
def test_no_job_to_be_part_of(tmp_path):
    assert start(None, 0, tmp_path / "out", *SHORT, "--distributed").wait(100) == 2
    said = (tmp_path / "logNone").read_text()
    assert "several processes need an environment that says who they are" in said
    assert "Traceback" not in said
