"""Grokking: the closed map against descent, its test loss against samples, lazy limit, trends, slopes, messages."""

import chex
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import DescentDrive, Samples, UnitMoments, quadratic_moments

from .helpers import raises

STEPS = 12
TASK = lx.tasks.quadratic(samples=30, dim=6, test_samples=20)
LIMIT = lx.limits.QuadraticNetwork(0.5, 0.3)
RISE = np.linspace(0, 0.8, STEPS)
PLAIN = lx.GradientDescent(1.5, steps=STEPS)
PROTOCOLS = {
    "plain": PLAIN,
    "decay": lx.GradientDescent(1.0 + RISE, weight_decay=0.1 * RISE[::-1]),
    "everything varies": lx.GradientDescent(1.0 + RISE, RISE, 0.1 * RISE[::-1]),
}


def by_hand(net, task, protocol):
    """Gradient descent on the network's own outputs, by automatic differentiation; losses, weights at all times."""

    @jax.jit
    def loss(weights, x, y):
        outputs = jax.vmap(lambda x: type(net).__call__(_with(net, weights), x))(x)
        return jnp.mean((outputs - y) ** 2) / 2

    gradient = jax.jit(jax.grad(loss))
    scale = net.learning_rate_scale
    weights, velocity, rows = net.weights, 0.0, []
    for rate, momentum, decay in zip(protocol.learning_rate, protocol.momentum, protocol.weight_decay, strict=True):
        rows.append(weights)
        velocity = momentum * velocity + gradient(weights, task.x, task.y) + decay / scale * weights
        weights = weights - scale * rate * velocity
    rows.append(weights)
    train = np.array([loss(w, task.x, task.y) for w in rows])
    return train, np.array([loss(w, task.x_test, task.y_test) for w in rows]), np.array(rows)


def _with(net, weights):
    return type(net)(weights, net.frozen)


