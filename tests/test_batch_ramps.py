"""Ramps of rate and batch, normalised SGD: what adds up, the recursion against runs, equal losses, steps saved."""

import chex
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import schedules
from limitax.gallery import seesaw

from .helpers import raises

LIMIT = lx.limits.RandomFeatures()
TASK = lx.tasks.power_law(30, 1.5, 2.5, noise=1.0)


def test_step_decay():
    np.testing.assert_allclose(schedules.step_decay(0.8, 7, 2, 4.0), [0.8, 0.8, 0.8, 0.2, 0.2, 0.05, 0.05])
    np.testing.assert_allclose(schedules.step_decay(0.8, 3, 0), 0.8)
    slope = jax.grad(lambda f: jnp.sum(schedules.step_decay(1.0, 4, 1, f)))(2.0)
    np.testing.assert_allclose(slope, -2 / 2.0**2)


@pytest.mark.parametrize(("growth", "normalised"), [(0.0, False), (0.5, False), (1.0, False), (1.0, True), (2.0, True)])
@pytest.mark.parametrize("start", [1, 5])
def test_samples_and_clock_are_kept(growth, normalised, start):
    reference = schedules.cosine(0.3, 400, final=0.03)
    rates, batches = schedules.ramp(reference, start, growth=growth, normalised=normalised)
    assert np.sum(batches) == 400 * start
    assert np.all(batches == np.round(batches))
    if not normalised:
        np.testing.assert_allclose(np.sum(rates), np.sum(reference))
    # each step has the noise of what it replaces
    seen = (np.cumsum(batches) - batches / 2) / start
    noise = rates / (batches / start) ** (0.5 if normalised else 1.0)
    expected = np.interp(seen, np.arange(400) + 0.5, reference)
    np.testing.assert_allclose(noise, expected, rtol=0.02 if growth <= 1 else 0.2)


def test_growth_zero_changes_nothing_and_growth_one_keeps_the_rate():
    reference = schedules.step_decay(0.4, 48, 2)
    rates, batches = schedules.ramp(reference, 3, growth=0.0)
    np.testing.assert_allclose(rates, reference)
    assert set(batches) == {3.0}
    rates, batches = schedules.ramp(reference, 3)
    np.testing.assert_allclose(rates, 0.4)
    np.testing.assert_array_equal(batches, [3.0] * 16 + [6.0] * 8 + [12.0] * 4)
    rates, batches = schedules.ramp(reference, 3, rate=0.8)
    np.testing.assert_allclose(rates, 0.8)
    assert batches[0] == 6


def test_serial_steps_under_a_quarter_cosine():
    """The limit 1 - 2/pi, from below as the cuts grow in number."""
    shares = [seesaw.saved(cuts) for cuts in (1, 4, 16, 64)]
    assert np.all(np.diff(shares) > 0)
    np.testing.assert_allclose(seesaw.saved(None, 20_000), 1 - 2 / np.pi, atol=1e-4)
    np.testing.assert_allclose(shares[-1], 1 - 2 / np.pi, atol=5e-4)


def normalised(task, rates, batches):
    """The recursion, mode by mode, in NumPy."""
    k = np.arange(1, task.modes + 1.0)
    lam = k**-task.capacity
    A, losses = k**-task.decay / lam, []
    for rate, batch in zip(rates, batches, strict=True):
        losses.append(np.sum(lam * A))
        Q = lam**2 * A + (lam**2 * A + lam * (losses[-1] + task.noise**2)) / batch
        eta = rate / np.sqrt(np.sum(Q))
        A = (1 - 2 * eta * lam) * A + eta**2 * Q
    return np.append(losses, np.sum(lam * A))


RAMP = schedules.ramp(schedules.step_decay(0.2, 64, 3), 2, normalised=True)


def test_the_recursion():
    theory = LIMIT.solve(TASK, lx.NormalisedSGD(*RAMP))
    np.testing.assert_allclose(theory.test_loss, normalised(TASK, *RAMP), rtol=1e-12)
    plain = lx.OnlineSGD(theory.extras["effective_rate"], batch_size=RAMP.batch_size)
    np.testing.assert_allclose(LIMIT.solve(TASK, plain).test_loss, theory.test_loss, rtol=1e-12)


def test_bins_are_modes():
    rates, batches = 0.05 * np.ones(50), 4.0 * np.ones(50)
    binned = LIMIT.solve(lx.tasks.power_law(20_000, noise=1.0), lx.NormalisedSGD(rates, batches)).test_loss
    np.testing.assert_allclose(binned, normalised(lx.tasks.power_law(20_000, noise=1.0), rates, batches), rtol=1e-3)


@pytest.mark.slow
def test_runs():
    report = lx.compare(LIMIT, TASK, lx.NormalisedSGD(*RAMP), seeds=8000)
    assert report.agrees, report.agreement
    assert report.standard_errors["test_loss"][0] < 0.006


def test_nothing_to_learn_moves_nothing():
    still = lx.tasks.gaussian([1.0, 0.5], [0.0, 0.0])
    protocol = lx.NormalisedSGD(0.1, 2, steps=3)
    np.testing.assert_array_equal(LIMIT.solve(still, protocol).test_loss, 0.0)
    slope = jax.grad(lambda r: lx.final_loss(LIMIT, still, lx.NormalisedSGD(r, 2, steps=3)))(0.1)
    assert np.isfinite(slope)


