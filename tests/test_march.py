"""The causal march against the matrix equations of deep linear networks, and its own invariances."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limitax.solvers import CoefficientAxis, MarchInputs, MarchOptions, SampleAxis, linear_optimiser, march

P, D = 3, 5


def linear_closure(x, y, x_test, c, d, richness, scales, bias, depth):
    """Deep linear networks as matrix equations (arXiv 2205.09653), solved by sweeps on a growing time window."""
    steps, samples = c.shape[1], len(y)
    points = np.concatenate([x, x_test])
    n, times = len(points), steps + 1
    K = np.kron(np.ones((times, times)), points @ points.T / x.shape[1])
    k = np.concatenate([c, np.zeros((times, 1))], 1) * richness / samples
    H = [K] + [np.zeros_like(K) for _ in range(depth)]
    G = [np.zeros((times, times)) for _ in range(depth + 2)]
    G[depth + 1] = np.ones((times, times))
    A = [np.zeros((times * n, times)) for _ in range(depth + 1)]
    B = [np.zeros((times, times * n)) for _ in range(depth + 1)]
    error, f = np.zeros((times, n)), np.zeros((times, n))
    one = float(bias > 0)
    for window in range(1, times + 1):
        for _ in range(2 * depth + 2):
            a, b = slice(0, window), slice(0, window * n)
            w, dn, kn = d[a], np.repeat(d[a], n), np.repeat(k[a, a], n, axis=0)
            for l in [*range(1, depth + 1), *range(depth, 0, -1)]:
                weighted = ((H[l - 1][b, b] + one) * np.repeat(kn, n, axis=1) * error[a].ravel()).reshape(-1, window, n)
                C = scales[l - 1] * dn[:, None] * A[l - 1][b, a] + weighted.sum(-1)
                E = np.repeat(k[a, a] * G[l + 1][a, a], n, axis=1) * error[a].ravel()
                E = scales[l] * w[:, None] * B[l][a, b] + E
                Q, R = np.linalg.inv(np.eye(window * n) - C @ E), np.linalg.inv(np.eye(window) - E @ C)
                U = dn[:, None] * (scales[l - 1] ** 2 * H[l - 1][b, b] + bias**2) * dn
                V = w[:, None] * (scales[l] ** 2 * G[l + 1][a, a]) * w
                H[l][b, b] = Q @ (U + C @ V @ C.T) @ Q.T
                G[l][a, a] = R @ (V + E @ U @ E.T) @ R.T
                A[l][b, a] = Q @ C * (scales[l] * w)
                B[l - 1][a, b] = R @ E * (scales[l - 1] * dn)
                if l == depth:
                    cross = R @ (V @ C.T + E @ U) @ Q.T
                    f[a] = np.stack([cross[t, t * n : (t + 1) * n] for t in range(window)]) / richness
                    error[a, :samples] = y - f[a, :samples]
    return f, H[1:], G[1:-1]


def make_inputs(depth, steps, tests=1, seed=0, dtype=float, **changes):
    rng = np.random.default_rng(seed)
    x, x_test = rng.standard_normal((P, D)), rng.standard_normal((2, D))[:tests]
    values = {
        "x": x,
        "y": np.array([1.0, -1.0, 0.7]),
        "x_test": x_test,
        "learning_rate": np.linspace(0.25, 0.15, steps),
        "momentum": np.full(steps, 0.5),
        "weight_decay": np.full(steps, 0.3),
        "richness": 1.3,
        "init_scale": np.ones(depth + 1),
        "bias_scale": 0.3,
    }
    return MarchInputs(**{name: jnp.asarray(value, dtype) for name, value in (values | changes).items()})


def identity(h):
    return h


run = jax.jit(march, static_argnames=("options", "axis", "capacity", "adjoint"))


def exact(inputs, capacity=24, tolerance=1e-14, **options):
    axis = CoefficientAxis().sized(0, capacity + len(inputs.x))
    options = MarchOptions(identity, **options)
    return run(inputs, jax.random.key(0), options, axis=axis, capacity=capacity, tolerance=tolerance)


def sampled(inputs, size=400, capacity=None, tolerance=1e-3, activation=jnp.tanh, key=0, **options):
    capacity = len(inputs.x) * len(inputs.learning_rate) if capacity is None else capacity
    options = MarchOptions(activation, **options)
    return run(inputs, jax.random.key(key), options, axis=SampleAxis(size), capacity=capacity, tolerance=tolerance)


def two_time(fields, layer, depth, forward):
    """A kernel of a linear network from its tables (hidden weights) or its end field."""
    table = fields.end if layer == (depth if forward else 1) else fields.tables[layer - 1 if forward else layer - 2]
    return np.einsum("tmk,snk->tmsn", table, table)


@pytest.fixture(scope="module", params=[1, 2, 3, pytest.param(5, marks=pytest.mark.slow)])
def solved(request):
    """Momentum, decay, biases, unequal scales and a test point, with the oracle's answer."""
    depth, steps = request.param, 8
    with jax.enable_x64(True):
        scales = np.linspace(0.7, 1.2, depth + 1)
        inputs = make_inputs(depth, steps, init_scale=scales, bias_scale=0.4)
        out = jax.tree.map(np.asarray, exact(inputs, fields=True))
        c, d = linear_optimiser(inputs.learning_rate, inputs.momentum, inputs.weight_decay)
        host = [np.asarray(v) for v in (inputs.x, inputs.y, inputs.x_test, c, d)]
    return depth, out, linear_closure(*host, 1.3, scales, 0.4, depth)


