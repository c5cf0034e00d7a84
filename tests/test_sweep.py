"""Sweeps: equal to loops of solutions, in few programs; saved as they go, and resumed."""

import json
import random
import re
import subprocess
import sys
import time

import jax
import limitax as lx
import numpy as np
import pytest
import xarray
from limitax.studies import _grid as grids
from limitax.studies import _sweep as sweeps

from .helpers import raises, small_task

TASK = lx.tasks.power_law(40, 1.5, 2.5, 0.3)
LIMIT = lx.limits.RandomFeatures()
PROTOCOL = lx.OnlineSGD(0.05, 0.3, steps=6)
RATES, NOISES = [0.01, 0.05, 0.2], [0.0, 0.3]


@pytest.fixture(scope="module")
def plain():
    return lx.sweep(LIMIT, TASK, PROTOCOL, {"learning_rate": RATES, "noise": NOISES})


def test_equals_a_loop_of_solutions(plain):
    for i, rate in enumerate(RATES):
        for j, noise in enumerate(NOISES):
            task, protocol = lx.tasks.power_law(40, 1.5, 2.5, noise), lx.OnlineSGD(rate, 0.3, steps=6)
            theory = LIMIT.solve(task, protocol)
            np.testing.assert_allclose(plain.test_loss[i, j], theory.test_loss, rtol=1e-12)
    assert plain.test_loss.dims == ("learning_rate", "noise", "time")
    np.testing.assert_array_equal(plain.learning_rate, RATES)
    assert np.all(plain.status == "converged")
    assert np.all(plain.diverged_step == -1)
    assert json.loads(plain.configuration)["grid"]["noise"] == {"noise": NOISES}
    assert plain.key == "0-0"
    assert "jax" in json.loads(plain.versions)


def test_one_program_for_all_chunks(plain, monkeypatch):
    traced = []
    solve = lx.limits.RandomFeatures.solve
    monkeypatch.setattr(lx.limits.RandomFeatures, "solve", lambda *a, **k: traced.append(1) or solve(*a, **k))
    # chunks of 4 leave 2 for the last one
    chunked = lx.sweep(LIMIT, TASK, PROTOCOL, {"learning_rate": RATES, "noise": NOISES}, chunk=4)
    one_chunk = len(traced)
    lx.sweep(LIMIT, TASK, PROTOCOL, {"learning_rate": RATES * 4, "noise": NOISES}, chunk=4)
    assert len(traced) == 2 * one_chunk
    np.testing.assert_allclose(chunked.test_loss, plain.test_loss, rtol=1e-12)


@pytest.mark.slow
def test_monte_carlo_by_common_numbers():
    limit, task, protocol = lx.limits.MLP(1, "tanh"), small_task(3, 3, 1), lx.GradientDescent(0.3, steps=3)
    options = {"samples": 200, "key": jax.random.key(3)}
    curves = lx.sweep(limit, task, protocol, {"richness": [0.5, 2.0]}, record="predictions", **options)
    for i, richness in enumerate([0.5, 2.0]):
        theory = lx.limits.MLP(1, "tanh", richness).solve(task, protocol, keep=None, **options)
        np.testing.assert_allclose(curves.predictions[i], theory.predictions, atol=2e-6)
        np.testing.assert_allclose(curves.train_loss[i], theory.train_loss, rtol=1e-5)
        errors = theory.sampling_error["predictions"]
        np.testing.assert_allclose(curves.predictions_sampling_error[i], errors, atol=2e-6)
    assert curves.predictions.dims == ("richness", "time", "sample")
    assert curves.predictions.dtype == np.float32


