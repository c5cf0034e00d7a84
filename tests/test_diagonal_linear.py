"""Diagonal linear networks: the exact reduction, the staircase at vanishing weights, its derivatives, messages."""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import solvers, tasks

from .helpers import raises

LIMIT = lx.limits.DiagonalLinear()
rng = np.random.default_rng(0)
X = rng.standard_normal((40, 6)) @ (np.eye(6) + 0.3 * rng.standard_normal((6, 6)))
Y = X @ np.array([1.2, -0.8, 0.9, -0.5, 0.0, 0.0]) + 0.1 * rng.standard_normal(40)
TASK = tasks.from_arrays(X, Y)
TIMES = lx.GradientFlow(np.linspace(0, 2.2, 60))


@pytest.mark.slow
def test_networks_are_gradient_flow_of_their_weights():
    task, times = tasks.from_arrays(X[:, :3], Y), np.linspace(0, 1.5, 12)
    with jax.enable_x64(True):
        net = LIMIT.finite(task, size=5, key=jax.random.key(1))
        run, trained = lx.nets.train(net, task, lx.GradientFlow(times), return_net=True)

        def loss(weights):
            return jnp.mean((task.x @ (weights.plus**2 - weights.minus**2) / 2 - task.y) ** 2) / 2

        direct = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, w, args: jax.tree.map(jnp.negative, jax.grad(loss)(w))),
            diffrax.Dopri8(),
            t0=0.0,
            t1=5 * times[-1],
            dt0=None,
            y0=net.weights,
            saveat=diffrax.SaveAt(ts=jnp.asarray(5 * times)),
            stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-12),
            max_steps=10**5,
        ).ys
    expected = (np.asarray(direct.plus) ** 2 - np.asarray(direct.minus) ** 2) / 2
    np.testing.assert_allclose(run.extras["coefficients"], expected, atol=1e-6)
    final = np.asarray(trained.weights.plus), np.asarray(trained.weights.minus)
    np.testing.assert_allclose((final[0] ** 2 - final[1] ** 2) / 2, expected[-1], atol=1e-6)
    np.testing.assert_allclose(np.asarray(trained.weights.plus), np.asarray(direct.plus)[-1], atol=1e-6)


def test_equal_weights_give_the_hyperbolic_sine():
    a, G = 1e-2, np.linspace(-3, 3, 7)
    with jax.enable_x64(True):
        found = solvers.diagonal_coefficients(jnp.asarray(G), np.log(a), np.log(a))
    np.testing.assert_allclose(found, a**2 * np.sinh(2 * G), rtol=1e-12)


def test_plateaus_are_constrained_minima_and_the_last_is_the_least_squares_solution():
    path = LIMIT.jumps(TASK)
    K, c = X.T @ X / 40, X.T @ Y / 40
    np.testing.assert_allclose(path.times[0], 1 / np.max(np.abs(c)), rtol=1e-13)
    assert path.coordinates[0] == np.argmax(np.abs(c))
    np.testing.assert_allclose(path.coefficients[-1], np.linalg.lstsq(X, Y, rcond=None)[0], rtol=1e-9)
    for coefficients, slopes in zip(path.coefficients, path.slopes, strict=True):
        awake = coefficients != 0
        force = c - K @ coefficients
        np.testing.assert_allclose(force[awake], 0, atol=1e-12)
        np.testing.assert_allclose(slopes[~awake], force[~awake], rtol=0, atol=1e-12)
    assert np.all(np.abs(path.progress) <= 1 + 1e-12)
    finite = np.isfinite(path.times)
    assert np.all(np.diff(path.times[finite]) >= 0)
    loss = [np.mean((X @ b - Y) ** 2) for b in path.coefficients]
    assert np.all(np.diff(loss) <= 1e-15)


def test_whitened_data():
    basis, _ = np.linalg.qr(rng.standard_normal((30, 4)))
    teacher = np.array([0.5, -2.0, 1.0, -0.1])
    path = LIMIT.jumps(tasks.from_arrays(basis * np.sqrt(30), basis @ teacher * np.sqrt(30)))
    order = np.argsort(-np.abs(teacher))
    np.testing.assert_array_equal(path.coordinates[:4], order)
    np.testing.assert_allclose(path.times[:4], 1 / np.abs(teacher[order]), rtol=1e-12)
    assert np.all(np.isinf(path.times[4:]))
    np.testing.assert_allclose(path.coefficients[-1], teacher, rtol=1e-12)