def test_exact_axis_solves_the_matrix_equations(solved):
    depth, out, (f, H, G) = solved
    np.testing.assert_allclose(out.predictions, f[:, :P], rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.test_predictions, f[:, P:], rtol=0, atol=1e-12)
    times = len(f)
    for l in range(1, depth + 1):
        Phi = H[l - 1].reshape(times, P + 1, times, P + 1)[:, :P, :, :P]
        np.testing.assert_allclose(two_time(out.Phi, l, depth, True), Phi, rtol=0, atol=1e-11)
        back = np.broadcast_to(G[l - 1][:, None, :, None], Phi.shape)
        np.testing.assert_allclose(two_time(out.G, l, depth, False), back, rtol=0, atol=1e-11)
        same_time = np.einsum("tmtn->tmn", Phi)
        np.testing.assert_allclose(out.Phi.equal_time[:, l - 1], same_time, rtol=0, atol=1e-11)
    assert not out.overflow


def test_without_biases_there_is_no_bias_term():
    with jax.enable_x64(True):
        inputs = make_inputs(2, 8, bias_scale=0.0)
        out = exact(inputs)
        c, d = linear_optimiser(inputs.learning_rate, inputs.momentum, inputs.weight_decay)
        host = [np.asarray(v) for v in (inputs.x, inputs.y, inputs.x_test, c, d)]
        f, _, _ = linear_closure(*host, 1.3, np.ones(3), 0.0, 2)
        np.testing.assert_allclose(out.predictions, f[:, :P], rtol=0, atol=1e-12)


def plain(depth, steps, rate, **changes):
    zero = np.zeros(steps)
    changes = {"bias_scale": 0.0} | changes
    return make_inputs(depth, steps, 0, learning_rate=zero + rate, momentum=zero, weight_decay=zero, **changes)


def test_two_layer_product_formula():
    richness, y, steps = 1.4, 0.9, 12
    with jax.enable_x64(True):
        one = {"x": np.ones((1, 1)), "y": np.array([y]), "x_test": np.zeros((0, 1)), "richness": richness}
        out = exact(plain(1, steps, 0.3, **one), fields=True)
        f = np.asarray(out.predictions[:, 0])
        step = 0.3 * richness * (y - f[:-1])
        plus, minus = (np.concatenate([[1.0], np.cumprod((1 + s * step) ** 2)]) for s in (1, -1))
        np.testing.assert_allclose(f, (plus - minus) / (2 * richness), rtol=0, atol=1e-14)
        np.testing.assert_allclose(out.Phi.equal_time[:, 0, 0, 0], (plus + minus) / 2, rtol=1e-13)
        np.testing.assert_allclose(out.G.equal_time[:, 0, 0, 0], (plus + minus) / 2, rtol=1e-13)


