"""Optimal control: two methods, one optimum; bounds; certificates; and any limit that can be differentiated."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

LIMIT = lx.limits.RandomFeatures()
TASK = lx.tasks.power_law(modes=10**12, capacity=1.5, decay=2.5, noise=1.0)
PROTOCOL = lx.OnlineSGD(0.05, batch_size=1, steps=300)


@pytest.fixture(scope="module")
def best():
    return lx.optimise(LIMIT, TASK, PROTOCOL, over="learning_rate", cross_check=True, benchmarks=True)


def test_sweeps_and_lbfgs_meet(best):
    assert best.method == "sweeps"
    assert best.status == "converged"
    assert best.stationarity <= 1e-8
    assert abs(best.certificates["cross_check"]) < 1e-9
    assert best.evaluations < 30
    assert best.protocol.learning_rate.shape == (300,)
    assert np.all(np.diff(best.history) <= 4 * np.finfo(float).eps * best.value)
    np.testing.assert_allclose(best.history[-1], best.value)
    np.testing.assert_allclose(best.history[0], LIMIT.solve(TASK, PROTOCOL).test_loss[-1])
    np.testing.assert_allclose(lx.final_loss(best.limit, best.task, best.protocol), best.value, rtol=1e-12)
    assert best.objective is lx.objectives.final_loss
    assert not best.at_bound["learning_rate"].any()


def test_certificates(best):
    assert best.certificates["hamiltonian_residual"] == best.stationarity
    assert best.certificates["kernel_law"] < 0.03
    assert best.certificates["loss_over_noise"] < 0.2
    assert set(best.certificates["benchmarks"]) == {"constant", "linear", "cosine", "warmup_stable_decay"}
    for value in best.certificates["benchmarks"].values():
        assert 1.01 < value / best.value < 1.5


def test_an_optimum_is_drawn_even_where_the_theory_has_no_number_for_it(best, tmp_path):
    nothing = np.full(301, np.nan)
    lost = dataclasses.replace(best, value=np.nan, trajectory=dataclasses.replace(best.trajectory, test_loss=nothing))
    for name, drawn in (("best", best), ("lost", lost)):
        drawn.plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_quasi_newton_alone(best):
    found = lx.optimise(LIMIT, TASK, PROTOCOL, over="protocol.learning_rate", method="lbfgs", cross_check=True)
    assert found.method == "lbfgs"
    assert found.status == "converged"
    assert found.evaluations < 40
    np.testing.assert_allclose(found.value, best.value, rtol=1e-9)
    np.testing.assert_allclose(found.protocol.learning_rate, best.protocol.learning_rate, rtol=1e-4)
    assert abs(found.certificates["cross_check"]) < 1e-9


def test_one_mode():
    task = lx.tasks.gaussian([0.7], [1.3], noise=0.5)
    for method in ("sweeps", "lbfgs"):
        found = lx.optimise(
            LIMIT, task, lx.OnlineSGD(0.05, steps=20), over="learning_rate", method=method, tolerance=1e-13
        )
        assert found.certificates["one_mode"] < (1e-12 if method == "sweeps" else 1e-7)


def test_bounds(best):
    high = 0.03
    values = []
    for method in ("sweeps", "lbfgs"):
        found = lx.optimise(
            LIMIT, TASK, PROTOCOL, over="learning_rate", method=method, bounds={"learning_rate": (None, high)}
        )
        assert found.status == "converged"
        touched = found.at_bound["learning_rate"]
        assert 0 < touched.sum() < 300
        np.testing.assert_allclose(found.protocol.learning_rate[touched], high, rtol=1e-12)
        assert np.max(found.protocol.learning_rate) <= high * (1 + 1e-12)
        values.append(found.value)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)
    assert values[0] > best.value


@pytest.mark.slow
def test_hard_phase_with_momentum():
    task = lx.tasks.power_law(10**6, 3.0, 1.5, noise=0.5)
    protocol = lx.OnlineSGD(0.1, steps=60)
    plain = lx.optimise(LIMIT, task, protocol, over="learning_rate")
    options = {"over": ("learning_rate", "momentum"), "method": "lbfgs", "max_evaluations": 150}
    both = lx.optimise(LIMIT, task, protocol, **options)
    assert both.value < 0.985 * plain.value
    assert np.all((both.protocol.momentum >= 0) & (both.protocol.momentum < 1))


@pytest.mark.slow
def test_a_property_of_the_task():
    found = lx.optimise(LIMIT, TASK, PROTOCOL, over="capacity", bounds={"capacity": (1.1, 3.0)})
    assert found.status == "converged"
    assert found.task.capacity.shape == ()
    for nearby in (0.98, 1.02):
        assert (
            lx.final_loss(LIMIT, lx.tasks.power_law(10**12, nearby * found.task.capacity, 2.5, 1.0), PROTOCOL)
            > found.value
        )
    down = lx.optimise(LIMIT, TASK, PROTOCOL, over="noise", bounds={"noise": (0.2, None)})
    assert down.at_bound["noise"]
    np.testing.assert_allclose(down.task.noise, 0.2)


class Ravine(lx.limits.AbstractLimit):
    """A limit with nothing but a curve: its loss is smallest at rate `target` at every step."""

    target: Any = eqx.field(converter=lambda v: v if isinstance(v, jax.Array) else np.asarray(v), default=0.3)
    calls: list = eqx.field(static=True, default_factory=list)

    def __hash__(self):
        return id(self.calls)

    def solve(self, task, protocol, *, key=None, throw=True, scale=1.0):
        self.calls.append(1)
        noise = 1 + 0.1 * jax.random.uniform(key, protocol.learning_rate.shape)
        loss = 1 + scale * jnp.cumsum(noise * jnp.log(protocol.learning_rate / self.target) ** 2)
        return lx.Trajectory(train_loss=loss)

    def finite(self, task, *, size, key=None):
        raise NotImplementedError

    def ensemble(self, task, *, size, seeds, key=None):
        raise NotImplementedError


def test_any_limit():
    task, limit = lx.tasks.sphere(samples=2, dim=2), Ravine(0.3)
    found = lx.optimise(
        limit, task, lx.GradientDescent(0.1, steps=5), over="learning_rate", key=jax.random.key(1), scale=2.0
    )
    np.testing.assert_allclose(found.protocol.learning_rate, 0.3, rtol=1e-7)
    np.testing.assert_allclose(found.value, 1, rtol=1e-12)
    assert set(found.certificates) == {"hamiltonian_residual", "penalty"}
    assert found.certificates["penalty"] < 1e-12
    found = lx.optimise(limit, task, lx.GradientDescent(0.1, steps=5), over="target")
    np.testing.assert_allclose(found.limit.target, 0.1, rtol=1e-7)


def test_new_values_do_not_retrace():
    limit = Ravine(0.3)
    counts = []
    for rate, momentum, tolerance in [(0.1, 0.5, 1e-8), (0.2, 0.6, 1e-7), (0.5, 0.1, 1e-9)]:
        protocol = lx.GradientDescent(rate, momentum, steps=4)
        lx.optimise(limit, lx.tasks.sphere(samples=2, dim=2), protocol, over="learning_rate", tolerance=tolerance)
        counts.append(len(limit.calls))
    # one concrete solve for the record of each optimum, and nothing traced again
    assert counts[2] - counts[1] == counts[1] - counts[0] == 1


def test_a_search_does_not_leave_what_numbers_hold():
    task = lx.tasks.power_law(5, 1.5, 2.5, noise=0.5)
    found = lx.optimise(LIMIT, task, lx.OnlineSGD(0.1, steps=4), over="noise", tolerance=0.0, max_evaluations=60)
    assert 0.5e-10 <= found.task.noise < 1e-6
    assert found.trajectory.status == "converged"


class Falling(lx.objectives.AbstractObjective):
    """Without a minimum."""

    def __call__(self, solve, limit, task, protocol):
        return task.noise


def test_the_end_of_the_reach_is_no_optimum():
    task = lx.tasks.power_law(5, 1.5, 2.5, noise=0.5)
    found = lx.optimise(LIMIT, task, lx.OnlineSGD(0.1, steps=4), over="noise", objective=Falling(), method="lbfgs")
    np.testing.assert_allclose(found.task.noise, 0.5e-10, rtol=0.05)
    assert found.status == "not converged"
    np.testing.assert_allclose(found.stationarity, 1.0, rtol=1e-6)


@pytest.mark.slow
def test_wide_network():
    task = lx.tasks.sphere(jax.random.key(0), samples=3, dim=3)
    limit = lx.limits.MLP(depth=1, activation="tanh", richness=1.0)
    protocol = lx.GradientDescent(0.3, steps=4)
    found = lx.optimise(limit, task, protocol, over="learning_rate", samples=200, max_evaluations=20)
    assert found.value < 0.5 * found.history[0]
    np.testing.assert_allclose(lx.final_loss(limit, task, found.protocol, samples=200), found.value, rtol=1e-2)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, 'name "rate" is unknown', {"over": "rate"}),
        (ValueError, "over names nothing", {"over": ()}),
        (ValueError, "names one thing twice", {"over": ("learning_rate", "protocol.learning_rate")}),
        (ValueError, "modes of this task is not a continuous number", {"over": "modes"}),
        (ValueError, "extra_gradient is 0 everywhere", {"over": "extra_gradient"}),
        (ValueError, 'method "adam" is unknown', {"over": "learning_rate", "method": "adam"}),
        (ValueError, '"sweeps" does not apply: .* over is momentum', {"over": "momentum", "method": "sweeps"}),
        (ValueError, '"sweeps" takes no starts, knots or floor', {"method": "sweeps", "starts": 2}),
        (ValueError, '"sweeps" takes no starts, knots or floor', {"method": "sweeps", "knots": 8}),
        (ValueError, '"sweeps" takes no starts, knots or floor', {"method": "sweeps", "floor": 1e-3}),
        (ValueError, "bounds are given for noise", {"over": "learning_rate", "bounds": {"noise": (0, 1)}}),
        (ValueError, "low below high", {"over": "learning_rate", "bounds": {"learning_rate": (2, 1)}}),
        (ValueError, "max_evaluations", {"over": "learning_rate", "max_evaluations": 0}),
    ],
)
def test_messages(error, match, options):
    with pytest.raises(error, match=match):
        lx.optimise(LIMIT, TASK, PROTOCOL, **{"over": "learning_rate"} | options)


@pytest.mark.parametrize("method", ["sweeps", "lbfgs"])
def test_a_start_that_diverges(method):
    protocol = lx.OnlineSGD(1e3, steps=300)
    with pytest.raises(lx.DivergedError, match="Start from a smaller learning_rate"):
        lx.optimise(LIMIT, TASK, protocol, over="learning_rate", method=method)
    assert lx.optimise(LIMIT, TASK, protocol, over="learning_rate", method=method, throw=False).status == "diverged"
