"""Deep linear networks in the proportional limit: the sweep against whole matrices, exact limits, slopes, messages."""

import chex
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from limitax.solvers import DeepLinearInputs, deep_linear, deep_residual, linear_optimiser

from . import deep_linear_oracle as oracle

STEPS = 8
RATES = 0.06 + 0.02 * np.cos(np.arange(STEPS))
MODES = np.array([1.6, 0.9, 0.3])
TEACHER = np.array([0.5, 0.7, -1.0])


def limit(depth=2, **changes):
    return lx.limits.DeepLinear(depth, **{"width_ratio": 0.7, "richness": 1.2, "init_scale": 0.8} | changes)


def structured(noise=0.3, sample_ratio=1.4):
    return lx.tasks.gaussian(MODES, TEACHER, noise=noise, sample_ratio=sample_ratio)


def inputs_of(rates=RATES, momentum=0.4, decay=0.2, noise=0.3, gamma=1.2, nu=0.7, alpha=1.4, q=0.64, q_readout=1.2):
    """The same problem for the sweep and for the oracle."""
    steps = len(rates)
    with jax.enable_x64(True):
        c, d = linear_optimiser(*(jnp.asarray(np.broadcast_to(a, steps), float) for a in (rates, momentum, decay)))
        c = jnp.pad(c, ((0, 0), (0, 1)))
        power = len(MODES) * TEACHER**2
        numbers = noise**2, gamma**2, 1 / (nu * gamma**2), q, q_readout
        arrays = (jnp.asarray(a, float) for a in (MODES, power, *numbers))
        ours = DeepLinearInputs(*arrays, c, d, jnp.full(steps + 1, 1 / alpha))
    return ours, {
        "lam": MODES,
        "power": power,
        "noise": noise,
        "gamma": gamma,
        "nu": nu,
        "alpha": alpha,
        "q": q,
        "q_readout": q_readout,
        "c": np.asarray(c),
        "d": np.asarray(d),
    }


STATIC = ("depth", "fresh", "adjoint")
chain, stream = jax.jit(deep_linear, static_argnames=STATIC), jax.jit(deep_residual, static_argnames=STATIC)


def whole_matrices(inputs, depth, fresh, residual):
    """The state of the oracle from the rows of the sweep; fresh data have no C_v at unequal times."""
    with jax.enable_x64(True):
        history = jax.tree.map(np.asarray, (stream if residual else chain)(inputs, depth=depth, fresh=fresh))
    full = lambda rows: np.asarray(rows + rows.T)  # noqa: E731
    data, T = history.data, len(inputs.decay)
    gamma, alpha = np.sqrt(float(inputs.richness_squared)), 1 / float(inputs.inverse_ratio[0])
    if residual:
        C_k, C_g = (np.moveaxis(leaf, 1, 0) for leaf in (history.C_k, history.C_g))
        R_k = [history.K[:, l, depth + l] for l in range(depth)]
        R_g = [history.G[:, l, l] for l in range(depth)]
    else:
        C_k, R_k, C_g, R_g = ([getattr(s, f) for s in history.sites] for f in ("C_k", "K_psi", "C_g", "G_zeta"))
    zero = np.zeros((T, T))
    state = {
        "C_k": [full(data.C_u), *map(full, C_k), zero],
        "R_k": [gamma * float(inputs.output_power) * data.U_psi.mean(1), *(gamma * R for R in R_k), zero],
        "C_g": [zero, *map(full, C_g), np.ones((T, T))],
        "R_g": [zero, *(gamma * R for R in R_g), zero],
    }
    if fresh:
        C_delta = np.diag(alpha * data.noise)
        return state | {"C_v": np.diag(data.loss), "R_v": zero, "C_delta": C_delta, "R_delta": np.eye(T)}
    R_v = np.einsum("m,tms->ts", np.sqrt(MODES), data.V_noise) / (alpha * len(MODES))
    return state | {"C_v": full(data.C_v), "R_v": R_v, "C_delta": full(data.C_residual), "R_delta": data.R_residual}


def distance(state, truth, fresh):
    """The largest distance of two matrices, relative to the largest entry."""
    worst = {}
    for name, matrices in truth.items():
        pairs = zip(state[name], matrices, strict=True) if isinstance(matrices, list) else [(state[name], matrices)]
        for ours, theirs in pairs:
            if fresh and name == "C_v":
                ours, theirs = np.diag(ours), np.diag(theirs)
            assert ours.shape == theirs.shape
            worst[name] = max(worst.get(name, 0.0), np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-300))
    return worst


