"""Comparison of theory and networks: its definitions, on records whose mean, bias and noise are known."""

import json
from typing import Any

import equinox as eqx
import limitax as lx
import numpy as np
import pytest
from limitax.problems import NOT_CONVERGED
from limitax.studies.results import Folder, plain

from .helpers import raises

TIMES = 12
CURVE = 1.0 / (1.0 + np.arange(TIMES))
PROTOCOL = lx.GradientDescent(0.1, steps=TIMES - 1)


class StandIn(lx.limits.AbstractLimit):
    """A theory that says what it is told to; its networks are numbers that `networks` turns into records."""

    curve: Any
    error: Any = None
    exact: bool = eqx.field(static=True, default=False)
    code: int = eqx.field(static=True, default=0)

    def solve(self, task, protocol, *, key=None, throw=True, **options):
        errors = None if self.error is None else {"train_loss": self.error}
        return lx.Trajectory(train_loss=self.curve, sampling_error=errors, status_code=self.code)

    def finite(self, task, *, size, key=None):
        raise NotImplementedError

    def ensemble(self, task, *, size, seeds, key=None):
        return size, seeds

    def exact_at_any_size(self, task, protocol):
        return self.exact


def networks(noise=0.5, bias=2.0, truth=CURVE, kernels=None, start=0):
    """What `nets.train` does, with runs `truth + bias / N + noise / sqrt(N)`."""
    rng = np.random.default_rng(start)

    def train(ensemble, task, protocol, *, key, throw, **options):
        size, seeds = ensemble
        noises = noise / np.sqrt(size) * rng.standard_normal((seeds, TIMES))
        loss = truth + bias / size + noises
        none = np.full(seeds, -1)
        return lx.Trajectory(train_loss=loss, diverged_step=none, status_code=0 * none, model="network")

    return train


def compare(monkeypatch, train, limit=None, sizes=(64, 128, 256, 512), seeds=200, **options):
    monkeypatch.setattr(lx.nets, "train", train)
    limit = StandIn(CURVE) if limit is None else limit
    return lx.compare(limit, None, PROTOCOL, sizes=sizes, seeds=seeds, **options)


def test_errors_spread_and_rate_are_as_defined(monkeypatch):
    noise, bias, seeds = 0.5, 2.0, 200
    report = compare(monkeypatch, networks(noise, bias), seeds=seeds)
    sizes, norm = np.array(report.sizes), np.linalg.norm(CURVE)
    # what these definitions give on average for the known bias and noise
    variance = noise**2 * TIMES / sizes
    expected_spread = np.sqrt(variance + (bias / sizes) ** 2 * TIMES) / norm
    expected_error = np.sqrt(variance / seeds + (bias / sizes) ** 2 * TIMES) / norm
    np.testing.assert_allclose(report.spread["train_loss"], expected_spread, rtol=0.05)
    np.testing.assert_allclose(report.standard_errors["train_loss"], np.sqrt(variance / seeds) / norm, rtol=0.05)
    np.testing.assert_allclose(report.errors["train_loss"], expected_error, rtol=0.35)
    assert abs(report.rate["train_loss"] + 0.5) < 0.1
    assert report.status == "converged"


def test_the_numbers_are_those_of_the_runs(monkeypatch):
    report = compare(monkeypatch, networks(), sizes=[30], seeds=4)
    runs, norm = report.runs[30].train_loss, np.sqrt(np.sum(CURVE**2))
    np.testing.assert_allclose(report.errors["train_loss"], [np.sqrt(np.sum((runs.mean(0) - CURVE) ** 2)) / norm])
    np.testing.assert_allclose(
        report.spread["train_loss"], [np.sqrt(np.mean(np.sum((runs - CURVE) ** 2, axis=1))) / norm]
    )
    np.testing.assert_allclose(report.standard_errors["train_loss"], [np.sqrt(np.sum(runs.var(0, ddof=1) / 4)) / norm])
    assert report.rate["train_loss"] is None


def test_noise_alone_falls_like_the_root_of_the_size(monkeypatch):
    report = compare(monkeypatch, networks(bias=0.0), seeds=400)
    # 400 seeds of 12 times: the logarithm of a spread is known to 1 / sqrt(2 * 4800)
    assert abs(report.rate["train_loss"] + 0.5) < 5 * 0.01