def brute_force(K, c, signs, allowed):
    """The minimum over all supports."""
    best, value = np.zeros(len(c)), 0.0
    for size in range(1, len(c) + 1):
        for support in itertools.combinations(np.flatnonzero(allowed), size):
            i = list(support)
            b = np.zeros(len(c))
            b[i] = np.linalg.solve(K[np.ix_(i, i)], c[i])
            now = b @ K @ b / 2 - c @ b
            if np.all(signs[i] * b[i] > 0) and now < value:
                best, value = b, now
    return best


def test_descents_are_the_constrained_minima():
    from limitax.solvers._alternating_flow import constrained_minimum

    with jax.enable_x64(True):
        minimum = jax.jit(constrained_minimum)
        for _ in range(40):
            root = rng.standard_normal((7, 5))
            K, c = root.T @ root, rng.standard_normal(5)
            signs, allowed = rng.choice([-1.0, 1.0], 5), rng.random(5) < 0.8
            found, support = minimum(K, c, signs, allowed, np.zeros(5, bool), np.zeros(5))
            np.testing.assert_allclose(found, brute_force(K, c, signs, allowed), rtol=0, atol=1e-10)
            np.testing.assert_array_equal(np.asarray(found) != 0, support)


# the first input is nearly the sum of the other two and wakes up first; their teacher leaves nothing to it
K3 = np.array([[1.0, 0.6, 0.6], [0.6, 1.0, 0.0], [0.6, 0.0, 1.0]])
B3 = np.array([-0.05, 1.0, 0.8])


def design(K, b):
    """Data with the given Gram matrix and least-squares solution."""
    root = np.linalg.cholesky(K)
    x = np.linalg.qr(np.random.default_rng(1).standard_normal((12, len(b))))[0] @ root.T * np.sqrt(12)
    return tasks.from_arrays(x, x @ b)


@pytest.mark.slow
def test_a_coordinate_that_falls_asleep_again():
    task = design(K3, B3)
    path = LIMIT.jumps(task)
    first = int(path.coordinates[0])
    assert first == 0
    slept = [k for k in range(1, 7) if path.coefficients[k, 0] == 0]
    assert slept, path.coefficients
    # it starts from its old end of the interval, with a force towards the other
    assert path.progress[slept[0], 0] == 1.0
    assert path.slopes[slept[0], 0] < 0
    np.testing.assert_allclose(path.coefficients[-1], B3, rtol=0, atol=1e-12)
    again = [k for k in range(slept[0], 6) if path.coordinates[k] == 0 and np.isfinite(path.times[k])]
    assert path.coefficients[again[0] + 1, 0] < 0
    # and so do networks
    times = np.linspace(0, 1.2 * path.times[again[0]], 200)
    theory = LIMIT.solve(task, lx.GradientFlow(times))
    with jax.enable_x64(True):
        limit = lx.limits.DiagonalLinear(0.0)
        run = lx.nets.train(limit.finite(task, size=300), task, lx.GradientFlow(times))
    assert np.max(np.abs(np.asarray(run.extras["progress"]) - theory.extras["progress"])) < 0.03


def half_jumps(size, path, count):
    """Times at which the awaking coefficients of a network have done half of their jump."""
    with jax.enable_x64(True):
        times = np.linspace(0, 1.3 * path.times[count - 1], 4000)
        run = lx.nets.train(lx.limits.DiagonalLinear(0.0).finite(TASK, size=size), TASK, lx.GradientFlow(times))
    found = []
    for k in range(count):
        i = path.coordinates[k]
        height = np.asarray(run.extras["coefficients"])[:, i] / (path.coefficients[k + 1, i] / 2)
        at = np.argmax(height > 1)
        found.append(np.interp(1.0, height[at - 1 : at + 1], times[at - 1 : at + 1]))
    return np.array(found)


@pytest.mark.slow
def test_jump_times_approach_the_limit_like_one_over_the_logarithm():
    path = LIMIT.jumps(TASK)
    sizes = np.array([10, 20, 40, 80])
    error = np.array([half_jumps(int(size), path, 4) - path.times[:4] for size in sizes])
    constants = error * sizes[:, None]
    np.testing.assert_allclose(constants[-1], constants[-2], rtol=0.1, atol=0.02)
    slopes = np.polyfit(np.log(sizes), np.log(np.abs(error)), 1)[0]
    np.testing.assert_allclose(slopes, -1, atol=0.15)


@pytest.mark.slow
def test_comparison_of_the_progress():
    report = lx.compare(LIMIT, TASK, TIMES, sizes=(15, 30, 60), seeds=16, quantities=("progress",))
    assert report.agrees
    assert abs(report.rate["progress"] + 1) < 0.15


