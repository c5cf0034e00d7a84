"""`limitax sweep`: files are data, and whatever is in them is answered in a sentence."""

import contextlib
import io
import json
import tomllib

import limitax as lx
import numpy as np
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limitax.cli import main
from limitax.studies import final_losses, plot_sweep, read_sweep_file, sweep_summary

from .helpers import raises

SMALL = """
system = "power-law-sgd"
record = ["train_loss"]

[settings]
steps = 4

[grid]
learning_rate = { start = 0.01, stop = 0.1, num = 3, scale = "log" }

[list]
noise = [0.1, 0.3]
momentum = [0.0, 0.5]
"""


def exit_code(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def written(folder, text):
    (folder / "sweep.toml").write_text(text)
    return folder / "sweep.toml"


def test_reads(tmp_path):
    asked = read_sweep_file(written(tmp_path, SMALL))
    assert asked.system == "power-law-sgd"
    assert asked.settings == {"steps": 4}
    np.testing.assert_allclose(asked.grid["learning_rate"], [0.01, 0.1**1.5, 0.1])
    assert asked.grid["noise", "momentum"] == [(0.1, 0.0), (0.3, 0.5)]
    assert (asked.record, asked.seed, asked.chunk, asked.full) == (("train_loss",), 0, None, False)


def test_runs_and_resumes(tmp_path, capsys):
    file = written(tmp_path, SMALL)
    assert exit_code("sweep", file, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "sweep: 0 of 6 points done" in shown
    assert "sweep: 6 of 6 points done" in shown
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"checkpoints", "figure.png", "result.nc", "summary.json"}
    data = xarray.load_dataset(tmp_path / "out" / "result.nc")
    assert data.test_loss.dims == ("learning_rate", "point", "time")
    assert data.system == "power-law-sgd"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["points"] == 6
    assert summary["status"] == {"converged": 6}
    assert summary["best"]["test_loss"] == float(data.test_loss[..., -1].min())
    assert exit_code("sweep", file, "--out", tmp_path / "out") == 0
    assert "sweep: 6 of 6 points done" in capsys.readouterr().out
    assert xarray.load_dataset(tmp_path / "out" / "result.nc").identical(data)
    assert exit_code("sweep", written(tmp_path, SMALL.replace("0.3]", "0.4]")), "--out", tmp_path / "out") == 2
    assert "was made for another configuration: grid.point.noise was" in capsys.readouterr().err


BAD = {
    "system = ": "is not TOML: ",
    "": "names no system; the first line may be system = ",
    "systems = 1": 'entry "systems" is unknown; there are: system, full, ',
    "system = 1": "system must be text; int 1 was given.",
    'system = "deep-linear"': "sweeps nothing; give names and values under [grid] or [list].",
    'system = "deep-linear"\ngrid = 3': "grid must be a table, [grid]; int 3 was given.",
    'system = "deep-linear"\n[grid]\nrichness = 2.0': "grid.richness must be a list of values, or { start = ,",
    'system = "deep-linear"\n[grid]\nrichness = []': "grid.richness must have at least one value; its list is empty.",
    'system = "deep-linear"\n[grid]\nrichness = [1979-05-27]': "grid.richness must be numbers, texts, true or false; ",
    'system = "deep-linear"\n[grid]\nrichness = [1' + "0" * 30 + "]": "grid.richness must be numbers below 2^63; one ",
    'system = "deep-linear"\n[grid]\nrichness = {start = 1, stop = 2}': "grid.richness is a range without num.",
    'system = "deep-linear"\n[grid]\nrichness = {start = 0, stop = 2, num = 3, scale = "log"}': "grid.richness.start",
    'system = "deep-linear"\n[grid]\nrichness = {start = 0, stop = 2, num = 3, by = 1}': 'an unknown entry "by"',
    'system = "deep-linear"\n[grid]\nrichness = {start = 0, stop = 2, num = 10000000}': "grid.richness.num must be ",
    'system = "deep-linear"\n[list]\na = [1]\nb = [1, 2]': "must have one length; a has 1, b has 2.",
    'system = "deep-linear"\nchunk = 0\n[grid]\nrichness = [1]': "chunk must be at least 1; it is 0.",
    'system = "deep-linear"\nseed = -1\n[grid]\nrichness = [1]': "seed must be between 0 and ",
    'system = "deep-linear"\nrecord = 1\n[grid]\nrichness = [1]': "record must be a list of names; int 1 was given.",
    'system = "gpt-5"\n[grid]\nrichness = [1]': "gpt-5",
    'system = "precision-law"\n[grid]\nrichness = [1]': "precision-law is a closed form",
    'system = "variance-onset"\n[grid]\nrichness = [1]': "variance-onset is an experiment on networks",
    'system = "deep-linear"\n[grid]\ntemperature = [1]': 'name "temperature" is unknown; there are protocol: ',
    'system = "deep-linear"\n[grid]\nrichness = [1, "a"]': "richness must be a number; str 'a' was given.",
    'system = "deep-linear"\n[grid]\ndepth = [1, 2.5]': "depth must be a whole number; float 2.5 was given.",
    'system = "deep-linear"\n[settings]\nsteps = "a"\n[grid]\nrichness = [1]': "steps must be a whole number; ",
    'system = "deep-linear"\n[solve]\nrun = "rm"\n[grid]\nrichness = [1]': "DeepLinear.solve has no option run",
    'system = "deep-linear"\n[solve]\nprecision = 3\n[grid]\nrichness = [1]': "precision 3 is unknown; one of: ",
    'system = "deep-linear"\n[solve]\nkey = 3\n[grid]\nrichness = [1]': "key cannot stand under [solve]",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_files(text, tmp_path, capsys):
    assert exit_code("sweep", written(tmp_path, text), "--out", tmp_path / "out") == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("limitax: ")
    assert BAD[text] in complaint
    assert not (tmp_path / "out" / "result.nc").exists()


def test_files_that_are_none(tmp_path, capsys):
    assert exit_code("sweep", tmp_path / "none.toml", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == f"limitax: {tmp_path / 'none.toml'}: No such file or directory\n"
    (tmp_path / "sweep.toml").write_bytes(b"\xff\xfe\x00")
    with raises(ValueError, "is not text in UTF-8."):
        read_sweep_file(tmp_path / "sweep.toml")
    with raises(ValueError, "is not TOML: "):
        read_sweep_file(written(tmp_path, "a = " + "[" * 5000))


QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.one_of(
    st.integers(-(10**25), 10**25), st.floats(), st.booleans(), st.text(st.characters(codec="ascii"), max_size=5)
)
NAMES = st.sampled_from(["start", "stop", "num", "scale", "richness", "noise", "depth", "learning_rate", "x"])
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))
ENTRIES = st.sampled_from(["system", "full", "settings", "grid", "list", "solve", "record", "seed", "chunk", "other"])


def toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value).replace("e", ".0e") if "." not in repr(value) and "e" in repr(value) else repr(value)
    return json.dumps(value).replace("\\u007f", "?") if isinstance(value, str) else str(value).lower()


