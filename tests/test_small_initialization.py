"""Two-layer linear networks from small weights: closed equations, logistic growth, alignment, derivatives, messages."""

import itertools

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import solvers, tasks

from .helpers import raises

LIMIT = lx.limits.SmallInitialization(0.03)
rng = np.random.default_rng(0)
DIM, LENGTH = 5, 2.0
TEACHER = rng.standard_normal(DIM)
TEACHER *= LENGTH / np.linalg.norm(TEACHER)
WHITE = np.linalg.qr(rng.standard_normal((20, DIM)))[0] * np.sqrt(20)
TASK = tasks.from_arrays(WHITE, WHITE @ TEACHER)
TIMES = np.linspace(0, 3, 31)
FLOW = lx.GradientFlow(TIMES)


def by_steps(matrices, gram, teacher, times, step=1e-3):
    """Gradient flow of `matrices[0] ... matrices[-1]` by Runge and Kutta's method; the products at `times`."""

    def product(parts):
        out = parts[0]
        for part in parts[1:]:
            out = part @ out
        return out

    def rate(parts):
        force = (teacher - product(parts).ravel())[None] @ gram
        found = []
        for k in range(len(parts)):
            left = np.eye(1) if k == len(parts) - 1 else product(parts[k + 1 :])
            right = np.eye(len(teacher)) if k == 0 else product(parts[:k])
            found.append(left.T @ force @ right.T)
        return found

    def moved(parts, slopes, h):
        return [p + h * s for p, s in zip(parts, slopes, strict=True)]

    rows, now = [], 0.0
    for time in times:
        count = max(1, round((time - now) / step))
        h = (time - now) / count
        for _ in range(count if h > 0 else 0):
            k1 = rate(matrices)
            k2 = rate(moved(matrices, k1, h / 2))
            k3 = rate(moved(matrices, k2, h / 2))
            k4 = rate(moved(matrices, k3, h))
            slopes = [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True)]
            matrices = moved(matrices, slopes, h)
        rows.append(product(matrices).ravel())
        now = time
    return np.array(rows), matrices


def test_closed_equations_are_exact_at_every_width():
    gram = np.diag([2.0, 1.0, 0.5, 0.3, 0.1])
    W, w = 0.2 * rng.standard_normal((7, DIM)), 0.2 * rng.standard_normal((1, 7))
    times = np.linspace(0, 2, 9)
    rows, (W1, w1) = by_steps([W, w], gram, TEACHER, times)
    with jax.enable_x64(True):
        start = (W.T @ w[0], np.sum(w**2), W.T @ W)
        found = solvers.two_layer_flow(*map(jnp.asarray, (gram, gram @ TEACHER, *start, times)), substeps=64)
    np.testing.assert_allclose(found[0], rows, atol=1e-7)
    np.testing.assert_allclose(found[1][-1], np.sum(w1**2), rtol=1e-7)
    np.testing.assert_allclose(found[2][-1], W1.T @ W1, atol=1e-7)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_balanced_networks(depth):
    """From layers that are rank one, of equal strength and aligned with one another but not with the target."""
    width, strength = 6, 0.5
    units = [rng.standard_normal(n) for n in (DIM, *([width] * depth), 1)]
    units = [u / np.linalg.norm(u) for u in units]
    units[-1] = np.ones(1)
    layers = [strength * np.outer(b, a) for a, b in itertools.pairwise(units)]
    gram = np.diag([2.0, 1.0, 0.5, 0.3, 0.1])
    times = np.linspace(0, 2, 9)
    rows, _ = by_steps(layers, gram, TEACHER, times, step=5e-3)
    with jax.enable_x64(True):
        args = gram, gram @ TEACHER, strength ** (depth + 1) * units[0], times
        found = solvers.balanced_flow(*map(jnp.asarray, args), depth, substeps=64)
    np.testing.assert_allclose(found, rows, atol=1e-7)


