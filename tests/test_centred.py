"""Centred networks, fresh inputs, tangent kernels, kernel flow, and what an ensemble says about bias and variance."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.nets import _centred as centred
from limitax.studies._ensembles import crossing, ensemble_error, log_slope
from limitax.studies._kernel_flow import kernel_flow

from .helpers import raises, small_task

TASK = small_task()
DESIGN = lx.limits.MLP(2, "relu", 1.5)
RATES = np.array([0.4, 0.3, 0.5])


def square(x):
    return x[:, 0] ** 2 - 1


ONLINE = lx.tasks.sphere_function(5, square)


def relu_kernel(x, depth):
    return lx.limits.MLP(depth, "relu").lazy_kernels(x, TASK.x).tangent


def by_hand(nets, batch, steps):
    """Descent on the centred output of one network, a Python loop; its last outputs on the test inputs."""
    first = member = nets.member(1)
    outputs = lambda net, x: jax.vmap(net)(jnp.asarray(x))  # noqa: E731

    def loss(net, x, y):
        return jnp.mean((y - outputs(net, x) + outputs(first, x)) ** 2) / 2

    for time in range(steps):
        x, y = batch(time)
        gradient = jax.grad(lambda w, x=x, y=y, m=member: loss(replaced(m, w), x, y))(member.weights)
        scale = RATES[time] * member.learning_rate_scale
        member = replaced(member, jax.tree.map(lambda w, g, s=scale: w - s * g, member.weights, gradient))
    return outputs(member, TASK.x_test) - outputs(first, TASK.x_test), member


def replaced(net, weights):
    import equinox as eqx

    return eqx.tree_at(lambda n: n.weights, net, weights)


@pytest.mark.slow
def test_descent_is_that_of_a_loop():
    with jax.enable_x64(True):
        nets = centred.draw(DESIGN, 5, 6, 2)
        run = centred.train_centred(nets, TASK, lx.GradientDescent(RATES), TASK.x_test, kernel_inputs=TASK.x)
        outputs, member = by_hand(nets, lambda time: (TASK.x, TASK.y), 3)
        np.testing.assert_allclose(run.outputs[1, 0], outputs, rtol=1e-10)
        np.testing.assert_allclose(run.nets.member(1).weights.readout, member.weights.readout, rtol=1e-10)
        h = np.maximum(TASK.x @ np.asarray(member.weights.hidden[0]).T / 5**0.5, 0)
        np.testing.assert_allclose(run.kernels[1][1, 0], h @ h.T / 6, rtol=1e-10)


@pytest.mark.slow
def test_fresh_batches_are_the_same_for_all_and_looking_changes_nothing():
    key = jax.random.key(4)
    protocol = lx.OnlineSGD(RATES, batch_size=7)
    with jax.enable_x64(True):
        nets = centred.draw(DESIGN, 5, 6, 2)
        run = centred.train_centred(nets, ONLINE, protocol, TASK.x_test, times=(0, 2, 3), key=key)
        outputs, _ = by_hand(nets, lambda time: ONLINE.batch(jax.random.fold_in(key, time), 7), 3)
        np.testing.assert_allclose(run.outputs[1, 2], outputs, rtol=1e-10)
        np.testing.assert_allclose(run.outputs[:, 0], 0, atol=1e-15)  # fused multiply-adds leave rounding
        assert run.outputs.shape == (2, 3, 2)


@pytest.mark.slow
def test_tangent_kernel_is_the_gram_matrix_of_gradients():
    with jax.enable_x64(True):
        nets = centred.draw(DESIGN, 5, 6, 2)
        net = nets.member(1)
        slopes = jax.vmap(lambda x: jax.grad(lambda w: replaced(net, w)(x))(net.weights))(jnp.asarray(TASK.x))
        flat = np.concatenate([np.asarray(s).reshape(4, -1) for s in jax.tree.leaves(slopes)], axis=1)
        found = centred.tangent_kernels(nets, TASK.x)
        np.testing.assert_allclose(found[1], net.learning_rate_scale * flat @ flat.T, rtol=1e-10)
        # the closed form at infinite width, within four standard errors of the mean of many networks
        many = centred.tangent_kernels(centred.draw(DESIGN, 5, 300, 60), TASK.x)
    distance = np.abs(many.mean(0) - relu_kernel(TASK.x, 2))
    assert np.all(distance < 4 * many.std(0) / 60**0.5)
    assert np.max(many.std(0)) / 60**0.5 < 0.03


def test_kernel_flow_is_descent_with_small_steps():
    kernel = relu_kernel(TASK.x, 1)
    cross = relu_kernel(TASK.x_test, 1)
    f, g = np.zeros(4), np.zeros(2)
    for _ in range(20_000):
        error = (TASK.y - f) / 4
        f, g = f + 1e-3 * kernel @ error, g + 1e-3 * cross @ error
    np.testing.assert_allclose(kernel_flow(kernel, cross, TASK.y, 20.0), g, rtol=2e-3)
    np.testing.assert_allclose(kernel_flow(0 * kernel, cross, TASK.y, 20.0), cross @ TASK.y * 5, rtol=1e-10)


@pytest.mark.slow
def test_the_lazy_limit_follows_the_closed_form():
    protocol = lx.GradientDescent(0.05, steps=200)
    theory = lx.limits.MLP(2, "relu", 0.0).solve(TASK, protocol, samples=40_000, keep=None)
    flow = kernel_flow(relu_kernel(TASK.x, 2), relu_kernel(TASK.x_test, 2), TASK.y, 10.0)
    np.testing.assert_allclose(theory.test_predictions[-1], flow, atol=0.03)


def test_ensembles_tell_variance_from_bias():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(2000)
    outputs = y + 0.3 + 0.5 * rng.standard_normal((8, 3, 2000))
    error = ensemble_error(outputs, y)
    np.testing.assert_allclose(error.single, 0.09 + 0.25, rtol=0.06)
    np.testing.assert_allclose(error.variance, 0.25, rtol=0.06)
    np.testing.assert_allclose(error.infinite, 0.09, atol=0.02)
    np.testing.assert_allclose(error.ensemble, 0.09 + 0.25 / 8, atol=0.02)


def test_crossing_and_slope():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    assert crossing(x, x**2, 9.0) == pytest.approx(3.0)
    assert crossing(x, x, 100.0) == np.inf
    assert crossing(x, x, 0.5) == 1.0
    assert log_slope(x, [3.0, np.inf, 12.0, 24.0]) == pytest.approx(1.0)
    assert np.isnan(log_slope(x, [np.inf, np.inf, 1.0, np.inf]))


def test_inputs_are_on_the_sphere():
    x, y = ONLINE.batch(jax.random.key(0), 9)
    np.testing.assert_allclose(np.sum(np.asarray(x) ** 2, 1), 5, rtol=1e-5)
    np.testing.assert_allclose(y, square(x), rtol=1e-6)


GRADIENT = lx.GradientDescent(0.1, steps=3)
BAD = {
    "pairs": (lambda nets: (DESIGN.ensemble(TASK, size=4, seeds=2), TASK, GRADIENT), ValueError, "nets are pairs"),
    "protocol": (
        lambda nets: (nets, TASK, lx.OnlineSGD(0.1, steps=3)),
        TypeError,
        "protocol must be GradientDescent for a fixed data set; OnlineSGD",
    ),
    "loss": (
        lambda nets: (centred.draw(lx.limits.MLP(1, "relu", rate_scale=2.0), 5, 4, 2), TASK, GRADIENT),
        ValueError,
        "centred networks descend on the half mean square",
    ),
    "divergence": (
        lambda nets: (nets, TASK, lx.GradientDescent(1e6, steps=60)),
        lx.DivergedError,
        "2 of 2 networks of width 4 left the stable region by step 60.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_messages(name):
    arguments, kind, sentence = BAD[name]
    with raises(kind, sentence):
        centred.train_centred(*arguments(centred.draw(DESIGN, 5, 4, 2)), TASK.x_test)


def test_messages_of_functions_and_times():
    with raises(ValueError, "target must map inputs [3, 4] to values [3]; theirs have the shape [3, 4]."):
        lx.tasks.sphere_function(4, lambda x: x)
    with raises(TypeError, "target must be a function of inputs [samples, dim]; int 3 was given."):
        lx.tasks.sphere_function(4, 3)
    nets = centred.draw(DESIGN, 5, 4, 2)
    with raises(ValueError, "times must increase from at least 0 to at most the 3 steps; they are [2 1]."):
        centred.train_centred(nets, TASK, GRADIENT, TASK.x, times=(2, 1))
