"""Names: one way to say which number of a protocol, a limit or a task is meant."""

import limitax as lx
import numpy as np
import pytest
from limitax.problems import Slot, continuous, parameters, replace, resolve

from .helpers import raises

PROTOCOL = lx.OnlineSGD(0.1, steps=3)
TASK = lx.tasks.power_law(10, noise=0.5)
PARTS = {"protocol": PROTOCOL, "limit": lx.limits.MLP(2, "tanh", richness=2.0), "task": TASK}


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("learning_rate", Slot("protocol", "learning_rate")),
        ("richness", Slot("limit", "richness")),
        ("noise", Slot("task", "noise")),
        ("task.noise", Slot("task", "noise")),
        ("limit.depth", Slot("limit", "depth")),
        ("modes", Slot("task", "modes")),
        ("batch_ratio", Slot("protocol", "batch_ratio")),
    ],
)
def test_names_lead_to_their_owner(name, slot):
    assert resolve(name, **PARTS) == slot


def test_a_name_that_two_have_needs_its_owner():
    parts = PARTS | {"limit": lx.tasks.isotropic(noise=0.1)}
    with raises(ValueError, 'name "noise" is not unique; write "limit.noise" or "task.noise".'):
        resolve("noise", **parts)
    assert resolve("limit.noise", **parts) == Slot("limit", "noise")


@pytest.mark.parametrize("name", ["rate", "protocol.richness", "", "limit.", "a.b.c", "solve", "draw", "limit.solve"])
def test_unknown_names_say_what_there_is(name):
    with pytest.raises(ValueError, match=r'^name ".*" is unknown[;:] .*\b(learning_rate|protocol)\b'):
        resolve(name, **PARTS)


def test_a_name_is_text():
    with raises(TypeError, "a name must be text such as 'learning_rate'; int 3 was given."):
        resolve(3, **PARTS)  # pyright: ignore[reportArgumentType]


def test_replace_changes_one_argument():
    changed = replace(PROTOCOL, "learning_rate", 0.2)
    np.testing.assert_array_equal(changed.learning_rate, [0.2, 0.2, 0.2])
    np.testing.assert_array_equal(PROTOCOL.learning_rate, [0.1, 0.1, 0.1])
    assert replace(TASK, "modes", 20).modes == 20
    assert replace(TASK, "modes", 20).noise == TASK.noise
    assert replace(lx.limits.MLP(2, "tanh"), "depth", 3).depth == 3
    flipped = replace(lx.MinibatchSGD(0.1, 2, steps=3), "replace", False)
    assert flipped.replace is False
    task = replace(lx.tasks.from_arrays([[1.0]], [1.0]), "y", [2.0])
    np.testing.assert_array_equal(task.y, [2.0])


def test_replace_runs_the_checks_of_the_constructor():
    with raises(ValueError, "learning_rate must be finite and at least 0 at every step; step 1 is -1."):
        replace(PROTOCOL, "learning_rate", [0.1, -1.0, 0.1])
    with raises(ValueError, "noise must be finite and at least 0; it is -1."):
        replace(TASK, "noise", -1)
    with raises(TypeError, "modes must be a whole number; float 2.5 was given."):
        replace(TASK, "modes", 2.5)
    with raises(ValueError, 'PowerLaw has no argument "rate"; there are: modes, capacity, decay, noise, samples.'):
        replace(TASK, "rate", 1.0)


def test_a_schedule_of_another_length_is_refused():
    with raises(ValueError, "learning_rate must have one value a step; it has 2"):
        replace(PROTOCOL, "learning_rate", [0.1, 0.2])


def test_parameters_and_the_continuous_ones_among_them():
    assert parameters(TASK) == ("modes", "capacity", "decay", "noise", "samples")
    assert continuous(TASK) == ("capacity", "decay", "noise")
    assert continuous(PROTOCOL) == ("learning_rate", "momentum", "extra_gradient", "batch_size")
