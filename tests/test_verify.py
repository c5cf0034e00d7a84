"""Verification of optima: its statistics on losses that are known, and its pairs in every family of networks."""

from typing import Any

import equinox as eqx
import jax
import limitax as lx
import numpy as np
import pytest
from limitax.studies.tables import show_verification

from .helpers import raises, small_task

STEPS = 3


class StandIn(lx.limits.AbstractLimit):
    """A theory and networks whose final losses are told by the learning rate: row `rate` of `losses`, `[seeds]`."""

    losses: Any
    diverged: Any = None

    def solve(self, task, protocol, *, key=None, throw=True, **options):
        return lx.Trajectory(test_loss=np.full(STEPS + 1, np.mean(self.losses[_row(protocol)])))

    def finite(self, task, *, size, key=None):
        raise NotImplementedError

    def ensemble(self, task, *, size, seeds, key=None):
        return self


def _row(protocol):
    return round(float(protocol.learning_rate[0]))


def train(ensemble, task, protocol, *, key, throw):
    final = np.asarray(ensemble.losses[_row(protocol)], float)
    step = np.full(len(final), -1)
    if ensemble.diverged is not None:
        step = np.where(ensemble.diverged[_row(protocol)], 2, -1)
    curves = np.broadcast_to(final[:, None], (len(final), STEPS + 1))
    return lx.Trajectory(test_loss=curves, diverged_step=step, status_code=(step >= 0) * 1, model="network")


def rate(row):
    return lx.GradientDescent(float(row), steps=STEPS)


def optimum(limit, task=None, protocol=None, **changes):
    record = lx.Trajectory(test_loss=np.ones(STEPS + 1))
    nothing: dict[str, Any] = {"value": 1.0, "history": np.ones(1), "stationarity": 0.0, "evaluations": 1}
    nothing |= {"objective": lx.objectives.final_loss, "method": "lbfgs", "at_bound": {}, "status": "converged"}
    problem = {"protocol": rate(0) if protocol is None else protocol, "limit": limit, "task": task}
    return lx.Optimum(**(problem | {"trajectory": record} | nothing | changes))


def verified(monkeypatch, losses, diverged=None, rivals=("other",), **options):
    monkeypatch.setattr(lx.nets, "train", train)
    losses = np.asarray(losses, float)
    best = optimum(StandIn(losses, None if diverged is None else np.asarray(diverged)))
    against = {name: rate(row) for row, name in enumerate(rivals, start=1)}
    return lx.verify(best, against, seeds=losses.shape[1], **options)


def test_the_statistics_are_those_of_the_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    common = rng.uniform(1, 3, 200)
    losses = np.stack([0.7 * common + 0.02 * rng.standard_normal(200), common, common + 0.3])
    proof = verified(monkeypatch, losses, rivals=("a", "b"))
    for row, name in enumerate(("a", "b"), start=1):
        difference = losses[0] - losses[row]
        np.testing.assert_allclose(proof.difference[name], difference.mean())
        np.testing.assert_allclose(proof.standard_error[name], difference.std(ddof=1) / np.sqrt(200))
        np.testing.assert_allclose(proof.median[name], np.median(difference))
        np.testing.assert_allclose(proof.relative_difference[name], losses[0].mean() / losses[row].mean() - 1)
        np.testing.assert_allclose(proof.expected[name], losses[row].mean())
        np.testing.assert_allclose(proof.mean_error[name], losses[row].std(ddof=1) / np.sqrt(200))
    # a common factor of a pair drops out of the ratio: what is left is the noise
    np.testing.assert_allclose(proof.relative_error["a"], 0.02 / losses[1].mean() / np.sqrt(200), rtol=0.15)
    assert proof.diverged == {"best": 0, "a": 0, "b": 0}
    assert proof.better == {"a": True, "b": True}
    assert proof.accepted


def test_the_error_of_a_ratio_is_its_scatter(monkeypatch):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        common = rng.uniform(1, 3, 30)
        losses = np.stack([0.5 * common + 0.2 * rng.standard_normal(30), common + 0.2 * rng.standard_normal(30)])
        proof = verified(monkeypatch, losses)
        found.append([proof.relative_difference["other"], proof.relative_error["other"]])
    differences, errors = np.transpose(found)
    # 300 draws know a standard deviation to 1 / sqrt(600)
    assert abs(np.std(differences) / np.mean(errors) - 1) < 4 / np.sqrt(600)


