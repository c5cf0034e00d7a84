"""Minibatch SGD on given features: moments against runs, closed cases, slopes, pools, Gaussian stand-ins, messages."""

import chex
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

from .helpers import raises

STEPS = 40
LIMIT = lx.limits.LinearModel()
RISE = np.linspace(0, 0.8, STEPS)


def relu_task(samples=40, test_samples=50, seed=0):
    """Few ReLU features, far from Gaussian, and a target that they cannot express."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((6, 12)) / np.sqrt(6)
    rng = np.random.default_rng(seed + 1)
    x = rng.standard_normal((samples + test_samples, 6))
    y = np.sin(x[:, 0]) + 0.3 * rng.standard_normal(samples + test_samples)
    features = np.maximum(x @ directions, 0)
    return lx.tasks.from_arrays(features[:samples], y[:samples], features[samples:], y[samples:])


TASK = relu_task()
PROTOCOLS = {
    "with replacement": lx.MinibatchSGD(0.1, 2, steps=STEPS),
    "without replacement": lx.MinibatchSGD(0.1, 5, replace=False, steps=STEPS),
    "everything varies": lx.MinibatchSGD(0.05 + 0.05 * RISE, 2 + np.arange(STEPS) // 10, RISE, 0.1 * RISE[::-1]),
    "a pool": lx.OnlineSGD(0.05, 0.5, 0.05, batch_size=3, steps=STEPS),
}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_runs(protocol):
    report = lx.compare(LIMIT, TASK, protocol, seeds=10_000)
    assert report.sizes is None
    assert report.agrees, report.agreement
    assert max(report.standard_errors["test_loss"]) < 0.003


def test_a_few_runs():
    report = lx.compare(LIMIT, TASK, PROTOCOLS["without replacement"], seeds=400)
    assert report.agrees, report.agreement


def descent(task, protocol):
    """Full-batch gradient descent, step by step."""
    theta, velocity, losses = np.zeros(task.dim), 0.0, []
    for rate, momentum, decay in zip(protocol.learning_rate, protocol.momentum, protocol.weight_decay, strict=True):
        losses.append(theta)
        gradient = task.x.T @ (task.x @ theta - task.y) / len(task.y) + decay * theta
        velocity = momentum * velocity + gradient
        theta = theta - rate * velocity
    losses = np.array([*losses, theta])
    return np.mean((losses @ task.x.T - task.y) ** 2, 1), np.mean((losses @ task.x_test.T - task.y_test) ** 2, 1)


@pytest.mark.parametrize("whole", [False, True])
def test_the_whole_batch_is_gradient_descent(whole):
    """A batch of all samples without replacement, too, has no noise."""
    schedules = 0.1 + 0.0 * RISE, RISE, 0.1 * RISE
    plain = lx.GradientDescent(*schedules)
    drawn = lx.MinibatchSGD(schedules[0], 40, *schedules[1:], replace=False)
    theory = LIMIT.solve(TASK, drawn if whole else plain)
    train, test = descent(TASK, plain)
    np.testing.assert_allclose(theory.train_loss, train, rtol=1e-12)
    np.testing.assert_allclose(theory.test_loss, test, rtol=1e-12)
    assert theory.loss_convention == "mean_square"


def test_a_fitted_sample_loses_no_digits():
    """More features than samples: the loss falls to nothing, and its digits with it."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, 8))
    task = lx.tasks.from_arrays(x, rng.standard_normal(5))
    loss = LIMIT.solve(task, lx.GradientDescent(0.3, steps=400)).train_loss
    values, vectors = np.linalg.eigh(x @ x.T / 5)
    left = (1 - 0.3 * values) ** (2 * np.arange(401)[:, None]) @ (vectors.T @ task.y) ** 2 / 5
    np.testing.assert_allclose(loss, left, rtol=1e-4, atol=1e-28)
    assert loss[-1] < 1e-12


def test_one_pass_sgd_on_a_pool_approaches_the_recursion_for_gaussian_features():
    """Up to the sampling error of the pool."""
    gaussian = lx.tasks.power_law(6, 1.2, 1.6, noise=0.3)
    x, y = gaussian.draw(1, jax.random.key(1)).batch(jax.random.key(2), 20_000)
    protocol = lx.OnlineSGD(0.1, 0.3, batch_size=2, steps=STEPS)
    exact = lx.limits.RandomFeatures().solve(gaussian, protocol).test_loss + 0.09
    pool = LIMIT.solve(lx.tasks.from_arrays(x, y), protocol).train_loss
    np.testing.assert_allclose(pool, exact, rtol=0.03)


