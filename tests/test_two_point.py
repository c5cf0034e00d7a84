"""Random features in the frequency domain: the time domain, closed cases, ends of training, convergence, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import (
    Drive,
    TwoPointLoss,
    contour_nodes,
    degrees_of_freedom,
    double,
    exact_bins,
    one_point_loss,
    power_law_bins,
    ridgeless_scale,
    second_moment,
    self_consistent_scale,
    stationary_loss,
    two_point_loss,
    unlearned_power,
)

from .test_feature_dynamics import MODES, STEPS, agree, compare_gradients, problem
from .test_feature_dynamics import solve as solve_in_time

NODES = 180
SHARED = {"same": {}, "other features": {"shared_features": False}, "other samples": {"shared_samples": False}}


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


def pieces(p, inverse_batch=0.0):
    rate = jnp.asarray(p["learning_rate"])
    bins = power_law_bins(MODES, jnp.asarray(p["capacity"]), jnp.asarray(p["decay"]))
    return (
        bins,
        jnp.asarray(p["noise"] ** 2),
        Drive(0 * rate, rate, jnp.asarray(p["momentum"]), inverse_batch + 0 * rate),
    )


def solve(p, **options):
    return two_point_loss(*pieces(p), p["inverse_features"], p["inverse_samples"], nodes=NODES, **options)


contour_form = jax.jit(lambda p: {name: solve(p, **options) for name, options in SHARED.items()})
time_domain = jax.jit(lambda p: {name: solve_in_time(p, **options) for name, options in SHARED.items()})
ends = jax.jit(stationary_loss)


@jax.jit
def fresh_batches(p):
    return one_point_loss(*pieces(p, p["inverse_samples"]), p["inverse_features"], nodes=NODES)


@jax.jit
def whole_training(p):
    return two_point_loss(*pieces(p), p["inverse_features"], p["inverse_samples"])


def sized(p, features, samples):
    return p | {"inverse_features": np.asarray(1 / features), "inverse_samples": np.asarray(1 / samples)}


def endless():
    return problem() | {"learning_rate": np.full(40_000, 0.7), "momentum": np.zeros(40_000)}


def without_noise(p):
    k = np.arange(1, MODES + 1)
    left = np.cumprod(1 - p["learning_rate"][:, None] * k ** -p["capacity"], 0)
    return np.append(np.sum(k ** -p["decay"]), left**2 @ k ** -p["decay"])


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [pytest.param(0.0, marks=pytest.mark.slow), 0.85])
def test_both_domains_agree(momentum):
    p = problem(momentum)
    found, expected = contour_form(p), time_domain(p)
    # the contour has to pass between the spectrum and where momentum makes steps unstable
    tolerance = 1e-10 if momentum == 0 else 1e-9
    for name in SHARED:
        np.testing.assert_allclose(found[name].test, expected[name].test, rtol=tolerance)
        np.testing.assert_allclose(found[name].train, expected[name].train, rtol=tolerance)
    assert found["same"].monitor < 30
    assert found["same"].error < tolerance


def test_infinite_sizes_are_gradient_descent():
    p = sized(problem(), np.inf, np.inf)
    found = contour_form(p)["same"]
    np.testing.assert_allclose(found.test, without_noise(p), rtol=1e-11)
    np.testing.assert_allclose(found.train, found.test + p["noise"] ** 2, rtol=1e-11)


def test_the_default_nodes_of_a_long_training():
    p = sized(endless(), np.inf, np.inf)
    np.testing.assert_allclose(whole_training(p).test, without_noise(p), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("features", "samples"), [(np.inf, 20), (20, np.inf), (15, 60), (60, 15)])
def test_training_ends_at_the_stationary_loss(features, samples):
    p = sized(endless(), features, samples)
    found, expected = whole_training(p), ends(*pieces(p)[:2], p["inverse_features"], p["inverse_samples"])
    np.testing.assert_allclose(found.test[-1], expected.test, rtol=1e-7)
    np.testing.assert_allclose(found.train[-1], expected.train, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("features", "samples"), [(np.inf, 60), (40, np.inf), (np.inf, 200)])
def test_ends_of_training_in_closed_form(features, samples):
    p = sized(problem(), features, samples)
    bins, noise_power, _ = pieces(p)
    lam, kappa = bins.eigenvalues, ridgeless_scale(bins, max(1 / features, 1 / samples))
    if samples == np.inf:
        expected = unlearned_power(bins, kappa)
    else:
        bias = jnp.sum(lam * bins.teacher_power * (kappa / (lam + kappa)) ** 2)
        variance = degrees_of_freedom(bins, kappa, 2) / samples
        expected = (bias + noise_power * variance) / (1 - variance)
    found = ends(bins, noise_power, p["inverse_features"], p["inverse_samples"])
    np.testing.assert_allclose(found.test, expected, rtol=1e-12)


def test_exponents_of_the_ends_of_training():
    r"""Floors fall like $P^{-\min(a-1, 2b)}$ and $N^{-\min(a-1, b)}$."""

    @jax.jit
    @jax.grad
    def slope(log_size, b, a, of_samples):
        bins, inverse = power_law_bins(10**12, b, a), jnp.exp(-log_size)
        floor = stationary_loss(bins, 0.0, inverse * (1 - of_samples), inverse * of_samples)
        return -jnp.log(floor.test)

    for b, a in ((1.5, 2.0), (1.2, 2.8), (1.2, 4.5)):
        np.testing.assert_allclose(slope(np.log(1e3), b, a, 1.0), min(a - 1, 2 * b), rtol=0.03)
        np.testing.assert_allclose(slope(np.log(1e3), b, a, 0.0), min(a - 1, b), rtol=0.03)


def test_ridge_regression_on_random_features():
    features, samples, ridge, noise = 40, 60, 0.02, 0.3
    rng, k = np.random.default_rng(0), np.arange(1, MODES + 1)
    lam, teacher, found = k**-1.2, k**-0.4, []
    for _ in range(500):
        x = rng.standard_normal((samples, MODES)) * np.sqrt(lam)
        A = rng.standard_normal((features, MODES)) / np.sqrt(features)
        y = x @ teacher + noise * rng.standard_normal(samples)
        h = x @ A.T
        w = np.linalg.solve(h.T @ h / samples + ridge * np.eye(features), h.T @ y / samples)
        found.append((np.sum(lam * (teacher - A.T @ w) ** 2), np.mean((y - h @ w) ** 2)))
    theory = ends(exact_bins(jnp.asarray(lam), jnp.asarray(teacher)), noise**2, 1 / features, 1 / samples, ridge)
    agree(np.asarray(theory), np.asarray(found), 0.01)


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_derivatives_of_the_scale(order):
    bins, ridge = power_law_bins(30, jnp.asarray(1.5), jnp.asarray(2.0)), jnp.asarray([0.01 - 0.02j, -0.5 - 0.1j])

    def scale(x):
        value = self_consistent_scale(bins, x[0], x[1], ridge)
        return jnp.concatenate([value.real, value.imag, ridgeless_scale(bins, x[0])[None]])

    f = jax.jit(jax.jacfwd(scale) if order == 2 else scale)
    x, h = jnp.asarray([1 / 10, 1 / 16]), 1e-5
    difference = jnp.stack([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in jnp.eye(2)], -1)
    np.testing.assert_allclose(jax.jit(jax.jacrev(f))(x), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sizes", [(1 / 40, 1 / 60), (0.0, 1 / 60), (0.01, 0.0)])
def test_the_branch_close_above_the_spectrum(sizes):
    """A positive density of states on both sides of every node, down to a height of 1e-9."""
    bins = power_law_bins(10**6, jnp.asarray(1.2), jnp.asarray(1.8))
    z = jnp.geomspace(1e-6, 8.0, 60) + 1j * jnp.asarray([[1e-9], [1e-4], [0.1]])
    scale = jax.jit(lambda z: self_consistent_scale(bins, *sizes, -z))(z)
    assert np.all(scale.imag < 0)
    np.testing.assert_allclose(jax.jit(lambda z: self_consistent_scale(bins, *sizes, -z))(z.conj()), scale.conj())


def test_fresh_batches_at_infinite_width_are_the_second_moment_recursion():
    p = sized(problem(0.85), np.inf, 10)
    np.testing.assert_allclose(fresh_batches(p).test, second_moment(*pieces(p, 0.1)), rtol=1e-9)


def test_infinite_batches_are_infinite_data():
    p = sized(problem(0.85), 40, np.inf)
    np.testing.assert_allclose(fresh_batches(p).test, contour_form(p)["same"].test, rtol=1e-9)


@pytest.mark.slow
def test_gradients_of_full_batches():
    compare_gradients(solve, problem(0.85), compiled=lambda p: contour_form(p)["same"])


@pytest.mark.slow
def test_gradients_of_fresh_batches():
    def both(p):
        found = fresh_batches(p)
        return TwoPointLoss(found.test, found.test, jnp.zeros(()), found.error)

    compare_gradients(both, problem(0.85), compiled=both)


@pytest.mark.slow
def test_convergence_in_the_nodes():
    bins, rate = power_law_bins(60, jnp.asarray(1.5), jnp.asarray(2.0)), jnp.full(10_000, 0.3)
    drive = Drive(0 * rate, rate, 0 * rate, 0 * rate)

    def solve(nodes):
        return jax.jit(lambda drive: two_point_loss(bins, 0.09, drive, 1 / 40, 1 / 60, nodes=nodes))(drive)

    reference = solve(300)
    for nodes, tolerance in (80, 2e-6), (120, 2e-8), (contour_nodes(10_000), 1e-8), (160, 1e-10), (200, 1e-12):
        found = solve(nodes)
        np.testing.assert_allclose(found.test, reference.test, rtol=tolerance)
        np.testing.assert_allclose(found.train, reference.train, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("learning_rate", "momentum"), [(1.2, 0.0), (1.0, 0.5), (1.6, 0.5), (0.3, 0.9), (1.0, 0.9)])
def test_the_estimated_error_near_instability(learning_rate, momentum):
    p = problem() | {"learning_rate": np.full(STEPS, learning_rate), "momentum": np.full(STEPS, momentum)}
    found, expected = contour_form(p)["same"], time_domain(p)["same"]
    error = np.max(np.abs(found.test / expected.test - 1))
    assert error < 30 * found.error + 1e-13


@pytest.mark.slow
@pytest.mark.parametrize(("features", "tolerance"), [(30, 0.03), (90, 0.012)])
def test_average_over_draws_of_the_features(features, tolerance):
    """For given features one-pass SGD is the recursion on the spectrum of their covariance, plus a floor."""
    modes, steps, draws, noise_power = 200, 3000, 48, 0.04
    rng, k = np.random.default_rng(0), np.arange(1, modes + 1)
    lam, teacher = k**-1.5, k**-0.25
    rate = jnp.full(steps, 0.1)
    drive = Drive(0 * rate, rate, 0 * rate, 0 * rate + 0.25)
    recursion = jax.jit(lambda bins, noise_power: second_moment(bins, noise_power, drive, momentum=False))
    curves = []
    for _ in range(draws):
        A = rng.standard_normal((features, modes)) / np.sqrt(features)
        covariance = A * lam @ A.T
        best = np.linalg.solve(covariance, A @ (lam * teacher))
        floor = np.sum(lam * teacher**2) - best @ covariance @ best
        eigenvalues, directions = np.linalg.eigh(covariance)
        bins = exact_bins(jnp.asarray(eigenvalues), jnp.asarray(directions.T @ best))
        curves.append(floor + recursion(bins, jnp.asarray(noise_power + floor)))
    theory = one_point_loss(exact_bins(jnp.asarray(lam), jnp.asarray(teacher)), noise_power, drive, 1 / features).test
    mean, error = np.mean(curves, 0), np.std(curves, 0) / np.sqrt(draws)
    assert np.all(np.abs(theory - mean) < tolerance * mean + 3 * error)
