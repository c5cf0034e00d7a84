"""Random features in the time domain: the published equations, simulations, closed cases, causality, gradients."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import double, feature_dynamics, linear_optimiser, power_law_bins

MODES, STEPS, FEATURES, SAMPLES, BATCH = 120, 30, 40, 60, 10


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


def problem(momentum=0.0, size=1, batch=None):
    """Everything that one may differentiate; the rate falls, the momentum rises from zero."""
    t = np.arange(STEPS) / STEPS
    return {
        "learning_rate": (0.15 if momentum else 0.3) * (1 - t / 2),
        "momentum": momentum * t,
        "inverse_features": np.asarray(1 / (size * FEATURES)),
        "inverse_samples": np.asarray(0.0 if batch else 1 / (size * SAMPLES)),
        "capacity": np.asarray(1.5),
        "decay": np.asarray(2.0),
        "noise": np.asarray(0.3),
    } | ({"inverse_batch": np.asarray(1 / batch)} if batch else {})


def solve(p, **options):
    bins = power_law_bins(MODES, p["capacity"], p["decay"])
    integrator, _ = linear_optimiser(p["learning_rate"], p["momentum"], jnp.zeros(STEPS))
    sizes = p["inverse_features"], p["inverse_samples"]
    return feature_dynamics(bins, p["noise"] ** 2, integrator, *sizes, p.get("inverse_batch", 0.0), **options)


time_domain = jax.jit(solve, static_argnames=("shared_features", "shared_samples"))


def published(p, sweeps=12, correlation_sweeps=60):
    """The equations as they are printed, each swept in turn, in NumPy."""
    n, P, N = STEPS + 1, 1 / p["inverse_samples"], 1 / p["inverse_features"]
    lam = np.arange(1, MODES + 1) ** -p["capacity"]
    power = np.arange(1, MODES + 1) ** -p["decay"] / lam
    sigma2, one, ones = p["noise"] ** 2, np.eye(n), np.ones((n, n))
    S = np.zeros((n, n))
    S[:, :-1] = linear_optimiser(jnp.asarray(p["learning_rate"]), jnp.asarray(p["momentum"]), jnp.zeros(STEPS))[0]
    L = lam[:, None, None]
    R1 = R3 = one
    for _ in range(sweeps):
        H = np.linalg.inv(one + L * (S @ R3 @ R1))
        trace = np.sum(L * H, 0)
        R1 = np.linalg.inv(one + trace @ S @ R3 / P)
        R3 = np.linalg.inv(one + R1 @ trace @ S / N)
    H = np.linalg.inv(one + L * (S @ R3 @ R1))

    def sandwich(weights, a, C):
        return np.sum(weights[:, None, None] * (a @ C @ np.swapaxes(a, 1, 2)), 0)

    C1 = C3 = np.zeros((n, n))
    for _ in range(correlation_sweeps):
        C0 = sandwich(lam * power, H, ones) + sandwich(lam / N, H @ S, C3) + sandwich(lam**2 / P, H @ S @ R3, C1)
        C1 = R1 @ (C0 + sigma2) @ R1.T
        C2 = sandwich(lam / P, one - L * (R1 @ H @ S @ R3), C1)
        C2 += sandwich(lam**2 * power, R1 @ H, ones) + sandwich(lam**2 / N, R1 @ H @ S, C3)
        C3 = R3 @ C2 @ R3.T
    return C0, C1


@cache
def simulation(momentum=0.0, size=1, batch=None, seeds=400):
    """Pairs of networks with independent features on the same samples: losses and cross losses `[seeds, times]`."""
    p, rng, width = problem(momentum), np.random.default_rng(0), size * FEATURES
    k = np.arange(1, MODES + 1)
    spread = k ** (-p["capacity"] / 2)
    teacher = k ** (-p["decay"] / 2) / spread
    A = rng.standard_normal((2, seeds, width, MODES)) / np.sqrt(width)

    def draw(count):
        x = rng.standard_normal((seeds, count, MODES)) * spread
        return x, p["noise"] * rng.standard_normal((seeds, count, 1))

    v, velocity, records = np.tile(teacher[:, None], (2, seeds, 1, 1)), 0.0, []
    x, noise = draw(size * SAMPLES)
    for rate, beta in zip(np.append(p["learning_rate"], 0), np.append(p["momentum"], 0), strict=True):
        if batch:
            x, noise = draw(batch)
        residual = x @ v + noise
        test, cross = np.sum((spread[:, None] * v) ** 2, (2, 3)), np.sum(spread[:, None] ** 2 * v[0] * v[1], (1, 2))
        records.append((*test, cross, *np.mean(residual**2, (2, 3))))
        gradient = np.swapaxes(A, 2, 3) @ (A @ (np.swapaxes(x, 1, 2) @ residual)) / residual.shape[2]
        velocity = beta * velocity + gradient
        v = v - rate * velocity
    first, second, cross, *train = np.moveaxis(np.asarray(records), 0, -1)
    return {"test": (first + second) / 2, "train": sum(train) / 2, "cross": cross}


def agree(theory, sample, tolerance):
    """Within `tolerance`, most of which is the theory's error of order 1/N, and three errors of the simulation."""
    mean, error = np.mean(sample, 0), np.std(sample, 0) / np.sqrt(len(sample))
    assert np.max(error / mean) < 0.012
    assert np.all(np.abs(theory - mean) < tolerance * mean + 3 * error)