def test_diverged_points_stay_in_the_record():
    task, protocol = lx.tasks.sphere(samples=3, dim=2), lx.MinibatchSGD(0.1, 2, steps=40)
    curves = lx.sweep(lx.limits.LinearModel(), task, protocol, {"learning_rate": [0.1, 90.0]})
    assert curves.status.values.tolist() == ["converged", "diverged"]
    assert curves.diverged_step[0] == -1
    assert curves.diverged_step[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learning_rate", "richness"])
def test_minibatches_of_a_march(name):
    limit, task, protocol = lx.limits.MLP(1, "tanh"), small_task(3, 3, 1), lx.MinibatchSGD(0.3, batch_size=2, steps=3)
    options = {"samples": 200, "replicas": 2}
    curves = lx.sweep(limit, task, protocol, {name: [0.2, 0.7]}, **options)
    for i, value in enumerate([0.2, 0.7]):
        one = lx.limits.MLP(1, "tanh", value) if name == "richness" else limit
        steps = lx.MinibatchSGD(value, batch_size=2, steps=3) if name == "learning_rate" else protocol
        theory = one.solve(task, steps, **options)
        np.testing.assert_allclose(curves.train_loss[i], theory.train_loss, rtol=1e-5)
    with raises(TypeError, "batch_size must be known beforehand"):
        lx.sweep(limit, task, protocol, {"batch_size": [1.0, 2.0]}, **options)


def test_static_values_have_programs_of_their_own():
    rows = [(0.1, 0.0), (0.2, 0.5)]
    grid = {("learning_rate", "momentum"): rows, "steps": [2, 4]}
    curves = lx.sweep(LIMIT, TASK, PROTOCOL, grid)
    assert curves.test_loss.dims == ("point", "steps", "time")
    assert curves.learning_rate.dims == curves.momentum.dims == ("point",)
    for i, (rate, momentum) in enumerate(rows):
        for j, steps in enumerate([2, 4]):
            theory = LIMIT.solve(TASK, lx.OnlineSGD(rate, momentum, steps=steps))
            np.testing.assert_allclose(curves.test_loss[i, j, : steps + 1], theory.test_loss, rtol=1e-12)
            assert np.all(np.isnan(curves.test_loss[i, j, steps + 1 :]))


def test_schedules_as_rows():
    rates = [lx.schedules.linear(0.2, 6), lx.schedules.cosine(0.1, 6)]
    curves = lx.sweep(LIMIT, TASK, PROTOCOL, {"learning_rate": rates})
    for i, rate in enumerate(rates):
        theory = LIMIT.solve(TASK, lx.OnlineSGD(rate, 0.3))
        np.testing.assert_allclose(curves.test_loss[i], theory.test_loss, rtol=1e-12)
    assert curves.learning_rate_values.dims == ("learning_rate", "step")
    np.testing.assert_array_equal(curves.learning_rate_values, rates)
    np.testing.assert_array_equal(curves.learning_rate, [0, 1])


@pytest.mark.slow
def test_values_that_are_no_numbers():
    data = lx.tasks.power_law(20, samples=10)
    curves = lx.sweep(LIMIT, data, lx.GradientDescent(0.2, steps=3), {"features": [None, 15.0]})
    assert curves.features.values.tolist() == ["None", "15.0"]
    for i, features in enumerate([None, 15.0]):
        theory = lx.limits.RandomFeatures(features).solve(data, lx.GradientDescent(0.2, steps=3))
        np.testing.assert_allclose(curves.test_loss[i], theory.test_loss, rtol=1e-12)


def test_flows_and_targets():
    task, flow = lx.tasks.sphere(samples=4, dim=3), lx.GradientFlow([1.0, 5.0])
    targets = [task.y, 0.9 * task.y]
    curves = lx.sweep(lx.limits.DiagonalLinear(), task, flow, {"y": targets})
    assert curves.y_values.dims == ("y", "y_axis_0")
    for i, y in enumerate(targets):
        theory = lx.limits.DiagonalLinear().solve(lx.tasks.from_arrays(task.x, y), flow)
        np.testing.assert_allclose(curves.train_loss[i], theory.train_loss, rtol=1e-6)


def grid(swept, limit=LIMIT, task=TASK, protocol=PROTOCOL):
    found = grids.grid_of(swept, protocol=protocol, limit=limit, task=task)
    found.check()
    return found


def test_depth_keeps_scales_that_are_one_number():
    limit, task = lx.limits.MLP(2, "tanh", init_scale=[0.7] * 3), small_task()
    found = grid({"depth": [1, 3], "activation": ["tanh", "erf"]}, limit, task, lx.GradientDescent(0.3, steps=3))
    limits = [group.owners["limit"] for group in found.groups()]
    assert [(one.depth, one.activation) for one in limits] == [(1, "tanh"), (1, "erf"), (3, "tanh"), (3, "erf")]
    assert all(one.init_scale == 0.7 for one in limits)
    steps = grid({"steps": [3, 12]}, protocol=lx.OnlineSGD(lx.schedules.linear(0.2, 6)))
    assert [group.owners["protocol"].steps for group in steps.groups()] == [3, 12]


BAD = {
    "an unknown name": ({"width": [1.0]}, 'name "width" is unknown'),
    "no list": ({"noise": 0.3}, "noise must be a list of values to sweep; float 0.3 was given."),
    "an empty list": ({"noise": []}, "noise must have at least one value to sweep; its list is empty."),
    "a bad value": ({"learning_rate": [0.1, -0.2]}, "sweep over learning_rate: learning_rate must be finite and at"),
    "one name twice": ({"noise": [0.1], "task.noise": [0.2]}, "sweep names one thing twice: noise, task.noise."),
    "rows of other lengths": ({("noise", "learning_rate"): [(1, 2), (3,)]}, "noise, learning_rate must have 2 values"),
    "a short schedule": ({"learning_rate": [[0.1, 0.2]]}, "learning_rate must have one value a step; it has 2"),
    "axes": ({"noise": [[0.1]]}, "noise must be a list of numbers, or of arrays of shape (); its shape is (1, 1)."),
    "nothing": ({}, "sweep takes a dictionary of names and their values"),
    "far too many": ({"noise": np.ones(10**4), "learning_rate": np.ones(10**4)}, "sweep has 100000000 points"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_grids(name):
    swept, sentence = BAD[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        grid(swept)


def test_bad_arguments():
    swept = {"noise": [0.1, 0.2]}
    with raises(ValueError, 'record "outputs" is unknown; there are: '):
        lx.sweep(LIMIT, TASK, PROTOCOL, swept, record=("outputs",))
    with raises(TypeError, "sweep: RandomFeatures.solve has no option samples that could be given here."):
        lx.sweep(LIMIT, TASK, PROTOCOL, swept, samples=3)
    with raises(ValueError, "chunk must be at least 1; it is 0."):
        lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=0)
    with raises(MemoryError, "RandomFeatures.solve would need about"):
        lx.sweep(LIMIT, TASK, PROTOCOL, swept, memory_limit=1000.0)
    with raises(MemoryError, "sweep would need about"):
        lx.sweep(LIMIT, TASK, PROTOCOL, {"noise": np.ones(10**5)}, memory_limit=1e6)


@pytest.fixture
def computed(monkeypatch):
    """The numbers of points that are computed."""
    counts, compute = [], sweeps._compute
    monkeypatch.setattr(sweeps, "_compute", lambda p, points, *a: counts.append(len(points)) or compute(p, points, *a))
    return counts


@pytest.fixture
def every_chunk_is_saved(monkeypatch):
    monkeypatch.setattr(lx.solvers._checkpoints, "_SHARE", 0.0)


def test_quick_chunks_are_saved_together(tmp_path, computed):
    swept = {"learning_rate": RATES, "noise": NOISES}
    whole = lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=2, out=tmp_path)
    assert [file.name for file in (tmp_path / "checkpoints").glob("0*.json")] == ["00000000.json"]
    assert computed == [2, 2, 2]
    assert lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=2, out=tmp_path).identical(whole)
    assert computed == [2, 2, 2]


def test_one_run_at_a_time(tmp_path):
    with (
        lx.solvers.one_run_in(tmp_path / "checkpoints"),
        raises(ValueError, f"another run is at work in {tmp_path / 'checkpoints'}; one at a time may use a folder."),
    ):
        lx.sweep(LIMIT, TASK, PROTOCOL, {"noise": NOISES}, out=tmp_path)


def test_resumes_and_repeats_nothing(plain, tmp_path, computed, monkeypatch, every_chunk_is_saved):
    swept = {"learning_rate": RATES, "noise": NOISES}

    def go(**options):
        return lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=2, out=tmp_path, **options)

    class Stopped(Exception):
        pass

    save = lx.solvers.Checkpoints.save

    def stop(self, step, *tree):
        if step == 2:
            raise Stopped
        save(self, step, *tree)

    monkeypatch.setattr(lx.solvers.Checkpoints, "save", stop)
    with pytest.raises(Stopped):
        go()
    assert not (tmp_path / "result.nc").exists()
    monkeypatch.setattr(lx.solvers.Checkpoints, "save", save)
    computed.clear()
    resumed = go()
    assert computed == [2]
    assert resumed.identical(lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=2))
    computed.clear()
    assert go().identical(resumed)
    assert computed == []
    assert xarray.load_dataset(tmp_path / "result.nc").identical(resumed)
    with raises(ValueError, "was made for another configuration: key was"):
        go(key=jax.random.key(1))
    with raises(ValueError, "was made for another configuration: task.noise was 0.3 and is 0.1"):
        lx.sweep(LIMIT, lx.tasks.power_law(40, 1.5, 2.5, 0.1), PROTOCOL, swept, chunk=2, out=tmp_path)
    for file in (tmp_path / "checkpoints" / "00000001").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with raises(ValueError, "checkpoints/00000001 cannot be read: "):
        go()
    np.testing.assert_allclose(resumed.test_loss, plain.test_loss, rtol=1e-12)


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "photo.jpg").write_bytes(b"holiday")
    with raises(ValueError, "holds photo.jpg, which is not part of a checkpoint"):
        lx.sweep(LIMIT, TASK, PROTOCOL, {"noise": NOISES}, out=tmp_path)
    assert (tmp_path / "checkpoints" / "photo.jpg").read_bytes() == b"holiday"


