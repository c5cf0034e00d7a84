"""Objectives: their values by hand, their gradients, and what they keep an optimum from."""

import equinox as eqx
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import objectives
from limitax.solvers import double

from .helpers import raises


class Curve(lx.limits.AbstractLimit):
    """A limit whose loss falls by a factor e at rate 1, and grows at rates above 2."""

    calls: list = eqx.field(static=True, default_factory=list)

    def __hash__(self):
        return id(self.calls)

    def solve(self, task, protocol, *, key=None, throw=True):
        self.calls.append(1)
        rates = protocol.learning_rate
        logs = jnp.concatenate([jnp.zeros(1), jnp.cumsum((1 - rates) ** 2 - 1)])
        return lx.Trajectory(train_loss=jnp.exp(logs), extras={"rates": rates})

    def stability(self, task, protocol, trajectory):
        return protocol.learning_rate / 2

    def finite(self, task, *, size, key=None):
        raise NotImplementedError

    def ensemble(self, task, *, size, seeds, key=None):
        raise NotImplementedError


TASK = lx.tasks.sphere(samples=2, dim=2)


def value(objective, rates, limit=None, protocol=lx.GradientDescent):
    limit = Curve() if limit is None else limit
    with double():
        return float(objectives.evaluate(objective, lambda l, t, p: l.solve(t, p), limit, TASK, protocol(rates)))


def test_robust_is_the_mean_over_scaled_rates():
    rates = np.array([0.5, 0.8])
    scaled = [value(objectives.final_loss, s * rates) for s in (0.9, 1.0, 1.1)]
    np.testing.assert_allclose(value(objectives.robust(scales=(0.9, 1.0, 1.1)), rates), np.mean(scaled), rtol=1e-12)


def test_steps_to_target_counts_smoothly():
    rates, level = np.ones(8), np.exp(-3.5)
    np.testing.assert_allclose(value(objectives.steps_to_target(level, width=1e-3), rates), 4, rtol=1e-12)
    width = 0.5
    by_hand = np.sum(1 / (1 + np.exp(-(3.5 - np.arange(8)) / width)))
    np.testing.assert_allclose(value(objectives.steps_to_target(level, width), rates), by_hand, rtol=1e-12)


def test_samples_to_target_counts_batches():
    online = lambda rates: lx.OnlineSGD(rates, batch_size=np.arange(1.0, 9))  # noqa: E731
    objective = objectives.samples_to_target(np.exp(-3.5), width=1e-3)
    np.testing.assert_allclose(value(objective, np.ones(8), protocol=online), 1 + 2 + 3 + 4, rtol=1e-12)
    with raises(ValueError, "samples_to_target needs a protocol with batches; GradientDescent has none."):
        value(objective, np.ones(8))
    price = objectives.priced(lambda trajectory: 1.0, 0.5)
    assert value(price, np.ones(8), protocol=online) == 1.0 + 0.5 * 36
    with raises(ValueError, "priced needs a protocol with batches; GradientDescent has none."):
        value(price, np.ones(8))


def test_penalties_are_zero_inside_and_by_hand_outside():
    inside, outside = np.array([0.5, 1.5]), np.array([0.5, 2.2])
    for objective in (objectives.stable(), objectives.below_sharpness()):
        assert value(objective, inside) == value(objectives.final_loss, inside)
    plain, growth = value(objectives.final_loss, outside), 1.2**2 - 1
    np.testing.assert_allclose(
        value(objectives.stable(slack=0.1, weight=3.0), outside), plain * np.exp(3 * (growth - 0.1) ** 2), rtol=1e-12
    )
    np.testing.assert_allclose(
        value(objectives.below_sharpness(bound=0.9, weight=3.0), outside),
        plain * np.exp(3 * (1.1 / 0.9 - 1) ** 2),
        rtol=1e-12,
    )


