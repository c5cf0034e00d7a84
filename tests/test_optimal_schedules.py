"""Optimal schedules of one-pass SGD in both phases: the system at its defaults, and its settings."""

import json

import numpy as np
import pytest
from limitax.gallery import system
from limitax.gallery._optimal_schedules import HEAVY_BALL, RATE, build
from limitax.studies.results import plain

from .helpers import raises


@pytest.mark.slow
def test_the_claims(tmp_path):
    chosen = system("optimal-schedules")
    report = chosen.run()
    assert report.agrees, (report.claims, report.agreement)
    summary = json.loads(json.dumps(plain(chosen.measured(report)), allow_nan=False))
    assert set(summary) == {"easy", "hard", "ramp"}
    for phase in ("easy", "hard"):
        plain_rates, heavy = report.losses(phase, RATE), report.losses(phase, HEAVY_BALL)
        assert all(heavy[steps] < plain_rates[steps] for steps in (100, 300))
        assert report.optima[phase, RATE, 300].status == "converged"
        data = report.to_dataset().sel(phase=phase)
        np.testing.assert_allclose(data.loss, list(plain_rates.values()))
        np.testing.assert_allclose(data.loss_momentum, list(heavy.values()))
    chosen.plot(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_settings():
    assert build(lengths=(10, 20)).lengths == (10, 20)
    with raises(ValueError, "cycles must be at least 1; it is 0."):
        build(cycles=0)
    with raises(TypeError, "momentum_steps must be a whole number; float 1.5 was given."):
        build(momentum_steps=1.5)
    with raises(ValueError, "lengths must be at least 1; it is 0."):
        build(lengths=(0,))