def test_the_gaussian_equivalent_has_the_first_two_moments():
    task = lx.tasks.gaussian_equivalent(TASK)
    S = TASK.x.T @ TASK.x / 40
    np.testing.assert_allclose(task.eigenvalues, np.linalg.eigvalsh(S)[::-1], rtol=1e-10)
    left = TASK.y - TASK.x @ np.linalg.lstsq(TASK.x, TASK.y, rcond=None)[0]
    np.testing.assert_allclose(task.noise, np.sqrt(np.mean(left**2)), rtol=1e-10)
    # without noise of batches only these moments matter
    descent = lx.OnlineSGD(0.1, batch_size=1e12, steps=20)
    exact = LIMIT.solve(TASK, lx.GradientDescent(0.1, steps=20)).train_loss
    found = lx.limits.RandomFeatures().solve(task, descent).test_loss + task.noise**2
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_few_relu_features_are_not_gaussian():
    """The exact theory and the Gaussian formula with the same second moments are apart; runs side with the former
    (`test_runs`)."""
    protocol = lx.OnlineSGD(0.25, batch_size=1, steps=STEPS)
    task = lx.tasks.gaussian_equivalent(TASK)
    gaussian = lx.limits.RandomFeatures().solve(task, protocol).test_loss + task.noise**2
    exact = LIMIT.solve(TASK, protocol).train_loss
    assert np.max(np.abs(gaussian / exact - 1)) > 0.05


def value(rate, momentum, decay, batch, scale, protocol=lx.MinibatchSGD, **options):
    task = lx.tasks.from_arrays(scale * jnp.asarray(TASK.x), TASK.y, TASK.x_test, TASK.y_test)
    return jnp.log(lx.final_loss(LIMIT, task, protocol(rate, batch, momentum, decay, **options)))


@pytest.mark.slow
@pytest.mark.parametrize("replace", [True, False])
def test_slopes_are_differences(replace):
    with jax.enable_x64(True):
        at = [0.1 * np.ones(12), 0.1 + 0.3 * RISE[:12], 0.1 * np.ones(12), 3.0 * np.ones(12), np.ones(())]

        def at_point(*at):
            return value(*at, replace=replace)

        slopes = jax.jit(jax.grad(at_point, argnums=range(5)))(*at)
        for i, slope in enumerate(slopes):
            step = 1e-5 * np.max(at[i])
            for k in range(0, slope.size, 5):
                move = np.zeros(slope.size)
                move[k] = step
                up, down = ([*at[:i], at[i] + s * move.reshape(slope.shape), *at[i + 1 :]] for s in (1, -1))
                difference = (at_point(*up) - at_point(*down)) / (2 * step)
                np.testing.assert_allclose(np.ravel(slope)[k], difference, rtol=2e-6, atol=1e-9, err_msg=f"{i}, {k}")


def test_no_retracing_when_values_change():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def solve(rate, batch):
        return lx.final_loss(LIMIT, TASK, lx.MinibatchSGD(rate, batch, steps=10))

    chex.clear_trace_counter()
    values = [float(solve(rate, batch)) for rate, batch in ((0.1, 2.0), (0.2, 2.0), (0.1, 3.0))]
    np.testing.assert_allclose(values[0], LIMIT.solve(TASK, lx.MinibatchSGD(0.1, 2, steps=10)).test_loss[-1], rtol=1e-6)
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (
            lambda: LIMIT.solve(lx.tasks.power_law(), PROTOCOLS["a pool"]),
            TypeError,
            "task must be a fixed data set (sphere, digits, from_arrays)",
        ),
        (
            lambda: LIMIT.solve(TASK, lx.GradientFlow([1.0])),
            TypeError,
            "protocol must be GradientDescent, MinibatchSGD or OnlineSGD for LinearModel",
        ),
        (
            lambda: LIMIT.solve(TASK, lx.OnlineSGD(0.1, batch_ratio=1, steps=2)),
            ValueError,
            "batch_ratio is for limits of many dimensions; LinearModel takes batch_size, samples a step.",
        ),
        (
            lambda: LIMIT.solve(TASK, lx.MinibatchSGD(0.1, 41, replace=False, steps=2)),
            ValueError,
            "batch_size must be at most the 40 samples without replacement; it is 41.",
        ),
        (
            lambda: LIMIT.solve(lx.tasks.from_arrays(TASK.x, TASK.x), PROTOCOLS["a pool"]),
            ValueError,
            "y must have shape [samples] for a model with one output; its shape is (40, 12).",
        ),
        (
            lambda: LIMIT.solve(TASK, PROTOCOLS["a pool"], memory_limit=1000),
            MemoryError,
            "LinearModel.solve would need about ",
        ),
        (
            lambda: lx.nets.train(LIMIT.finite(TASK), lx.tasks.from_arrays(TASK.x[:, :5], TASK.y), PROTOCOLS["a pool"]),
            ValueError,
            "task must have the network's 12 features; it has 5.",
        ),
        (
            lambda: lx.tasks.gaussian_equivalent(lx.tasks.power_law()),
            TypeError,
            "task must be a fixed data set (sphere, digits, from_arrays)",
        ),
        (
            lambda: lx.tasks.random_features(TASK, 0),
            ValueError,
            "count must be at least 1; it is 0.",
        ),
        (
            lambda: lx.tasks.random_features(TASK, 5, activation="relu"),
            TypeError,
            "activation must be a function of arrays",
        ),
    ],
)
def test_messages(call, kind, sentence):
    with raises(kind, sentence):
        call()