@pytest.mark.slow
def test_whitened_inputs_are_one_direction():
    steps, y = 10, np.array([1.0, -0.5, 0.8])
    with jax.enable_x64(True):
        white = {"x": np.sqrt(P) * np.eye(P), "y": y, "x_test": np.zeros((0, P))}
        out = exact(plain(2, steps, 0.6, **white))
        single = {"x": np.ones((1, 1)), "y": np.array([np.linalg.norm(y)]), "x_test": np.zeros((0, 1))}
        one = exact(plain(2, steps, 0.6 / P, **single))
        np.testing.assert_allclose(out.predictions, one.predictions * y / np.linalg.norm(y), rtol=0, atol=1e-13)
        unit = np.outer(y, y) / np.dot(y, y)
        H = np.eye(P) + (np.asarray(one.Phi.equal_time[:, 1]) - 1.0) * unit
        np.testing.assert_allclose(out.Phi.equal_time[:, 1], H, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_leading_order_in_richness():
    richness, y, errors = 0.05, 1.0, []
    with jax.enable_x64(True):
        for rate in (0.04, 0.02):
            one = {"x": np.ones((1, 1)), "y": np.array([y]), "x_test": np.zeros((0, 1)), "richness": richness}
            out = exact(plain(2, int(6 / rate), rate, **one), capacity=16)
            kernel = np.asarray(jnp.stack([out.Phi.equal_time[-1, :, 0, 0], out.G.equal_time[-1, :, 0, 0]]))
            change = (kernel - 1.0) / (richness * y) ** 2
            expected = np.array([[1.0, 3.0], [3.0, 1.0]]) / 3.0
            errors.append(np.abs(change / expected - 1.0).max())
    assert errors[0] < 0.05
    assert errors[1] < 0.6 * errors[0]


def test_reversing_the_layers_of_a_linear_network_swaps_its_kernels():
    scales = np.array([0.8, 1.0, 1.1, 0.9])
    one = {"x": np.ones((1, 1)), "y": np.array([0.8]), "x_test": np.zeros((0, 1))}
    with jax.enable_x64(True):
        there = exact(plain(3, 8, 0.2, init_scale=scales, **one))
        back = exact(plain(3, 8, 0.2, init_scale=scales[::-1].copy(), **one))
        np.testing.assert_allclose(there.predictions, back.predictions, rtol=0, atol=1e-13)
        np.testing.assert_allclose(there.Phi.equal_time, back.G.equal_time[:, ::-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_sampled_march_is_causal_and_starts_at_zero(depth):
    with jax.enable_x64(True):
        long, short = (make_inputs(depth, 6)._replace(**cut(make_inputs(depth, 6), n)) for n in (6, 4))
        whole, part = sampled(long, capacity=18), sampled(short, capacity=18)
        assert np.abs(whole.predictions[0]).max() < 1e-15
        for name in ("predictions", "test_predictions"):
            np.testing.assert_allclose(getattr(whole, name)[:5], getattr(part, name), rtol=0, atol=1e-13)
        np.testing.assert_allclose(whole.G.equal_time[:5], part.G.equal_time, rtol=0, atol=1e-13)


def cut(inputs, steps):
    return {name: getattr(inputs, name)[:steps] for name in ("learning_rate", "momentum", "weight_decay")}


@pytest.mark.slow
def test_a_test_point_changes_nothing():
    with jax.enable_x64(True):
        for solve in (sampled, exact):
            without, beside = (solve(make_inputs(2, 5, tests=tests)) for tests in (0, 1))
            np.testing.assert_array_equal(beside.predictions, without.predictions)
            np.testing.assert_array_equal(beside.Phi.equal_time, without.Phi.equal_time)


@pytest.mark.slow
def test_a_training_sample_as_test_point_is_predicted_alike():
    with jax.enable_x64(True):
        inputs = make_inputs(2, 5)
        inputs = inputs._replace(x_test=inputs.x[1:2])
        for out in (exact(inputs), sampled(inputs, tolerance=1e-12)):
            np.testing.assert_allclose(out.test_predictions[:, 0], out.predictions[:, 1], rtol=0, atol=1e-11)


def test_sampled_kernels_are_symmetric_and_positive():
    with jax.enable_x64(True):
        out = sampled(make_inputs(2, 5), fields=True)
        for kernel in (*np.asarray(out.Phi.equal_time[-1]), *np.asarray(out.G.equal_time[-1])):
            np.testing.assert_allclose(kernel, kernel.T, rtol=0, atol=1e-14)
            assert np.linalg.eigvalsh(kernel)[0] > -1e-12
        table, (phi, last) = np.asarray(out.Phi.tables[0]), np.asarray(out.Phi.equal_time[-1])
        np.testing.assert_allclose(table[-1] @ table[-1].T, phi, rtol=0, atol=1e-14)
        np.testing.assert_allclose(out.Phi.end[-1] @ out.Phi.end[-1].T / 400, last, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_samples_approach_the_exact_axis_as_one_over_their_root():
    with jax.enable_x64(True):
        inputs = make_inputs(2, 6)
        truth = np.asarray(exact(inputs).predictions)
        errors = []
        for size in (250, 4000):
            runs = [sampled(inputs, size, activation=identity, key=key, tolerance=1.0 / size) for key in range(8)]
            errors.append(np.sqrt(np.mean([np.square(np.asarray(out.predictions) - truth) for out in runs])))
    slope = np.log(errors[1] / errors[0]) / np.log(4000 / 250)
    assert -0.75 < slope < -0.3
    assert errors[1] < 0.05


@pytest.mark.slow
def test_capacity_and_tolerance_do_not_change_what_is_not_dropped():
    with jax.enable_x64(True):
        inputs = make_inputs(2, 6)
        full, small = sampled(inputs, tolerance=1e-2), sampled(inputs, tolerance=1e-2, capacity=12)
        assert int(np.asarray(full.directions).max()) <= 12
        np.testing.assert_allclose(full.predictions, small.predictions, rtol=0, atol=1e-13)
        assert not small.overflow
        assert sampled(inputs, tolerance=1e-12, capacity=6).overflow


def test_values_do_not_retrace():
    static = {"options": MarchOptions(jnp.tanh), "axis": SampleAxis(40), "capacity": 6}
    traced = jax.jit(chex.assert_max_traces(lambda *a, **k: march(*a, **k), n=1), static_argnames=list(static))
    for richness, rate in ((1.0, 0.1), (0.0, 0.2), (2.0, 0.0)):
        inputs = make_inputs(1, 3, richness=richness, learning_rate=np.full(3, rate), bias_scale=richness)
        traced(inputs, jax.random.key(int(10 * rate)), tolerance=1e-3 + rate, **static)
