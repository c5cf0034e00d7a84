"""The record: labels, files, divergence, errors."""

import os

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.problems import CONVERGED, DIVERGED, NOT_CONVERGED, OVERFLOW, check, first_divergence, write_netcdf

from .helpers import full_trajectory, raises, same

SEEDS = [None, 3]


@pytest.mark.parametrize("seeds", SEEDS)
def test_labels_of_the_data_set(seeds):
    record = full_trajectory(steps=3, samples=2, tests=3, depth=2, seeds=seeds)
    data = record.to_dataset()
    lead = () if seeds is None else ("seed",)
    expected = {
        "train_loss": ("time",),
        "test_loss": ("time",),
        "predictions": ("time", "sample"),
        "test_predictions": ("time", "test_sample"),
        "Phi_1": ("time", "other_time", "sample", "other_sample"),
        "G_2": ("time", "other_time", "sample", "other_sample"),
        "alignment": ("time",),
        "edges": ("time", "edges_axis_1"),
        "train_loss_sampling_error": ("time",),
        "G_2_sampling_error": ("time", "other_time", "sample", "other_sample"),
        "alignment_sampling_error": ("time",),
        "status_code": (),
        "diverged_step": (),
    }
    for name, dims in expected.items():
        assert data[name].dims == (*lead, *dims), name
    assert set(data.data_vars) == {*expected, "Phi_2", "G_1"}
    np.testing.assert_array_equal(data["time"], np.arange(4))
    np.testing.assert_array_equal(data["predictions"], record.predictions)
    assert data.attrs["loss_convention"] == "half_mean_square"
    assert data.attrs["model"] == "limit"
    assert data.attrs["status"] == "converged"
    assert record.steps == 3


def test_kernels_at_equal_times_have_one_time_axis():
    record = lx.Trajectory(train_loss=np.ones(4), kernels={("Phi", 1): np.ones((4, 2, 2))})
    assert record.to_dataset()["Phi_1"].dims == ("time", "sample", "other_sample")


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_file_gives_the_record_back(seeds, tmp_path):
    record = full_trajectory(seeds=seeds, loss_convention="mean_square", model="network", status_code=NOT_CONVERGED)
    record.save(tmp_path / "run.nc")
    again = lx.Trajectory.load(tmp_path / "run.nc")
    same(record, again)
    assert again.status == "not converged"
    assert again.loss_convention == "mean_square"
    assert again.model == "network"
    assert again.attributes == record.attributes
    assert set(again.kernels) == {("Phi", 1), ("Phi", 2), ("G", 1), ("G", 2)}
    assert set(again.sampling_error) == {"train_loss", "G_2", "alignment"}
    assert not (tmp_path / "run.nc").read_bytes().startswith(b"\x80")


def test_a_sparse_record_comes_back_sparse(tmp_path):
    record = lx.Trajectory(test_loss=np.array([1.0, np.nan]), diverged_step=np.int32(1), status_code=np.int32(DIVERGED))
    record.save(tmp_path / "run.nc")
    again = lx.Trajectory.load(tmp_path / "run.nc")
    assert again.train_loss is None
    assert again.kernels == {}
    assert again.sampling_error is None
    assert again.status == "diverged"
    np.testing.assert_array_equal(again.test_loss, record.test_loss)


def test_a_file_holds_jax_arrays_and_any_float_type(tmp_path):
    record = lx.Trajectory(train_loss=jnp.ones(3, jnp.float32), status_code=jnp.int32(0))
    record.save(str(tmp_path / "run.nc"))
    assert lx.Trajectory.load(str(tmp_path / "run.nc")).train_loss.dtype == np.float32


def test_a_file_is_as_readable_as_any_other(tmp_path):
    full_trajectory().save(tmp_path / "run.nc")
    (tmp_path / "plain").touch()
    assert os.stat(tmp_path / "run.nc").st_mode == os.stat(tmp_path / "plain").st_mode


def _foreign(path, **attrs):
    import xarray

    write_netcdf(xarray.Dataset({"a": ("t", np.ones(2))}, attrs=attrs), path)


