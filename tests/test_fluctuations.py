"""Finite width: closed forms, the two methods, derivatives, messages."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import gaussian_grid

from .helpers import raises

ONE = lx.tasks.from_arrays([[1.0]], [1.0])
TWO = lx.tasks.from_arrays([[1.0, 0.4], [-0.5, 1.2]], [1.0, -0.7], [[0.3, -1.0]], [0.4])
SHORT = lx.GradientDescent(0.15, steps=4)


def test_grid():
    """The trapezoid rule integrates Gaussian moments, and an analytic function, to its truncation at 6 deviations."""
    nodes, weights = gaussian_grid(2, 0.35, 6.0)
    assert nodes.shape == (2, len(weights))
    np.testing.assert_allclose((nodes**2 * weights).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(((nodes[0] * nodes[1]) ** 2) @ weights, 1, atol=1e-4)
    fine, fine_weights = gaussian_grid(2, 0.1, 6.0)
    np.testing.assert_allclose(
        np.tanh(nodes[0] + nodes[1]) ** 2 @ weights, np.tanh(fine.sum(0)) ** 2 @ fine_weights, atol=1e-7
    )


def test_two_layer_linear():
    """One call: the start, the closed-form mean, causality, what the record's methods say of each other."""
    protocol = lx.GradientDescent(0.15, steps=4)
    found = lx.fluctuations(lx.limits.MLP(1, "identity"), ONE, protocol)
    f = [0.0]
    plus = minus = 1.0
    for _ in range(4):
        c = 0.15 * (1 - f[-1])
        plus, minus = plus * (1 + c) ** 2, minus * (1 - c) ** 2
        f.append((plus - minus) / 2)
    np.testing.assert_allclose(found.predictions[:, 0], f, atol=1e-5)
    np.testing.assert_allclose(found.prediction_variance[0], 1, atol=1e-5)  # Phi / richness^2
    np.testing.assert_allclose(found.kernel_variance["NTK", 0][0], 4, atol=1e-4)
    np.testing.assert_allclose(found.prediction_bias[0], 0, atol=1e-12)
    # f(1) = f(0) + eta K(0) (1 - f(0)) + eta^2 (1 - f(0))^2 f(0), with E f(0)^2 = 1/N and E f(0) K(0) = 0
    np.testing.assert_allclose(found.prediction_bias[1], -2 * 0.15**2, atol=1e-5)
    error = 1 - found.predictions[:, 0]
    bias = -error * found.prediction_bias[:, 0]
    np.testing.assert_allclose(found.ensemble_loss_shift(), bias)
    np.testing.assert_allclose(found.loss_shift(), bias + found.prediction_variance[:, 0] / 2)
    np.testing.assert_allclose(found.predicted_loss(50, ensemble=10**9), error**2 / 2 + bias / 50, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.predicted_loss(50), error**2 / 2 + found.loss_shift() / 50)
    band = found.band(50)
    np.testing.assert_allclose(band["predictions"], np.sqrt(found.prediction_variance / 50))
    assert set(band) == {"predictions", "train_loss"}
    with raises(ValueError, "test=True needs a task with test samples"):
        found.loss(test=True)


