"""Optimal schedules of perceptrons on digits: the kick, its gain in networks, and the settings of the system."""

import jax
import limitax as lx
import numpy as np
import pytest
from limitax.gallery._control import conduct, gains
from limitax.gallery.control_mlp import CASES, SYSTEM, build

from .helpers import raises

pytest.importorskip("sklearn")


@pytest.mark.slow
def test_a_kick_beats_tuned_schedules_in_networks(tmp_path):
    report = conduct(build(test_samples=64, momenta=()), (128, 512), 16, jax.random.key(0))
    best, proof = report.optima["shallow"], report.proofs["shallow"][512]
    gain, error, promised = gains(report.proofs["shallow"])
    assert promised > 0.1
    assert gain[-1] > 3 * error[-1]
    assert gain[-1] > 0.8 * promised
    assert proof.diverged["best"] == 0
    assert all(proof.better.values())
    rates = np.asarray(best.protocol.learning_rate)
    assert np.argmax(rates) <= 1
    assert np.max(rates) > 2 * max(np.max(p.learning_rate) for p in best.benchmarks.values())
    assert not np.any(best.at_bound["learning_rate"])
    # the training loss falls in one step to a few per cent, and never grows
    train = best.trajectory.train_loss
    assert np.max(train[1:] / train[:-1]) < 1.03
    assert np.min(train[1:4] / train[:3]) < 0.25
    # and the solution that the kick selects is sharper than that of the rivals
    options = {"samples": 2000, "replicas": 2, "keep": "diagonal"}
    sharp = lambda protocol: best.limit.solve(best.task, protocol, **options).extras["sharpness"][-1]  # noqa: E731
    assert sharp(best.protocol) > 1.5 * sharp(best.benchmarks["linear"])
    SYSTEM.plot(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_settings():
    study = build(CASES, samples=8, momenta=(0.5, 0.8))
    assert [case.limit.depth for case in study.cases.values()] == [1, 2]
    assert study.momenta == (0.5, 0.8)
    assert isinstance(study.cases["deep"].start, lx.GradientDescent)
    with raises(ValueError, 'cases "wide" is unknown; one of: shallow, deep.'):
        build(["wide"])
    with raises(ValueError, "steps must be at least 2; it is 1."):
        build(steps=1)
    with raises(ValueError, "particles must be at least 4; it is 0."):
        build(particles=0)