def test_agreement_is_about_one_for_an_exact_theory_whatever_the_bias(monkeypatch):
    values = [compare(monkeypatch, networks(bias=3.0, start=s)).agreement["train_loss"] for s in range(40)]
    # the mean square of |difference| / its standard error is 1; 40 draws of 12 numbers know it to 1 / sqrt(240)
    assert abs(np.mean(np.square(values)) - 1) < 5 / np.sqrt(240)
    assert max(values) < 3


@pytest.mark.parametrize("wrong", [1.03, 0.97])
def test_agreement_is_lost_when_theory_is_wrong_by_a_few_percent(monkeypatch, wrong):
    report = compare(monkeypatch, networks(noise=0.05, bias=3.0), StandIn(wrong * CURVE))
    assert report.agreement["train_loss"] > 6
    assert not report.agrees
    exact = compare(monkeypatch, networks(noise=0.05, bias=3.0))
    assert exact.agrees


def test_without_extrapolation_the_bias_would_not_pass(monkeypatch):
    report = compare(monkeypatch, networks(noise=0.05, bias=3.0), sizes=[64])
    assert report.agreement["train_loss"] > 6


def test_the_sampling_error_of_the_theory_counts(monkeypatch):
    error, rng = 0.02, np.random.default_rng(5)
    values = []
    for start in range(40):
        limit = StandIn(CURVE + error * rng.standard_normal(TIMES), np.full(TIMES, error))
        values.append(compare(monkeypatch, networks(noise=0.01, bias=1.0, start=start), limit).agreement["train_loss"])
    assert abs(np.mean(np.square(values)) - 1) < 5 / np.sqrt(240)


def test_a_size_that_does_not_matter_is_null(monkeypatch, tmp_path):
    report = compare(monkeypatch, networks(bias=0.0), StandIn(CURVE, exact=True), seeds=50)
    assert report.sizes is None
    assert report.rate == {"train_loss": None}
    assert len(report.errors["train_loss"]) == 1
    assert report.agreement["train_loss"] < 3
    Folder(tmp_path).summary({"system": "s"} | report.summary())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sizes"] is None
    assert summary["rate"] == {"train_loss": None}


def test_sizes_are_sorted_and_noise_free_runs_agree_only_when_equal(monkeypatch):
    report = compare(monkeypatch, networks(noise=0.0, bias=0.0), sizes=[256, 64], seeds=2)
    assert report.sizes == (64, 256)
    assert report.agreement["train_loss"] == 0.0
    assert report.rate["train_loss"] is None
    wrong = compare(monkeypatch, networks(noise=0.0, bias=0.0), StandIn(2 * CURVE), sizes=[64], seeds=2)
    assert wrong.agreement["train_loss"] == np.inf
    assert not wrong.agrees
    assert plain(wrong.summary())["agreement"]["train_loss"] is None


def test_status_is_that_of_the_theory(monkeypatch):
    assert compare(monkeypatch, networks(), StandIn(CURVE, code=NOT_CONVERGED)).status == "not converged"


def test_diverged_networks_have_no_mean(monkeypatch):
    inner = networks()

    def train(ensemble, *args, **options):
        record = inner(ensemble, *args, **options)
        step = record.diverged_step.copy()
        if ensemble[0] == 128:
            step[[1, 4]] = 7, 3
        return eqx.tree_at(lambda r: r.diverged_step, record, step)

    with raises(lx.DivergedError, "2 of 5 finite networks of size 128 left the stable region, the first at step 3;"):
        compare(monkeypatch, train, seeds=5)


SUMMARY = {
    "system", "paper", "settings", "sizes", "seeds", "errors", "standard_errors", "spread", "rate", "agreement",
    "status", "seconds", "versions",
}  # fmt: skip