LONG = """
import sys, numpy as np, limitax as lx
from limitax.studies import show_progress
lx.solvers._checkpoints._SHARE = 0.0
task, protocol = lx.tasks.power_law(40, 1.5, 2.5, 0.3), lx.OnlineSGD(0.05, 0.3, steps=6)
swept = {"learning_rate": np.geomspace(0.01, 0.3, 20), "noise": np.linspace(0, 1, int(sys.argv[2]))}
with show_progress(lines=True):
    lx.sweep(lx.limits.RandomFeatures(), task, protocol, swept, chunk=int(sys.argv[3]), out=sys.argv[1])
print("finished", flush=True)
"""


def killed_and_resumed(folder, noises, chunk, kills, seed):
    """A sweep killed at random moments until it has been killed often enough; returns what it reported at each."""
    rng, reports, before = random.Random(seed), [], {}
    command = [sys.executable, "-c", LONG, folder, str(noises), str(chunk)]
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()  # it has started to compute
        resumed = int(re.fullmatch(r"sweep: (\d+) of \d+ points done\n", first).group(1))
        assert resumed >= (reports[-1] if reports else 0)
        lines = [first]
        if len(reports) < kills:
            lines += [process.stdout.readline() for _ in range(rng.randint(0, 3))]
            time.sleep(rng.uniform(0.0, 0.15))  # a chunk is computed and written in half of that
            process.kill()
        rest = process.communicate()[0]
        sealed = (folder / "checkpoints").glob("0*.json")
        saved = {f.name: (f.stat().st_mtime_ns, f.with_suffix("").stat().st_mtime_ns) for f in sealed}
        assert before.items() <= saved.items()  # nothing that was there has been written again
        before = saved
        if "finished" in rest:
            return reports
        reports.append(int([*lines, *re.findall(r"sweep: \d+ of.*", rest)][-1].split()[1]))