PROGRAMS = [(1, False, False), (2, False, False), (2, True, False), (3, False, False)]  # depth, fresh, residual
PROGRAMS += [(1, False, True), (2, True, True), (4, False, True)]


@pytest.mark.parametrize(("depth", "fresh", "residual"), PROGRAMS)
def test_sweep_solves_the_matrix_equations(depth, fresh, residual):
    inputs, numbers = inputs_of()
    problem = oracle.Problem(**numbers, depth=depth, fresh=fresh, residual=residual)
    state = whole_matrices(inputs, depth, fresh, residual)
    truth = oracle.fixed_point(problem)
    assert {name: d for name, d in distance(state, truth, fresh).items() if not d < 1e-12} == {}
    again = oracle.sweep(state, problem)
    assert {name: d for name, d in distance(state, again, fresh).items() if not d < 1e-13} == {}


def test_a_residual_network_of_depth_one_is_a_chain():
    inputs, _ = inputs_of()
    one, other = (whole_matrices(inputs, 1, False, residual) for residual in (True, False))
    chex.assert_trees_all_close(one, other, rtol=1e-13, atol=1e-14)


FEW = settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
unit = st.floats(0.0, 1.0)


@pytest.mark.parametrize(("depth", "fresh", "residual"), [(2, False, False), (2, True, False), (4, False, True)])
@FEW
@given(
    rates=st.lists(st.floats(0.0, 0.1), min_size=STEPS, max_size=STEPS),
    momentum=st.floats(0.0, 0.9),
    noise=unit,
    gamma=st.floats(0.05, 2.0),
    nu=st.floats(0.2, 5.0),
    alpha=st.floats(0.3, 5.0),
    q=st.floats(0.1, 1.5),
    cut=st.integers(1, STEPS - 1),
)
def test_invariants(depth, fresh, residual, rates, momentum, noise, gamma, nu, alpha, q, cut):
    inputs, _ = inputs_of(np.array(rates), momentum, 0.0, noise, gamma, nu, alpha, q)
    state = whole_matrices(inputs, depth, fresh, residual)
    assume(np.max(state["C_v"]) < 1e3 * state["C_v"][0, 0])
    for name in ("C_v", "C_delta"):
        state[name] = [state[name]]
    for matrix in (m for name in ("C_k", "C_g", "C_v", "C_delta") for m in state[name]):
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix)[0] >= -1e-11 * np.trace(matrix)
    for R in state["R_k"]:
        assert np.all(np.triu(R, 1) == 0)
    for R in (*state["R_g"], state["R_v"]):
        assert np.all(np.triu(R) == 0)
    assert np.all(np.triu(state["R_delta"]) == np.eye(STEPS + 1))
    np.testing.assert_allclose(state["C_g"][depth][0, 0], 1.2, rtol=1e-14)  # the readout
    # what comes later changes nothing of what was before
    stopped, _ = inputs_of(np.where(np.arange(STEPS) < cut, rates, 0.05), momentum, 0.0, noise, gamma, nu, alpha, q)
    other = whole_matrices(stopped, depth, fresh, residual)
    for name in ("C_k", "C_g", "R_k", "R_g"):
        for a, b in zip(state[name], other[name], strict=True):
            np.testing.assert_array_equal(a[: cut + 1, : cut + 1], b[: cut + 1, : cut + 1])


def test_fewer_steps_give_the_same_rows():
    task = structured()
    long, short = (limit().solve(task, lx.GradientDescent(RATES[:n], 0.4)) for n in (STEPS, 5))
    for name, curve in short.curves().items():
        cut = long.curves()[name][:6, :6] if np.ndim(curve) == 2 else long.curves()[name][:6]
        np.testing.assert_allclose(curve, cut, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("parameterization", "residual"), [("mup", False), ("ntk", True)])