MESSAGES = {
    "limit": (
        TypeError,
        "limit must be limits.MLP, the family whose fluctuations are known;",
        lambda: lx.fluctuations(lx.limits.RandomFeatures(), ONE, SHORT),
    ),
    "task": (
        TypeError,
        "task must be a fixed data set (sphere, digits, from_arrays) for fluctuations;",
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh"), lx.tasks.power_law(), SHORT),
    ),
    "protocol": (
        TypeError,
        "protocol must be GradientDescent for fluctuations;",
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh"), ONE, lx.MinibatchSGD(0.1, 1, steps=2)),
    ),
    "richness": (
        ValueError,
        "richness must be above 0 for fluctuations:",
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh", 0.0), ONE, SHORT),
    ),
    "depth": (
        ValueError,
        "depth must be 1 for fluctuations of nonlinear networks; it is 2.",
        lambda: lx.fluctuations(lx.limits.MLP(2, "tanh"), ONE, SHORT),
    ),
    "relu": (
        ValueError,
        'activation "relu" has a kink',
        lambda: lx.fluctuations(lx.limits.MLP(1, "relu"), ONE, SHORT),
    ),
    "rule": (
        TypeError,
        "rule must be Backpropagation() for fluctuations;",
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh", rule=lx.rules.Hebb()), ONE, SHORT),
    ),
    "loss": (
        ValueError,
        "loss must be \"half_mean_square\" for fluctuations; it is 'cross_entropy'.",
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh", loss="cross_entropy"), ONE, SHORT),
    ),
    "outputs": (
        ValueError,
        "y must have the shape [samples] for fluctuations; it has (1, 2).",
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh"), lx.tasks.from_arrays([[1.0]], [[1.0, 2.0]]), SHORT),
    ),
    "units": (
        ValueError,
        'method "units" is for one hidden layer, where units meet in the error only; depth is 2. Use method="action".',
        lambda: lx.fluctuations(lx.limits.MLP(2, "identity"), ONE, SHORT, method="units"),
    ),
    "action": (
        ValueError,
        'method "action" is for linear networks; it needs activation="identity".',
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh"), ONE, SHORT, method="action"),
    ),
    "pairs": (
        ValueError,
        'networks "pairs" is for one hidden layer: the two share all their hidden weights.',
        lambda: lx.fluctuations(lx.limits.MLP(2, "identity"), ONE, SHORT, networks="pairs"),
    ),
    "networks": (
        ValueError,
        'networks "plain" is unknown; one of: single, pairs, centred.',
        lambda: lx.fluctuations(lx.limits.MLP(1, "tanh"), ONE, SHORT, networks="plain"),
    ),
    "grid": (
        ValueError,
        'nodes "grid" is for up to 6 Gaussians a unit; here are 9. Use nodes="samples".',
        lambda: lx.fluctuations(
            lx.limits.MLP(1, "tanh"), lx.tasks.sphere(samples=8, dim=9, test_samples=0), SHORT, nodes="grid"
        ),
    ),
    "memory": (
        MemoryError,
        "fluctuations would need about",
        lambda: lx.fluctuations(lx.limits.MLP(2, "identity"), ONE, lx.GradientDescent(0.1, steps=200)),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    kind, sentence, call = MESSAGES[name]
    with raises(kind, sentence):
        call()


RICH = lx.GradientDescent(0.4, steps=7)


@pytest.mark.slow
def test_methods_agree():
    """Single units and the action are two ways to the same numbers, with everything that a network may have."""
    protocol = lx.GradientDescent([0.2, 0.3, 0.4], 0.3, 0.1)
    task = lx.tasks.from_arrays(TWO.x[:1], TWO.y[:1], TWO.x_test[:1], TWO.y_test)
    design = lx.limits.MLP(1, "identity", 1.3, [0.8, 1.1], 0.4, rate_scale=[1.2, 0.7])
    action = lx.fluctuations(design, task, protocol, method="action")
    units = lx.fluctuations(design, task, protocol, method="units", nodes="grid")
    for name in ("predictions", "test_predictions", "prediction_covariance", "prediction_bias",
                 "test_prediction_covariance", "test_prediction_bias"):  # fmt: skip
        np.testing.assert_allclose(getattr(units, name), getattr(action, name), atol=1e-3, err_msg=name)
    for name in action.kernels:
        for table in ("kernels", "kernel_variance", "kernel_bias"):
            np.testing.assert_allclose(getattr(units, table)[name], getattr(action, table)[name], atol=2e-3)


@pytest.mark.slow
def test_final_kernel_of_flow():
    """N Var K = 4 / (1 + richness^2 y^2) at the end of gradient flow; batched over the richness."""
    richness = np.array([0.3, 1.0, 2.0])

    def last(richness, steps):
        protocol = lx.GradientDescent(3.6 / steps, steps=steps)
        found = lx.fluctuations(lx.limits.MLP(1, "identity", richness), ONE, protocol)
        return found.kernel_variance["NTK", 0][-1, 0, 0]

    with jax.enable_x64(True):
        coarse, fine = (jax.vmap(lambda r, steps=steps: last(r, steps))(jnp.asarray(richness)) for steps in (40, 80))
    coarse, fine = np.asarray(coarse), np.asarray(fine)
    # the error of Euler steps is of first order
    np.testing.assert_allclose(2 * fine - coarse, 4 / (1 + richness**2), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["units", "action"])
def test_derivatives(method):
    """With respect to the richness and the rate of one step, in single precision outside, against differences."""

    def objective(richness, second):
        rates = jnp.stack([jnp.asarray(0.2, second.dtype), second, jnp.asarray(0.1, second.dtype)])
        found = lx.fluctuations(lx.limits.MLP(1, "identity", richness), ONE, lx.GradientDescent(rates), method=method)
        return found.prediction_variance[-1, 0] + found.prediction_bias[-1, 0] + found.predicted_loss(10)[-1]

    slopes = jax.grad(objective, argnums=(0, 1))(jnp.asarray(0.8), jnp.asarray(0.3))
    with jax.enable_x64(True):
        point = np.array([0.8, 0.3])
        value = jax.jit(objective)
        for i, slope in enumerate(slopes):
            step = 1e-4 * np.eye(2)[i]
            difference = (value(*map(jnp.asarray, point + step)) - value(*map(jnp.asarray, point - step))) / 2e-4
            np.testing.assert_allclose(slope, difference, rtol=1e-4)


@pytest.mark.slow
def test_samples_and_grid():
    """Random units against the grid, within the noise that their number gives; no test sample changes training rows."""
    design = lx.limits.MLP(1, "tanh")
    grid = lx.fluctuations(design, TWO, RICH)
    keys = jax.random.split(jax.random.key(1), 4)
    runs = [lx.fluctuations(design, TWO, RICH, nodes="samples", samples=10_000, key=key) for key in keys]
    for name in ("predictions", "prediction_covariance", "prediction_bias"):
        values, exact = np.stack([getattr(run, name) for run in runs]), getattr(grid, name)
        noise = np.linalg.norm(values.std(0, ddof=1)) / len(runs) ** 0.5
        assert noise < 0.05 * np.linalg.norm(exact)
        assert np.linalg.norm(values.mean(0) - exact) < 4 * noise, name
    finer = lx.fluctuations(design, TWO, RICH, spacing=0.3)
    alone = lx.fluctuations(design, lx.tasks.from_arrays(TWO.x, TWO.y), RICH)
    for other in (finer, alone):
        for name in ("predictions", "prediction_covariance", "prediction_bias"):
            np.testing.assert_allclose(getattr(other, name), getattr(grid, name), atol=5e-4)


@pytest.mark.slow
def test_compare_predicts_the_spread():
    report = lx.compare(lx.limits.MLP(1, "tanh"), TWO, RICH, sizes=(64, 128), seeds=1000, fluctuations=True)
    for size, run in report.runs.items():
        band = report.fluctuations.band(size)
        for name in ("predictions", "train_loss", "test_predictions", "test_loss"):
            np.testing.assert_allclose(
                np.std(run.curves()[name], axis=0)[2:], band[name][2:], rtol=5 * 2000**-0.5 + 4 / size, err_msg=name
            )
    drawn = report.plot()
    assert any(line.get_linestyle() == ":" for line in drawn.axes[0].lines)
