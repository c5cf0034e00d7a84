"""The benchmarks' command line; what they measure is no test."""

import json

import pytest
from limitax.bench import ensemble
from limitax.bench.__main__ import main, names


def test_every_benchmark_is_known():
    assert {"control", "deep_linear", "march", "recursion", "scaling_laws"} <= set(names())
    assert not [name for name in names() if name.startswith("_")]


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
