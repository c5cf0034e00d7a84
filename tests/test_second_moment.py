"""The second-moment recursion: closed cases, adjoints, the stability bound, and exact control."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import (
    ADJOINTS,
    Drive,
    coordinate_sweeps,
    double,
    exact_bins,
    power_law_bins,
    second_moment,
    stability_bound,
)
from limitax.solvers._second_moment import sgd_step

STEPS = 23


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


def problem(steps=STEPS, modes=30):
    t = jnp.arange(steps) / steps
    bins = power_law_bins(modes, jnp.asarray(1.3), jnp.asarray(2.1))
    return bins, jnp.asarray(0.4), Drive(0.03 * (1 + t), 0.1 / (1 + t), 0.8 * t, 1 / (1 + jnp.round(3 * t)))


def test_without_batch_noise_it_is_gradient_descent():
    bins, noise_power, drive = problem()
    drive = drive._replace(inverse_batch=jnp.zeros(STEPS))
    lam = np.asarray(bins.eigenvalues)
    u, v, losses = np.sqrt(np.asarray(bins.teacher_power)), np.zeros_like(lam), []
    for e1, e2, beta, _ in zip(*map(np.asarray, drive), strict=True):
        losses.append(np.sum(lam * u**2))
        g = lam * u
        v = beta * v + g
        u = u - e1 * g - e2 * v
    losses.append(np.sum(lam * u**2))
    np.testing.assert_allclose(second_moment(bins, noise_power, drive), losses, rtol=1e-12)


def test_without_momentum_one_moment_is_enough():
    bins, noise_power, drive = problem()
    drive = drive._replace(beta=jnp.zeros(STEPS))
    short = second_moment(bins, noise_power, drive, momentum=False)
    np.testing.assert_allclose(short, second_moment(bins, noise_power, drive), rtol=1e-13)


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_adjoints_agree(momentum, steps):
    args = problem(steps)

    def objective(args, adjoint):
        losses = second_moment(*args, momentum=momentum, adjoint=adjoint)
        return jnp.log(losses[-1]) + jnp.sum(losses**2)

    found = [jax.jit(jax.grad(objective), static_argnums=1)(args, adjoint) for adjoint in ADJOINTS]
    for other in found[:2]:
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(found[2]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.max(np.abs(b)))


def test_forward_mode_equals_reverse_mode():
    bins, noise_power, drive = problem()

    def final(drive, adjoint):
        return second_moment(bins, noise_power, drive, adjoint=adjoint)[-1]

    tangent = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)), drive)
    _, forward = jax.jvp(partial(final, adjoint="direct"), (drive,), (tangent,))
    reverse = jax.jit(jax.grad(partial(final, adjoint="blocked")))(drive)
    np.testing.assert_allclose(forward, sum(jnp.vdot(r, t) for r, t in zip(reverse, tangent, strict=True)), rtol=1e-12)


def test_unknown_adjoint():
    with pytest.raises(ValueError, match="one of: stored, blocked, direct"):
        second_moment(*problem(), adjoint="implicit")


@pytest.mark.parametrize("batch", [1.0, 3.5, 64.0])
def test_spectral_radius_is_one_at_the_bound(batch):
    bins, batch = problem(modes=12)[0], jnp.asarray(batch)
    bound = jax.jit(stability_bound)
    eta = bound(bins, batch)

    def step(A):
        return sgd_step((bins, jnp.zeros(())), A, (eta, 1 / batch))[0]

    radius = np.max(np.abs(np.linalg.eigvals(jax.jacfwd(step)(bins.teacher_power))))
    np.testing.assert_allclose(radius, 1, rtol=0, atol=1e-10)
    h = 1e-5
    slope = (bound(bins, batch + h) - bound(bins, batch - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(bound, argnums=1)(bins, batch), slope, rtol=1e-7)


def test_batches_without_end_leave_the_edge_of_gradient_descent():
    lam = jnp.asarray([2.0, 0.3])
    np.testing.assert_allclose(stability_bound(exact_bins(lam, lam), jnp.asarray(1e15)), 1.0, rtol=1e-13)


@partial(jax.jit, static_argnames="max_cycles")
def sweep(bins, noise_power, inverse_batch, start, upper=jnp.inf, **options):
    return coordinate_sweeps(bins, jnp.asarray(noise_power), inverse_batch, start, jnp.asarray(upper), **options)


@pytest.mark.parametrize("noise_power", [0.0, 0.3])
def test_one_mode_has_a_closed_form(noise_power):
    lam, w, inverse_batch = 0.7, 1.3, np.array([1.0, 0.5, 0.25] * 10)
    bins = exact_bins(jnp.array([lam]), jnp.array([w]))
    found = sweep(bins, noise_power, jnp.asarray(inverse_batch), jnp.full(30, 0.1))
    loss, rates = lam * w**2, []
    for q in inverse_batch:
        rates.append(loss / ((1 + 2 * q) * loss + q * noise_power) / lam)
        loss *= 1 - lam * rates[-1]
    np.testing.assert_allclose(found.learning_rate, rates, rtol=1e-12)
    np.testing.assert_allclose(found.value, loss, rtol=1e-12)


def test_sweeps_only_go_down():
    bins = power_law_bins(None, jnp.asarray(3.0), jnp.asarray(1.5))
    found = sweep(bins, 1.0, jnp.ones(100), jnp.full(100, 0.05))
    history = found.history[: found.cycles + 1]
    assert np.all(np.diff(history) <= 1e-14)
    np.testing.assert_allclose(history[-1], found.value)
    other = sweep(bins, 1.0, jnp.ones(100), jnp.full(100, 0.3))
    np.testing.assert_allclose(other.value, found.value, rtol=1e-12)
    from_nothing = sweep(bins, 1.0, jnp.ones(100), jnp.zeros(100))
    np.testing.assert_allclose(from_nothing.value, found.value, rtol=1e-12)


def test_an_upper_bound_holds():
    bins = power_law_bins(None, jnp.asarray(1.5), jnp.asarray(2.5))
    free = sweep(bins, 1.0, jnp.ones(50), jnp.full(50, 0.05))
    capped = sweep(bins, 1.0, jnp.ones(50), jnp.full(50, 0.05), upper=0.06)
    assert np.max(free.learning_rate) > 0.06 == np.max(capped.learning_rate)
    assert capped.value > free.value