def test_a_penalty_shares_the_trajectory():
    limit = Curve()
    value(objectives.stable(objectives.below_sharpness()), np.ones(3), limit)
    assert len(limit.calls) == 1


def test_an_objective_of_ones_own():
    found = lx.optimise(Curve(), TASK, lx.GradientDescent(0.1, steps=3), over="learning_rate", barrier=False,
                        objective=lambda trajectory: 1 + jnp.sum((trajectory.extras["rates"] - 0.7) ** 2))  # fmt: skip
    np.testing.assert_allclose(found.protocol.learning_rate, 0.7, rtol=1e-6)


def test_messages():
    with raises(TypeError, "objective must be a function of a trajectory"):
        objectives.robust(3.0)
    with raises(ValueError, "scales must be finite and above 0 at every entry; entry 1 is -1."):
        objectives.robust(scales=(1.0, -1.0))
    with raises(ValueError, "level must be"):
        objectives.steps_to_target(0.0)
    with raises(ValueError, "step must be at most 2, the number of steps; it is 3."):
        value(objectives.outlier(0, step=3), np.ones(2))
    with raises(TypeError, "RandomFeatures does not follow its sharpness"):
        lx.limits.RandomFeatures().stability(TASK, lx.OnlineSGD(0.1, steps=2), None)


LINEAR, SPHERE = lx.limits.DeepLinear(1, 1.0, 4.0, 0.5), lx.tasks.isotropic(2.0, 0.3)


@pytest.mark.slow
def test_the_barrier_keeps_full_batch_training_stable():
    """Without it the theory's optimum rides over the edge of stability, which finite networks do not survive."""
    protocol, bounds = lx.GradientDescent(0.05, steps=20), {"learning_rate": (1e-5, 3.0)}
    free = lx.optimise(
        LINEAR, SPHERE, protocol, over="learning_rate", bounds=bounds, barrier=False, max_evaluations=200
    )
    kept = lx.optimise(LINEAR, SPHERE, protocol, over="learning_rate", bounds=bounds, max_evaluations=200)
    growth = lambda best: np.max(np.diff(np.log(best.trajectory.train_loss)))  # noqa: E731
    assert growth(free) > 0.5
    assert growth(kept) < 0.1
    assert free.value < kept.value < free.history[0]
    assert kept.certificates["penalty"] < 0.05
    np.testing.assert_allclose(kept.value, lx.final_loss(LINEAR, SPHERE, kept.protocol), rtol=1e-10)


@pytest.mark.slow
def test_sharpness_stays_under_its_bound():
    objective = objectives.below_sharpness(bound=0.4)
    found = lx.optimise(
        LINEAR, SPHERE, lx.GradientDescent(0.05, steps=4), over="learning_rate", objective=objective, max_evaluations=25
    )
    assert found.value < 0.8 * found.history[0]
    stability = LINEAR.stability(SPHERE, found.protocol, found.trajectory)
    assert 0.36 < stability.max() < 0.41


@pytest.mark.slow
def test_an_outlier_is_steered():
    limit, protocol = lx.limits.DeepLinear(2, 1.0, 4.0, 0.5), lx.GradientDescent(0.04, steps=5)
    found = lx.optimise(
        limit,
        SPHERE,
        protocol,
        over="learning_rate",
        objective=objectives.outlier(1),
        bounds={"learning_rate": (0.01, 0.09)},
        max_evaluations=8,
    )
    start, end = (
        lx.spectrum(limit, trajectory, layer=1) for trajectory in (limit.solve(SPHERE, protocol), found.trajectory)
    )
    assert end.margin[-1] > max(start.margin[-1], 0)
    assert end.largest[-1] > start.largest[-1] + 0.02
    np.testing.assert_allclose(found.value, np.exp(-end.largest[-1]), rtol=1e-6)


def test_names():
    assert objectives.name_of(objectives.final_loss) == "final_loss"
    assert objectives.name_of(objectives.stable(objectives.robust())) == "stable(robust(final_loss))"
