"""The benchmarks' command line; what they measure is no test."""

import json
import math
from pathlib import Path

import jax
import limitax as lx
import numpy as np
import pytest
from limitax.bench import ensemble, neural_tangents, recursion
from limitax.bench.__main__ import main, names
from limitax.bench._record import HEADLINES, compare, headlines, into, merged, read
from limitax.solvers import double

ROOT = Path(__file__).parent.parent


def test_every_benchmark_is_known():
    assert {"control", "deep_linear", "march", "recursion", "scaling_laws"} <= set(names())
    assert not [name for name in names() if name.startswith("_")]


@pytest.mark.parametrize("momentum", [False, True])
def test_the_gradients_of_the_recursion_that_are_timed_are_the_same(momentum):
    with double():
        bins, noise_power, drive = recursion._problem(60)
        losses = recursion.final_losses(bins, noise_power, momentum)
        assert len(losses) == (4 if momentum else 5)
        value, expected = jax.value_and_grad(losses.pop("blocked"))(drive)
        for loss in losses.values():
            again, found = jax.value_and_grad(loss)(drive)
            np.testing.assert_allclose(again, value, rtol=1e-12)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-11 * abs(y).max()), found, expected
            )


def test_the_table_is_printed_and_saved(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble, "rows", lambda quick: [{"what": "ratio", "quick": quick, "ratio": 1 / 3}])
    main(["ensemble", "--quick", "--out", str(tmp_path / "new" / "bench.json")])
    assert "what=ratio  quick=True  ratio=0.3333" in capsys.readouterr().out
    saved = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert saved["rows"] == {"ensemble": [{"what": "ratio", "quick": True, "ratio": 1 / 3}]}
    assert saved["machine"]["cores"] >= 1
    assert "jax" in saved["versions"]


def test_unknown_names(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["nonsense"])
    assert stop.value.code == 2
    assert 'name "nonsense" is unknown; one of: control, deep_linear' in capsys.readouterr().err


def test_repeats_are_medians_with_a_spread(tmp_path, monkeypatch):
    ratios = iter((2.0, 3.0, 10.0))
    monkeypatch.setattr(ensemble, "rows", lambda quick: [{"what": "ratio", "count": 4, "ratio": next(ratios)}])
    main(["ensemble", "--repeats", "3", "--out", str(tmp_path / "bench.json")])
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]["ensemble"]
    assert row == {"what": "ratio", "count": 4, "ratio": 3.0, "spread": {"ratio": 4 / 3}}


def test_passes_of_several_hours_are_one_table(capsys, tmp_path, monkeypatch):
    ratios = iter((2.0, 4.0, 3.0))
    monkeypatch.setattr(ensemble, "rows", lambda quick: [{"what": "ratio", "ratio": next(ratios), "best": math.inf}])
    file = ["--out", str(tmp_path / "bench.json")]
    main(["ensemble", *file])
    for _ in range(2):
        main(["ensemble", *file, "--onto", file[1]])
    found = read(tmp_path / "bench.json")
    assert found["rows"]["ensemble"] == [{"what": "ratio", "ratio": 3.0, "best": None, "spread": {"ratio": 1 / 3}}]
    assert [table["ensemble"][0]["ratio"] for table in found["passes"]] == [2.0, 4.0, 3.0]
    monkeypatch.setattr(recursion, "rows", lambda quick: [{"what": "another", "ratio": 1.0}])
    main(["recursion", *file, "--onto", file[1]])
    assert list(read(tmp_path / "bench.json")["rows"]) == ["ensemble", "recursion"]
    for change, sentence in (
        ({"quick": True}, "was made with quick = True, and this is False."),
        ({"machine": found["machine"] | {"cores": 999}}, "was made with cores = 999, and this is "),
    ):
        (tmp_path / "other.json").write_text(json.dumps(found | change))
        with pytest.raises(SystemExit):
            main(["ensemble", *file, "--onto", str(tmp_path / "other.json")])
        assert sentence in capsys.readouterr().err


def test_times_and_rounding_need_not_agree():
    def table(ratio, seconds, difference, **more):
        row = {"what": "a", "ratio": ratio, "forward_seconds": seconds, "difference": difference}
        return {"rows": {"ensemble": [row | more]}}

    known = table(1.0, 1.0, 1e-16, spread={"ratio": 0.1, "forward_seconds": 0.1, "difference": 0.0})
    assert compare(known, table(1.2, 3.0, -1e-13))[1:] == ["2 of 2 ratios agree within their stated spread"]