@pytest.mark.parametrize(
    "protocol",
    [pytest.param(p, marks=pytest.mark.slow) if n != "everything varies" else p for n, p in PROTOCOLS.items()],
    ids=PROTOCOLS,
)
def test_moments_close_at_every_width(protocol):
    """The map of the moments, the training loop, and descent by automatic differentiation are one and the same."""
    with jax.enable_x64(True):
        net = LIMIT.finite(TASK, size=7, key=jax.random.key(1))
        train, test, weights = by_hand(net, TASK, protocol)
        run, final = lx.nets.train(net, TASK, protocol, return_net=True)
        np.testing.assert_allclose(run.train_loss, train, rtol=1e-12)
        np.testing.assert_allclose(run.test_loss, test, rtol=1e-12)
        np.testing.assert_allclose(final.weights, weights[-1], rtol=1e-12, atol=1e-12)
        start = UnitMoments(weights[0].mean(0), jnp.asarray(weights[0].T @ weights[0] / 7))
        drive = DescentDrive(*map(jnp.asarray, (protocol.learning_rate, protocol.momentum, protocol.weight_decay)))
        samples = Samples(jnp.asarray(TASK.x) / 6**0.5, jnp.asarray(TASK.y))
        momentum = bool(np.any(protocol.momentum))
        loss, moments = quadratic_moments(
            samples, start, drive, jnp.asarray(0.5), jnp.asarray(0.3), lambda m: m, momentum=momentum
        )
        np.testing.assert_allclose(loss, train, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(moments.mean, weights.mean(1), rtol=0, atol=1e-14)
        np.testing.assert_allclose(moments.second, np.einsum("tnd,tne->tde", weights, weights) / 7, rtol=0, atol=1e-14)


def infinite_width(task, limit, protocol):
    """The map with M = I, written as the loop that it is; losses and the last moments."""
    x, y = task.x / task.dim**0.5, task.y
    alpha, epsilon = float(limit.output_scale), float(limit.curvature)
    m, M, losses = np.zeros(task.dim), np.eye(task.dim), []
    for rate in (*protocol.learning_rate, 0.0):
        e = y - alpha * (x @ m + epsilon / 2 * np.einsum("pi,ij,pj->p", x, M, x))
        losses.append(np.mean(e**2) / 2)
        a = rate / (alpha * len(y)) * e @ x
        B = np.eye(task.dim) + rate * epsilon / (alpha * len(y)) * (x.T * e) @ x
        M = B @ M @ B.T + np.outer(B @ m, a) + np.outer(a, B @ m) + np.outer(a, a)
        m = B @ m + a
    return np.array(losses), m, M


def test_the_limit_starts_without_fluctuations():
    theory = LIMIT.solve(TASK, PLAIN, teacher=np.ones(6))
    losses, m, M = infinite_width(TASK, LIMIT, PLAIN)
    np.testing.assert_allclose(theory.train_loss, losses, rtol=1e-12)
    np.testing.assert_allclose(theory.extras["mean_square_weight"][-1], np.trace(M) / 6, rtol=1e-12)
    assert theory.loss_convention == "half_mean_square"
    # the three parts of the population's loss, against fresh inputs
    x = np.random.default_rng(1).standard_normal((400_000, 6)) / 6**0.5
    outputs = 0.5 * (x @ m + 0.15 * np.einsum("pi,ij,pj->p", x, M, x))
    squares = (np.sum(x, 1) ** 2 / 2 - outputs) ** 2 / 2
    expected = sum(theory.extras[name][-1] for name in ("scale_error", "misalignment", "linear_power"))
    assert abs(np.mean(squares) - expected) < 4 * np.std(squares) / len(x) ** 0.5
    assert np.std(squares) / len(x) ** 0.5 < 0.01 * expected
    assert min(theory.extras[name][-1] for name in ("scale_error", "misalignment", "linear_power")) > 0


@pytest.mark.slow
def test_kernel_and_alignment_of_a_network():
    """The tangent kernel by automatic differentiation, of networks before and after training."""
    task = lx.tasks.from_arrays(TASK.x, TASK.y)
    with jax.enable_x64(True):
        net = LIMIT.finite(TASK, size=9, key=jax.random.key(1))
        run, final = lx.nets.train(net, task, PLAIN, return_net=True, kernel_alignment=True)
        for member, found in ((net, run.extras["kernel_alignment"][0]), (final, run.extras["kernel_alignment"][-1])):
            slopes = jax.vmap(lambda x, n=member: jax.grad(lambda w: _with(n, w)(x))(n.weights))(jnp.asarray(task.x))
            kernel = np.einsum("pni,qni->pq", slopes, slopes)
            centre = np.eye(30) - 1 / 30
            kernel, y = centre @ kernel @ centre, centre @ task.y
            np.testing.assert_allclose(found, y @ kernel @ y / np.linalg.norm(kernel) / (y @ y), rtol=1e-10)
        wide = LIMIT.finite(TASK, size=20_000, key=jax.random.key(2))
        slopes = jax.vmap(lambda x: jax.grad(lambda w: _with(wide, w)(x))(wide.weights))(jnp.asarray(task.x[:3]))
        kernel = np.einsum("pni,qni->pq", slopes, slopes) * 20_000 / 0.25
        np.testing.assert_allclose(kernel, LIMIT.kernel(task.x[:3]), atol=0.04)
    theory = LIMIT.solve(task, PLAIN, kernel_alignment=True)
    k = LIMIT.kernel(task.x)
    k = centre @ k @ centre
    np.testing.assert_allclose(
        theory.extras["kernel_alignment"][0], y @ k @ y / np.linalg.norm(k) / (y @ y), rtol=1e-10
    )
    lazy = LIMIT.solve(task, PLAIN, kernel_alignment=True, approximation="static_kernel")
    np.testing.assert_allclose(lazy.extras["kernel_alignment"], theory.extras["kernel_alignment"][0], rtol=1e-12)


def test_the_lazy_limit():
    """A static kernel is kernel descent, and what a large output scale at a given initial residual approaches."""
    errors = []
    for alpha in (4.0, 16.0, 64.0):
        limit = lx.limits.QuadraticNetwork(alpha, 0.3)
        shift, shift_test = (alpha * 0.15 * np.sum(x**2, 1) / 6 for x in (TASK.x, TASK.x_test))
        task = lx.tasks.from_arrays(TASK.x, TASK.y + shift, TASK.x_test, TASK.y_test + shift_test)
        lazy = limit.solve(task, PLAIN, approximation="static_kernel")
        exact = limit.solve(task, PLAIN)
        errors.append(np.linalg.norm(exact.test_loss - lazy.test_loss) / np.linalg.norm(lazy.test_loss))
    residual, residual_test = TASK.y, TASK.y_test
    for time in range(STEPS + 1):
        np.testing.assert_allclose(lazy.train_loss[time], np.mean(residual**2) / 2, rtol=1e-9)
        np.testing.assert_allclose(lazy.test_loss[time], np.mean(residual_test**2) / 2, rtol=1e-9)
        drive = 1.5 / 30 * residual
        residual_test = residual_test - limit.kernel(TASK.x_test, TASK.x) @ drive
        residual = residual - limit.kernel(TASK.x) @ drive
    np.testing.assert_allclose(np.array(errors[1:]) / errors[:-1], 0.25, atol=0.03)
    assert errors[-1] < 0.01


def below(curve, share=0.1):
    """First step at which a curve has fallen below a share of its start."""
    curve = np.asarray(curve)
    return int(np.argmax(curve < share * curve[0]))


def test_the_delay_grows_with_the_output_scale_and_with_less_curvature():
    task = lx.tasks.quadratic(samples=60, dim=12)
    delays = {}
    for alpha, epsilon in ((0.1, 0.2), (0.25, 0.2), (0.5, 0.2), (1.0, 0.2), (0.5, 0.1)):
        limit = lx.limits.QuadraticNetwork(alpha, epsilon)
        theory = limit.solve(task, lx.GradientDescent(1.0, steps=1500), teacher=np.ones(12))
        test = sum(theory.extras[name] for name in ("scale_error", "misalignment", "linear_power"))
        delays[alpha, epsilon] = below(test) - below(theory.train_loss)
        assert below(test) > below(theory.train_loss) > 0
        # no decay, and the weights grow
        assert theory.extras["mean_square_weight"][-1] > 1
    assert 1.5 * delays[0.1, 0.2] < delays[0.25, 0.2] < delays[0.5, 0.2] < delays[1.0, 0.2]
    assert delays[0.5, 0.1] > delays[0.5, 0.2]


@pytest.mark.slow
def test_training_goes_lazy_and_the_test_loss_waits():
    """At a large output scale the training loss falls with a static kernel's, the test loss several times later."""
    task = lx.tasks.quadratic(samples=110, dim=20)
    limit, protocol = lx.limits.QuadraticNetwork(8.0, 0.3), lx.GradientDescent(1.5, steps=8000)
    theory, lazy = (limit.solve(task, protocol, teacher=np.ones(20), approximation=a) for a in (None, "static_kernel"))
    test, test_lazy = (
        sum(t.extras[name] for name in ("scale_error", "misalignment", "linear_power")) for t in (theory, lazy)
    )
    time = below(theory.train_loss)
    assert abs(time / below(lazy.train_loss) - 1) < 0.3
    assert test[time] > 0.3 * test[0]
    assert below(test) > 4 * time
    assert min(test_lazy) > 0.3 * test[0]


@pytest.mark.slow
def test_networks_approach_the_limit():
    task = lx.tasks.quadratic(samples=60, dim=10, test_samples=60)
    limit = lx.limits.QuadraticNetwork(0.5, 0.2)
    report = lx.compare(
        limit,
        task,
        lx.GradientDescent(1.0, steps=400),
        sizes=(100, 200, 400),
        seeds=64,
        record=("kernel_alignment",),
        kernel_alignment=True,
    )
    assert set(report.errors) == {"train_loss", "test_loss", "mean_square_weight", "kernel_alignment"}
    assert report.agrees, report.agreement
    for name, rate in report.rate.items():
        assert abs(rate + 0.5) < 0.15, (name, report.rate)


def value(scale, curvature, rate, momentum, decay):
    protocol = lx.GradientDescent(rate, momentum, decay, steps=STEPS)
    return jnp.log(lx.final_loss(lx.limits.QuadraticNetwork(scale, curvature), TASK, protocol))


@pytest.mark.parametrize(
    "at",
    [(0.5, 0.3, 1.5, 0.2, 0.05), pytest.param((2.0, 0.0, 1.0, 0.0, 0.0), marks=pytest.mark.slow)],
    ids=["inside", "at zeros"],
)
def test_slopes_are_differences(at):
    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(value, argnums=range(5)))(*map(jnp.asarray, at))
        for i, slope in enumerate(slopes):
            # at a boundary, where values below are refused, to second order from one side
            signs, shares = ((1, -1), (0.5, -0.5)) if at[i] else ((0, 1, 2), (-1.5, 2.0, -0.5))
            ends = [value(*(*at[:i], at[i] + sign * 1e-5, *at[i + 1 :])) for sign in signs]
            difference = sum(share * float(end) for share, end in zip(shares, ends, strict=True)) / 1e-5
            np.testing.assert_allclose(slope, difference, rtol=2e-6, atol=2e-8, err_msg=str(i))


