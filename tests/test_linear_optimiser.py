"""The matrix and vector of a linear optimiser against the optimiser itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import linear_optimiser


def explicit(theta, forces, rate, momentum, decay):
    path, v = [theta], np.zeros_like(theta)
    for e, eta, beta, lam in zip(forces, rate, momentum, decay, strict=True):
        v = beta * v + e - lam * theta
        theta = theta + eta * v
        path.append(theta)
    return np.array(path)


@pytest.mark.parametrize("momentum", ["none", "constant", "schedule"])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_matches_an_explicit_optimiser(momentum, decay):
    rng, steps = np.random.default_rng(0), 12
    rate = rng.uniform(0, 0.5, steps)
    beta = {"none": np.zeros(steps), "constant": np.full(steps, 0.7), "schedule": rng.uniform(0, 0.95, steps)}[momentum]
    lam = decay * rng.uniform(0.5, 1.5, steps)
    start, forces = rng.standard_normal(3), rng.standard_normal((steps, 3))
    with jax.enable_x64(True):
        c, d = linear_optimiser(*map(jnp.asarray, (rate, beta, lam)))
        c, d = np.asarray(c), np.asarray(d)
    np.testing.assert_allclose(
        d[:, None] * start + c @ forces, explicit(start, forces, rate, beta, lam), rtol=1e-12, atol=1e-12
    )
    assert np.all(c[np.triu_indices(steps + 1, 0, steps)] == 0)


def test_closed_forms():
    steps, eta, beta, lam = 6, 0.2, 0.6, 0.5
    zero, one = np.zeros(steps), np.ones(steps)
    lag = np.arange(steps + 1)[:, None] - np.arange(steps)
    with jax.enable_x64(True):
        c, _ = linear_optimiser(jnp.asarray(eta * one), jnp.asarray(beta * one), jnp.asarray(zero))
        np.testing.assert_allclose(
            c, np.where(lag > 0, eta * (1 - beta ** np.maximum(lag, 0)) / (1 - beta), 0), rtol=0, atol=1e-14
        )
        c, d = linear_optimiser(jnp.asarray(eta * one), jnp.asarray(zero), jnp.asarray(lam * one))
        np.testing.assert_allclose(d, (1 - eta * lam) ** np.arange(steps + 1), rtol=0, atol=1e-14)
        np.testing.assert_allclose(
            c, np.where(lag > 0, eta * (1 - eta * lam) ** np.maximum(lag - 1, 0), 0), rtol=0, atol=1e-14
        )


def test_derivatives_at_zero_rate_and_momentum():
    steps = 5
    with jax.enable_x64(True):
        zero = jnp.zeros(steps)

        @jax.jit
        def total(rate, beta, lam):
            c, d = linear_optimiser(rate, beta, lam)
            return jnp.sum(c * jnp.arange(1.0, steps + 1)) + jnp.sum(d)

        for at in (zero, zero + 0.3):
            gradients = jax.grad(total, argnums=(0, 1, 2))(at, zero, zero)
            for number, gradient in enumerate(gradients):
                for t in (0, steps - 1):
                    move = [zero] * 3
                    move[number] = zero.at[t].set(1e-5)
                    plus, minus = (total(at + s * move[0], s * move[1], s * move[2]) for s in (1, -1))
                    np.testing.assert_allclose(gradient[t], (plus - minus) / 2e-5, rtol=0, atol=1e-8)