def test_one_mode_grows_as_a_logistic_curve():
    with jax.enable_x64(True):
        start, times = 0.01 * TEACHER / LENGTH, np.linspace(0, 4, 30)
        found = solvers.balanced_flow(*map(jnp.asarray, (np.eye(DIM), TEACHER, start, times)), 1, substeps=64)
        curve = solvers.logistic_growth(0.01, LENGTH, jnp.asarray(times))
    length = np.linalg.norm(np.asarray(found), axis=1)
    np.testing.assert_allclose(length, curve, rtol=0, atol=1e-8)
    half = np.interp(LENGTH / 2, length, times)
    np.testing.assert_allclose(half, np.log(LENGTH / 0.01 - 1) / (2 * LENGTH), rtol=1e-2)


def test_whitened_theory_is_one_equation():
    theory = LIMIT.solve(TASK, FLOW)
    s = theory.extras["coefficients"] @ TEACHER / LENGTH
    np.testing.assert_allclose(theory.train_loss, (LENGTH - s) ** 2 / 2, rtol=0, atol=1e-9)
    power = 0.03**4
    readout = np.sqrt(s**2 + power)
    share = 2 * readout / ((DIM + 1) * readout + (DIM - 1) * 0.03**2)
    np.testing.assert_allclose(theory.extras["kernel_share"], share, rtol=1e-6)
    np.testing.assert_allclose(theory.extras["kernel_share"][[0, -1]], [1 / DIM, 2 / (DIM + 1)], rtol=1e-3)
    slopes = np.gradient(s, TIMES)
    np.testing.assert_allclose(slopes[5:-5], (2 * readout * (LENGTH - s))[5:-5], rtol=0.06, atol=0.02)


def test_small_weights_give_the_logistic_curve():
    deviations = []
    for scale in (0.1, 0.03, 0.01):
        theory = lx.limits.SmallInitialization(scale).solve(TASK, FLOW)
        s = theory.extras["coefficients"] @ TEACHER / LENGTH
        curve = LENGTH / (1 + (2 * LENGTH / scale**2 - 1) * np.exp(-2 * LENGTH * TIMES))
        deviations.append(np.max(np.abs(s - curve)))
    assert deviations[0] < 0.01
    slope = np.polyfit(np.log([0.1, 0.03, 0.01]), np.log(deviations), 1)[0]
    assert abs(slope - 2) < 0.3


def test_silent_alignment():
    """20 input dimensions and 40 units: overlap of the kernel's first eigenvector with the target, when 5 % of the loss
    are gone, and the part of its trace on it; growth from the start that the linear dynamics of the network gives."""
    dim, width = 20, 40
    white = np.linalg.qr(rng.standard_normal((60, dim)))[0] * np.sqrt(60)
    unit = rng.standard_normal(dim)
    unit /= np.linalg.norm(unit)
    task = tasks.from_arrays(white, white @ unit * LENGTH)
    overlaps, shares = [], []
    for scale in (0.1, 0.01, 0.001):
        limit = lx.limits.SmallInitialization(scale)
        times = np.linspace(0, 1 + np.log(4 / scale**2) / (2 * LENGTH), 400)
        with jax.enable_x64(True):
            net = limit.finite(task, size=width, key=jax.random.key(4))
            run = lx.nets.train(net, task, lx.GradientFlow(times))
        moved = np.argmax(np.asarray(run.train_loss) < 0.95 * np.asarray(run.train_loss)[0])
        overlaps.append(float(run.extras["kernel_alignment"][moved]))
        shares.append(float(run.extras["kernel_share"][moved]))
        mode = (np.asarray(net.weights.readout) + np.asarray(net.weights.hidden) @ unit) / 2
        start = np.sum(mode**2)
        s = np.asarray(run.extras["coefficients"]) @ unit
        curve = LENGTH / (1 + (LENGTH / start - 1) * np.exp(-2 * LENGTH * times))
        assert np.max(np.abs(s - curve)) < 1.5 * scale
    np.testing.assert_allclose(overlaps[1:], [0.9989, 0.99999], atol=1e-3)
    assert 0.4 < overlaps[0] < 0.95
    np.testing.assert_allclose(shares[1:], [2 / 21] * 2, rtol=5e-3)
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.slow
def test_networks_approach_the_theory_like_the_root_of_their_width():
    flow = lx.GradientFlow(np.linspace(0, 3, 16))
    report = lx.compare(
        LIMIT, TASK, flow, sizes=(25, 50, 100, 200), seeds=64, quantities=("train_loss", "kernel_share")
    )
    assert report.agrees
    for name in report.rate:
        assert -0.65 < report.rate[name] < -0.35