@pytest.mark.parametrize("momentum", [0.0, 0.85])
def test_the_published_equations(momentum):
    p = problem(momentum)
    found, (C0, C1) = time_domain(p), published(p)
    np.testing.assert_allclose(found.correlation, C0, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.train, np.diagonal(C1), rtol=1e-10)
    assert found.residual < 1e-14


@pytest.mark.parametrize("momentum", [0.0, 0.85])
def test_simulation(momentum):
    p, sample = problem(momentum, size=2), simulation(momentum, size=2, seeds=300)
    found = time_domain(p)
    agree(found.test, sample["test"], 0.013)
    agree(found.train, sample["train"], 0.01)
    agree(time_domain(p, shared_features=False).test, sample["cross"], 0.01)


def test_simulation_of_fresh_batches():
    found = time_domain(problem(batch=BATCH))
    agree(found.test, simulation(batch=BATCH)["test"], 0.03)


def test_without_any_noise_it_is_gradient_descent():
    p = problem() | {"inverse_features": np.asarray(0.0), "inverse_samples": np.asarray(0.0)}
    k = np.arange(1, MODES + 1)
    left = np.cumprod(1 - p["learning_rate"][:, None] * k ** -p["capacity"], 0) ** 2 @ k ** -p["decay"]
    found = time_domain(p)
    np.testing.assert_allclose(found.test[1:], left, rtol=1e-13)
    np.testing.assert_allclose(found.train, found.test + p["noise"] ** 2, rtol=1e-13)


def test_fresh_batches_at_infinite_width_have_a_recursion():
    p = problem(batch=BATCH) | {"inverse_features": np.asarray(0.0)}
    k = np.arange(1, MODES + 1)
    lam, losses = k ** -p["capacity"], []
    A = k ** -p["decay"] / lam
    for rate in np.append(p["learning_rate"], 0):
        losses.append(np.sum(lam * A))
        A = (1 - rate * lam) ** 2 * A + rate**2 / BATCH * lam * (losses[-1] + p["noise"] ** 2)
    found = time_domain(p)
    np.testing.assert_allclose(found.test, losses, rtol=1e-12)
    np.testing.assert_allclose(found.train, found.test + p["noise"] ** 2, rtol=1e-14)


def test_a_correlation_is_positive_and_the_past_does_not_know_the_future():
    p = problem(0.85)
    found = time_domain(p)
    eigenvalues = np.linalg.eigvalsh(found.correlation)
    assert eigenvalues[0] > -1e-14 * eigenvalues[-1]
    late = time_domain(p | {"learning_rate": p["learning_rate"] * (1 + (np.arange(STEPS) >= 20))})
    np.testing.assert_allclose(late.correlation[:21, :21], found.correlation[:21, :21], rtol=1e-13)
    assert np.all(late.test[21:] != found.test[21:])


@pytest.mark.slow
def test_gradients():
    compare_gradients(solve, problem(0.85), compiled=time_domain)


def compare_gradients(theory, p, compiled):
    """Reverse mode against central differences, one control or field at a time; and no step at all."""

    def value(p, theory=compiled):
        losses = theory(p)
        return jnp.log(losses.test[-1]) + jnp.log(losses.train[-2])

    slope = jax.jit(jax.grad(partial(value, theory=theory)))
    gradient = slope(p)
    for name in p:
        h = 1e-4 * np.max(p[name])
        for direction in [np.ones_like(p[name])] if p[name].ndim == 0 else np.eye(STEPS)[[3, 17]]:
            difference = (value(p | {name: p[name] + h * direction}) - value(p | {name: p[name] - h * direction})) / 2
            np.testing.assert_allclose(np.vdot(gradient[name], direction), difference / h, rtol=1e-6, err_msg=name)
    still = slope(p | {"learning_rate": np.zeros(STEPS), "momentum": np.zeros(STEPS)})
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(still))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.85])
def test_the_error_falls_like_the_inverse_size(momentum):
    """Deviation times size is the same at N, P = 40, 60 and 160, 240, and small."""
    scaled = []
    for size, seeds in ((1, 1600), (4, 400)):
        sample = simulation(momentum, size=size, seeds=seeds)["test"]
        mean, error = np.mean(sample, 0), np.std(sample, 0) / np.sqrt(seeds)
        deviation = time_domain(problem(momentum, size=size)).test / mean - 1
        scaled.append((size * deviation[5:], size * error[5:] / mean[5:]))
    (a, a_error), (b, b_error) = scaled
    assert np.all(np.abs(a) < 0.03)
    assert np.all(np.abs(a - b) < 2 * np.hypot(a_error, b_error))


@pytest.mark.slow
def test_simulation_of_fresh_batches_with_many_seeds():
    p, sample = problem(batch=40), simulation(batch=40, seeds=1600)
    found = time_domain(p)
    agree(found.test, sample["test"], 0.015)
    agree(found.train, sample["train"], 0.015)
    agree(time_domain(p, shared_features=False).test, sample["cross"], 0.015)
