"""Derivatives of the causal march: the tape against the plain loop and against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import CoefficientAxis, MarchInputs, MarchOptions, SampleAxis, march


def smooth_inputs(steps, dim=3, samples=2):
    """Slow training, twenty steps and more: where an undifferentiated second projection would show."""
    rng = np.random.default_rng(1)
    return MarchInputs(
        x=jnp.asarray(rng.standard_normal((samples, dim))),
        y=jnp.asarray(rng.standard_normal(samples)),
        x_test=jnp.asarray(rng.standard_normal((1, dim))),
        learning_rate=jnp.linspace(0.1, 0.05, steps),
        momentum=jnp.full(steps, 0.5, float),
        weight_decay=jnp.full(steps, 0.1, float),
        richness=jnp.asarray(1.2, float),
        init_scale=jnp.array([1.0, 0.8, 1.1]),
        bias_scale=jnp.asarray(0.3, float),
        rate_scale=jnp.array([1.1, 0.9, 1.0]),
        correlation=jnp.asarray(0.5, float),
        sample_weights=jnp.linspace(0.4, 0.6, steps * samples).reshape(steps, samples),
    )


EXACT_AND_SAMPLED = pytest.mark.parametrize("exact", [True, pytest.param(False, marks=pytest.mark.slow)])
STEPS = 24


@functools.cache
def make_loss(exact, adjoint):
    # Tolerances far from any pivot, so that the differences do not cross a change of the kept directions.
    capacity, tolerance = (20, 1e-18) if exact else (40, 2e-2)
    axis = CoefficientAxis().sized(0, capacity + 2) if exact else SampleAxis(120)

    @jax.jit
    def loss(inputs):
        out = march(
            inputs,
            jax.random.key(3),
            MarchOptions((lambda h: h) if exact else jnp.tanh),
            axis=axis,
            capacity=capacity,
            tolerance=tolerance,
            adjoint=adjoint,
        )
        kernel = jnp.sum(jnp.cos(out.Phi.equal_time)) + jnp.sum(jnp.sin(out.G.equal_time))
        return jnp.mean((out.predictions[-1] - inputs.y) ** 2) + 0.3 * jnp.sum(out.test_predictions[-1]) + 0.1 * kernel

    return loss


@functools.cache
def make_gradient(exact, adjoint):
    return jax.jit(jax.grad(make_loss(exact, adjoint)))


def central(loss, inputs, direction, step=1e-3):
    """Fourth-order central difference along a direction."""
    at = lambda s: loss(jax.tree.map(lambda x, v: x + s * step * v, inputs, direction))  # noqa: E731
    return (8 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12 * step)


@pytest.mark.slow
@EXACT_AND_SAMPLED
def test_tape_equals_forward_mode_and_finite_differences(exact):
    with jax.enable_x64(True):
        inputs = smooth_inputs(STEPS)
        loss, direct = make_loss(exact, "tape"), make_loss(exact, "direct")
        gradient = make_gradient(exact, "tape")(inputs)
        rng = np.random.default_rng(0)
        zero = jax.tree.map(jnp.zeros_like, inputs)
        moves = {}
        for name in inputs._fields:
            move = jnp.asarray(rng.standard_normal(getattr(inputs, name).shape))
            moves[name] = move / jnp.linalg.norm(move)
            expected = central(loss, inputs, zero._replace(**{name: moves[name]}))
            found = jnp.vdot(getattr(gradient, name), moves[name])
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8, err_msg=name)
        _, tangent = jax.jvp(direct, (inputs,), (inputs._replace(**moves),))
        found = sum(jnp.vdot(getattr(gradient, name), move) for name, move in moves.items())
        np.testing.assert_allclose(tangent, found, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_tape_equals_plain_reverse_mode(exact):
    with jax.enable_x64(True):
        inputs = smooth_inputs(STEPS)
        gradients = [make_gradient(exact, adjoint)(inputs) for adjoint in ("tape", "direct")]
        for tape, plain in zip(*gradients, strict=True):
            # exact directions are kept down to a pivot of 1e-9, over which rounding is divided
            np.testing.assert_allclose(tape, plain, rtol=1e-8 if exact else 1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_gradients_are_finite_where_things_degenerate(exact):
    with jax.enable_x64(True):
        inputs = smooth_inputs(STEPS)
        gradient = make_gradient(exact, "tape")
        x = inputs.x.at[1].set(inputs.x[0])
        for degenerate in (
            inputs._replace(x=x, x_test=x[:1]),
            inputs._replace(learning_rate=jnp.zeros(STEPS), momentum=jnp.zeros(STEPS), weight_decay=jnp.zeros(STEPS)),
            inputs._replace(y=jnp.zeros(2), bias_scale=jnp.zeros(())),
            inputs._replace(init_scale=jnp.array([1.0, 0.0, 1.0])),
        ):
            for name, value in gradient(degenerate)._asdict().items():
                assert np.all(np.isfinite(value)), name


@pytest.mark.parametrize("gated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batches_of_test_points_have_the_same_gradient(gated):
    def gradient(test_batch, adjoint):
        options = MarchOptions(jnp.tanh, gated=gated, test_batch=test_batch)

        def loss(inputs):
            sizes = {"axis": SampleAxis(60), "capacity": 8, "tolerance": 1e-2}
            out = march(inputs, jax.random.key(3), options, **sizes, adjoint=adjoint)
            return jnp.sum(out.test_predictions[-1] ** 2)

        inputs = smooth_inputs(3)
        inputs = inputs._replace(x_test=jnp.concatenate([inputs.x_test, -inputs.x, inputs.x_test[:, ::-1]]))
        return jax.jit(jax.grad(loss))(inputs)

    with jax.enable_x64(True):
        expected = gradient(None, "direct")
        assert np.max(np.abs(expected.x_test)) > 0
        for found in (gradient(None, "tape"), gradient(3, "tape")):
            for name, value in expected._asdict().items():
                np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-12, err_msg=name)
