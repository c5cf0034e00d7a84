"""The search of `optimise`: resolutions, starts, floors, derivatives, new keys."""

from typing import Any

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.problems import schedules
from limitax.studies import _controls

from .helpers import raises

LIMIT = lx.limits.RandomFeatures()
TASK = lx.tasks.power_law(modes=100, capacity=1.5, decay=2.5, noise=1.0)
PROTOCOL = lx.OnlineSGD(0.05, steps=60)


def optimise(**options):
    return lx.optimise(LIMIT, TASK, PROTOCOL, **{"over": "learning_rate", "method": "lbfgs"} | options)


@pytest.fixture(scope="module")
def best():
    return optimise()


def test_a_schedule_holds_the_values_of_its_knots():
    owners = {"protocol": PROTOCOL, "limit": LIMIT, "task": TASK}
    (control,) = _controls.controls("learning_rate", owners, None)
    control = control.at_resolution(7)
    u = np.linspace(-3, -1, control.size)
    np.testing.assert_allclose(control.position(control.value(u)), u, rtol=1e-5)
    assert control.at_resolution(60).knots is None
    time, places = schedules.knot_times(60, 7)
    assert len(time) == 60
    assert len(places) == 7


@pytest.mark.slow
def test_resolutions_end_at_the_free_optimum(best):
    coarse = optimise(knots=6)
    fine = optimise(knots=(6, 15))
    free = optimise(knots=(6, 15, None))
    assert best.value < fine.value < coarse.value
    assert fine.value / best.value - 1 < 2e-3
    np.testing.assert_allclose(free.value, best.value, rtol=1e-9)
    assert len(free.history) > len(fine.history) > len(coarse.history)
    assert free.status == "converged"


def test_several_starts_agree_where_the_landscape_is_benign(best):
    found = optimise(starts=3)
    assert len(found.certificates["starts"]) == 3
    np.testing.assert_allclose(found.certificates["starts"], best.value, rtol=1e-9)
    assert found.evaluations > 2 * best.evaluations
    np.testing.assert_allclose(found.value, np.min(found.certificates["starts"]), rtol=1e-12)


def test_a_warm_start_is_near_the_end(best):
    longer = lx.OnlineSGD(0.05, steps=80)
    cold = lx.optimise(LIMIT, TASK, longer, over="learning_rate", method="lbfgs")
    warm = lx.optimise(LIMIT, TASK, longer, over="learning_rate", method="lbfgs", starts=[best])
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-9)
    assert warm.history[0] < 1.01 * warm.value < cold.history[0]
    assert optimise(starts=[best.protocol]).evaluations < 5


def test_a_floor_moves_the_search_but_not_the_optimum(best):
    found = optimise(floor=0.1)
    np.testing.assert_allclose(found.value, best.value, rtol=1e-6)
    np.testing.assert_allclose(found.history[-1], found.value + 0.1, rtol=1e-9)


@pytest.mark.slow
def test_forward_and_reverse_mode_find_the_same():
    scalar = {"over": "noise", "bounds": {"noise": (0.3, 2.0)}}
    forward, reverse = (optimise(**scalar, derivative=mode) for mode in ("forward", "reverse"))
    assert forward.at_bound["noise"]
    np.testing.assert_allclose(forward.value, reverse.value, rtol=1e-12)
    few = lx.OnlineSGD(0.05, steps=4)
    values = [
        lx.optimise(LIMIT, TASK, few, over="learning_rate", method="lbfgs", derivative=mode).value
        for mode in ("forward", "reverse")
    ]
    np.testing.assert_allclose(*values, rtol=1e-10)


class Noisy(lx.limits.AbstractLimit):
    """A limit with sampling error: the loss is smallest at a rate that depends on the key."""

    def solve(self, task, protocol, *, key: Any = None, throw=True):
        shift = 0.1 * jax.random.normal(key, dtype=jnp.float32)
        loss = 1 + (jnp.log(protocol.learning_rate) - shift) ** 2
        return lx.Trajectory(train_loss=loss, sampling_error={"train_loss": jnp.ones(())})

    def finite(self, task, *, size, key=None):
        raise NotImplementedError

    def ensemble(self, task, *, size, seeds, key=None):
        raise NotImplementedError


def test_an_optimum_under_random_numbers_is_evaluated_under_new_ones():
    found = lx.optimise(Noisy(), TASK, lx.GradientDescent(0.5, steps=1), over="learning_rate", new_keys=16)
    np.testing.assert_allclose(found.value, 1, rtol=1e-9)
    again = found.certificates["new_keys"]
    assert again["value"] > 1 + 1e-4
    assert 0 < again["standard_error"] < 0.1
    without = lx.optimise(Noisy(), TASK, lx.GradientDescent(0.5, steps=1), over="learning_rate", new_keys=0)
    assert "new_keys" not in without.certificates
    with raises(ValueError, 'derivative "forward" is not offered by Noisy; use "reverse".'):
        lx.optimise(Noisy(), TASK, lx.GradientDescent(0.5, steps=1), over="learning_rate", derivative="forward")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"starts": 0}, "starts must be at least 1"),
        ({"starts": [3]}, "starts must be protocols or earlier results with learning_rate; int 3 has none."),
        ({"knots": 1}, "knots must be at least 2"),
        ({"knots": ()}, "knots names no resolution"),
        ({"floor": -1.0}, "floor must be"),
        ({"derivative": "sideways"}, 'derivative "sideways" is unknown'),
        ({"new_keys": -1}, "new_keys must be at least 0"),
    ],
)
def test_messages(options, sentence):
    with raises(ValueError, sentence):
        optimise(**options)