def test_a_new_run_beside_a_recorded_one(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble, "rows", lambda quick: [{"what": "ratio", "ratio": 3.0}])
    main(["ensemble", "--out", str(tmp_path / "old.json")])
    monkeypatch.setattr(ensemble, "rows", lambda quick: [{"what": "ratio", "ratio": 4.5}])
    main(["ensemble", "--out", str(tmp_path / "new.json"), "--against", str(tmp_path / "old.json")])
    assert "ensemble: what=ratio  ratio=1.5" in capsys.readouterr().out
    (tmp_path / "old.json").write_text("{}")
    for file, sentence in (("old.json", " is no table of benchmarks."), ("none.json", ": No such file or directory.")):
        with pytest.raises(SystemExit) as stop:
            main(["ensemble", "--against", str(tmp_path / file)])
        assert stop.value.code == 2
        assert f"{tmp_path / file}{sentence}" in capsys.readouterr().err


def test_what_agrees_within_its_spread(capsys, tmp_path, monkeypatch):
    values = iter((1.0, 1.2, 1.4, 1.5, 3.0))
    monkeypatch.setattr(ensemble, "rows", lambda quick: [{"what": "ratio", "ratio": next(values)}])
    record = ["--out", str(tmp_path / "old.json")]
    main(["ensemble", "--repeats", "3", *record])
    for sentences in (
        ["1 of 1 ratios agree"],
        ["0 of 1 ratios agree within their stated spread", "ensemble, ratio, ratio: 2.5, spread 0.17"],
    ):
        main(["ensemble", "--out", str(tmp_path / "new.json"), "--against", str(tmp_path / "old.json")])
        shown = capsys.readouterr().out
        assert all(sentence in shown for sentence in sentences)


def test_the_readme_has_the_recorded_headlines():
    record = read(ROOT / "docs" / "results" / "benchmarks.json")
    page = (ROOT / "README.md").read_text()
    assert into(page, record) == page
    assert headlines(record).count("\n| ") == len(HEADLINES)


def _python(folder, lines):
    """A program in place of a Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{lines}\n")
    file.chmod(0o755)
    return str(file)


def test_a_comparison_without_the_other_software_says_so(capsys, tmp_path, monkeypatch):
    def said(python):
        monkeypatch.setenv(neural_tangents.VARIABLE, python)
        (row,) = neural_tangents.rows(quick=True)
        assert list(row) == ["what"]
        return row["what"]

    assert said("").startswith("skipped: LIMITAX_NEURAL_TANGENTS names no Python with neural-tangents; docs/comparison")
    assert said(str(tmp_path / "none")).endswith("none, which does not start: No such file or directory.")
    failing = _python(tmp_path, "echo 'a line' >&2; echo 'ImportError: no such module' >&2; exit 1")
    assert said(failing).endswith("python, which ends with: ImportError: no such module")
    main(["neural_tangents", "--quick", "--out", str(tmp_path / "bench.json")])
    assert "what=skipped: " in capsys.readouterr().out
    rows = read(tmp_path / "bench.json")["rows"]
    assert merged([rows, rows]) == rows
    measured = {"neural_tangents": [{"what": "tangent kernel", "difference": 0.1}]}
    assert compare({"rows": rows}, {"rows": measured}) == []


def test_the_other_software_is_asked_in_a_python_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(
        neural_tangents.VARIABLE, _python(tmp_path, f"cp $3 {tmp_path}/question; echo '{{\"a\": 1}}' > $4")
    )
    task = lx.tasks.sphere(samples=3, dim=2, test_samples=1)
    assert neural_tangents._ask(task, task.x, [("erf", 2)], [0.0, 1.0]) == {"a": 1}
    question = json.loads((tmp_path / "question").read_text())
    assert question["cases"] == [["erf", 2, 1.0]]
    assert {name: len(question[name]) for name in ("x", "y", "x_test", "crowd", "times")} == {
        "x": 3, "y": 3, "x_test": 1, "crowd": 3, "times": 2
    }  # fmt: skip


def test_rows_are_compared_by_what_they_are_about():
    known = [{"what": "cost", "way": way, "ratio": ratio} for way, ratio in (("ours", 2.0), ("plain", 30.0))]
    new = [known[0], {"what": "cost", "way": "another", "ratio": 9.0}, known[1]]
    found = compare({"rows": {"one": known}}, {"rows": {"one": new}})
    assert found == ["one: what=cost  ratio=1", "one: what=cost  ratio=1"]
