"""Finite networks: their equations by hand, and the loop that trains them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import optax
import pytest

from .helpers import raises, same, small_task

TASK = small_task()
LIMIT = lx.limits.MLP(2, "tanh", richness=1.6, init_scale=[0.8, 1.1, 0.9], bias_scale=0.4)
PLAIN = lx.limits.MLP(2, "tanh", richness=1.6)
WIDTH = 8
STEPS = 3
PROTOCOL = lx.GradientDescent([0.3, 0.2, 0.1], [0.1, 0.4, 0.6], [0.2, 0.1, 0.3])


def host(net):
    w = net.weights
    matrices = [np.asarray(m, np.float64) for m in (*w.hidden, w.readout)]
    biases = [np.zeros(WIDTH)] * 2 if w.biases is None else [np.asarray(b, np.float64) for b in w.biases]
    return matrices, biases


def by_hand(net, x):
    """Predictions, activations and backward fields of a two-layer tanh network."""
    (W0, W1, w), (b1, b2) = host(net)
    gamma, N = float(net.design.richness), len(w)
    phi1 = np.tanh(x @ W0.T / np.sqrt(x.shape[1]) + b1)
    phi2 = np.tanh(phi1 @ W1.T / np.sqrt(N) + b2)
    g2 = (1 - phi2**2) * w
    g1 = (1 - phi1**2) * (g2 @ W1) / np.sqrt(N)
    return phi2 @ w / (gamma * N), (phi1, phi2), (g1, g2)


def gradient_by_hand(net, x, y):
    """Gradient of the half mean square with respect to W0, W1, w, b1, b2."""
    f, (phi1, phi2), (g1, g2) = by_hand(net, x)
    gamma, N = float(net.design.richness), phi1.shape[1]
    delta = (f - y)[:, None] / len(y) / (gamma * N)
    return [
        (delta * g1).T @ x / np.sqrt(x.shape[1]),
        (delta * g2).T @ phi1 / np.sqrt(N),
        (delta * phi2).sum(0),
        (delta * g1).sum(0),
        (delta * g2).sum(0),
    ]


def flat(net):
    matrices, biases = host(net)
    return [*matrices, *biases]


@pytest.fixture(scope="module")
def double_net():
    with jax.enable_x64(True):
        return LIMIT.finite(TASK, size=WIDTH, key=jax.random.key(1))


@pytest.fixture(scope="module")
def double_run(double_net):
    with jax.enable_x64(True):
        return lx.nets.train(double_net, TASK, PROTOCOL, kernels=True, return_net=True)


def test_the_output_is_the_mean_field_perceptron(double_net):
    with jax.enable_x64(True):
        f = jax.vmap(double_net)(jnp.asarray(TASK.x))
    np.testing.assert_allclose(f, by_hand(double_net, TASK.x)[0], rtol=1e-12)


def test_training_is_heavy_ball_with_the_mean_field_step(double_net, double_run):
    record, trained = double_run
    net = double_net
    scale = float(net.learning_rate_scale)
    np.testing.assert_allclose(scale, 1.6**2 * WIDTH, rtol=1e-14)
    velocity = [np.zeros_like(w) for w in flat(net)]
    x, y = TASK.x, TASK.y
    predictions, tests = [by_hand(net, x)[0]], [by_hand(net, TASK.x_test)[0]]
    for eta, beta, decay in zip(PROTOCOL.learning_rate, PROTOCOL.momentum, PROTOCOL.weight_decay, strict=True):
        gradient = gradient_by_hand(net, x, y)
        velocity = [beta * v + g + decay / scale * w for v, g, w in zip(velocity, gradient, flat(net), strict=True)]
        W0, W1, w, b1, b2 = (w - eta * scale * v for w, v in zip(flat(net), velocity, strict=True))
        net = eqx.tree_at(lambda n: n.weights, net, type(net.weights)((W0, W1), w, (b1, b2)))
        predictions.append(by_hand(net, x)[0])
        tests.append(by_hand(net, TASK.x_test)[0])
    np.testing.assert_allclose(record.predictions, predictions, rtol=1e-11)
    np.testing.assert_allclose(record.test_predictions, tests, rtol=1e-11)
    np.testing.assert_allclose(record.train_loss, np.mean((np.array(predictions) - y) ** 2, 1) / 2, rtol=1e-11)
    np.testing.assert_allclose(record.test_loss, np.mean((np.array(tests) - TASK.y_test) ** 2, 1) / 2, rtol=1e-11)
    for ours, theirs in zip(flat(trained), flat(net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)


def test_kernels_are_averages_over_units(double_net, double_run):
    record, trained = double_run
    first, last = (by_hand(net, TASK.x)[1:] for net in (double_net, trained))
    for kind, index in (("Phi", 0), ("G", 1)):
        for layer in (1, 2):
            a, b = first[index][layer - 1], last[index][layer - 1]
            kernel = record.kernels[kind, layer]
            assert kernel.shape == (STEPS + 1, STEPS + 1, 4, 4)
            np.testing.assert_allclose(kernel[0, 0], a @ a.T / WIDTH, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(kernel[0, -1], a @ b.T / WIDTH, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(kernel[-1, -1], b @ b.T / WIDTH, rtol=1e-10, atol=1e-13)


def test_the_trained_net_has_the_last_predictions(double_run):
    record, trained = double_run
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.vmap(trained)(jnp.asarray(TASK.x)), record.predictions[-1], rtol=1e-12)
    assert trained.design is LIMIT


def test_the_record_says_what_made_it(double_run):
    record, _ = double_run
    assert record.model == "network"
    assert record.loss_convention == "half_mean_square"
    assert record.status == "converged"
    assert dict(record.attributes) == {"size": WIDTH, "seeds": 1, "key": "0-0"}
    assert int(record.diverged_step) == -1


def test_initial_weights_have_the_scales_of_the_design():
    net = LIMIT.finite(TASK, size=600, key=jax.random.key(2))
    for weights, scale in zip(flat_any(net), [0.8, 1.1, 0.9, 0.4, 0.4], strict=True):
        assert abs(np.std(weights) / scale - 1) < 5 / np.sqrt(2 * weights.size)
        assert abs(np.mean(weights)) < 5 * scale / np.sqrt(weights.size)
    assert PLAIN.finite(TASK, size=WIDTH).weights.biases is None


def flat_any(net):
    return [*net.weights.hidden, net.weights.readout, *net.weights.biases]


@pytest.fixture(scope="module")
def pairs():
    return LIMIT.ensemble(TASK, size=WIDTH, seeds=3, key=jax.random.key(4))


def test_pairs_start_at_zero_and_differ_in_the_readout_only(pairs):
    assert pairs.seeds == 3
    for seed in range(3):
        plus, minus = pairs.member(seed, 0), pairs.member(seed, 1)
        same(plus.weights.hidden, minus.weights.hidden)
        same(plus.weights.biases, minus.weights.biases)
        np.testing.assert_array_equal(plus.weights.readout, -minus.weights.readout)
    assert not np.array_equal(pairs.member(0).weights.readout, pairs.member(1).weights.readout)
    record = lx.nets.train(pairs, TASK, PROTOCOL)
    np.testing.assert_allclose(record.predictions[:, 0], 0, atol=1e-7)
    np.testing.assert_allclose(record.train_loss[:, 0], np.mean(TASK.y**2) / 2, rtol=1e-5)


def test_an_ensemble_is_its_members_trained_one_by_one(pairs):
    record, trained = lx.nets.train(pairs, TASK, PROTOCOL, return_net=True)
    assert record.predictions.shape == (3, STEPS + 1, 4)
    assert record.diverged_step.shape == (3,)
    singles = [lx.nets.train(pairs.member(2, sign), TASK, PROTOCOL, return_net=True) for sign in (0, 1)]
    mean = (singles[0][0].predictions + singles[1][0].predictions) / 2
    np.testing.assert_allclose(record.predictions[2], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(record.train_loss[2], np.mean((mean - TASK.y) ** 2, axis=1) / 2, rtol=1e-4, atol=1e-6)
    for sign in (0, 1):
        same(trained.member(2, sign).weights, singles[sign][1].weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("seed", "sign"), [(3, 0), (-1, 0), (0, 2), (0, -1)])
def test_a_member_that_is_not_there(pairs, seed, sign):
    with pytest.raises(ValueError, match=r"^(seed|sign) must be between 0 and"):
        pairs.member(seed, sign)


def test_an_unpaired_ensemble():
    members = jax.tree.map(
        lambda *w: jnp.stack(w), *(LIMIT.finite(TASK, size=WIDTH, key=jax.random.key(k)) for k in (0, 1))
    )
    ensemble = lx.nets.Ensemble(members, paired=False)
    record, trained = lx.nets.train(ensemble, TASK, PROTOCOL, return_net=True)
    single, single_net = lx.nets.train(ensemble.member(1), TASK, PROTOCOL, return_net=True)
    np.testing.assert_allclose(record.predictions[1], single.predictions, rtol=1e-4, atol=1e-5)
    same(trained.member(1).weights, single_net.weights, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^sign must be"):
        ensemble.member(1, 1)


def test_a_net_is_weights_and_a_frozen_design():
    net = LIMIT.finite(TASK, size=WIDTH)
    assert lx.limits.of(net) is LIMIT
    same(eqx.filter(net, lx.nets.trainable(net)).weights, net.weights)
    assert len(jax.tree.leaves(net)) == len(jax.tree.leaves(net.weights)) == 5
    pairs = LIMIT.ensemble(TASK, size=WIDTH, seeds=3)
    assert lx.limits.of(pairs) is LIMIT
    assert all(jax.tree.leaves(lx.nets.trainable(pairs)))
    assert jax.tree.structure(net) == jax.tree.structure(LIMIT.finite(TASK, size=WIDTH, key=jax.random.key(7)))
    assert jax.tree.structure(net) != jax.tree.structure(PLAIN.finite(TASK, size=WIDTH))


def test_no_textbook_loop_trains_the_richness():
    net = LIMIT.finite(TASK, size=WIDTH)
    params, rest = eqx.partition(net, eqx.is_inexact_array)
    optimiser = optax.adamw(0.1, weight_decay=0.5)
    state = optimiser.init(params)
    for _ in range(2):
        gradient = jax.tree.map(jnp.ones_like, params)
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    trained = eqx.combine(params, rest)
    assert np.all(trained.weights.readout != net.weights.readout)
    assert trained.design is LIMIT
    assert float(trained.design.richness) == 1.6
    np.testing.assert_array_equal(trained.design.init_scale, [0.8, 1.1, 0.9])


def test_a_design_is_made_of_numbers():
    def inside(richness):
        return lx.nets.MLP.init(lx.limits.MLP(1, "tanh", richness), 5, 4)(jnp.ones(5))

    with raises(TypeError, "a finite network's design must hold concrete numbers"):
        jax.grad(inside)(1.0)


def test_the_whole_set_without_replacement_is_full_batch():
    net = PLAIN.finite(TASK, size=WIDTH)
    full = lx.nets.train(net, TASK, lx.GradientDescent(0.3, 0.5, 0.1, steps=STEPS))
    batches = lx.nets.train(net, TASK, lx.MinibatchSGD(0.3, 4, 0.5, 0.1, replace=False, steps=STEPS))
    np.testing.assert_allclose(batches.predictions, full.predictions, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replace", [True, False])
def test_a_batch_is_the_mean_over_drawn_samples(replace):
    """One step on one or two samples of four equals full-batch descent on those samples, for some drawn pair."""
    net = PLAIN.finite(TASK, size=WIDTH)
    start = lx.nets.train(net, TASK, lx.GradientDescent(0.0, steps=1)).predictions[0]

    def after(weights):
        # full-batch descent with weighted samples, from targets that carry the weight in their residual
        task = lx.tasks.from_arrays(TASK.x, start + 4 * np.asarray(weights) * (TASK.y - start))
        return lx.nets.train(net, task, lx.GradientDescent(0.3, steps=1)).predictions[1]

    pairs = {(i, j): after((np.eye(4)[i] + np.eye(4)[j]) / 2) for i in range(4) for j in range(i, 4)}
    seen = set()
    for seed in range(40):
        protocol = lx.MinibatchSGD(0.3, 2, replace=replace, steps=1)
        got = lx.nets.train(net, TASK, protocol, key=jax.random.key(seed)).predictions[1]
        nearest = min(pairs, key=lambda pair: np.max(np.abs(pairs[pair] - got)))
        np.testing.assert_allclose(got, pairs[nearest], rtol=1e-4, atol=1e-5)
        seen.add(nearest)
    twice = {pair for pair in seen if pair[0] == pair[1]}
    assert bool(twice) == replace
    assert len(seen - twice) >= 5


def test_an_optax_optimiser_acts_on_raw_weights():
    net = PLAIN.finite(TASK, size=WIDTH)
    optimiser = optax.adam(0.05)
    record, trained = lx.nets.train(net, TASK, optimiser, steps=STEPS, return_net=True)

    @eqx.filter_jit
    def step(net, state):
        def loss(net):
            return (
                jnp.mean((jax.vmap(net)(jnp.asarray(TASK.x, jnp.float32)) - jnp.asarray(TASK.y, jnp.float32)) ** 2) / 2
            )

        value, gradient = eqx.filter_value_and_grad(loss)(net)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(net, updates), state, value

    losses, state = [], optimiser.init(eqx.filter(net, eqx.is_inexact_array))
    for _ in range(STEPS):
        net, state, value = step(net, state)
        losses.append(value)
    np.testing.assert_allclose(record.train_loss[:-1], losses, rtol=1e-4)
    same(trained.weights, net.weights, rtol=1e-3, atol=1e-4)


def test_divergence_says_the_step_and_the_number_of_runs(pairs):
    protocol = lx.GradientDescent(1e4, steps=STEPS)
    linear = lx.limits.MLP(2, "identity", richness=1.6)
    net = linear.finite(TASK, size=WIDTH)
    record = lx.nets.train(net, TASK, protocol, throw=False)
    assert record.status == "diverged"
    first = int(record.diverged_step)
    losses = np.asarray(record.train_loss)
    assert first == np.argmax(~np.isfinite(losses) | (losses > 1e6 * losses[0]))
    with pytest.raises(lx.DivergedError, match=rf"^training left the stable region at step {first} \(loss "):
        lx.nets.train(net, TASK, protocol)
    with pytest.raises(lx.DivergedError, match=r"^training left the stable region in 3 of 3 runs, first at step \d "):
        lx.nets.train(linear.ensemble(TASK, size=WIDTH, seeds=3), TASK, protocol)


def test_other_numbers_do_not_compile_again():
    traces = []

    def counting(h):
        traces.append(1)
        return jnp.tanh(h)

    counts = []
    for scale in (1.0, 1.1, 1.2):
        limit = lx.limits.MLP(1, counting, richness=scale, init_scale=scale)
        task = lx.tasks.from_arrays(TASK.x * scale, TASK.y * scale)
        net = limit.finite(task, size=4, key=jax.random.key(int(10 * scale)))
        lx.nets.train(net, task, lx.MinibatchSGD(0.1 * scale, 2, 0.1 * scale, steps=2), key=jax.random.key(1))
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("wide", [False, True])
def test_weights_and_records_follow_the_global_precision(wide):
    with jax.enable_x64(wide):
        net = LIMIT.finite(TASK, size=WIDTH)
        record = lx.nets.train(net, TASK, PROTOCOL)
    dtype = np.float64 if wide else np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {np.dtype(dtype)}
    assert record.predictions.dtype == record.train_loss.dtype == dtype


def test_single_precision_weights_train_when_the_flag_is_on():
    net = LIMIT.finite(TASK, size=WIDTH)
    off = lx.nets.train(net, TASK, PROTOCOL)
    with jax.enable_x64(True):
        on = lx.nets.train(net, TASK, PROTOCOL)
    assert on.predictions.dtype == np.float32
    np.testing.assert_allclose(on.predictions, off.predictions, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["erf", "gelu", "identity", "relu", "softplus", "tanh"])
def test_activations(name):
    from math import erf, exp, log1p, sqrt, tanh

    from limitax.nets._activations import activation_function

    oracle = {
        "erf": erf,
        "gelu": lambda h: h * (1 + erf(h / sqrt(2))) / 2,
        "identity": lambda h: h,
        "relu": lambda h: max(h, 0.0),
        "softplus": lambda h: log1p(exp(h)),
        "tanh": tanh,
    }[name]
    points = [-2.0, -0.3, 0.0, 1.7]
    np.testing.assert_allclose(
        activation_function(name)(jnp.array(points)), [oracle(h) for h in points], rtol=2e-6, atol=1e-6
    )


def test_training_needs_no_test_targets():
    task = lx.tasks.from_arrays(TASK.x, TASK.y, x_test=TASK.x_test)
    record = lx.nets.train(LIMIT.finite(task, size=WIDTH), task, PROTOCOL)
    assert record.test_predictions.shape == (STEPS + 1, 2)
    assert record.test_loss is None