def test_what_is_not_better_is_not_accepted(monkeypatch):
    rng = np.random.default_rng(2)
    losses = rng.uniform(1, 2, (2, 40))
    same = verified(monkeypatch, np.stack([losses[0], losses[0]]))
    assert same.difference["other"] == same.standard_error["other"] == same.median["other"] == 0
    assert not same.accepted
    assert not verified(monkeypatch, np.stack([losses[0] + 1, losses[0]])).accepted
    # within two standard errors nothing is claimed
    noise = rng.standard_normal(40)
    noise = 0.1 * (noise - noise.mean()) / noise.std(ddof=1)
    for shift, accepted in ((1.9, False), (2.1, True)):
        near = np.stack([losses[0] + noise - shift * 0.1 / np.sqrt(40), losses[0]])
        assert verified(monkeypatch, near).accepted is accepted


def test_diverged_networks_are_counted(monkeypatch):
    losses = [[1.0, 1.0, np.nan, 1.0, 1.0], [2.0, np.inf, 2.0, 2.1, 1e9]]
    diverged = [[False] * 5, [False] * 4 + [True]]
    proof = verified(monkeypatch, losses, diverged)
    assert proof.diverged == {"best": 1, "other": 2}
    np.testing.assert_allclose(proof.difference["other"], -(1 + 1.1) / 2)
    np.testing.assert_allclose(proof.mean["other"], 6.1 / 3)
    # differences -1, -inf, inf, -1.1, -inf
    np.testing.assert_allclose(proof.median["other"], -1.1)
    assert proof.better["other"]
    assert not proof.accepted
    with np.errstate(invalid="raise"):
        assert verified(monkeypatch, [[np.inf] * 3, [1.0, 1.0, np.inf]]).median["other"] == np.inf


def test_a_rival_that_always_diverges_is_beaten(monkeypatch):
    proof = verified(monkeypatch, [[1.0, 1.1, 1.2], [np.inf] * 3])
    assert np.isnan(proof.difference["other"])
    assert proof.median["other"] == -np.inf
    assert proof.accepted


def test_table_picture_and_files(monkeypatch, tmp_path, capsys):
    import xarray

    proof = verified(monkeypatch, [[1.0, 1.1, np.nan], [2.0, 2.1, 2.2], [3.0, 3.1, 3.0]], rivals=("a_b", "c"))
    proof.plot(tmp_path / "proof.png")
    assert (tmp_path / "proof.png").read_bytes().startswith(b"\x89PNG")
    proof.save(tmp_path / "proof.nc")
    with xarray.open_dataset(tmp_path / "proof.nc") as data:
        data = data.load()
    assert list(data.protocol.values) == ["best", "a_b", "c"]
    np.testing.assert_array_equal(data.final_loss.sel(protocol="best"), [1.0, 1.1, np.inf])
    np.testing.assert_allclose(data.difference.sel(protocol="c"), proof.difference["c"])
    assert data.loss.dims == ("protocol", "seed", "time")
    assert data.attrs["accepted"] == 0
    summary = proof.summary()
    assert summary["diverged"] == {"best": 1, "a_b": 0, "c": 0}
    assert summary["accepted"] is False
    show_verification(proof, "a proof")
    shown = capsys.readouterr().out
    assert "NOT accepted: 3 pairs" in shown
    assert "-1" in shown


DEEP = lx.limits.DeepLinear(1, 1.0, 1.0, 0.5)
RANDOM = lx.limits.RandomFeatures()
FAMILIES = {
    "deep linear": (DEEP, lx.tasks.isotropic(noise=0.3), lx.OnlineSGD(0.05, batch_ratio=1.0, steps=3), {}),
    "deep linear, the same samples": (DEEP, lx.tasks.isotropic(2.0), lx.GradientDescent(0.05, steps=3), {}),
    "random features": (RANDOM, lx.tasks.power_law(8), lx.OnlineSGD(0.1, batch_size=2, steps=3), {}),
    "features": (
        lx.limits.RandomFeatures(4.0),
        lx.tasks.power_law(8, samples=10),
        lx.MinibatchSGD(0.1, 2, steps=3),
        {},
    ),
    "perceptrons": (
        lx.limits.MLP(1, "tanh"),
        small_task(),
        lx.MinibatchSGD(0.1, 2, steps=3),
        {"samples": 32},
    ),
}