def test_divergence_says_when():
    with pytest.raises(lx.DivergedError, match="left the stable region at step"):
        LIMIT.solve(TASK, lx.MinibatchSGD(20.0, 1, steps=60))


def test_random_features_of_a_data_set():
    task = lx.tasks.random_features(TASK, 30, key=jax.random.key(2))
    assert task.x.shape == (40, 30)
    assert task.x_test.shape == (50, 30)
    assert np.all(task.x >= 0)
    np.testing.assert_array_equal(task.y, TASK.y)
    # of unit variance before the activation where the inputs are, and of a trace of order one
    white = lx.tasks.from_arrays(np.random.default_rng(0).standard_normal((2000, 50)), np.zeros(2000))
    traces = np.sum(np.asarray(lx.tasks.random_features(white, 200).x) ** 2, axis=1)
    np.testing.assert_allclose(traces.mean(), 0.5, rtol=0.05)
    again = lx.tasks.random_features(TASK, 30, key=jax.random.key(2), activation=jnp.tanh)
    assert not np.allclose(again.x, task.x)


@pytest.mark.slow
def test_digits_and_random_relu_features():
    """Real images: theory against runs, on pixels and on random features of them."""
    pixels = lx.tasks.digits(samples=100, test_samples=100, classes=(3, 8))
    pixels = lx.tasks.from_arrays(pixels.x / 8, pixels.y, pixels.x_test / 8, pixels.y_test)
    for task in (pixels, lx.tasks.random_features(pixels, 50)):
        report = lx.compare(LIMIT, task, lx.MinibatchSGD(0.2, 4, steps=200), seeds=2000)
        assert report.agrees, report.agreement
        assert report.errors["test_loss"][0] < 0.01


@pytest.mark.slow
def test_a_pool_stands_for_fresh_samples():
    """Runs on features that are never seen twice, against the theory of a pool: within one per cent."""
    rng = np.random.default_rng(5)
    directions = rng.standard_normal((6, 12)) / np.sqrt(6)

    def draw(*shape):
        x = rng.standard_normal((*shape, 6))
        return np.maximum(x @ directions, 0), np.sin(x[..., 0])

    pool = lx.tasks.from_arrays(*draw(100_000))
    theory = LIMIT.solve(pool, lx.OnlineSGD(0.2, batch_size=2, steps=STEPS)).train_loss
    S, h = np.asarray(pool.x).T @ pool.x / 1e5, np.asarray(pool.x).T @ pool.y / 1e5
    theta, losses = np.zeros((80_000, 12)), []
    for _ in range(STEPS + 1):
        losses.append(np.mean(pool.y**2) + np.einsum("ri,ij,rj->r", theta, S, theta) - 2 * theta @ h)
        x, y = draw(len(theta), 2)
        theta = theta - 0.2 * np.einsum("rb,rbi->ri", np.einsum("rbi,ri->rb", x, theta) - y, x) / 2
    losses = np.array(losses)
    error = losses.std(1) / len(theta) ** 0.5 / losses.mean(1)
    assert error.max() < 0.004
    assert np.all(np.abs(losses.mean(1) / theory - 1) < 0.01)
