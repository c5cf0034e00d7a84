"""The self-check: what it looks at, and what it says when a number is off."""

import pytest
from limitax import cli
from limitax.studies import _doctor
from limitax.studies._doctor import Check


def run(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.slow
def test_this_installation_passes(capsys):
    code, out, _ = run(capsys)
    assert code == 0, out
    assert "jax " in out
    for name in _doctor.checks():
        assert name in out


def test_a_wrong_number_is_named(capsys, monkeypatch):
    made = {"sound": lambda: Check("sound", 1.0, 1.0, 0.0), "ill": lambda: Check("ill", float("nan"), 0.0, 1.0)}
    monkeypatch.setattr(_doctor, "checks", lambda: made)
    code, out, err = run(capsys)
    assert code == 1
    assert "NO" in out
    assert "these checks fail: ill" in err
