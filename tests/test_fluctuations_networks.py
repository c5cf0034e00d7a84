"""Finite width against many networks: covariances, mean shifts, losses, kernels."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

ONE = lx.tasks.from_arrays([[1.0]], [1.0])
TWO = lx.tasks.from_arrays([[1.0, 0.4], [-0.5, 1.2]], [1.0, -0.7], [[0.3, -1.0]], [0.4])
SHORT = lx.GradientDescent(0.15, steps=4)
RICH = lx.GradientDescent(0.4, steps=7)


def networks(design, task, protocol, width, count, key=0, paired=False):
    """Gradient descent of many small networks on their own gradients: predictions and kernels `[net, time, ...]` on
    training and then test samples, and last-layer kernels of the former at equal times."""
    x = jnp.concatenate([task.x, task.x_test]) if task.has_test else jnp.asarray(task.x)
    y, depth = jnp.asarray(task.y), design.depth
    scale = np.broadcast_to(design.init_scale, depth + 1)
    rates = np.broadcast_to(design.rate_scale, depth + 1)
    phi = {"tanh": jnp.tanh, "identity": lambda h: h}[design.activation]
    gamma, biased = float(design.richness), design.has_biases

    def forward(weights, x):
        signal, fan_in = x, x.shape[1]
        for W, b in weights[:-1]:
            signal = phi(signal @ W.T / fan_in**0.5 + biased * b)
            fan_in = width
        return signal @ weights[-1][0] / (gamma * width), signal @ signal.T / width

    def loss(weights):
        return jnp.mean((forward(weights, x[: len(y)])[0] - y) ** 2) / 2

    def train(key, sign):
        keys = jax.random.split(key, 2 * depth + 1)
        shapes = [(width, x.shape[1])] + [(width, width)] * (depth - 1)
        weights = [
            (s * jax.random.normal(k, shape), design.bias_scale * jax.random.normal(kb, (width,)))
            for s, k, kb, shape in zip(scale[:-1], keys[::2], keys[1::2], shapes, strict=False)
        ]
        weights.append((sign * scale[-1] * jax.random.normal(keys[-1], (width,)), jnp.zeros(())))
        factors = [(r, r) for r in rates]

        def step(state, now):
            weights, velocity = state
            rate, momentum, decay = now
            f, kernel = forward(weights, x)
            raw = gamma**2 * width
            push = jax.tree.map(lambda g, w: -raw * g - decay * w, jax.grad(loss)(weights), weights)
            velocity = jax.tree.map(lambda v, p: momentum * v + p, velocity, push)
            moved = jax.tree.map(lambda w, v, r: w + rate * r * v, weights, velocity, factors)
            return (moved, velocity), (f, kernel[: len(y), : len(y)])

        schedules = [jnp.append(s, 0.0) for s in (protocol.learning_rate, protocol.momentum, protocol.weight_decay)]
        return jax.lax.scan(step, (weights, jax.tree.map(jnp.zeros_like, weights)), tuple(schedules))[1]

    def one(key):
        runs = [train(key, sign) for sign in ((1.0, -1.0) if paired else (1.0,))]
        return jax.tree.map(lambda *a: sum(a) / len(a), *runs)

    keys = jax.random.split(jax.random.key(key), count)
    together = max(1, 2**16 // width ** min(depth, 2))
    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=together))(keys)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), found)


def within(sample, expected, correction, sigmas=5.0):
    """The mean over networks is what is expected, within so many of its measured standard errors and a correction."""
    sample = np.asarray(sample, float)
    error = sample.std(0, ddof=1) / len(sample) ** 0.5
    np.testing.assert_array_less(np.abs(sample.mean(0) - expected), sigmas * error + correction + 1e-12)
    return error


def squares(f, width):
    """Products whose mean over networks is N times the covariance, `[net, time, sample, time, sample]`."""
    centred = f - f.mean(0)
    return width * len(f) / (len(f) - 1) * centred[:, :, :, None, None] * centred[:, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("richness", [0.3, 1.0, 2.0])
def test_covariance_and_bias(richness):
    """One hidden layer of tanh against 24,000 networks of width 64, on two samples and one that is not learned."""
    design, width = lx.limits.MLP(1, "tanh", richness), 64
    found = lx.fluctuations(design, TWO, RICH)
    f, phi = networks(design, TWO, RICH, width, 24_000)
    train = f[:, :, :2]
    sample = squares(train, width)
    scale = np.abs(found.prediction_covariance).max()
    # of the next order in 1/width
    error = within(sample, found.prediction_covariance, 2 * scale / width)
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(found.prediction_covariance)
    distance = np.linalg.norm(sample.mean(0) - found.prediction_covariance)
    assert distance < 3 * np.linalg.norm(error) + 0.02 * np.linalg.norm(found.prediction_covariance)
    within(width * (f[:, :, 2:] - f[:, :, 2:].mean(0)) ** 2, found.test_prediction_variance, 2 * scale / width)
    within(
        width * (phi - phi.mean(0)) ** 2,
        found.kernel_variance["Phi", 1],
        4 * found.kernel_variance["Phi", 1].max() / width,
    )


@pytest.mark.slow
@pytest.mark.parametrize("richness", [0.3, 1.0, 2.0])
def test_mean_shift(richness):
    """Mean shifts of predictions, kernels and losses against 24,000 pairs, whose mean has less noise."""
    design, width = lx.limits.MLP(1, "tanh", richness), 64
    found = lx.fluctuations(design, TWO, RICH)
    f, phi = networks(design, TWO, RICH, width, 24_000, paired=True)
    expected = np.concatenate([found.prediction_bias, found.test_prediction_bias], axis=1)
    infinite = np.concatenate([found.predictions, found.test_predictions], axis=1)
    next_order = 4 * np.abs(expected).max() / width
    error = within(width * (f - infinite), expected, next_order)
    assert np.abs(expected).max() > 5 * error.max()  # there is something to see
    within(width * (phi - found.kernels["Phi", 1]), found.kernel_bias["Phi", 1], next_order + 4 * error.max())


@pytest.mark.slow
def test_everything_at_once():
    """Schedules, momentum, decay, biases, scales and layer rates, for all three kinds of networks; and their losses."""
    protocol = lx.GradientDescent(np.linspace(0.3, 0.5, 6), np.linspace(0.0, 0.5, 6), 0.2)
    design = lx.limits.MLP(1, "tanh", 0.8, [0.9, 1.2], 0.4, rate_scale=[1.3, 0.6])
    width, count = 64, 10_000
    for kind in ("single", "pairs"):
        found = lx.fluctuations(design, TWO, protocol, networks=kind)
        f, phi = networks(design, TWO, protocol, width, count, paired=kind == "pairs")
        scale = np.abs(found.prediction_covariance).max()
        within(squares(f[:, :, :2], width), found.prediction_covariance, 3 * scale / width)
        shift = np.concatenate([found.prediction_bias, found.test_prediction_bias], axis=1)
        infinite = np.concatenate([found.predictions, found.test_predictions], axis=1)
        within(width * (f - infinite), shift, 4 * np.abs(shift).max() / width)
        for test, y, part in ((False, TWO.y, f[:, :, :2]), (True, TWO.y_test, f[:, :, 2:])):
            loss = np.mean((part - y) ** 2, axis=2) / 2
            next_order = 0.15 * np.abs(found.loss_shift(test)).max() / width
            within(loss, found.predicted_loss(width, test=test), next_order)
            tens = np.mean((part.reshape(-1, 10, *part.shape[1:]).mean(1) - y) ** 2, axis=2) / 2
            within(tens, found.predicted_loss(width, 10, test=test), next_order)
            spread = found.band(width)["test_loss" if test else "train_loss"]
            np.testing.assert_allclose(loss.std(0)[1:], spread[1:], rtol=0.1)
        within(width * (phi - phi.mean(0)) ** 2, found.kernel_variance["Phi", 1], 0.1 * width**-0.5)


@pytest.mark.slow
def test_centred_networks():
    """Where f - f(0) is trained, against networks that are given the targets y + f(0)."""
    design, width, count = lx.limits.MLP(1, "identity"), 100, 10_000
    rng = np.random.default_rng(0)
    a, w = (rng.standard_normal((count, width)) for _ in range(2))
    start, rows = (a * w).mean(1), []
    for _ in range(5):
        f = (a * w).mean(1) - start
        rows.append(f)
        push = (0.15 * (1 - f))[:, None]
        a, w = a + push * w, w + push * a
    f = np.stack(rows, axis=1)[:, :, None]
    for method in ("units", "action"):
        found = lx.fluctuations(design, ONE, SHORT, networks="centred", method=method)
        within(squares(f, width), found.prediction_covariance, 0.03 * found.prediction_covariance.max())
        within(width * (f - found.predictions), found.prediction_bias, 0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "last"), [(1, 1.98), (2, 3.84), (3, 5.07)])
def test_deep_linear(depth, last):
    """Linear layers against 6,000 networks of width 200: predictions, kernels, and shifts of means. The variance of
    the last kernel accumulates with depth."""
    width, design = 200, lx.limits.MLP(depth, "identity")
    found = lx.fluctuations(design, ONE, SHORT, method="action")
    assert abs(found.kernel_variance["Phi", depth][-1, 0, 0] - last) < 0.005
    f, phi = networks(design, ONE, SHORT, width, 6_000)
    scale = np.abs(found.prediction_covariance).max()
    within(squares(f, width), found.prediction_covariance, 1.5 * depth**2 * scale / width)
    variance = found.kernel_variance["Phi", depth]
    within(width * (phi - phi.mean(0)) ** 2, variance, 1.5 * depth**2 * variance.max() / width)
    shift = found.prediction_bias
    error = within(width * (f - found.predictions), shift, 1.5 * depth**2 * np.abs(shift).max() / width)
    assert np.abs(shift).max() > 2 * error.max()


@pytest.mark.slow
def test_deep_linear_general():
    """Two samples, a test sample, and everything else, at depth 2."""
    protocol = lx.GradientDescent([0.3, 0.4], 0.3, 0.1)
    design, width = lx.limits.MLP(2, "identity", 0.9, [0.9, 1.1, 1.2], 0.4, rate_scale=[1.2, 0.7, 1.1]), 128
    found = lx.fluctuations(design, TWO, protocol)
    f, phi = networks(design, TWO, protocol, width, 10_000)
    scale = np.abs(found.prediction_covariance).max()
    within(squares(f[:, :, :2], width), found.prediction_covariance, 8 * scale / width)
    shift = np.concatenate([found.prediction_bias, found.test_prediction_bias], axis=1)
    infinite = np.concatenate([found.predictions, found.test_predictions], axis=1)
    within(width * (f - infinite), shift, 8 * np.abs(shift).max() / width)
    variance = found.kernel_variance["Phi", 2]
    within(width * (phi - phi.mean(0)) ** 2, variance, 8 * variance.max() / width)
