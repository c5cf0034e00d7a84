"""The causal sweep on a small nonlinear recursion: every way to differentiate it gives the same numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import CAUSAL_ADJOINTS, causal_sweep

WIDTH = 3


def row(params, history, time, x):
    """Attention to all that was written: uses both leaves of the history, the parameters, the input, and the time."""
    assert jnp.issubdtype(time.dtype, jnp.integer)
    mixing, bias = params
    scores = history["h"].dot(mixing @ x) / (1.0 + time)
    weights = jnp.tanh(scores) + bias * jnp.sum(history["S"].rows, axis=0)
    return {"h": jnp.tanh(x + history["h"].sum(weights)), "S": scores + bias * (jnp.arange(len(scores)) == time)}


def sweep(params, xs, adjoint):
    steps, dtype = len(xs), xs.dtype
    like = {"h": jax.ShapeDtypeStruct((WIDTH,), dtype), "S": jax.ShapeDtypeStruct((steps,), dtype)}
    return causal_sweep(row, like, params, xs, adjoint=adjoint)


def explicit(params, xs):
    (mixing, bias), steps = params, len(xs)
    h, S = np.zeros((steps, WIDTH)), np.zeros((steps, steps))
    for t, x in enumerate(xs):
        scores = h @ (mixing @ x) / (1 + t)
        h[t] = np.tanh(x + (np.tanh(scores) + bias * S.sum(0)) @ h)
        S[t] = scores
        S[t, t] += bias
    return {"h": h, "S": S}


def problem(steps):
    rng = np.random.default_rng(steps)
    return (rng.standard_normal((WIDTH, WIDTH)), np.float64(0.4)), rng.standard_normal((steps, WIDTH))


def objective(params, xs, adjoint):
    """Every entry of the history counts, by different amounts."""
    history = sweep(params, xs, adjoint)
    return sum(jnp.sum(jnp.sin(1.0 + jnp.arange(leaf.size)) * jnp.ravel(leaf) ** 2) for leaf in history.values())


run = jax.jit(sweep, static_argnums=2)
slopes = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)), static_argnums=2)


@pytest.mark.parametrize("steps", [1, 7, 29])
def test_adjoints_agree(steps):
    params, xs = problem(steps)
    with jax.enable_x64(True):
        params, xs = jax.tree.map(jnp.asarray, (params, xs))
        truth = explicit(*problem(steps))
        found = {}
        for adjoint in CAUSAL_ADJOINTS:
            history = run(params, xs, adjoint)
            for name, leaf in truth.items():
                np.testing.assert_allclose(history[name], leaf, rtol=1e-13, atol=1e-14)
            found[adjoint] = slopes(params, xs, adjoint)
        for adjoint in CAUSAL_ADJOINTS:
            chex.assert_trees_all_close(found[adjoint], found["direct"], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("adjoint", ["tape", "direct"])
def test_batching_is_a_loop(adjoint):
    params, xs = problem(7)
    with jax.enable_x64(True):
        many = jnp.asarray(np.stack([xs, 0.5 * xs, xs[::-1]]))
        params = jax.tree.map(jnp.asarray, params)
        batched = jax.jit(jax.vmap(jax.grad(lambda xs: objective(params, xs, adjoint))))(many)
        for each, one in zip(batched, many, strict=True):
            np.testing.assert_allclose(each, slopes(params, one, adjoint)[1][1], rtol=1e-12, atol=1e-13)


def test_slopes_are_differences():
    params, xs = problem(7)
    with jax.enable_x64(True):
        at = jax.jit(lambda step: objective((params[0] + step, params[1] - step), jnp.asarray(xs) * (1 + step), "tape"))
        slope, h = jax.grad(at)(0.0), 1e-4
        difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        np.testing.assert_allclose(slope, difference, rtol=1e-9)


def test_forward_mode():
    params, xs = problem(7)
    with jax.enable_x64(True):
        params, xs = jax.tree.map(jnp.asarray, (params, xs))
        _, (_, slope) = slopes(params, xs, "tape")
        direction = jnp.cos(jnp.arange(xs.size)).reshape(xs.shape)
        _, along = jax.jit(lambda x: jax.jvp(lambda x: objective(params, x, "direct"), (x,), (direction,)))(xs)
        np.testing.assert_allclose(along, jnp.vdot(slope, direction), rtol=1e-11)
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(lambda x: objective(params, x, "tape"), (xs,), (direction,))


def test_a_step_does_not_depend_on_later_inputs():
    params, xs = problem(7)
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda xs: jnp.sum(sweep(params, xs, "tape")["h"][4])))(jnp.asarray(xs))
        assert np.all(slope[5:] == 0)
        assert np.all(slope[4] != 0)


def test_values_do_not_retrace():
    traced = jax.jit(jax.grad(chex.assert_max_traces(lambda params, xs: objective(params, xs, "tape"), n=1)))
    params, xs = problem(7)
    for scale in (1.0, 0.3, 0.0):
        traced(jax.tree.map(lambda a, scale=scale: jnp.asarray(scale * a), params), jnp.asarray(xs + scale))


def test_single_precision_stays_single():
    params, xs = problem(7)
    params, xs = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, xs))
    (_, slope) = slopes(params, xs, "tape")
    assert {leaf.dtype for leaf in jax.tree.leaves(slope)} == {np.dtype("float32")}


def test_unknown_adjoint():
    with pytest.raises(ValueError, match="adjoint 'implicit' is unknown; one of: tape, blocked, direct"):
        sweep(*jax.tree.map(jnp.asarray, problem(3)), "implicit")
