"""Schedules: closed values, their ends, and the way to optax and back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import optax
import pytest
from limitax import schedules

from .helpers import same, small_task

T = 8
t = np.arange(T)


CLOSED = {
    "constant": (schedules.constant(0.3, T), np.full(T, 0.3)),
    "power": (schedules.power(0.3, T, 0.5), 0.3 / np.sqrt(t + 1)),
    "annealing": (schedules.annealing(0.3, T, 2.0), 0.3 * (1 - t / T) ** 2),
    "linear": (schedules.linear(0.3, T, final=0.1), 0.3 - 0.2 * t / T),
    "cosine": (schedules.cosine(0.4, T, final=0.1), 0.1 + 0.15 * (1 + np.cos(np.pi * t / T))),
    "warmup_stable_decay": (
        schedules.warmup_stable_decay(1.0, T, warmup=0.25, decay=0.5, final=0.2),
        [0.6, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4],
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_values(name):
    values, expected = CLOSED[name]
    assert values.shape == (T,)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-13)


@pytest.mark.parametrize("shape", ["power", "annealing", "linear", "cosine", "warmup_stable_decay"])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_every_shape_stays_positive_and_below_its_peak(shape, steps):
    exponent = (0.7,) if shape in ("power", "annealing") else ()
    values = getattr(schedules, shape)(2.0, steps, *exponent)
    assert values.shape == (steps,)
    assert np.all(values > 0)
    assert np.max(values) <= 2.0 * (1 + 1e-15)


@pytest.mark.parametrize("shape", ["constant", "power", "annealing", "linear", "cosine", "warmup_stable_decay"])
def test_a_schedule_is_differentiable_in_its_peak(shape):
    exponent = (0.7,) if shape in ("power", "annealing") else ()
    make = getattr(schedules, shape)
    slope = jax.jacfwd(lambda peak: make(peak, 5, *exponent))(0.3)
    # every shape without a final value is proportional to its peak
    np.testing.assert_allclose(slope, make(1.0, 5, *exponent), rtol=1e-6)


def test_exponent_and_final_value_are_differentiable():
    slope = jax.jacrev(lambda a: schedules.power(0.3, T, a))(0.5)
    np.testing.assert_allclose(slope, -0.3 * np.log(t + 1) / np.sqrt(t + 1), rtol=1e-5, atol=1e-7)
    slope = jax.jacrev(lambda f: schedules.linear(0.3, T, f))(0.1)
    np.testing.assert_allclose(slope, t / T, rtol=1e-6)


@pytest.mark.parametrize("log", [False, True])
def test_knots(log):
    np.testing.assert_allclose(schedules.knots([0.2, 0.2, 0.2], 9, log=log), 0.2, rtol=1e-14)
    np.testing.assert_allclose(schedules.knots([0.2], 4, log=log), 0.2, rtol=1e-14)
    curve = schedules.knots([0.1, 0.4], 9, log=log)
    middle = 0.2 if log else 0.25
    np.testing.assert_allclose(curve[[0, 4, 8]], [0.1, middle, 0.4], rtol=1e-12)
    logit = np.log((np.arange(9) + 1) / (9 - np.arange(9)))
    place = (logit - logit[0]) / (logit[-1] - logit[0])
    expected = 0.1 * 4**place if log else 0.1 + 0.3 * place
    np.testing.assert_allclose(curve, expected, rtol=1e-12)


def test_knots_are_differentiable():
    slope = jax.jacrev(lambda v: schedules.knots(v, 9))(jnp.array([0.1, 0.4]))
    np.testing.assert_allclose(slope.sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 13])
def test_resampling_onto_the_same_steps_changes_nothing(steps):
    values = np.random.default_rng(0).uniform(0.1, 1.0, steps)
    np.testing.assert_allclose(schedules.resample(values, steps), values, rtol=1e-12)


def test_resampling_keeps_ends_middle_and_order():
    values = schedules.cosine(1.0, 21, final=0.1)
    longer = schedules.resample(values, 101)
    np.testing.assert_allclose(longer[[0, 50, -1]], values[[0, 10, -1]], rtol=1e-12)
    assert np.all(np.diff(longer) <= 0)
    np.testing.assert_allclose(schedules.resample(np.full(7, 0.3), 20), 0.3, rtol=1e-14)
    assert schedules.resample(values, 1).shape == (1,)


@pytest.mark.parametrize(
    "schedule",
    [
        optax.constant_schedule(0.2),
        optax.cosine_decay_schedule(0.3, decay_steps=10, alpha=0.1),
        optax.warmup_cosine_decay_schedule(0.0, 0.3, 3, 12),
        lambda step: 0.1 / (1 + step),
    ],
)
def test_from_optax_is_the_optax_schedule(schedule):
    values = schedules.from_optax(schedule, 12)
    assert values.shape == (12,)
    assert isinstance(values, np.ndarray)
    np.testing.assert_allclose(values, [float(schedule(step)) for step in range(12)], rtol=2e-6, atol=1e-8)
    assert lx.GradientDescent(values).steps == 12


def test_to_optax_is_heavy_ball_with_decay():
    steps, scale = 6, 3.0
    protocol = lx.GradientDescent(np.linspace(0.2, 0.1, steps), np.linspace(0.1, 0.8, steps), 0.3)
    hessian, start = np.diag([1.0, 0.5]), np.array([1.0, -2.0])
    theta, v = start, np.zeros(2)
    for eta, beta, decay in zip(protocol.learning_rate, protocol.momentum, protocol.weight_decay, strict=True):
        v = beta * v + hessian @ theta + decay / scale * theta
        theta = theta - scale * eta * v

    class Net:
        learning_rate_scale = scale

    with jax.enable_x64(True):
        for net, expected in ((Net(), theta), (None, None)):
            optimiser = schedules.to_optax(protocol, net)
            params = jnp.asarray(start)
            state = optimiser.init(params)
            for _ in range(steps + 3):
                updates, state = optimiser.update(jnp.asarray(hessian) @ params, state, params)
                params = optax.apply_updates(params, updates)
            if expected is not None:
                # the rates after the last step are zero, so that more steps change nothing
                np.testing.assert_allclose(params, expected, rtol=1e-13)
        bare = optax.chain(optax.trace(0.5), optax.scale(-0.1))
        ours = schedules.to_optax(lx.GradientDescent(0.1, 0.5, steps=steps))
        a = b = jnp.asarray(start)
        state_a, state_b = bare.init(a), ours.init(b)
        for _ in range(steps):
            updates, state_a = bare.update(hessian @ a, state_a, a)
            a = optax.apply_updates(a, updates)
            updates, state_b = ours.update(hessian @ b, state_b, b)
            b = optax.apply_updates(b, updates)
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_to_optax_extra_gradient_is_nesterov():
    steps, eta, beta = 5, 0.1, 0.6
    protocol = lx.OnlineSGD(eta * beta, beta, eta, steps=steps)
    with jax.enable_x64(True):
        ours, nesterov = schedules.to_optax(protocol), optax.sgd(eta, beta, nesterov=True)
        a = b = jnp.array([1.0, -2.0])
        state_a, state_b = ours.init(a), nesterov.init(b)
        for _ in range(steps):
            updates, state_a = ours.update(a**3, state_a, a)
            a = optax.apply_updates(a, updates)
            updates, state_b = nesterov.update(b**3, state_b, b)
            b = optax.apply_updates(b, updates)
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("wide", [True, False])
def test_a_textbook_loop_with_to_optax_is_train(wide):
    task = small_task()
    steps = 5
    protocol = lx.GradientDescent(schedules.cosine(0.4, steps), np.linspace(0.2, 0.6, steps), 0.1)
    with jax.enable_x64(wide):
        net = lx.limits.MLP(2, "tanh", richness=1.7, bias_scale=0.3).finite(task, size=16)
        optimiser = schedules.to_optax(protocol, net)

        @eqx.filter_jit
        def loss(net):
            return jnp.mean((jax.vmap(net)(jnp.asarray(task.x)) - jnp.asarray(task.y)) ** 2) / 2

        @eqx.filter_jit
        def step(net, state):
            gradient = eqx.filter_grad(loss)(net)
            updates, state = optimiser.update(gradient, state, eqx.filter(net, eqx.is_inexact_array))
            return eqx.apply_updates(net, updates), state

        trained, state = net, optimiser.init(eqx.filter(net, eqx.is_inexact_array))
        losses = [loss(net)]
        for _ in range(steps):
            trained, state = step(trained, state)
            losses.append(loss(trained))
        run, ours = lx.nets.train(net, task, protocol, return_net=True)
    tolerance = 1e-12 if wide else 2e-5
    np.testing.assert_allclose(run.train_loss, losses, rtol=tolerance, atol=tolerance)
    same(trained.weights, ours.weights, rtol=tolerance, atol=tolerance)


def test_to_optax_keeps_single_precision_weights_single():
    protocol = lx.GradientDescent(0.1, 0.5, 0.1, steps=2)
    with jax.enable_x64(True):
        optimiser = schedules.to_optax(protocol)
        params = jnp.ones(3, jnp.float32)
        updates, state = optimiser.update(params, optimiser.init(params), params)
    assert updates.dtype == np.float32
    assert state.velocity.dtype == np.float32