def test_jump_times_are_differentiable():
    direction = np.random.default_rng(5).standard_normal(Y.shape)

    def time(shift, k, scale=1.0):
        return LIMIT.jumps(tasks.from_arrays(scale * X, Y + shift * direction)).times[k]

    h = 1e-5
    for k in range(4):
        np.testing.assert_allclose(jax.grad(time)(0.0, k), (time(h, k) - time(-h, k)) / (2 * h), rtol=1e-5)
        # times are inverse to the scale of the inputs times that of the coefficients they multiply
        np.testing.assert_allclose(jax.grad(time, 2)(0.0, k, 1.0), -time(0.0, k), rtol=1e-5)


def test_the_loss_is_differentiable_on_a_plateau():
    def loss(shift):
        return lx.final_loss(LIMIT, tasks.from_arrays(X, Y + shift * X[:, 2]), lx.GradientFlow([0.5]))

    np.testing.assert_allclose(jax.grad(loss)(0.0), (loss(1e-4) - loss(-1e-4)) / 2e-4, rtol=1e-5)


@pytest.mark.slow
def test_many_designs_at_once():
    designs = np.stack([X, X[:, ::-1], X * np.arange(1, 7)])
    together = jax.vmap(lambda x: LIMIT.jumps(lx.problems.Dataset(x, Y)).times)(jnp.asarray(designs, jnp.float32))
    for x, times in zip(designs, np.asarray(together), strict=True):
        alone = LIMIT.jumps(tasks.from_arrays(x, Y)).times
        np.testing.assert_allclose(times[:4], alone[:4], rtol=1e-4)


def test_record():
    task = tasks.from_arrays(X, Y, X[:5], Y[:5])
    theory = LIMIT.solve(task, TIMES)
    run = lx.nets.train(LIMIT.ensemble(task, size=10, seeds=3), task, TIMES)
    one = lx.nets.train(LIMIT.finite(task, size=10), task, TIMES)
    assert theory.train_loss.shape == theory.test_loss.shape == (60,)
    assert theory.extras["progress"].shape == (60, 6)
    assert run.test_loss.shape == (3, 60)
    assert one.extras["coefficients"].shape == (60, 6)
    np.testing.assert_allclose(theory.train_loss[0], np.mean(Y**2) / 2)
    assert theory.loss_convention == run.loss_convention
    net = LIMIT.finite(task, size=3)
    np.testing.assert_allclose(jax.vmap(net)(jnp.asarray(X, jnp.float32)), X @ np.asarray(net.coefficients), atol=1e-5)
    np.testing.assert_allclose(np.log(np.asarray(lx.limits.DiagonalLinear(0.0).finite(task, size=7).weights.plus)), -7)
    assert lx.limits.of(net) == LIMIT


def test_too_few_jumps():
    with pytest.raises(lx.ConvergenceError, match="not converged"):
        LIMIT.solve(TASK, TIMES, jumps=2)
    assert LIMIT.solve(TASK, TIMES, jumps=2, throw=False).status == "not converged"


V, T = ValueError, TypeError
CASES = [
    (lambda: lx.limits.DiagonalLinear(-1.0), V, "init_spread must be finite and at least 0; it is -1."),
    (lambda: LIMIT.solve(tasks.isotropic(), TIMES), T, "task must be a fixed data set (sphere, digits, from_arrays); "),
    (
        lambda: LIMIT.solve(TASK, lx.GradientDescent(0.1, steps=2)),
        T,
        "protocol must be GradientFlow for a DiagonalLinear; ",
    ),
    (lambda: LIMIT.solve(TASK, TIMES, jumps=0), V, "jumps must be at least 1; it is 0."),
    (lambda: LIMIT.jumps(TASK, count=-1), V, "jumps must be at least 1; it is -1."),
    (
        lambda: LIMIT.solve(tasks.from_arrays(X, X), TIMES),
        V,
        "y must have shape [samples] for a network with one output; its shape is (40, 6).",
    ),
    (lambda: LIMIT.finite(TASK, size=0), V, "size must be at least 1; it is 0."),
    (
        lambda: LIMIT.finite(TASK, size=500),
        V,
        "size is ln(1/a) here and must be at most 80, or the initial weights a are no float32 numbers; it is 500.",
    ),
    (
        lambda: lx.nets.train(LIMIT.finite(TASK, size=5), tasks.from_arrays(X[:, :2], Y), TIMES),
        V,
        "task must have the network's 6 input dimensions; it has 2.",
    ),
    (
        lambda: lx.nets.train(LIMIT.finite(TASK, size=5), TASK, TIMES, steps=3),
        V,
        "steps goes with an optax optimiser; the protocol's schedules have their own number.",
    ),
    (lambda: lx.GradientFlow([1.0, 0.5]), V, "times must increase; entry 1 is 0.5 after 1."),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_messages(case):
    call, kind, sentence = CASES[case]
    with raises(kind, sentence):
        call()