OWN = {"kernels": "[]", "extras": "[]", "attributes": "[]", "loss_convention": "mean_square", "model": "limit"}
DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a netCDF file"),
    "pickle": lambda path: path.write_bytes(b"\x80\x04N."),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "three quarters": lambda path: path.write_bytes(path.read_bytes()[: 3 * path.stat().st_size // 4]),
    "foreign": _foreign,
    "foreign, with our attributes": lambda path: _foreign(path, **OWN),
    "a kernel too many": lambda path: _foreign(path, **OWN | {"kernels": '[["Phi", 1]]'}),
    "attributes that are no JSON": lambda path: _foreign(path, **OWN | {"kernels": "[["}),
    "attributes of another shape": lambda path: _foreign(path, **OWN | {"kernels": "3"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_refused(damage, tmp_path):
    path = tmp_path / "run.nc"
    full_trajectory().save(path)
    DAMAGE[damage](path)
    with raises(ValueError, f"{path} is not a trajectory saved by limitax: "):
        lx.Trajectory.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        lx.Trajectory.load(tmp_path / "none.nc")
    with pytest.raises(OSError, match="nowhere"):
        full_trajectory().save(tmp_path / "nowhere" / "run.nc")


def test_a_file_is_never_half_written(tmp_path):
    path = tmp_path / "run.nc"
    record = full_trajectory()
    record.save(path)
    before = path.read_bytes()

    class Fails:
        def to_netcdf(self, target, **_):
            with open(target, "wb") as file:
                file.write(b"half of it")
            raise OSError("no space left on device")

    with raises(OSError, "no space left on device"):
        write_netcdf(Fails(), path)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="no space"):
        write_netcdf(Fails(), tmp_path / "new.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]


@pytest.mark.parametrize(
    ("loss", "step"),
    [
        ([1.0, 0.5, 0.2], -1),
        ([1.0, np.nan, 0.2], 1),
        ([1.0, 2.0, np.inf], 2),
        ([np.nan, 1.0, 1.0], 0),
        ([1.0, 0.9e6, 1.1e6], 2),
        ([2.0, 1.9e6, 2.1e6], 2),
        ([1e-9, 1e-4, 1e-2], 2),
        ([0.0, 1.0, 2.0], -1),
        ([0.0, 1.0, np.inf], 2),
    ],
)
def test_first_divergence(loss, step):
    assert int(first_divergence(np.array(loss))) == step
    assert int(jax.jit(first_divergence)(jnp.array(loss))) == step


def test_first_divergence_looks_at_every_run():
    losses = np.array([[1.0, 1.0, 1.0], [1.0, np.nan, 1.0], [1.0, 1.0, 1e7]])
    np.testing.assert_array_equal(first_divergence(losses), [-1, 1, 2])


def test_check_says_when_training_diverged():
    loss = np.ones(20)
    loss[12:] = 3.1e8
    record = lx.Trajectory(train_loss=loss, diverged_step=first_divergence(loss), status_code=DIVERGED)
    with raises(lx.DivergedError, "training left the stable region at step 12 (loss 3.1e+08)."):
        check(record)
    sentence = (
        "training left the stable region at step 12 (loss 3.1e+08); "
        "at initialisation it is linearly stable for learning_rate < 0.52."
    )
    with raises(lx.DivergedError, sentence):
        check(record, 0.52)


def test_check_counts_the_runs_and_names_the_earliest():
    losses = np.ones((4, 9))
    losses[1, 7:] = np.inf
    losses[2, 3:] = 2e6
    record = lx.Trajectory(
        train_loss=losses, diverged_step=first_divergence(losses), status_code=np.array([0, 1, 1, 0])
    )
    assert record.status == "diverged"
    with raises(lx.DivergedError, "training left the stable region in 2 of 4 runs, first at step 3 (loss 2e+06)."):
        check(record)


@pytest.mark.parametrize(("code", "word"), [(NOT_CONVERGED, "not converged"), (OVERFLOW, "overflow")])
def test_check_says_what_is_wrong_with_a_solution(code, word):
    record = lx.Trajectory(train_loss=np.ones(3), status_code=code)
    assert record.status == word
    with raises(lx.ConvergenceError, f"the solution is not to be trusted: {word}."):
        check(record)


def test_check_returns_a_good_record():
    record = full_trajectory(status_code=CONVERGED)
    assert check(record) is record


def test_inside_a_transformation_the_status_stays_in_the_record():
    @jax.jit
    def solve(loss):
        step = first_divergence(loss)
        record = lx.Trajectory(train_loss=loss, diverged_step=step, status_code=jnp.where(step >= 0, DIVERGED, 0))
        assert record.status == "traced"
        return check(record)

    record = solve(jnp.array([1.0, jnp.nan]))
    assert record.status == "diverged"
    with raises(lx.DivergedError, "at step 1 (loss nan)."):
        check(record)


def test_curves_and_errors_go_by_plain_names():
    record = full_trajectory(depth=1)
    names = {"train_loss", "test_loss", "predictions", "test_predictions", "Phi_1", "G_1", "alignment", "edges"}
    assert set(record.curves()) == names
    assert set(record.errors()) == {"train_loss", "G_2", "alignment"}
    assert lx.Trajectory(train_loss=np.ones(2)).errors() == {}


def test_objectives():
    record = lx.Trajectory(train_loss=np.array([4.0, 2.0, 0.0]), test_loss=np.array([5.0, 3.0, 1.0]))
    alone = lx.Trajectory(train_loss=np.array([4.0, 2.0, 0.0]))
    objectives = lx.objectives
    assert objectives.final_loss(record) == 1.0
    assert objectives.final_loss(alone) == 0.0
    assert objectives.final_test_loss(record) == 1.0
    assert objectives.final_train_loss(record) == 0.0
    assert objectives.area_under_curve(record) == 3.0
    assert objectives.area_under_curve(alone) == 2.0
    with raises(ValueError, "objective final_test_loss needs a task with a test side; this one has none."):
        objectives.final_test_loss(alone)
    with raises(ValueError, "objective final_train_loss needs a training loss"):
        objectives.final_train_loss(lx.Trajectory(test_loss=np.ones(2)))