@pytest.mark.slow
def test_slopes_are_differences():
    def value(rates, batches, capacity, decay, noise):
        task = lx.tasks.power_law(40, capacity, decay, noise)
        return jnp.log(lx.final_loss(LIMIT, task, lx.NormalisedSGD(rates, batches)))

    with jax.enable_x64(True):
        at = [0.1 + 0.05 * np.sin(np.arange(9.0)), 2 + np.arange(9.0), np.array(1.3), np.array(2.0), np.array(0.5)]
        slopes = jax.jit(jax.grad(value, argnums=range(5)))(*at)
        for i, slope in enumerate(slopes):
            move = np.cos(1 + np.arange(slope.size)).reshape(slope.shape)
            up, down = (value(*at[:i], at[i] + s * move, *at[i + 1 :]) for s in (1e-5, -1e-5))
            np.testing.assert_allclose(np.vdot(slope, move), (up - down) / 2e-5, rtol=1e-6, err_msg=str(i))


def test_no_retracing_when_values_change():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def solve(rate):
        return lx.final_loss(LIMIT, TASK, lx.NormalisedSGD(rate, 2, steps=6))

    chex.clear_trace_counter()
    assert float(solve(0.1)) != float(solve(0.2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "bounds"),
    [((1.5, 2.5, 1.0), (1.008, 1.025, 1.01, 1.08)), ((2.0, 1.5, 1.0), (1.002, 1.002, 1.002, 1.012))],
)
def test_equivalent_ramps_have_equal_losses(law, bounds):
    found = seesaw.equivalents(*law)
    for (name, (ratio, steps)), bound in zip(found.items(), bounds, strict=False):
        assert np.all(np.abs(ratio - 1) < bound - 1), name
        assert steps < 6144
    assert found["SGD (1, 2)"][1] == 2016
    wrong = found["normalised (1, 2), SGD's rule"][0]
    assert np.max(np.abs(wrong - 1)) > 0.1


@pytest.mark.slow
def test_control_beats_the_ramp():
    """At the same samples: a lower loss in fewer serial steps, at every rate that was tried."""
    found = seesaw.control()
    steps, loss = found.pop("cosine")
    np.testing.assert_allclose([steps, loss], [2 / np.pi, 1.0], atol=2e-3)
    for name, (fewer, lower) in found.items():
        assert fewer < 0.75 * steps, name
        assert lower < 0.98, name


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: schedules.ramp([0.1, 0.0]), ValueError, "reference must be finite and above 0"),
        (lambda: schedules.ramp([0.1], 1.5), TypeError, "batch_size must be a whole number"),
        (lambda: schedules.ramp([0.1], growth=-1), ValueError, "growth must be finite and at least 0; it is -1."),
        (
            lambda: schedules.ramp([0.1], growth=2.5, normalised=True),
            ValueError,
            "growth must be at most 2 for normalised SGD, whose rate would grow; it is 2.5.",
        ),
        (
            lambda: schedules.ramp([0.1, 0.2], rate=0.1),
            ValueError,
            "rate must be at least the largest of the reference, 0.2; it is 0.1.",
        ),
        (lambda: schedules.step_decay(0.1, 5, 5), ValueError, "cuts must be between 0 and 4; it is 5."),
        (lambda: lx.NormalisedSGD(0.1, 0.5, steps=2), ValueError, "batch_size must be finite and at least 1"),
        (
            lambda: lx.limits.RandomFeatures(20).solve(TASK, lx.NormalisedSGD(0.1, steps=2)),
            ValueError,
            "features must be None, and members 1, with NormalisedSGD.",
        ),
        (
            lambda: lx.nets.train(lx.limits.RandomFeatures(20).finite(TASK), TASK, lx.NormalisedSGD(0.1, steps=2)),
            ValueError,
            "features must be None, and members 1, with NormalisedSGD.",
        ),
    ],
)
def test_messages(call, kind, sentence):
    with raises(kind, sentence):
        call()


@pytest.mark.parametrize(
    ("rate", "steps", "spread"), [(0.02, 300, 0.03), pytest.param(0.02, 1000, 0.01, marks=pytest.mark.slow)]
)
def test_batches_at_a_price_grow_with_the_noise_that_is_still_felt(rate, steps, spread):
    # where label noise dominates, B_t^2 = eta^2 sigma^2 K(s_t) / mu with the rest s_t of the clock (2602.04774)
    task = lx.tasks.power_law(10**12, 1.5, 3.0, noise=1.0)
    protocol = lx.OnlineSGD(rate, batch_size=20.0, steps=steps)
    objective = lx.objectives.priced(price=1e-6)
    best = lx.optimise(LIMIT, task, protocol, over="batch_size", objective=objective)
    assert best.status == "converged"
    assert not np.any(best.at_bound["batch_size"])
    left = rate * (steps - 1 - np.arange(steps))
    lam = np.arange(1.0, 1e5) ** -1.5
    kernel = np.sum(lam**2 * np.exp(-2 * lam * left[:, None]), axis=1)
    window = slice(steps // 5, int(0.95 * steps))
    constancy = (best.protocol.batch_size / np.sqrt(kernel))[window]
    assert np.std(constancy) / np.mean(constancy) < spread
    np.testing.assert_allclose(np.mean(constancy) * np.sqrt(1e-6) / rate, 1.0, rtol=3 * spread)
    np.testing.assert_allclose(best.value - best.trajectory.test_loss[-1], 1e-6 * np.sum(best.protocol.batch_size))