@pytest.mark.slow
def test_other_weights_of_anisotropic_data_are_followed_too():
    x = WHITE * np.arange(1, DIM + 1) ** -0.5
    task = tasks.from_arrays(x, x @ TEACHER, x[:3], x[:3] @ TEACHER)
    flow = lx.GradientFlow([0.0, 1.0, 2.0, 4.0])
    theory = lx.limits.SmallInitialization(0.3).solve(task, flow)
    runs = lx.nets.train(lx.limits.SmallInitialization(0.3).ensemble(task, size=400, seeds=6), task, flow)
    for found, expected in ((runs.train_loss, theory.train_loss), (runs.test_loss, theory.test_loss)):
        np.testing.assert_allclose(np.mean(found, 0), expected, atol=0.05 * expected[0])


def test_gradients():
    def loss(scale, length):
        task = tasks.from_arrays(WHITE, length * (WHITE @ TEACHER))
        return lx.final_loss(lx.limits.SmallInitialization(scale), task, lx.GradientFlow([1.0, 1.8]))

    slopes = jax.jit(jax.grad(loss, (0, 1)))(0.05, 1.0)
    h = 1e-3
    for k, difference in enumerate(
        (
            (loss(0.05 + h / 10, 1.0) - loss(0.05 - h / 10, 1.0)) / (2 * h / 10),
            (loss(0.05, 1 + h) - loss(0.05, 1 - h)) / (2 * h),
        )
    ):
        np.testing.assert_allclose(slopes[k], difference, rtol=1e-4)


def test_record():
    net = LIMIT.finite(TASK, size=6)
    flow = lx.GradientFlow([0.5, 1.0])
    run, trained = lx.nets.train(net, TASK, flow, return_net=True)
    assert run.train_loss.shape == (2,)
    assert run.extras["kernel_alignment"].shape == run.extras["kernel_share"].shape == (2,)
    np.testing.assert_allclose(
        trained.weights.readout @ trained.weights.hidden, run.extras["coefficients"][-1], rtol=1e-4
    )
    outputs = jax.vmap(trained)(jnp.asarray(WHITE, jnp.float32))
    np.testing.assert_allclose(np.mean((outputs - TASK.y) ** 2) / 2, run.train_loss[-1], rtol=1e-4)
    assert lx.limits.of(trained) == LIMIT
    assert dict(run.attributes)["size"] == 6


V, T = ValueError, TypeError
CASES = [
    (lambda: lx.limits.SmallInitialization(0.0), V, "init_scale must be finite and above 0; it is 0."),
    (lambda: LIMIT.solve(tasks.isotropic(), FLOW), T, "task must be a fixed data set (sphere, digits, from_arrays); "),
    (
        lambda: LIMIT.solve(TASK, lx.GradientDescent(0.1, steps=2)),
        T,
        "protocol must be GradientFlow for a SmallInitialization; ",
    ),
    (
        lambda: LIMIT.solve(tasks.from_arrays(WHITE, WHITE), FLOW),
        V,
        "y must have shape [samples] for a network with one output; its shape is (20, 5).",
    ),
    (
        lambda: LIMIT.solve(TASK, lx.GradientFlow([1e5])),
        V,
        "times must be closer than 491 to one another, as this flow",
    ),
    (lambda: LIMIT.finite(TASK, size=0), V, "size must be at least 1; it is 0."),
    (lambda: LIMIT.ensemble(TASK, size=4, seeds=0), V, "seeds must be at least 1; it is 0."),
    (
        lambda: lx.nets.train(LIMIT.finite(TASK, size=5), tasks.from_arrays(WHITE[:, :2], TASK.y), FLOW),
        V,
        "task must have the network's 5 input dimensions; it has 2.",
    ),
    (
        lambda: lx.nets.train(LIMIT.finite(TASK, size=5), TASK, FLOW, steps=3),
        V,
        "steps goes with an optax optimiser; the protocol's schedules have their own number.",
    ),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_messages(case):
    call, kind, sentence = CASES[case]
    with raises(kind, sentence):
        call()
