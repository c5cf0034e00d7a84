"""Rate and richness by gradients of the theory, beside searches without them."""

import importlib.util
import json

import numpy as np
import pytest
from limitax.gallery import _hyperparameter_search as module
from limitax.gallery import system
from limitax.gallery._hyperparameter_search import CHARGE, HIGH, LOW, Search, build
from limitax.studies.results import plain

from .helpers import raises

TINY = {"samples": 4, "flipped": 1, "test_samples": 4, "steps": 3, "particles": 20}


def bowl(study, point):
    """A stand-in for the theory, lowest in the middle of the box."""
    return 1.0 + float(np.sum((np.asarray(point) - (LOW + HIGH) / 2) ** 2))


def test_the_record_of_a_search():
    search = Search(np.arange(8.0).reshape(4, 2), np.array([3.0, 1.0, 2.0, 0.5]), charge=4)
    np.testing.assert_array_equal(search.best, [3.0, 1.0, 1.0, 0.5])
    np.testing.assert_array_equal(search.at(15), [2.0, 3.0])
    np.testing.assert_array_equal(search.at(1), [0.0, 1.0])
    assert search.reach(1.0) == 8
    assert search.reach(0.1) == np.inf


def test_wrong_labels_and_settings():
    clean, noisy = (build(**TINY | {"flipped": flipped}).task for flipped in (0, 1))
    np.testing.assert_array_equal(noisy.y * [-1, 1, 1, 1], clean.y)
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)
    with raises(ValueError, "flipped must be at most samples, 4; it is 5."):
        build(**TINY | {"flipped": 5})
    with raises(ValueError, "budget must be at least 8; it is 7."):
        build(**TINY, budget=7)


def test_bayesian_search_finds_the_bottom_of_a_bowl(monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr(module, "evaluate", bowl)
    search = module.bayesian(build(**TINY, budget=60), seed=0)
    assert search.points.shape == (60, 2)
    assert np.all((search.points >= LOW) & (search.points <= HIGH))
    assert search.best[-1] < 1.1
    again = module.bayesian(build(**TINY, budget=60), seed=0)
    np.testing.assert_array_equal(again.values, search.values)


def test_without_a_library_bayesian_search_is_left_out_aloud(monkeypatch, capsys):
    monkeypatch.setattr(module, "evaluate", bowl)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    study = build(**TINY, repeats=2, budget=8, grid=3)
    methods = module._methods(study, np.zeros((2, 8, 2)), None)
    assert "Bayesian search is left out: it needs optuna" in capsys.readouterr().out
    assert set(methods) == {"theory", "random", "grid"}
    (grid,) = methods["grid"]()
    assert grid.best[-1] == 1.0
    assert [len(run.values) for run in methods["random"]()] == [8, 8]


@pytest.mark.slow
def test_all_methods_see_the_same_objective():
    study = build(**TINY, budget=24)
    best, path = module.descend(study, (LOW + HIGH) / 2, module._Taped(module._Tape()))
    assert len(path.values) == best.evaluations
    assert path.charge == CHARGE
    # the limit holds rate and richness in single precision, and the tape their logarithms
    np.testing.assert_allclose(path.points[0], (LOW + HIGH) / 2, rtol=0, atol=3e-7)
    # basis directions are kept or dropped on either side of rounding
    np.testing.assert_allclose([module.evaluate(study, point) for point in path.points], path.values, rtol=1e-6)
    np.testing.assert_allclose(best.value, np.min(path.values), rtol=1e-6)


@pytest.mark.slow
def test_the_claims(tmp_path):
    chosen = system("hyperparameter-search")
    report = chosen.run()
    assert report.agrees, (report.claims, report.agreement)
    assert report.optimum.status == "converged"
    last = report.proofs[256]
    assert last.better["middle"]
    assert not any(last.diverged.values())
    data = report.to_dataset()
    assert data.random_value.shape == (8, 96)
    assert data.final_loss.dims == ("size", "method", "seed")
    summary = json.loads(json.dumps(plain(chosen.measured(report)), allow_nan=False))
    assert set(summary["methods"]) == {"theory", "random", "grid", "bayesian"}
    chosen.plot(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
