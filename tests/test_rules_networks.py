"""Finite perceptrons under learning rules, losses, several outputs and layer rates, against formulas by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import optax
import pytest
from limitax.nets._batches import batch_weights
from limitax.nets._mlp_fields import PREACTIVATION_EDGES

from .helpers import raises, same, small_task

TASK = small_task()
WIDTH = 6
RATES = (0.7, 1.3, 0.4)
RULES = {
    "backpropagation": lx.rules.Backpropagation(),
    "feedback": lx.rules.FeedbackAlignment(0.6),
    "direct": lx.rules.DirectFeedbackAlignment(),
    "hebb": lx.rules.Hebb(),
    "gated": lx.rules.GatedLinear(),
}
NETWORKS = lx.nets.MLP


def outputs_task(outputs, positive=False):
    """The inputs of `TASK` with `outputs` targets, or with probabilities."""
    rng = np.random.default_rng(3)
    draw = lambda rows: rng.normal(size=(rows, outputs))  # noqa: E731
    y, y_test = draw(4), draw(2)
    if positive:
        y, y_test = (np.exp(a) / np.exp(a).sum(1, keepdims=True) for a in (y, y_test))
    return lx.tasks.from_arrays(TASK.x, y, x_test=TASK.x_test, y_test=y_test)


def limit(name="backpropagation", **changes):
    options = {"richness": 1.6, "init_scale": [0.8, 1.1, 0.9], "bias_scale": 0.4, "rate_scale": RATES}
    return lx.limits.MLP(2, "tanh", **(options | {"rule": RULES[name]} | changes))


def softmax(f):
    e = np.exp(f - f.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class ByHand:
    """A network with two hidden layers in NumPy, that learns by one of the rules with the readout `[outputs, width]`.

    Written sample by sample and output by output.
    """

    def __init__(self, net, rule):
        host = lambda tree: [np.asarray(a, np.float64) for a in tree]  # noqa: E731
        self.rule, self.gamma = rule, float(net.design.richness)
        self.W0, self.W1, w = host((*net.weights.hidden, net.weights.readout))
        self.w = w.reshape(-1, w.shape[-1])
        self.b1, self.b2 = host(net.weights.biases or (np.zeros(w.shape[-1]),) * 2)
        self.fixed = host(net.fixed.arrays) if net.fixed is not None else []
        self.N, self.D = self.W0.shape
        self.loss = net.design.loss

    def forward(self, x):
        h1 = self.W0 @ x / np.sqrt(self.D) + self.b1
        if self.rule == "gated":
            s1, s2 = (1 - np.tanh(V @ x / np.sqrt(self.D)) ** 2 for V in self.fixed)
            phi1 = s1 * h1
            h2 = self.W1 @ phi1 / np.sqrt(self.N) + self.b2
            phi2 = s2 * h2
        else:
            phi1 = np.tanh(h1)
            h2 = self.W1 @ phi1 / np.sqrt(self.N) + self.b2
            phi2 = np.tanh(h2)
            s1, s2 = 1 - phi1**2, 1 - phi2**2
        return self.w @ phi2 / (self.gamma * self.N), (h1, h2), (phi1, phi2), (s1, s2)

    def errors(self, f, y):
        return y - f if self.loss == "half_mean_square" else y - y.sum() * softmax(f)

    def back(self, x, y):
        """The errors `[outputs]` and the two fields `[outputs, width]` that teach, for one sample."""
        f, _, (phi1, phi2), (s1, s2) = self.forward(x)
        delta = self.errors(f, y)
        g1, g2 = [], []
        for k in range(len(f)):
            if self.rule == "hebb":
                g1.append(delta[k] * phi1)
                g2.append(delta[k] * phi2)
            elif self.rule == "direct":
                z1, z2 = (z.reshape(-1, self.N)[k] for z in self.fixed)
                g1.append(s1 * z1)
                g2.append(s2 * z2)
            else:
                F1, F2 = self.fixed if self.rule == "feedback" else (self.W1, self.w)
                F2 = F2.reshape(-1, self.N)
                g2.append(s2 * F2[k])
                g1.append(s1 * (F1.T @ g2[-1]) / np.sqrt(self.N))
        return delta, np.array(g1), np.array(g2)

    def step(self, X, Y, rate, weights, decay=0.0):
        """One step on samples that count `weights` in the loss."""
        changes = [0, 0, 0, 0, 0]
        for m, x, y in zip(weights, X, Y, strict=True):
            _, _, (phi1, phi2), _ = self.forward(x)
            delta, g1, g2 = self.back(x, y)
            b1, b2 = delta @ g1, delta @ g2
            for i, move in enumerate(
                (
                    np.outer(b1, x) / np.sqrt(self.D),
                    np.outer(b2, phi1) / np.sqrt(self.N),
                    np.outer(delta, phi2),
                    b1,
                    b2,
                )
            ):
                changes[i] = changes[i] + m * self.gamma * move
        r0, r1, r2 = RATES
        self.W0 = self.W0 + r0 * rate * (changes[0] - decay * self.W0)
        self.W1 = self.W1 + r1 * rate * (changes[1] - decay * self.W1)
        self.w = self.w + r2 * rate * (changes[2] - decay * self.w)
        self.b1 = self.b1 + r0 * rate * (changes[3] - decay * self.b1)
        self.b2 = self.b2 + r1 * rate * (changes[4] - decay * self.b2)

    def predictions(self, X):
        return np.array([self.forward(x)[0] for x in X])


def check_against_hand(net, rule, task, protocol, **record):
    run, trained = lx.nets.train(net, task, protocol, return_net=True, **record)
    hand, y = ByHand(net, rule), task.y.reshape(len(task.y), -1)
    rows = []
    for rate, decay in zip(protocol.learning_rate, protocol.weight_decay, strict=True):
        rows.append((hand.predictions(task.x), hand.predictions(task.x_test)))
        hand.step(task.x, y, rate, np.full(4, 0.25), decay)
    rows.append((hand.predictions(task.x), hand.predictions(task.x_test)))
    for got, expected in zip((run.predictions, run.test_predictions), zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(got, np.array(expected).reshape(got.shape), rtol=1e-10, atol=1e-13)
    after = (*trained.weights.hidden, *trained.weights.biases)
    for got, expected in zip(after, (hand.W0, hand.W1, hand.b1, hand.b2), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(trained.weights.readout, hand.w.reshape(trained.weights.readout.shape), rtol=1e-10)
    same(trained.fixed, net.fixed)
    return run, hand


SLOW = pytest.mark.slow


def marked(fast, cases):
    """All `cases`, of which only the `fast` ones run by default: each compiles its own training loop."""
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=() if case in fast else SLOW) for case, row in zip(cases, rows, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", marked(["feedback"], RULES))
def test_every_rule_by_hand(rule):
    with jax.enable_x64(True):
        net = limit(rule).finite(TASK, size=WIDTH, key=jax.random.key(1))
        protocol = lx.GradientDescent([0.3, 0.2], weight_decay=0.1)
        run, _ = check_against_hand(net, rule, TASK, protocol, kernels=True, ntk=True, alignment=True, densities=True)
        np.testing.assert_allclose(jax.vmap(net)(jnp.asarray(TASK.x)), run.predictions[0], rtol=1e-12)
        phi, g = net.fields(jnp.asarray(TASK.x), TASK.y)
    hand, exact = ByHand(net, rule), ByHand(net, "gated" if rule == "gated" else "backpropagation")
    layers = [hand.forward(x) for x in TASK.x]
    taught = [hand.back(x, np.atleast_1d(y)) for x, y in zip(TASK.x, TASK.y, strict=True)]
    gradients = [exact.back(x, np.atleast_1d(y)) for x, y in zip(TASK.x, TASK.y, strict=True)]
    features, kernel = TASK.x @ TASK.x.T / TASK.x.shape[1] + 1, 0
    for l in (1, 2):
        activations = np.array([layer[2][l - 1] for layer in layers])
        sent, true = (np.array([fields[l][0] for fields in them]) for them in (taught, gradients))
        np.testing.assert_allclose(phi[l - 1], activations, rtol=1e-10)
        np.testing.assert_allclose(g[l - 1], sent, rtol=1e-10)
        np.testing.assert_allclose(run.kernels["Phi", l][0, 0], activations @ activations.T / WIDTH, rtol=1e-10)
        np.testing.assert_allclose(run.kernels["G", l][0, 0], sent @ sent.T / WIDTH, rtol=1e-10)
        kernel = kernel + RATES[l - 1] * features * (true @ sent.T) / WIDTH
        features = activations @ activations.T / WIDTH + 1
        aligned = TASK.y @ (features - 1) @ TASK.y / (TASK.y @ TASK.y * np.linalg.norm(features - 1))
        np.testing.assert_allclose(run.extras[f"alignment_{l}"][0], aligned, rtol=1e-10)
        counts = np.histogram([layer[1][l - 1] for layer in layers], PREACTIVATION_EDGES)[0]
        np.testing.assert_allclose(run.extras[f"density_{l}"][0], counts / (4 * WIDTH * 0.2), rtol=1e-10)
    kernel = kernel + RATES[2] * (features - 1)
    np.testing.assert_allclose(run.extras["ntk"][0], kernel, rtol=1e-10)
    even = (kernel + kernel.T) / 2
    aligned = TASK.y @ even @ TASK.y / (TASK.y @ TASK.y * np.linalg.norm(even))
    np.testing.assert_allclose(run.extras["alignment"][0], aligned, rtol=1e-10)


OUTPUTS = [("direct", "cross_entropy"), ("backpropagation", "cross_entropy"), ("feedback", "half_mean_square")]


@pytest.mark.parametrize(("rule", "loss"), marked(OUTPUTS[:1], OUTPUTS))
def test_several_outputs_by_hand(rule, loss):
    task = outputs_task(3, positive=loss == "cross_entropy")
    with jax.enable_x64(True):
        design = limit(rule, loss=loss)
        net = NETWORKS.init(design, TASK.dim, WIDTH, jax.random.key(1), outputs=3)
        assert net(jnp.asarray(TASK.x[0])).shape == (3,)
        protocol = lx.GradientDescent([0.3, 0.2], weight_decay=0.1)
        run, _ = check_against_hand(net, rule, task, protocol, kernels=True)
    assert run.predictions.shape == (3, 4, 3)
    assert run.test_predictions.shape == (3, 2, 3)
    assert run.loss_convention == loss
    if loss == "half_mean_square":
        losses = np.sum((np.asarray(run.predictions) - task.y) ** 2, axis=-1) / 2
    else:
        losses = -np.sum(task.y * np.log(softmax(np.asarray(run.predictions))), axis=-1)
    np.testing.assert_allclose(run.train_loss, losses.mean(-1), rtol=1e-10)
    hand = ByHand(net, rule)
    taught = [hand.back(x, y) for x, y in zip(task.x, task.y, strict=True)]
    for l in (1, 2):
        b = np.array([fields[0] @ fields[l] for fields in taught])
        np.testing.assert_allclose(run.kernels["G", l][0, 0], b @ b.T / WIDTH, rtol=1e-10, atol=1e-13)


@SLOW
def test_one_output_with_an_axis_is_one_without():
    tall = lx.tasks.from_arrays(TASK.x, TASK.y[:, None])
    protocol = lx.GradientDescent(0.3, steps=2)
    for rule in ("backpropagation", "hebb", "feedback"):
        design = limit(rule)
        one, other = (NETWORKS.pairs(design, TASK.dim, WIDTH, 2, outputs=n) for n in (None, 1))
        runs = [lx.nets.train(n, t, protocol) for n, t in ((one, TASK), (other, tall))]
        np.testing.assert_allclose(runs[0].predictions, runs[1].predictions[..., 0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(runs[0].train_loss, runs[1].train_loss, rtol=1e-4, atol=1e-6)


@SLOW
def test_feedback_of_correlation_one_begins_like_backpropagation():
    protocol = lx.GradientDescent(0.3, steps=2)
    runs = []
    for rule in (lx.rules.FeedbackAlignment(1.0), lx.rules.Backpropagation()):
        net = limit(rule=rule)
        runs.append(lx.nets.train(net.finite(TASK, size=WIDTH), TASK, protocol).predictions)
    np.testing.assert_allclose(runs[0][:2], runs[1][:2], rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(runs[0][2] - runs[1][2])) > 1e-3


@pytest.mark.parametrize("name", marked(["feedback"], ["feedback", "direct", "gated"]))
def test_fixed_arrays(name):
    """What a rule sends back is drawn with the scales of the design, changes sign with the readout, never trains."""
    pairs = NETWORKS.pairs(limit(name), TASK.dim, 400, 2, jax.random.key(2))
    plus, minus = pairs.member(1, 0), pairs.member(1, 1)
    np.testing.assert_array_equal(plus.weights.readout, -minus.weights.readout)
    same(plus.weights.hidden, minus.weights.hidden)
    ours, theirs = plus.fixed.arrays, minus.fixed.arrays
    signs = {"feedback": (1, -1), "direct": (-1, -1), "gated": (1, 1)}[name]
    for a, b, sign in zip(ours, theirs, signs, strict=True):
        np.testing.assert_array_equal(a, sign * b)
    scales = {"feedback": (1.1, 0.9), "direct": (1, 1), "gated": (1, 1)}[name]
    for a, scale in zip(ours, scales, strict=True):
        assert abs(np.std(a) / scale - 1) < 5 / np.sqrt(2 * a.size)
    if name == "feedback":
        for a, w in zip(ours, (plus.weights.hidden[1], plus.weights.readout), strict=True):
            assert abs(np.corrcoef(np.ravel(a), np.ravel(w))[0, 1] - 0.6) < 5 / np.sqrt(a.size)
    assert not any(jax.tree.leaves(lx.nets.trainable(plus).fixed))
    assert jax.tree.leaves(eqx.filter(plus, eqx.is_inexact_array).fixed) == []


@SLOW
def test_rules_share_their_initial_weights():
    nets = [limit(name).finite(TASK, size=WIDTH) for name in RULES]
    for net in nets[1:]:
        same(net.weights, nets[0].weights)


@SLOW
@pytest.mark.parametrize("rule", ["feedback", "direct", "gated"])
def test_an_ensemble_is_its_members(rule):
    protocol = lx.GradientDescent(0.3, steps=3)
    pairs = limit(rule).ensemble(TASK, size=WIDTH, seeds=2)
    record, trained = lx.nets.train(pairs, TASK, protocol, ntk=True, return_net=True)
    np.testing.assert_allclose(record.predictions[:, 0], 0, atol=1e-7)
    same(trained.members.fixed, pairs.members.fixed)
    singles = [lx.nets.train(pairs.member(1, sign), TASK, protocol, ntk=True) for sign in (0, 1)]
    for name in ("predictions", "ntk"):
        mean = sum(run.curves()[name] for run in singles) / 2
        np.testing.assert_allclose(record.curves()[name][1], mean, rtol=1e-4, atol=1e-5)
    members = jax.tree.map(lambda a: a[:, 0], pairs.members)
    plain = lx.nets.train(lx.nets.Ensemble(members, paired=False), TASK, protocol)
    np.testing.assert_allclose(plain.predictions[1], singles[0].predictions, rtol=1e-4, atol=1e-5)


@SLOW
@pytest.mark.parametrize(
    ("depth", "bias", "rates", "rule"),
    [(1, 0.0, 1.0, "backpropagation"), (3, 0.4, (0.5, 1.0, 2.0, 3.0), "backpropagation"), (2, 0.0, RATES, "gated")],
)
def test_the_tangent_kernel_is_that_of_the_jacobian(depth, bias, rates, rule):
    design = lx.limits.MLP(depth, "tanh", 1.6, bias_scale=bias, rule=RULES[rule], rate_scale=rates)
    with jax.enable_x64(True):
        net = design.finite(TASK, size=WIDTH)
        protocol = lx.GradientDescent(0.2, steps=1)
        run, trained = lx.nets.train(net, TASK, protocol, ntk=True, sharpness=True, return_net=True)

        def outputs(weights):
            return jax.vmap(eqx.tree_at(lambda n: n.weights, trained, weights))(jnp.asarray(TASK.x))

        jacobian = jax.jacobian(outputs)(trained.weights)
    rates = np.broadcast_to(rates, depth + 1)
    parts, kernel = (*jacobian.hidden, jacobian.readout, *(jacobian.biases or ())), 0
    for r, J in zip((*rates, *rates[:-1]), parts, strict=False):
        J = np.asarray(J).reshape(4, -1)
        kernel = kernel + r * 1.6**2 * WIDTH * J @ J.T
    np.testing.assert_allclose(run.extras["ntk"][-1], kernel, rtol=1e-9)
    np.testing.assert_allclose(run.extras["sharpness"][-1], np.linalg.eigvalsh(kernel)[-1] / 4, rtol=1e-9)


@pytest.mark.parametrize("rule", ["backpropagation", "feedback"])
def test_the_tangent_kernel_of_several_outputs(rule):
    """It moves every output, and is that of the Jacobian where the rule is a gradient."""
    rate, task, net = 1e-8, outputs_task(2), limit(rule)
    with jax.enable_x64(True):
        net = NETWORKS.init(net, task.dim, WIDTH, outputs=2)
        record = {"ntk": True} | ({"sharpness": True} if rule == "backpropagation" else {})
        run = lx.nets.train(net, task, lx.GradientDescent(rate, steps=1), **record)
        kernel = np.asarray(run.extras["ntk"][0])
        start, end = np.asarray(run.predictions)
        moved = np.einsum("mknj,nj->mk", kernel, task.y - start) / 4
        np.testing.assert_allclose((end - start) / rate, moved, rtol=1e-4)
        if rule == "backpropagation":
            outputs = lambda w: jax.vmap(eqx.tree_at(lambda n: n.weights, net, w))(jnp.asarray(task.x))  # noqa: E731
            jacobian = jax.jacobian(outputs)(net.weights)
            parts, exact = (*jacobian.hidden, jacobian.readout, *jacobian.biases), 0
            for r, J in zip((*RATES, *RATES), parts, strict=False):
                J = np.asarray(J).reshape(8, -1)
                exact = exact + r * 1.6**2 * WIDTH * J @ J.T
            np.testing.assert_allclose(kernel.reshape(8, 8), exact, rtol=1e-9)
            np.testing.assert_allclose(run.extras["sharpness"][0], np.linalg.eigvalsh(exact)[-1] / 4, rtol=1e-9)


@SLOW
@pytest.mark.parametrize("rule", ["feedback", "hebb"])
def test_the_tangent_kernel_moves_the_output(rule):
    rate = 1e-6
    with jax.enable_x64(True):
        run = lx.nets.train(limit(rule).finite(TASK, size=WIDTH), TASK, lx.GradientDescent(rate, steps=1), ntk=True)
    start, end = np.asarray(run.predictions)
    np.testing.assert_allclose((end - start) / rate, np.asarray(run.extras["ntk"][0]) @ (TASK.y - start) / 4, rtol=1e-4)


@SLOW
def test_layer_rates_in_optax():
    net = limit().finite(TASK, size=WIDTH)
    protocol = lx.GradientDescent([0.3, 0.2, 0.1], 0.5, 0.2)
    expected = lx.nets.train(net, TASK, protocol, return_net=True)[1].weights
    optimiser = lx.schedules.to_optax(protocol, net)

    def loss(net):
        return jnp.mean((jax.vmap(net)(jnp.asarray(TASK.x, jnp.float32)) - jnp.asarray(TASK.y, jnp.float32)) ** 2) / 2

    whole, weights = net, net.weights
    state = optimiser.init(eqx.filter(whole, eqx.is_inexact_array)), optimiser.init(weights)
    for _ in range(3):
        updates, first = optimiser.update(eqx.filter_grad(loss)(whole), state[0], whole)
        whole = eqx.apply_updates(whole, updates)
        gradient = jax.grad(lambda w: loss(eqx.tree_at(lambda n: n.weights, net, w)))(weights)
        updates, second = optimiser.update(gradient, state[1], weights)
        weights = optax.apply_updates(weights, updates)
        state = first, second
    same(whole.weights, expected, rtol=1e-4, atol=1e-6)
    same(weights, expected, rtol=1e-4, atol=1e-6)


@SLOW
def test_layer_rates_act_on_any_optimiser():
    net = limit().finite(TASK, size=WIDTH)
    partly = limit(rate_scale=[1.0, 0.0, 1.0]).finite(TASK, size=WIDTH)
    for start, still in ((net, False), (partly, True)):
        trained = lx.nets.train(start, TASK, optax.adam(0.05), steps=2, return_net=True)[1]
        assert np.array_equal(trained.weights.hidden[1], net.weights.hidden[1]) == still
        assert np.array_equal(trained.weights.biases[1], net.weights.biases[1]) == still
        assert not np.array_equal(trained.weights.hidden[0], net.weights.hidden[0])


@SLOW
def test_a_loss_of_ones_own():
    def quartic(f, y):
        return jnp.sum((f - y) ** 4)

    design = lx.limits.MLP(1, "tanh", 1.6, loss=quartic, rule=RULES["direct"])
    run = lx.nets.train(design.finite(TASK, size=WIDTH), TASK, lx.GradientDescent(0.01, steps=5))
    assert run.loss_convention == "mean_loss"
    np.testing.assert_allclose(run.train_loss, np.mean((run.predictions - TASK.y) ** 4, axis=1), rtol=1e-5)
    assert run.train_loss[-1] < run.train_loss[0]


@pytest.mark.parametrize("replace", [True, pytest.param(False, marks=SLOW)])
def test_the_batches_of_a_seed(replace):
    draw = lambda protocol, key: batch_weights(protocol, jax.random.key(key), 4, 3, jnp.float32)  # noqa: E731
    protocol = lx.MinibatchSGD(0.1, [3, 2, 1, 3], replace=replace, seed=5)
    first = draw(protocol, 0)
    assert first.shape == (4, 4)
    np.testing.assert_allclose(first.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(first, draw(protocol, 1))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(first, jax.jit(lambda: draw(protocol, 1))())
    free = lx.MinibatchSGD(0.1, [3, 2, 1, 3], replace=replace)
    np.testing.assert_array_equal(first, draw(free, 5))
    assert not np.array_equal(first, draw(free, 0))
    np.testing.assert_array_equal(draw(lx.GradientDescent(0.1, steps=2), 0), np.full((2, 4), 0.25))


@SLOW
def test_networks_follow_the_batches_of_a_seed():
    net = limit("feedback").finite(TASK, size=WIDTH)
    fixed = lx.MinibatchSGD(0.3, 2, steps=4, seed=5)
    a, b, c = (
        lx.nets.train(net, TASK, protocol, key=jax.random.key(key)).predictions
        for protocol, key in ((fixed, 0), (fixed, 1), (lx.MinibatchSGD(0.3, 2, steps=4), 0))
    )
    np.testing.assert_array_equal(a, b)
    assert np.max(np.abs(a - c)) > 1e-3


def trained(design, task, outputs=None, **record):
    net = NETWORKS.init(design, task.dim, 3, outputs=outputs)
    return lx.nets.train(net, task, lx.GradientDescent(0.1, steps=1), **record)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (
            lambda: NETWORKS.init(limit("hebb"), 5, 3, outputs=2),
            ValueError,
            "the rule Hebb is for one output; this network would have 2.",
        ),
        (lambda: NETWORKS.init(limit(), 5, 3, outputs=0), ValueError, "outputs"),
        (
            lambda: trained(limit(), outputs_task(2)),
            ValueError,
            "y must have shape [samples] for a network with one output; its shape is (4, 2).",
        ),
        (
            lambda: trained(limit(), outputs_task(2), 3),
            ValueError,
            "y must have shape [samples, 3] for a network with 3 outputs; its shape is (4, 2).",
        ),
        (
            lambda: trained(limit(loss="cross_entropy"), TASK),
            ValueError,
            "cross_entropy needs targets y of shape [samples, outputs] with at least 2 outputs; their shape is (4,).",
        ),
        (
            lambda: trained(limit(loss="cross_entropy"), outputs_task(2), 2),
            ValueError,
            "cross_entropy needs targets y of at least 0, such as probabilities; one is -",
        ),
        (
            lambda: trained(limit("direct"), TASK, sharpness=True),
            TypeError,
            "sharpness is recorded of rules that follow a gradient, Backpropagation and GatedLinear; this rule is "
            "DirectFeedbackAlignment.",
        ),
        (
            lambda: trained(limit(loss=lambda f, y: jnp.sum((f - y) ** 4)), TASK, sharpness=True),
            ValueError,
            'sharpness is recorded of the loss "half_mean_square"; this one is "mean_loss".',
        ),
        (lambda: trained(limit(), TASK, ntk=1), TypeError, "ntk must be True or False; int 1 was given."),
        (
            lambda: NETWORKS.init(limit("hebb"), 5, 3).fields(TASK.x),
            ValueError,
            "y is needed for what teaches several outputs, or by the rule Hebb; none was given.",
        ),
    ],
)
def test_bad_input(call, kind, sentence):
    with raises(kind, sentence):
        call()