def test_no_retracing_when_values_change():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def solve(scale, rate):
        limit = lx.limits.QuadraticNetwork(scale, 0.3)
        return lx.final_loss(limit, TASK, lx.GradientDescent(rate, steps=STEPS))

    chex.clear_trace_counter()
    values = [float(solve(scale, rate)) for scale, rate in ((0.5, 1.5), (0.6, 1.5), (0.5, 1.0))]
    np.testing.assert_allclose(values[0], LIMIT.solve(TASK, PLAIN).test_loss[-1], rtol=1e-6)
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (
            lambda: lx.limits.QuadraticNetwork(output_scale=0.0),
            ValueError,
            "output_scale must be finite and above 0; it is 0.",
        ),
        (
            lambda: lx.limits.QuadraticNetwork(curvature=-0.1),
            ValueError,
            "curvature must be finite and at least 0; it is -0.1.",
        ),
        (
            lambda: LIMIT.solve(lx.tasks.power_law(), PLAIN),
            TypeError,
            "task must be a fixed data set (quadratic, sphere, digits, from_arrays)",
        ),
        (
            lambda: LIMIT.solve(TASK, lx.GradientFlow([1.0])),
            TypeError,
            "protocol must be GradientDescent for QuadraticNetwork",
        ),
        (
            lambda: LIMIT.solve(lx.tasks.from_arrays(TASK.x, TASK.x), PLAIN),
            ValueError,
            "y must have shape [samples] for a network with one output; its shape is (30, 6).",
        ),
        (
            lambda: LIMIT.solve(TASK, PLAIN, teacher=np.ones(5)),
            ValueError,
            "teacher must have the 6 dimensions of x; its shape is (5,).",
        ),
        (
            lambda: LIMIT.solve(TASK, PLAIN, approximation="lazy"),
            ValueError,
            'approximation "lazy" is unknown; one of: None, static_kernel.',
        ),
        (
            lambda: LIMIT.solve(TASK, PROTOCOLS["decay"], approximation="static_kernel"),
            ValueError,
            "weight_decay must be 0 with a static kernel",
        ),
        (
            lambda: LIMIT.solve(TASK, PLAIN, memory_limit=1000),
            MemoryError,
            "QuadraticNetwork.solve would need about ",
        ),
        (
            lambda: lx.nets.train(LIMIT.finite(TASK, size=3), lx.tasks.quadratic(samples=4, dim=5), PLAIN),
            ValueError,
            "task must have the network's 6 input dimensions; it has 5.",
        ),
        (
            lambda: lx.tasks.quadratic(samples=0, dim=5),
            ValueError,
            "quadratic(samples=0): at least 1 sample is needed.",
        ),
        (
            lambda: lx.tasks.quadratic(samples=3, dim=5, teacher=np.ones(4)),
            ValueError,
            "teacher must have the 5 dimensions of the inputs; its shape is (4,).",
        ),
    ],
)
def test_messages(call, kind, sentence):
    with raises(kind, sentence):
        call()


def test_divergence_says_when():
    with pytest.raises(lx.DivergedError, match="left the stable region at step"):
        LIMIT.solve(TASK, lx.GradientDescent(500.0, steps=60))


def test_the_quadratic_task():
    task = lx.tasks.quadratic(jax.random.key(3), samples=2000, dim=7, test_samples=3)
    np.testing.assert_allclose(task.y, np.sum(task.x, 1) ** 2 / 14, rtol=1e-12)
    np.testing.assert_allclose(task.x.T @ task.x / 2000, np.eye(7), atol=0.12)
    np.testing.assert_allclose(np.mean(task.y), 0.5, atol=0.06)
    np.testing.assert_array_equal(lx.tasks.quadratic(jax.random.key(3), samples=2003, dim=7).x[2000:], task.x_test)
    teacher = np.arange(7.0)
    turned = lx.tasks.quadratic(jax.random.key(3), samples=4, dim=7, teacher=teacher)
    np.testing.assert_allclose(turned.y, (turned.x @ teacher) ** 2 / 14, rtol=1e-12)
