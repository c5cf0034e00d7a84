"""Protocols: scalars and arrays become schedules, and schedules are leaves."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

from .helpers import is_float, same

ZOO = {
    "GradientDescent": lambda rate=0.1, **k: lx.GradientDescent(rate, 0.5, 0.2, **k),
    "OnlineSGD": lambda rate=0.1, **k: lx.OnlineSGD(rate, 0.5, 0.05, batch_size=3, **k),
    "OnlineSGD with batch_ratio": lambda rate=0.1, **k: lx.OnlineSGD(rate, batch_ratio=2, **k),
    "NormalisedSGD": lambda rate=0.1, **k: lx.NormalisedSGD(rate, 2, **k),
    "MinibatchSGD": lambda rate=0.1, **k: lx.MinibatchSGD(rate, 2, 0.5, 0.2, **k),
}


@pytest.mark.parametrize("name", ZOO)
def test_scalars_become_schedules(name):
    protocol = ZOO[name](steps=7)
    assert protocol.steps == 7
    leaves = jax.tree.leaves(protocol)
    assert leaves
    for leaf in leaves:
        assert leaf.shape == (7,)
        assert leaf.dtype == np.float64
        assert np.all(leaf == leaf[0])


@pytest.mark.parametrize("name", ZOO)
def test_an_array_gives_the_number_of_steps(name):
    rates = [0.3, 0.2, 0.1]
    for given in (rates, tuple(rates), np.array(rates), jnp.array(rates)):
        protocol = ZOO[name](given)
        assert protocol.steps == 3
        np.testing.assert_allclose(protocol.learning_rate, rates, rtol=1e-6)
    assert ZOO[name](rates, steps=3).steps == 3


def test_values_end_up_in_their_own_fields():
    protocol = lx.OnlineSGD(0.1, 0.2, 0.3, batch_size=[4, 5])
    np.testing.assert_array_equal(protocol.learning_rate, [0.1, 0.1])
    np.testing.assert_array_equal(protocol.momentum, [0.2, 0.2])
    np.testing.assert_array_equal(protocol.extra_gradient, [0.3, 0.3])
    np.testing.assert_array_equal(protocol.batch_size, [4.0, 5.0])
    assert protocol.batch_ratio is None
    minibatch = lx.MinibatchSGD([0.1, 0.2], 3, 0.4, 0.5, replace=False)
    np.testing.assert_array_equal(minibatch.batch_size, [3.0, 3.0])
    np.testing.assert_array_equal(minibatch.weight_decay, [0.5, 0.5])
    assert minibatch.replace is False
    np.testing.assert_array_equal(lx.OnlineSGD(0.1, steps=2).batch_size, [1.0, 1.0])
    np.testing.assert_array_equal(lx.OnlineSGD(0.1, batch_ratio=2, steps=2).batch_ratio, [2.0, 2.0])
    np.testing.assert_array_equal(lx.GradientFlow([0, 1, 3]).times, [0.0, 1.0, 3.0])


def test_rates_may_pass_the_stability_bound_and_be_zero():
    np.testing.assert_array_equal(lx.GradientDescent([0.0, 1e6]).learning_rate, [0.0, 1e6])


@pytest.mark.parametrize("name", ZOO)
def test_a_protocol_is_a_pytree(name):
    protocol = ZOO[name](steps=4)
    leaves, structure = jax.tree.flatten(protocol)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(protocol)
    same(protocol, again)
    doubled = jax.tree.map(lambda v: 2 * v, protocol)
    np.testing.assert_allclose(doubled.learning_rate, 0.2)


@pytest.mark.parametrize("name", ZOO)
def test_other_values_do_not_compile_again(name):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def total(protocol):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(protocol))

    for rate in (0.1, 0.2, [0.1, 0.2, 0.3]):
        protocol = ZOO[name](rate, steps=3)
        expected = sum(np.sum(leaf) for leaf in jax.tree.leaves(protocol))
        np.testing.assert_allclose(total(protocol), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ZOO)
def test_gradients_pass_through_a_scalar_rate(name):
    weights = np.arange(1.0, 5.0)
    gradient = jax.jit(jax.grad(lambda rate: jnp.sum(weights * ZOO[name](rate, steps=4).learning_rate)))(0.1)
    np.testing.assert_allclose(gradient, weights.sum(), rtol=1e-6)


def test_gradients_pass_through_a_list_of_rates():
    gradient = jax.grad(lambda rate: lx.GradientDescent([rate, 3 * rate, 0.5]).learning_rate.sum())(0.1)
    np.testing.assert_allclose(gradient, 4.0, rtol=1e-6)


def test_protocols_may_be_batched():
    rates = jnp.array([0.1, 0.2, 0.3])
    many = eqx.filter_vmap(lambda r: lx.GradientDescent(r, steps=5))(rates)
    assert many.learning_rate.shape == (3, 5)
    assert many.steps == 5
    np.testing.assert_array_equal(many.learning_rate, np.repeat(rates[:, None], 5, axis=1))


def test_jax_values_keep_their_float_type():
    protocol = lx.GradientDescent(jnp.float32(0.1), steps=2)
    assert protocol.learning_rate.dtype == np.float32
    whole = lx.GradientDescent(jnp.arange(3))
    assert is_float(whole.learning_rate)
    np.testing.assert_array_equal(whole.learning_rate, [0.0, 1.0, 2.0])