def uninterrupted(noises, chunk):
    swept = {"learning_rate": np.geomspace(0.01, 0.3, 20), "noise": np.linspace(0, 1, noises)}
    return lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=chunk)


@pytest.mark.slow
def test_killed_once(tmp_path):
    killed_and_resumed(tmp_path, noises=2, chunk=4, kills=1, seed=0)
    assert xarray.load_dataset(tmp_path / "result.nc").equals(uninterrupted(2, 4))


@pytest.mark.slow
def test_killed_ten_times(tmp_path):
    reports = killed_and_resumed(tmp_path, noises=10, chunk=5, kills=10, seed=1)
    assert len(reports) == 10
    assert len(set(reports)) > 2
    whole = xarray.load_dataset(tmp_path / "result.nc")
    assert whole.status.size == 200
    assert whole.identical(uninterrupted(10, 5))


DEVICES = """
import json, sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
import limitax as lx
from limitax.studies import _sweep as sweeps
lx.solvers._checkpoints._SHARE = 0.0
layouts, gather, save = [], sweeps.gather, lx.solvers.Checkpoints.save
def looked_at(tree):
    losses = tree["test_loss"].sharding
    layouts.append([len(losses.device_set), [name for name in losses.spec]])
    return gather(tree)
def stop(self, step, *tree):
    save(self, step, *tree)
    sys.exit(print(json.dumps(layouts)))
sweeps.gather, lx.solvers.Checkpoints.save = looked_at, stop
task, protocol = lx.tasks.power_law(40, 1.5, 2.5, 0.3), lx.OnlineSGD(0.05, 0.3, steps=6)
with lx.devices(axis="sweep"):
    swept = {"learning_rate": [0.01, 0.05, 0.2], "noise": [0.0, 0.3, 0.6]}
    lx.sweep(lx.limits.RandomFeatures(), task, protocol, swept, chunk=6, out=sys.argv[1])
"""


@pytest.mark.slow
def test_begun_on_four_devices_and_finished_on_one(tmp_path, computed):
    run = [sys.executable, "-c", DEVICES, tmp_path]
    layouts = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert layouts == [[4, ["sweep"]]]
    swept = {"learning_rate": [0.01, 0.05, 0.2], "noise": [0.0, 0.3, 0.6]}
    resumed = lx.sweep(LIMIT, TASK, PROTOCOL, swept, chunk=6, out=tmp_path)
    assert computed == [3]
    alone = lx.sweep(LIMIT, TASK, PROTOCOL, swept)
    np.testing.assert_allclose(resumed.test_loss, alone.test_loss, rtol=1e-10)
