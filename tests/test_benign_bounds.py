"""Averaged SGD: the recursion against simulation, its two parts, the bounds on them, and messages."""

from functools import partial

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import ADJOINTS, as_float, averaged_moment, double, power_law_bins, power_sum
from limitax.studies import _benign_bounds

from .helpers import raises

TASK = lx.tasks.power_law(12, 1.5, 2.0, noise=0.7)
EXPONENTS = ((1.2, 1.2), (1.2, 4.5), (1.5, 2.0), (2.0, 3.0), (3.0, 1.5))

head_and_tail = jax.jit(_benign_bounds._power_law_sums)
head_and_tail_of_modes = jax.jit(_benign_bounds._sums)


def as_gaussian(task):
    problem = task.population()
    return lx.tasks.gaussian(problem.eigenvalues, problem.teacher, task.noise)


@partial(jax.jit, static_argnums=(1, 2, 3))
def averaged_runs(key, runs, steps, batch, rate):
    """Test losses of the mean of the last half of the iterates, drawn step by step for all runs at once."""
    problem = TASK.population()
    eigenvalues, teacher = jnp.asarray(problem.eigenvalues, float), jnp.asarray(problem.teacher, float)

    def step(carry, at):
        theta, total = carry
        key, averaged = at
        x, y = problem.batch(key, runs * batch)
        x, y = x.reshape(runs, batch, -1), y.reshape(runs, batch)
        error = y - jnp.sum(x * theta[:, None], axis=2)
        theta = theta + rate / batch * jnp.sum(error[:, :, None] * x, axis=1)
        return (theta, total + averaged * theta), None

    start = jnp.zeros((2, runs, teacher.size))
    averaged = jnp.arange(steps) >= steps // 2
    (_, total), _ = jax.lax.scan(step, tuple(start), (jax.random.split(key, steps), averaged))
    return jnp.sum(eigenvalues * (total / (steps // 2) - teacher) ** 2, axis=1)


@pytest.mark.parametrize(("steps", "batch", "rate"), [(12, 2, 0.3), pytest.param(30, 1, 0.2, marks=pytest.mark.slow)])
def test_simulation(steps, batch, rate):
    runs = 6000
    risks = np.asarray(averaged_runs(jax.random.key(3), runs, steps, batch, rate), np.float64)
    exact = lx.benign_bounds(TASK, rate, steps, batch).risk
    assert abs(risks.mean() - exact) < 4 * risks.std(ddof=1) / np.sqrt(runs)
    assert risks.std(ddof=1) / np.sqrt(runs) < 0.02 * exact


def test_parts_add_up_to_the_recursion_without_parts():
    found = lx.benign_bounds(TASK, 0.2, 12, 2)
    with double():
        bins = power_law_bins(12, jnp.asarray(1.5), jnp.asarray(2.0))
        whole = averaged_moment(bins, jnp.asarray(0.49), jnp.asarray(0.2), jnp.asarray(0.5), burn_in=6, count=6)
    np.testing.assert_allclose(found.risk, whole.average, rtol=1e-13)
    theory = lx.limits.RandomFeatures().solve(TASK, lx.OnlineSGD(0.2, batch_size=2, steps=12))
    np.testing.assert_allclose(found.last_risk, theory.test_loss[-1], rtol=1e-12)
    quiet = lx.benign_bounds(lx.tasks.power_law(12, 1.5, 2.0), 0.2, 12, 2)
    np.testing.assert_allclose([quiet.risk, quiet.bias], found.bias, rtol=1e-13)
    assert quiet.variance == quiet.variance_bound == 0


def test_one_iterate_is_the_last_one():
    found = lx.benign_bounds(TASK, 0.2, 2)
    np.testing.assert_allclose(found.bias, found.last_bias, rtol=1e-14)
    np.testing.assert_allclose(found.variance, found.last_variance, rtol=1e-14)


def test_without_gradient_noise_the_average_is_a_geometric_sum():
    rate, n = 0.3, 6
    found = lx.benign_bounds(TASK, rate, 2 * n, batch_size=1e15)
    k = np.arange(1, 13.0)
    left = 1 - rate * k**-1.5
    mean = left ** (n + 1) * (1 - left**n) / (1 - left) / n
    np.testing.assert_allclose(found.bias, np.sum(k**-2.0 * mean**2), rtol=1e-11)
    assert found.bias <= found.bias_bound


@pytest.mark.slow
def test_adjoints_agree():
    with double():
        bins = power_law_bins(20, jnp.asarray(1.3), jnp.asarray(2.1))
        args = bins, jnp.asarray(0.4), jnp.asarray(0.1), jnp.asarray(0.5)

        def objective(args, adjoint):
            found = averaged_moment(*args, burn_in=7, count=11, adjoint=adjoint)
            return jnp.log(found.average) + found.last

        found = [jax.jit(jax.grad(objective), static_argnums=1)(args, adjoint) for adjoint in ADJOINTS]
        for other in found[:2]:
            for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(found[2]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13 * np.max(np.abs(b)))


@pytest.mark.slow
def test_published_ratios():
    task = lx.tasks.power_law(2000, 1.5, 2.0, noise=1.0)
    found = [lx.benign_bounds(task, 0.1, 2 * n) for n in (100, 1000, 10_000)]
    np.testing.assert_allclose([f.variance_ratio for f in found], [0.72, 0.75, 0.75], atol=0.005)
    np.testing.assert_allclose([f.bias_ratio for f in found], [0.32, 0.30, 0.27], atol=0.007)


def at_exponents(steps, fraction, tasks=EXPONENTS, modes=500):
    tasks = [lx.tasks.power_law(modes, b, a, noise=1.0) for b, a in tasks]
    edges = [min(float(lx.limits.RandomFeatures().stable_rate(t)), 1 / np.sum(np.arange(1.0, modes + 1) ** -t.capacity))
             for t in tasks]  # fmt: skip
    return [lx.benign_bounds(task, fraction * edge, steps) for task, edge in zip(tasks, edges, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("steps", [20, 2000])
def test_bounds_hold(steps, fraction):
    """Up to the gain of gradient noise they do with a factor 1.25; at small rates and long averages with 1."""
    for found in at_exponents(steps, fraction):
        slack = 1.0 if fraction < 0.5 and steps > 100 else 1.25
        assert 0.2 < found.variance_ratio / found.noise_gain <= slack
        assert 0.01 < found.whole_bias_ratio <= slack
        if fraction < 0.5 and steps > 100:
            assert 0.6 < found.variance_ratio < 1
            assert found.bias_ratio < 1


@pytest.mark.slow
def test_gradient_noise_of_the_signal_is_missing_in_the_leading_bound():
    found = lx.benign_bounds(lx.tasks.power_law(500, 1.2, 4.5), 0.2, 2000)
    assert found.bias > found.bias_bound
    assert found.bias < found.bias_bound + found.bias_noise


@pytest.mark.parametrize("n", [1, 37, 5000])
def test_head_and_tail_are_those_of_single_modes(n):
    """A power law of 3000 modes is binned, the same spectrum as a list is not."""
    task = lx.tasks.power_law(3000, 1.2, 1.7, noise=0.5)
    with double():
        time = jnp.asarray(0.1 * n)
        bounds = np.asarray(head_and_tail(as_float(task), time))
        exact = np.asarray(head_and_tail_of_modes(as_float(as_gaussian(task)), time))
    assert bounds[0] == np.sum(np.arange(1.0, 3001) ** -1.2 >= 1 / (0.1 * n))
    np.testing.assert_allclose(bounds, exact, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 57])
def test_a_mode_on_the_threshold_is_in_the_head(count):
    for capacity in (1.5, 2.0, 3.0):
        with double():
            task = as_float(lx.tasks.power_law(None, capacity, 2.0))
            found = [head_and_tail(task, jnp.asarray(count**capacity * f)) for f in (0.999, 1.001)]
            found = [float(sums[0]) for sums in found]
        assert found == [count - 1, count]


@pytest.mark.slow
def test_binned_average_is_that_of_single_modes():
    task = lx.tasks.power_law(3000, 1.2, 1.7, noise=0.5)
    binned, exact = (lx.benign_bounds(t, 0.1, 200) for t in (task, as_gaussian(task)))
    np.testing.assert_allclose(binned, exact, rtol=1e-3)


@pytest.mark.parametrize("power", [-1.3, 0.0, 0.7, 1.0, 1 + 1e-9, 2.5, 6.0])
def test_power_sums(power):
    with double():
        k = np.arange(1, 4001.0)
        for first, last in [
            (1, 10),
            (1, 64),
            (1, 65),
            (3, 4000),
            (65, 66),
            (100, 100),
            (101, 100),
            (12, 11),
            (900, 3000),
        ]:
            found = jax.jit(power_sum)(*(jnp.asarray(v, float) for v in (power, first, last)))
            np.testing.assert_allclose(found, np.sum(k[first - 1 : last] ** -power), rtol=2e-13, atol=1e-300)
    if power > 1.1:
        with double():
            one, rest = jnp.asarray(1.0), jnp.asarray(4001.0)
            whole, tail = (power_sum(jnp.asarray(power), start, None) for start in (one, rest))
        np.testing.assert_allclose(whole - tail, np.sum(k**-power), rtol=1e-13)


def risk_and_bounds(point):
    task = lx.tasks.power_law(100, point["capacity"], point["decay"], point["noise"])
    found = lx.benign_bounds(task, point["learning_rate"], 50, point["batch_size"])
    return (
        jnp.log(found.bias) + jnp.log(found.variance) + 0.3 * jnp.log(found.bias_bound) + found.noise_gain
        + 0.7 * jnp.log(found.variance_bound) + 0.1 * jnp.log(found.bias_noise) + found.last_risk
    )  # fmt: skip


@pytest.mark.slow
def test_gradients():
    point = {"capacity": 1.4, "decay": 1.9, "noise": 0.6, "learning_rate": 0.13, "batch_size": 1.5}
    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(risk_and_bounds))(jax.tree.map(jnp.asarray, point))
        value = jax.jit(risk_and_bounds)
        for name, h in dict.fromkeys(point, 1e-4).items():
            at = [float(value(point | {name: point[name] + k * h})) for k in (-2, -1, 1, 2)]
            np.testing.assert_allclose(slopes[name], (8 * (at[2] - at[1]) - at[3] + at[0]) / (12 * h), rtol=1e-7)


@pytest.mark.slow
def test_batches_of_rates_and_tasks():
    def risk(rate, decay):
        return lx.benign_bounds(lx.tasks.power_law(12, 1.5, decay, noise=0.7), rate, 12).risk

    many = jax.vmap(risk)(jnp.asarray([0.05, 0.1]), jnp.asarray([1.2, 2.0]))
    np.testing.assert_allclose(many, [risk(0.05, 1.2), risk(0.1, 2.0)], rtol=1e-6)


def test_derivatives_need_no_global_flag():
    assert not jax.config.jax_enable_x64
    value, slope = jax.jit(jax.value_and_grad(lambda rate: lx.benign_bounds(TASK, rate, 12).risk))(0.1)
    at = [lx.benign_bounds(TASK, rate, 12).risk for rate in (0.0999, 0.1, 0.1001)]
    np.testing.assert_allclose(value, at[1], rtol=1e-6)
    np.testing.assert_allclose(slope, (at[2] - at[0]) / 2e-4, rtol=1e-5)


def test_values_do_not_retrace(monkeypatch):
    traces = []
    recursion = _benign_bounds.averaged_moment
    monkeypatch.setattr(_benign_bounds, "averaged_moment", lambda *a, **k: traces.append(1) or recursion(*a, **k))
    for b, a, noise, rate, batch in [(1.5, 1.2, 1.0, 0.05, 1), (2.0, 3, 0.0, 0.07, 3.5), (1.1, 2.0, 2.0, 0.01, 10)]:
        lx.benign_bounds(lx.tasks.power_law(30, b, a, noise), rate, 6, batch)
    assert len(traces) == 1


def test_messages():
    with raises(ValueError, "learning_rate must be below 1/tr(Lambda) = 0.4886; it is 0.5."):
        lx.benign_bounds(TASK, 0.5, 10)
    with raises(ValueError, "learning_rate must be below 0.6667, where SGD is stable; it is 0.7."):
        lx.benign_bounds(lx.tasks.gaussian([1.0], [1.0]), 0.7, 10)
    with raises(ValueError, "learning_rate must be finite and above 0; it is 0."):
        lx.benign_bounds(TASK, 0, 10)
    with raises(ValueError, "steps must be even, as the later half of them is averaged; it is 11."):
        lx.benign_bounds(TASK, 0.1, 11)
    with raises(ValueError, "steps must be at least 2; it is 0."):
        lx.benign_bounds(TASK, 0.1, 0)
    with raises(ValueError, "batch_size must be finite and at least 1; it is 0.5."):
        lx.benign_bounds(TASK, 0.1, 10, 0.5)
    with raises(TypeError, "task must be power_law or gaussian; Isotropic"):
        lx.benign_bounds(lx.tasks.isotropic(), 0.1, 10)