def test_files(monkeypatch, tmp_path):
    import xarray

    report = compare(monkeypatch, networks(), sizes=(64, 128, 256), seeds=8)
    folder = Folder(tmp_path / "deep" / "out")
    folder.dataset(report.to_dataset(), system="stand-in", settings={"steps": 11})
    folder.summary({"system": "stand-in", "paper": None, "settings": {}} | report.summary())
    folder.picture(report.plot)
    assert sorted(p.name for p in folder.path.iterdir()) == ["figure.png", "result.nc", "summary.json"]
    assert (folder.path / "figure.png").read_bytes().startswith(b"\x89PNG")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    summary = json.loads((folder.path / "summary.json").read_text(), parse_constant=refuse)
    assert set(summary) >= SUMMARY
    assert summary["sizes"] == [64, 128, 256]
    assert summary["seeds"] == 8
    assert summary["errors"]["train_loss"] == report.errors["train_loss"]
    assert set(summary["seconds"]) == {"theory", "finite"}
    assert summary["versions"]["limitax"] == lx.__version__
    with xarray.open_dataset(folder.path / "result.nc") as data:
        data = data.load()
    np.testing.assert_array_equal(data["train_loss_theory"], CURVE)
    np.testing.assert_array_equal(data["size"], [64, 128, 256])
    assert data["train_loss_mean"].dims == ("size", "time")
    np.testing.assert_allclose(data["train_loss_mean"][1], report.runs[128].train_loss.mean(0))
    np.testing.assert_allclose(data["train_loss_std"][1], report.runs[128].train_loss.std(0))
    np.testing.assert_allclose(data["train_loss_error"], report.errors["train_loss"])
    assert data["train_loss_spread"].attrs["rate"] == report.rate["train_loss"]
    assert data.attrs["system"] == "stand-in"
    assert json.loads(data.attrs["settings"]) == {"steps": 11}
    assert json.loads(data.attrs["versions"])["jax"]
    assert data.attrs["key"] == "0-0"


def test_strict_json_has_null_for_what_is_not_finite():
    content = {
        "a": np.nan,
        "b": [np.inf, 1.5, None],
        "c": np.float32(2),
        3: np.arange(2),
        "d": True,
        "e": np.array(np.nan),
    }
    expected = {"a": None, "b": [None, 1.5, None], "c": 2.0, "3": [0, 1], "d": True, "e": None}
    assert json.loads(json.dumps(plain(content), allow_nan=False)) == expected


def test_a_failing_picture_leaves_the_old_one(tmp_path):
    folder = Folder(tmp_path)
    folder.picture(lambda path: path.write_bytes(b"old"))

    def fail(path):
        path.write_bytes(b"half")
        raise RuntimeError("out of ink")

    with raises(RuntimeError, "out of ink"):
        folder.picture(fail)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").read_bytes() == b"old"


def test_networks_fall_onto_the_limit_of_a_linear_problem():
    task = lx.tasks.power_law(8, noise=0.3)
    protocol = lx.OnlineSGD(0.1, batch_size=2, steps=10)
    report = lx.compare(lx.limits.RandomFeatures(), task, protocol, seeds=300)
    assert report.sizes is None
    assert report.agrees
    again = lx.compare(lx.limits.RandomFeatures(), task, protocol, seeds=300)
    assert again.errors == report.errors


BAD = {
    "limit": ({"limit": 3}, TypeError, "limit must be a limit such as limits.MLP; int 3 was given."),
    "seeds": ({"seeds": 1}, ValueError, "seeds must be at least 2; it is 1."),
    "seeds type": ({"seeds": 2.0}, TypeError, "seeds must be a whole number; float 2.0 was given."),
    "sizes": ({"sizes": 64}, TypeError, "sizes must be a list of whole numbers; int 64 was given."),
    "no sizes": ({"sizes": []}, ValueError, "sizes must be 1 or more different whole numbers; () was given."),
    "equal sizes": (
        {"sizes": [8, 8]},
        ValueError,
        "sizes must be 1 or more different whole numbers; (8, 8) was given.",
    ),
    "a size": ({"sizes": [8, 0]}, ValueError, "sizes must be at least 1; it is 0."),
    "size type": ({"sizes": [8, "9"]}, TypeError, "sizes must be a whole number; str '9' was given."),
    "key": ({"key": 5}, TypeError, "key must be a random key such as jax.random.key(0); int 5 was given."),
    "record": ({"record": 3}, TypeError, "record must be a list of names; int 3 was given."),
    "quantities": (
        {"quantities": "train_loss"},
        TypeError,
        "quantities must be a list of names; str 'train_loss' was given.",
    ),
    "unknown quantity": (
        {"quantities": ["loss"]},
        ValueError,
        'quantities "loss" is not recorded; one of: train_loss.',
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("exact", [False, True])
def test_bad_input_is_refused_before_any_training(monkeypatch, name, exact):
    changes, kind, sentence = BAD[name]

    def train(*args, **options):
        raise AssertionError("training began")

    with raises(kind, sentence):
        compare(monkeypatch, train, **{"limit": StandIn(CURVE, exact=exact)} | changes)
