"""Optimal schedules of deep linear networks that learn features, proved on finite networks by paired differences."""

import json

import jax
import limitax as lx
import numpy as np
import pytest
from limitax.gallery import system
from limitax.gallery._control import BOUNDS, Study, conduct
from limitax.gallery.control_deep_linear import CASES, _isotropic, build

from .helpers import raises

# The final loss at the optimum, and the tuned peak of the strongest benchmark with its loss; all from this theory, the
# first found before in another implementation.
KNOWN = {
    "shallow": (0.00138126, 0.05632, 0.0017910),
    "deep": (0.00138636, 0.04182, 0.0019884),
    "long": (0.00049355, 0.02306, 0.00069521),
}


def case_of(name):
    return build([name]).cases[name]


def found(case, **options):
    settings = {"method": "lbfgs", "bounds": BOUNDS, "tolerance": 1e-6} | case.search | options
    return lx.optimise(case.limit, case.task, case.start, over=case.over, **settings)


def paired(best, rival, seeds=16):
    return lx.verify(best, {"rival": rival}, size=400, seeds=seeds)


def agrees(proof):
    """Whether the gain of networks is that of the theory, to four standard errors."""
    promised = proof.expected["best"] / proof.expected["rival"] - 1
    return abs(proof.relative_difference["rival"] - promised) < 4 * proof.relative_error["rival"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_fresh_batches(name):
    value, peak, linear = KNOWN[name]
    case = case_of(name)
    best = found(case)
    np.testing.assert_allclose(best.value, value, rtol=5e-6)
    assert best.status == "converged"
    assert best.evaluations < 60
    rates = best.protocol.learning_rate
    assert rates[0] > 5 * peak
    tail = (rates * np.arange(1, len(rates) + 1))[len(rates) // 2 :]
    assert np.max(tail) / np.min(tail) < 1.3
    proof = paired(best, case.make(lx.schedules.linear(peak, len(rates))))
    np.testing.assert_allclose(proof.expected["rival"], linear, rtol=5e-5)
    assert proof.accepted
    assert proof.diverged == {"best": 0, "rival": 0}
    assert proof.median["rival"] < 0
    assert proof.relative_difference["rival"] < -0.18
    assert agrees(proof)


@pytest.mark.slow
def test_four_starts_have_one_end():
    case = case_of("shallow")
    shapes = lx.schedules
    starts = [shapes.constant(0.02, 40), shapes.cosine(0.05, 40), shapes.linear(0.05, 40)]
    starts.append(shapes.warmup_stable_decay(0.03, 40))
    values = [found(case, starts=[case.make(rates)]).value for rates in starts]
    np.testing.assert_allclose(values, values[0], rtol=1e-8)


@pytest.mark.slow
def test_power_law_data_with_momentum():
    case = case_of("power_law")
    rival = case.make(lx.schedules.warmup_stable_decay(0.1048, 40), 0.5)
    best = found(case, starts=[rival], max_evaluations=80)
    np.testing.assert_allclose(lx.final_loss(case.limit, case.task, rival), 0.012980, rtol=1e-3)
    assert best.value < 0.0078
    momentum = best.protocol.momentum
    assert momentum[12:22].mean() > 0.8
    assert momentum[-2:].max() < 0.1
    proof = paired(best, rival, seeds=8)
    assert proof.accepted
    assert proof.relative_difference["rival"] < -0.35
    assert agrees(proof)


@pytest.mark.slow
def test_full_batches_with_time_enough_need_no_schedule():
    case = case_of("full_batch")
    best = found(case, max_evaluations=150)
    rival = case.make(lx.schedules.constant(0.05502, 40))
    proof = paired(best, rival)
    assert -1e-3 < best.value / proof.expected["rival"] - 1 < 0
    assert abs(proof.relative_difference["rival"]) < 0.01


@pytest.mark.slow
def test_past_the_edge_of_stability_an_optimum_is_false():
    case = case_of("past_the_edge")
    best = found(case, max_evaluations=300)
    rival = case.make(lx.schedules.constant(0.1177, 20))
    proof = paired(best, rival)
    # the theory promises more than stable training can have, and networks do not keep it
    assert best.value < 0.97 * proof.expected["rival"]
    assert np.max(best.protocol.learning_rate) > 0.3
    assert proof.diverged["rival"] == 0
    assert np.max(proof.losses["best"]) > 2 * proof.mean["rival"]
    assert not proof.accepted


@pytest.mark.slow
def test_the_system(tmp_path):
    control = system("control-deep-linear")
    short = _isotropic(1, 6, full_batch=True, search={"max_evaluations": 3}, kind="null")
    report = conduct(Study({"short": short}, ()), (20, 40), 4, jax.random.key(0))
    assert set(report.proofs["short"]) == {20, 40}
    assert set(report.optima["short"].benchmarks) == {"constant", "linear", "cosine", "warmup_stable_decay"}
    assert list(report.claims) == ["short: gain of networks in per cent, about none"]
    data = report.to_dataset()
    assert data.short_final_loss.shape == (2, 5, 4)
    assert data.short_learning_rate.shape == (5, 6)
    json.dumps(control.measured(report))
    control.plot(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_settings():
    assert tuple(build(CASES).cases) == CASES
    assert build(momenta=[0.0, 0.5, 0.8]).momenta == (0.5, 0.8)
    power_law = case_of("power_law").task
    np.testing.assert_allclose(np.mean(power_law.eigenvalues), 1.0)
    # the power of the target, shared among modes, is one on average
    np.testing.assert_allclose(np.sum(power_law.eigenvalues * power_law.teacher**2), 1.0)
    with raises(TypeError, "cases must be a list of names; str 'deep' was given."):
        build("deep")
    with raises(ValueError, "cases must be one or more different names; list [] was given."):
        build([])
    with raises(ValueError, 'cases "wide" is unknown; one of: shallow, deep, long, power_law,'):
        build(["wide"])
    with raises(ValueError, "momenta must be finite, at least 0 and below 1 at every entry; entry 0 is 1."):
        build(momenta=[1.0])