@QUIET
@given(st.dictionaries(ENTRIES, DATA, max_size=5))
def test_any_data_is_answered_in_a_sentence(tmp_path, content):
    text = "\n".join(f"{name} = {toml(value)}" for name, value in ({"system": "deep-linear"} | content).items())
    file = written(tmp_path, text)
    with contextlib.suppress(ValueError, TypeError):
        assert read_sweep_file(file).grid


@QUIET
@given(st.binary(max_size=60))
def test_any_bytes_are_answered_in_a_sentence(tmp_path, content):
    (tmp_path / "sweep.toml").write_bytes(content)
    with pytest.raises((ValueError, TypeError)):
        read_sweep_file(tmp_path / "sweep.toml")


@QUIET
@given(st.dictionaries(NAMES, DATA, max_size=3), st.sampled_from(["settings", "grid"]))
def test_any_values_of_a_problem_are_answered_in_a_sentence(tmp_path, content, table):
    """Names that a system has, with values that it may not know what to do with; before any work."""
    from limitax.gallery import system
    from limitax.studies._grid import grid_of

    content.pop("x", None)
    with contextlib.suppress(ValueError, TypeError):
        parts = system("deep-linear").problem(content if table == "settings" else {})
        found = grid_of(content if table == "grid" else {"noise": [0.1]}, **parts._asdict())
        found.check()
        list(found.groups())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_results_are_answered_in_a_sentence(tmp_path, data):
    path = tmp_path / "run.nc"
    lx.Trajectory(train_loss=np.ones(3), test_loss=np.ones(3)).save(path)
    content = bytearray(path.read_bytes())
    end = data.draw(st.integers(0, len(content)))
    for place in data.draw(st.lists(st.integers(0, 2000), max_size=5)):
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[:end])
    with contextlib.suppress(ValueError):
        lx.Trajectory.load(path)


def example(**swept):
    limit, task = lx.limits.RandomFeatures(), lx.tasks.power_law(20, 1.5, 2.5, 0.3)
    return lx.sweep(limit, task, lx.OnlineSGD(0.05, steps=4), swept)


def test_pictures_and_summaries():
    data = example(steps=[2, 4], noise=[0.0, 0.1, 0.2], learning_rate=[0.01, 90.0])
    name, final = final_losses(data)
    assert name == "test_loss"
    np.testing.assert_array_equal(final[0, :, 0], data.test_loss[0, :, 0, 2])
    for picture in (data, example(noise=np.linspace(0, 1, 10), learning_rate=np.geomspace(1e-3, 0.1, 9))):
        file = io.BytesIO()
        plot_sweep(picture, file)
        assert file.getvalue()
    summary = sweep_summary(data)
    assert summary["shape"] == {"steps": 2, "noise": 3, "learning_rate": 2}
    assert summary["best"]["steps"] == 4
    assert json.dumps(summary["status"])


def test_maps(tmp_path):
    rates, noises = np.geomspace(0.01, 3, 12), np.linspace(0, 1, 9)
    task, protocol = lx.tasks.power_law(10, 1.5, 2.5, 0.3), lx.OnlineSGD(0.05, steps=20)
    data = lx.sweep(lx.limits.RandomFeatures(), task, protocol, {"learning_rate": rates, "noise": noises})
    assert set(data.status.values.ravel()) == {"converged", "diverged"}
    for map_of in (
        data,
        data.isel(learning_rate=slice(0, 9)),
        data.isel(learning_rate=slice(-1, None)).isel(noise=slice(0, 1)),
    ):
        ax, *bars = plot_sweep(map_of, tmp_path / "map.png").axes
        assert (tmp_path / "map.png").exists()
        if bars:
            legend = [text.get_text() for text in ax.get_legend().get_texts()]
            assert legend == ["least", "no solution to be trusted"][: 1 + ("diverged" in map_of.status)]
            _, final = final_losses(map_of)
            limits = ax.collections[0].get_clim()
            assert limits[0] == np.nanmin(final)
            assert limits[1] <= max(data.test_loss[..., 0].max(), limits[0])


def test_documented_example_is_toml():
    text = read_sweep_file.__doc__.split("```")[1].removeprefix("toml")
    tomllib.loads("\n".join(line.strip() for line in text.splitlines()))