def test_initial_loss(parameterization, residual):
    """A random function of known size stands on top of the teacher."""
    depth, readout = 3, 1.1
    network = limit(depth, readout_scale=readout, parameterization=parameterization, residual=residual)
    q, richness = 0.8**2, 1.2 / np.sqrt(1.0 if parameterization == "mup" else 0.7)
    # each layer multiplies the backward field by q, a residual one by 1 + q / (L - 1)
    layers = (1 + q / (depth - 1)) ** (depth - 1) if residual else q ** (depth - 1)
    output = readout**2 * layers * q / (0.7 * richness**2)
    theory = network.solve(structured(), lx.GradientDescent(0.0, steps=STEPS))
    expected = (np.sum(MODES * TEACHER**2) + np.mean(MODES) * output) / 2
    np.testing.assert_allclose(theory.test_loss, expected, rtol=1e-13)
    np.testing.assert_allclose(theory.train_loss, expected + 0.3**2 / 2, rtol=1e-13)


def linear_regression(protocol, kernel, start_power, sample_ratio, noise, modes=1.0):
    """Test and train loss of heavy ball on `kernel` times the gradient, from a random start, mode by mode in the
    sample's covariance: the Marchenko-Pastur law by Chebyshev's quadrature, or a point for the population."""
    if np.isinf(sample_ratio):
        s, weights = np.array([modes]), np.ones(1)
    else:
        edge, theta = np.sqrt(1 / sample_ratio), (np.arange(400) + 0.5) * np.pi / 400
        s = 1 + edge**2 + 2 * edge * np.cos(theta)
        weights = (2 * edge * np.sin(theta)) ** 2 / (2 * np.pi * edge**2 * s) * np.pi / 400
        np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    p, n, pv, nv = np.ones_like(s), np.zeros_like(s), np.zeros_like(s), np.zeros_like(s)
    test, train = [], []
    for t in range(protocol.steps + 1):
        # v = p v0 - n A^T eps / alpha, whose second part has the power n^2 s noise^2 / alpha
        test.append(weights @ ((1 + start_power) * p**2 + n**2 * s * noise**2 / sample_ratio))
        bare = noise**2 * (1 - np.sum(weights) / sample_ratio)  # of the residuals, outside of what inputs span
        inside = (1 + start_power) * s * p**2 + noise**2 / sample_ratio * (1 - s * n) ** 2
        train.append(bare + weights @ inside if np.isfinite(sample_ratio) else test[-1] + noise**2)
        if t < protocol.steps:
            pv, nv = (protocol.momentum[t] * v + g for v, g in ((pv, kernel * s * p), (nv, kernel * (s * n - 1))))
            p, n = p - protocol.learning_rate[t] * pv, n - protocol.learning_rate[t] * nv
    return np.array(test) / 2, np.array(train) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("sample_ratio", "residual"), [(2.0, False), (np.inf, False), (2.0, True)])
def test_lazy_limit_is_linear_regression(sample_ratio, residual):
    depth, q, readout = 2, 0.8**2, 1.3**2
    # the tangent kernel of an infinitely wide network, over the input's: one term a weight matrix
    kernel = 2 * q * readout + q**2
    if residual:
        kernel = readout * (1 + q) + q * readout + q * (1 + q)
    protocol, task = lx.GradientDescent(RATES, 0.3), lx.tasks.isotropic(sample_ratio, 0.5)
    settings = {"width_ratio": np.inf, "init_scale": 0.8, "readout_scale": 1.3, "residual": residual}
    start = q * readout * (1 + q if residual else q)
    for name, richness, power in (("mup", 1e-5, 0.0), ("ntk", 1.7, start / 1.7**2)):
        network = lx.limits.DeepLinear(depth, richness=richness, parameterization=name, **settings)
        theory = network.solve(task, protocol)
        test, train = linear_regression(protocol, kernel, power, sample_ratio, 0.5)
        np.testing.assert_allclose(theory.test_loss, test, rtol=1e-9)
        np.testing.assert_allclose(theory.train_loss, train, rtol=1e-9)


@pytest.mark.slow
def test_infinite_width_is_the_limit_of_large_width():
    protocol, task = lx.GradientDescent(RATES, 0.3), structured()
    for name, residual in (("mup", False), ("ntk", False), ("mup", True)):
        settings = {"parameterization": name, "residual": residual}
        at = lambda nu: limit(width_ratio=nu, **settings).solve(task, protocol).test_loss  # noqa: E731, B023
        infinite, error = at(np.inf), np.abs(at(1e6) / at(np.inf) - 1).max()
        assert np.all(np.isfinite(infinite))
        assert error < 1e-5
        np.testing.assert_allclose(np.abs(at(1e5) / infinite - 1).max(), 10 * error, rtol=1e-2)


