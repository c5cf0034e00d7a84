"""Systems that are experiments on networks: settings, summaries, verdicts, and the two of the gallery."""

import json

import numpy as np
import pytest
from limitax.gallery import Claim, Findings, system
from limitax.studies.results import plain

from .helpers import raises

TINY = {
    "variance-onset": {
        "richness": [0.04, 1.0],
        "learning_rate": [1.0, 0.5],
        "steps": 4,
        "samples": [2, 4],
        "kernel_samples": [4],
        "test_samples": 20,
        "draws": 2,
        "reference_width": 6,
    },
    "width-consistency": {"steps": 64, "batch_size": 4, "test_samples": 12, "reference_width": 6},
}


def test_a_claim_that_could_not_be_measured_does_not_hold():
    assert Claim(1.0, 0.5, 1.5).holds
    assert not Claim(2.0, high=1.5).holds
    assert not Claim(np.nan, 0.0).holds
    assert Claim(1.0, 0.5).expected == "at least 0.5"
    assert Claim(1.0, high=0.5).expected == "at most 0.5"
    assert Claim(1.0, 0.5, 2.0).expected == "0.5 to 2"


def test_the_verdict_is_that_of_claims_and_agreement():
    import xarray

    def found(**changes):
        claims = {"good": Claim(1.0, 0.0), "bad": Claim(-1.0, 0.0)}
        return Findings(None, xarray.Dataset(), (2, 3), 2, **{"claims": claims, **changes})

    chosen = system("width-consistency")
    assert not found().agrees
    assert chosen.disagreement(found()) == "not as claimed: bad"
    assert found(claims={"good": Claim(1.0, 0.0)}).agrees
    wrong = found(claims={}, agreement={"predictions": 3.5})
    assert not wrong.agrees
    assert chosen.disagreement(wrong) == "not as claimed: agreement of predictions with the theory"
    summary = json.loads(json.dumps(plain(found().summary()), allow_nan=False))
    assert summary["claims"]["bad"] == {"value": -1.0, "low": 0.0, "high": None, "holds": False}
    assert summary["agreement"] is None
    assert summary["sizes"] == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_an_experiment_has_all_that_the_command_line_needs(name, tmp_path):
    chosen = system(name)
    report = chosen.run(TINY[name], sizes=(2, 3), seeds=2)
    summary = json.loads(json.dumps(plain(report.summary()), allow_nan=False))
    assert summary["sizes"] == [2, 3]
    assert summary["seeds"] == 2
    assert set(summary) >= {"errors", "standard_errors", "spread", "rate", "agreement", "status", "seconds", "claims"}
    assert all(len(values) == 2 for values in summary["spread"].values())
    assert report.agrees == (all(c["holds"] for c in summary["claims"].values()) and _small(summary["agreement"]))
    if not report.agrees:
        assert chosen.disagreement(report).startswith("not as claimed: ")
    chosen.plot(report, tmp_path / "figure.png")
    chosen.show(report)
    assert chosen.measured(report)
    assert report.to_dataset().attrs["seeds"] == 2


def _small(agreement):
    return all(value <= 3 for value in (agreement or {}).values())


def test_status_says_what_runs():
    assert system("variance-onset").status() == "theory and networks"
    assert system("width-consistency").status() == "networks only"


MESSAGES = {
    "unknown": ({"rate": 1}, {}, 'name "rate" is unknown; settings of variance-onset: richness, learning_rate'),
    "pairs": ({"richness": [1.0]}, {}, "learning_rate must have one value a richness; there are 3 and 1."),
    "order": ({"samples": [8, 4]}, {}, "samples must increase; they are [8, 4]."),
    "kernels": ({"kernel_samples": [9]}, {}, "kernel_samples must be among samples; 9 is not."),
    "one size": ({}, {"sizes": (8,)}, "sizes must be 2 or more different whole numbers; (8,) was given."),
    "seeds": ({}, {"seeds": 1}, "seeds must be at least 2; it is 1."),
    "reference": (
        {"reference_width": 16},
        {"sizes": (8, 16)},
        "reference_width must be above the largest size, 16; it is 16.",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    settings, options, sentence = MESSAGES[name]
    with raises(ValueError, sentence):
        system("variance-onset").run(settings, **options)


def test_there_is_nothing_to_optimise():
    with raises(
        ValueError, "width-consistency is an experiment on networks and has no theory to optimise or to sweep."
    ):
        system("width-consistency").problem()


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_the_claims_come_out(name):
    """At the defaults of the command line; the intervals are those of its claims."""
    report = system(name).run()
    assert report.agrees, system(name).disagreement(report)
