"""The command line, called in this process except for one real start."""

import json
import subprocess
import sys

import pytest
from limitax import cli
from limitax.studies.tables import show_measured

SMALL = ["run", "power-law-sgd", "--set", "modes=5", "steps=4", "--seeds", "20"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    code = stopped.value.code
    return (0 if code is None else code), captured.out, captured.err


@pytest.mark.slow
def test_the_module_starts():
    shown = subprocess.run([sys.executable, "-m", "limitax", "list"], capture_output=True, text=True, check=True).stdout
    assert "power-law-sgd" in shown
    assert "2106.02713" in shown


def test_list(capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0
    for word in ("name", "arXiv", "status", "mlp-dmft", "2205.09653", "theory and networks"):
        assert word in out
    assert "broken" not in out


def test_list_says_what_is_not_installed(capsys, monkeypatch):
    from limitax import gallery

    digits = gallery.system("control-mlp")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setattr(gallery, "systems", lambda: {digits.name: digits})
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert "digits needs scikit-learn: pip install 'limitax[data]'." in out
    assert "broken" not in out


def test_list_json(capsys):
    code, out, _ = call(capsys, "list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert {"linear-mlp", "mlp-dmft", "power-law-sgd"} <= set(rows)
    for row in rows.values():
        assert set(row) >= {"name", "paper", "title", "solves", "status", "settings"}
        other = {"precision-law": "theory only", "width-consistency": "networks only"}
        assert row["status"] == other.get(row["name"], "theory and networks")
    assert rows["power-law-sgd"]["settings"]["learning_rate"] == 0.05


def test_run_writes_three_files(capsys, tmp_path):
    import xarray

    out = tmp_path / "a" / "b"
    code, shown, _ = call(capsys, *SMALL, "--out", out)
    assert code == 0
    assert "power-law-sgd" in shown
    assert "test_loss" in shown
    assert sorted(p.name for p in out.iterdir()) == ["figure.png", "result.nc", "summary.json"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["system"] == "power-law-sgd"
    assert summary["paper"] == "2106.02713"
    assert summary["settings"]["modes"] == 5
    assert summary["settings"]["capacity"] == 1.5
    assert summary["seeds"] == 20
    assert summary["sizes"] is None
    assert summary["rate"] == {"test_loss": None}
    assert summary["agreement"]["test_loss"] <= 3
    assert summary["status"] == "converged"
    with xarray.open_dataset(out / "result.nc") as data:
        assert data["test_loss_theory"].shape == (5,)
        assert json.loads(data.attrs["settings"])["steps"] == 4


def test_an_optimum_is_verified_in_networks(capsys, tmp_path):
    verify = ["optimise", "power-law-sgd", "--verify", "1", "--out", tmp_path]
    code, shown, _ = call(capsys, *verify, "--steps", "50", "--seeds", "1000")
    assert code == 0
    assert "accepted: 1000 pairs of networks" in shown
    assert "verification.png, figure.png, result.nc and summary.json are in" in shown
    files = ["figure.png", "result.nc", "summary.json", "verification.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == files
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "converged"
    assert set(summary["verification"]["better"]) >= {"as it was", "cosine"}


def test_what_networks_do_not_confirm_is_exit_code_1(capsys, tmp_path):
    verify = ["optimise", "power-law-sgd", "--verify", "1", "--seeds", "3", "--out", tmp_path]
    code, shown, error = call(capsys, *verify, "--over", "noise", "--steps", "4", "--set", "modes=5", "noise=1e-3")
    assert code == 1
    assert "NOT accepted: 3 pairs" in shown
    assert "networks do not confirm the optimum: no better than as it was within two standard errors" in error


def test_disagreement_is_exit_code_1(capsys, tmp_path, monkeypatch):
    from limitax.studies import _compare

    monkeypatch.setattr(_compare, "AGREEMENT", 0.0)
    code, _, error = call(capsys, *SMALL, "--out", tmp_path)
    assert code == 1
    assert "differ by more than 3 standard errors" in error
    assert (tmp_path / "summary.json").exists()


def test_divergence_is_exit_code_3(capsys, tmp_path):
    code, _, error = call(capsys, "run", "power-law-sgd", "--set", "learning_rate=1e5", "steps=4", "--out", tmp_path)
    assert code == 3
    assert error.startswith("limitax: training left the stable region at step ")
    assert list(tmp_path.iterdir()) == []


NOT_BEGUN = {
    "system": (["run", "power-law"], 'system "power-law" is unknown; did you mean power-law-sgd'),
    "system of optimise": (["optimise", "xyzzy"], 'system "xyzzy" is unknown; one of: benign-sgd, control-deep'),
    "setting": ([*SMALL[:2], "--set", "rate=1"], 'name "rate" is unknown; there are protocol: learning_rate'),
    "settings of the system": ([*SMALL[:2], "--set", "rate=1"], "Settings of power-law-sgd: modes, capacity"),
    "no value": ([*SMALL[:2], "--set", "steps"], '--set takes name=value; "steps" was given.'),
    "empty value": ([*SMALL[:2], "--set", "steps="], '--set takes name=value; "steps=" was given.'),
    "no name": ([*SMALL[:2], "--set", "=3"], '--set takes name=value; "=3" was given.'),
    "twice": ([*SMALL[:2], "--set", "steps=3", "steps=4"], '--set gives "steps" twice.'),
    "type": ([*SMALL[:2], "--set", "modes=many"], "modes must be a whole number; str 'many' was given."),
    "not a number": ([*SMALL[:2], "--set", "noise=NaN"], "noise must be finite and at least 0; it is nan."),
    "range": ([*SMALL[:2], "--set", "learning_rate=-0.2"], "learning_rate must be finite and at least 0; it is -0.2."),
    "steps": ([*SMALL[:2], "--set", "steps=0"], "steps must be at least 1; it is 0."),
    "seeds": ([*SMALL[:2], "--seeds", "1"], "seeds must be at least 2; it is 1."),
    "sizes": ([*SMALL[:2], "--sizes", "0"], "sizes must be at least 1; it is 0."),
    "activation": (
        ["run", "mlp-dmft", "--set", "activation=gelux"],
        'activation "gelux" is unknown; one of: erf, gelu, identity, relu, softplus, tanh, or any callable.',
    ),
    "steps twice": (
        ["optimise", "power-law-sgd", "--steps", "3", "--set", "steps=4"],
        "--steps and --set steps=... were both given; give one of them.",
    ),
    "verify": (["optimise", "power-law-sgd", "--verify", "0"], "verify must be at least 1; it is 0."),
    "seeds of verify": (["optimise", "power-law-sgd", "--verify", "1", "--seeds", "1"], "seeds must be at least 2; it"),
    "over": (["optimise", "power-law-sgd", "--over", "rate"], 'name "rate" is unknown; there are protocol:'),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_BEGUN)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, name, tmp_path):
    arguments, sentence = NOT_BEGUN[name]
    code, out, error = call(capsys, *arguments, "--out", tmp_path)
    assert code == 2
    assert error.startswith("limitax: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["walk"], ["run"], ["run", "mlp-dmft", "--seeds", "many"], ["list", "--yes"]])
def test_unknown_words_are_exit_code_2(capsys, arguments):
    code, _, error = call(capsys, *arguments)
    assert code == 2
    assert error


@pytest.mark.parametrize("command", ["run", "optimise"])
def test_help_says_what_to_give_and_what_is_taken_otherwise(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert "--set NAME=VALUE ..." in out
    assert "(default: the system's own)" in " ".join(out.replace("│", "").split())
    assert "None" not in out


@pytest.mark.parametrize("command", [SMALL, ["optimise", "power-law-sgd"], ["quickstart"]])
def test_a_folder_that_cannot_be_is_found_before_any_work(capsys, tmp_path, monkeypatch, command):
    from limitax import limits, studies

    def work(*args, **options):
        raise AssertionError("work began")

    monkeypatch.setattr(limits.RandomFeatures, "solve", work)
    monkeypatch.setattr(limits.MLP, "solve", work)
    monkeypatch.setattr(studies, "optimise", work, raising=False)
    file = tmp_path / "file"
    file.write_text("here already")
    for out in (file, file / "below"):
        code, _, error = call(capsys, *command, "--out", out)
        assert code == 2
        assert error.startswith("limitax: ")
        assert str(file) in error
    assert file.read_text() == "here already"


def test_numbers_that_fill_a_line_are_left_to_the_summary(capsys):
    show_measured({"slope": -0.51234567, "ramp": {"loss": 1.00018118, "steps": [12, 0.5]}, "all": list(range(200))})
    assert capsys.readouterr().out == "slope: -0.512346\nramp: loss 1.00018, steps (12, 0.5)\nall: in summary.json\n"