@pytest.mark.slow
def test_many_samples_are_the_population():
    many, all_of_them = structured(sample_ratio=1e9), structured(sample_ratio=np.inf)
    protocol = lx.GradientDescent(RATES, 0.4)
    population = limit().solve(all_of_them, protocol)
    for theory in (
        limit().solve(many, protocol),
        limit().solve(all_of_them, lx.OnlineSGD(RATES, 0.4, batch_ratio=1e9)),
    ):
        np.testing.assert_allclose(theory.test_loss, population.test_loss, rtol=1e-7)
        np.testing.assert_allclose(theory.train_loss, population.test_loss + 0.3**2 / 2, rtol=1e-7)


@pytest.mark.slow
def test_modes_may_be_split():
    """White data of unit power are any number of equal modes."""
    protocol = lx.GradientDescent(RATES, 0.4)
    two = lx.tasks.gaussian([1.0, 1.0], [0.6, 0.8], 0.3, sample_ratio=1.4)
    one, other = (limit().solve(task, protocol) for task in (lx.tasks.isotropic(1.4, 0.3), two))
    chex.assert_trees_all_close(one.curves(), other.curves(), rtol=1e-12, atol=1e-14)


def test_extra_gradient():
    task = structured()
    apart = lx.OnlineSGD(0.6 * RATES, extra_gradient=0.4 * RATES, batch_ratio=2.0)
    chex.assert_trees_all_close(
        limit().solve(task, apart).curves(),
        limit().solve(task, lx.OnlineSGD(RATES, batch_ratio=2.0)).curves(),
        rtol=1e-12,
    )
    # Nesterov's look-ahead: a step along the gradient and then along the velocity that already has it
    nesterov = lx.OnlineSGD(0.7 * RATES, 0.7, RATES, batch_ratio=2.0)
    optimiser = limit().solve(task, nesterov).extras["optimiser"]
    for s in range(STEPS):
        force, position, velocity = np.arange(STEPS) == s, 0.0, 0.0
        for t in range(STEPS + 1):
            np.testing.assert_allclose(optimiser[t, s], position, rtol=1e-13, atol=1e-15)
            if t < STEPS:
                velocity = 0.7 * velocity + force[t]
                position = position + RATES[t] * (force[t] + 0.7 * velocity)


# the published numbers are those of the white population in the rich regime: L = 2, richness 4, init_scale 1/2
WIDER_IS_BETTER = {"mup": (0.0373, 0.0238, 0.0176, 0.0146, 0.0125), "ntk": (0.0373, 0.154, 0.238, 0.280, 0.309)}


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["mup", "ntk"])
def test_wider_is_better(parameterization):
    protocol, task = lx.GradientDescent(0.04, steps=20), lx.tasks.isotropic()
    for nu, loss in zip((1, 2, 4, 8, 32), WIDER_IS_BETTER[parameterization], strict=True):
        network = lx.limits.DeepLinear(2, nu, 4.0, 0.5, parameterization=parameterization)
        found = network.solve(task, protocol).test_loss[10]
        np.testing.assert_allclose(found, loss, atol=0.5001 * 10.0 ** (-4 if loss < 0.1 else -3))


BEST_RATES = {"mup": (0.08, 0.07, 0.07, 0.07), "ntk": (0.08, 0.12, 0.15, 0.15)}


@pytest.mark.parametrize("parameterization", ["mup", "ntk"])
def test_best_rate_transfers_across_widths(parameterization):
    grid, task = np.array([0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15]), lx.tasks.isotropic()

    def final(nu, rate):
        network = lx.limits.DeepLinear(2, nu, 4.0, 0.5, parameterization=parameterization)
        return network.solve(task, lx.GradientDescent(rate, steps=20), throw=False).test_loss[-1]

    losses = np.array([[final(nu, rate) for rate in grid] for nu in (1, 2, 4, 8)])
    losses = np.where(np.isfinite(losses), losses, np.inf)
    np.testing.assert_array_equal(grid[np.argmin(losses, axis=1)], BEST_RATES[parameterization])