SLOW = ("features", "perceptrons", "deep linear, the same samples")


@pytest.mark.parametrize("family", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FAMILIES])
def test_pairs_share_weights_data_and_their_order(family):
    limit, task, protocol, options = FAMILIES[family]
    larger = eqx.tree_at(lambda p: p.learning_rate, protocol, 2 * protocol.learning_rate)
    best = optimum(limit, task, protocol)
    against = {"itself": protocol, "pair": (limit, larger), "optimum": optimum(limit, task, larger)}
    proof = lx.verify(best, against, size=4, seeds=3, **options)
    assert proof.difference["itself"] == proof.standard_error["itself"] == 0
    np.testing.assert_array_equal(proof.losses["pair"], proof.losses["optimum"])
    assert proof.difference["pair"] != 0
    assert proof.losses["best"].shape == (3,)
    assert len(np.unique(proof.losses["best"])) == 3
    # everything before the first update is common
    np.testing.assert_array_equal(proof.curves("best")[0][:, 0], proof.curves("pair")[0][:, 0])
    expected = limit.solve(task, larger, **({"key": None} | options))
    rtol = 0.5 if options else 1e-12
    np.testing.assert_allclose(proof.expected["pair"], lx.objectives.final_loss(expected), rtol=rtol)


@pytest.mark.slow
def test_another_key_is_another_draw():
    limit, task, protocol, _ = FAMILIES["deep linear"]
    best = optimum(limit, task, protocol)
    against = {"slow": lx.OnlineSGD(0.01, batch_ratio=1.0, steps=3)}
    first, again, other = (
        lx.verify(best, against, size=6, seeds=2, key=lx.problems.default_key() if key is None else key)
        for key in (None, None, jax.random.key(7))
    )
    assert first.difference == again.difference
    assert first.difference != other.difference
    assert other.key == "0-7"
    by_training_loss = lx.verify(best, against, size=6, seeds=2, loss=lx.objectives.final_train_loss)
    assert by_training_loss.difference != first.difference


def test_the_tuned_benchmarks_are_the_usual_rivals(monkeypatch):
    monkeypatch.setattr(lx.nets, "train", train)
    best = optimum(StandIn(np.ones((2, 4))), benchmarks={"constant": rate(1)})
    assert list(lx.verify(best, seeds=4).against) == ["constant"]


BEST = optimum(StandIn(np.ones((2, 4))), lx.tasks.isotropic())
BAD = {
    "best": ({"best": 3}, TypeError, "best must be what optimise returned; int 3 was given."),
    "against": ({"against": rate(1)}, TypeError, "against must be protocols by name; GradientDescent"),
    "nothing": ({"against": None}, ValueError, "against is needed: best has no benchmarks; give protocols by name"),
    "empty": ({"against": {}}, ValueError, "against is needed"),
    "entry": (
        {"against": {"a": 0.1}},
        TypeError,
        'against["a"] must be a protocol, a pair (limit, protocol) or an Optimum; float 0.1 was given.',
    ),
    "pair": ({"against": {"a": (rate(1), BEST.limit)}}, TypeError, 'against["a"] must be a protocol, a pair'),
    "name": ({"against": {"best": rate(1)}}, ValueError, "against must have names other than \"best\"; 'best'"),
    "task": (
        {"against": {"a": optimum(BEST.limit, lx.tasks.isotropic(noise=0.1))}},
        ValueError,
        'against["a"] was found for another task; both must be trained on the same one.',
    ),
    "size": ({"size": 0}, ValueError, "size must be at least 1; it is 0."),
    "seeds": ({"seeds": 1}, ValueError, "seeds must be at least 2; it is 1."),
    "key": ({"key": 5}, TypeError, "key must be a random key such as jax.random.key(0); int 5 was given."),
    "loss": ({"loss": 1.0}, TypeError, "loss must be a function of a trajectory; float 1.0 was given."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_training(monkeypatch, name):
    changes, kind, sentence = BAD[name]

    def refuse(*args, **options):
        raise AssertionError("training began")

    monkeypatch.setattr(lx.nets, "train", refuse)
    arguments = {"best": BEST, "against": {"a": rate(1)}} | changes
    with raises(kind, sentence):
        lx.verify(**arguments)
