"""Learned features: the reduction to one flow, its integrator, exponents, networks beside it, derivatives, messages."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import solvers, tasks
from limitax.solvers import self_consistent_scale
from limitax.solvers._flow_contour import flow_modes
from limitax.solvers._learned_features import _moments

from .helpers import raises

TASK = tasks.power_law(30, 1.5, 1.75)
LAM, TEACHER = np.arange(1, 31.0) ** -1.5, np.arange(1, 31.0) ** -0.125
TIMES = np.array([0.0, 0.1, 0.5, 2.0, 10.0, 20.0])
FLOW = lx.GradientFlow(TIMES)


def limit(richness=3.0, features=None):
    return lx.limits.LearnedFeatures(richness, features)


def matrix_descent(rate, richness, times):
    """Gradient descent on both layers, in the basis of the modes."""
    readout, hidden, record, step = np.zeros(30), np.eye(30), [], 0
    for time in times:
        while step < round(time / rate):
            g = LAM * (TEACHER - readout @ hidden)
            readout, hidden = readout + rate * hidden @ g, hidden + rate * richness * np.outer(readout, g)
            step += 1
        theta = readout @ hidden
        record.append((np.sum(LAM * (theta - TEACHER) ** 2), 1 + richness * readout @ readout, theta @ theta))
    return np.array(record).T, readout, hidden


@pytest.mark.parametrize("richness", [0.3, 3.0])
def test_small_steps_of_both_layers_approach_the_flow(richness):
    theory = limit(richness).solve(TASK, FLOW)
    expected = np.stack([theory.test_loss, theory.extras["kernel_scale"], theory.extras["coefficients_square"]])
    errors = []
    for rate in (0.02, 0.01, 0.005):
        found, readout, hidden = matrix_descent(rate, richness, TIMES)
        errors.append(np.max(np.abs(found - expected), axis=1))
        # what the flow conserves
        kept = hidden @ hidden.T - richness * np.outer(readout, readout)
        assert np.max(np.abs(kept - np.eye(30))) < 4 * rate * richness
    errors = np.array(errors)
    assert np.all(errors[-1] < 0.02 * richness**0.5)
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2, atol=0.2)


def test_without_richness_modes_relax_alone():
    times = np.array([0.0, 0.3, 3.0, 30.0, 300.0, 3e4])
    theory = limit(0.0).solve(TASK, lx.GradientFlow(times))
    exact = np.sum(LAM * TEACHER**2 * np.exp(-2 * LAM * times[:, None]), axis=1)
    np.testing.assert_allclose(theory.test_loss, exact, rtol=1e-11)
    np.testing.assert_allclose(theory.extras["clock"], times, rtol=1e-12)
    np.testing.assert_array_equal(theory.extras["kernel_scale"], 1.0)


@pytest.mark.slow
def test_one_mode_has_a_closed_form():
    # dq/dt = 2 sqrt(q a) (theta* - sqrt(q a)) lambda by a quadrature of time over q, a = 1 + gamma q
    gamma, star, rate = 5.0, 1.3, 0.7
    q = np.array([1e-4, 0.01, 0.1, 0.3])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    root = np.sqrt(q)[:, None] * (nodes + 1) / 2
    theta = root * np.sqrt(1 + gamma * root**2)
    times = np.sum(weights * np.sqrt(q)[:, None] / 2 / (np.sqrt(1 + gamma * root**2) * rate * (star - theta)), axis=1)
    theory = limit(gamma).solve(tasks.gaussian([rate], [star]), lx.GradientFlow(times))
    np.testing.assert_allclose(theory.extras["kernel_scale"], 1 + gamma * q, rtol=1e-8)
    np.testing.assert_allclose(theory.test_loss, rate * (star - theta_at(q, gamma)) ** 2, rtol=1e-7)


def theta_at(q, gamma):
    return np.sqrt(q * (1 + gamma * q))


def test_moments_of_the_exponential_are_right_on_both_sides_of_the_series():
    with jax.enable_x64(True):
        x = np.array([0.0, 1e-9, 0.2, 0.249, 0.251, 3.0, 50.0, 1e6, 0.1 - 0.2j, 0.3 + 2.0j, -0.2 + 0.3j])
        found = np.stack(_moments(jnp.asarray(x)))
    u, w = np.polynomial.legendre.leggauss(400)
    u, w = (u + 1) / 2, w / 2
    exact = np.array([[np.sum(w * np.exp(-a * (1 - u)) * u**k) for a in x] for k in range(4)])
    easy = np.abs(x) < 1e3
    np.testing.assert_allclose(found[:, easy], exact[:, easy], rtol=1e-11)
    np.testing.assert_allclose(found[:, x == 1e6], 1e-6, rtol=1e-5)


@pytest.mark.slow
def test_the_stated_error_holds_and_falls_with_the_fourth_power_of_the_step():
    task, protocol = tasks.power_law(10**12, 2.0, 1.5), lx.GradientFlow(np.geomspace(1e-2, 1e8, 21))
    best = limit(30.0).solve(task, protocol, steps=2000).test_loss
    errors = []
    for steps in (128, 256, 512):
        found = limit(30.0).solve(task, protocol, steps=steps, throw=False)
        errors.append(np.max(np.abs(found.test_loss / best - 1)))
        assert errors[-1] < np.max(found.extras["error"]) < 100 * errors[-1]
    assert errors[-1] < 1e-6
    assert np.log2(errors[0] / errors[-1]) / 2 > 3.3


@pytest.mark.parametrize(
    ("capacity", "source", "richness", "expected"),
    [(2.0, 0.25, 0.0, 0.25), (2.0, 0.25, 3.0, 0.4), (1.5, 0.75, 3.0, 6 / 7), (1.5, 1.3, 3.0, 1.3)],
)
def test_exponents_in_time(capacity, source, richness, expected):
    times = np.geomspace(1e5, 1e7, 9)
    task = tasks.power_law(None, capacity, 1 + source * capacity)
    loss = limit(richness).solve(task, lx.GradientFlow(times)).test_loss
    slopes = -np.gradient(np.log(loss), np.log(times))
    np.testing.assert_allclose(slopes, expected, atol=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("richness", [0.0, 30.0])
@pytest.mark.parametrize(("capacity", "source"), [(1.5, 0.5), (2.0, 0.25)])
def test_compute_optimal_exponents(capacity, source, richness):
    task, times = tasks.power_law(None, capacity, 1 + source * capacity), np.geomspace(1.0, 1e7, 141)
    sizes = 2.0 ** np.arange(2, 13)
    curves = [limit(richness, size).solve(task, lx.GradientFlow(times), steps=256).test_loss for size in sizes]
    frontier = lx.studies.frontier_of(sizes, times, np.stack(curves))
    speed = 2 + capacity * (1 + source) if richness else 1 + capacity
    gain = 2 if richness else 1
    assert abs(frontier.loss_exponent - gain * capacity * source / speed) < 0.01
    assert abs(frontier.features_exponent - gain / speed) < 0.03


def draws(features, count, modes=200, seed=0):
    """Spectra, targets and floors of random features."""
    rng, k = np.random.default_rng(seed), np.arange(1, modes + 1.0)
    lam, teacher = k**-1.5, k**-0.125
    for _ in range(count):
        A = rng.standard_normal((features, modes)) / np.sqrt(features)
        values, vectors = np.linalg.eigh((A * lam) @ A.T)
        target = vectors.T @ (A @ (lam * teacher)) / values
        yield values, target, np.sum(lam * teacher**2) - np.sum(values * target**2)


@pytest.mark.slow
def test_finitely_many_features_against_draws_of_them():
    protocol, biases = lx.GradientFlow([0.3, 3.0, 30.0, 1e4]), []
    for features in (15, 60):
        values, targets, floors = (np.stack(part) for part in zip(*draws(features, 400), strict=True))

        @jax.jit
        @jax.vmap
        def losses(values, target):
            found = limit().solve(tasks.gaussian(values, target), protocol, steps=100, throw=False)
            return found.test_loss

        with jax.enable_x64(True):
            found = np.asarray(losses(jnp.asarray(values), jnp.asarray(targets))) + floors[:, None]
        theory = limit(3.0, features).solve(tasks.power_law(200, 1.5, 1.75), protocol).test_loss
        error = found.std(0) / 20 / theory
        biases.append(np.abs(found.mean(0) / theory - 1))
        assert np.all(biases[-1] < 1.2 / features + 3 * error)
    assert np.all(biases[1] < 0.04)


@pytest.mark.slow
def test_modes_on_a_contour_are_those_of_the_scale_at_any_distance():
    # all digits of more nodes, for spectra that are near to discrete lines, and the floor of regression at the end
    for capacity, decay, features in ((1.5, 1.75, 100.0), (2.0, 1.5, 1e4), (3.0, 3.0, 100.0), (1.2, 2.8, 1e3)):
        task = tasks.power_law(10**12, capacity, decay, 0.0, np.inf)
        protocol = lx.GradientFlow([0.1, 10.0, 1e4, 1e12])
        coarse = limit(0.0, features).solve(task, protocol, nodes=320).test_loss
        fine = limit(0.0, features).solve(task, protocol, nodes=640).test_loss
        np.testing.assert_allclose(coarse, fine, rtol=1e-8)
        np.testing.assert_allclose(fine[-1], lx.limits.RandomFeatures(features).stationary_loss(task), rtol=1e-8)


@pytest.mark.slow
def test_the_scale_near_the_spectrum_solves_its_equation_on_the_right_branch():
    with jax.enable_x64(True):
        bins = solvers.power_law_bins(10**12, jnp.float64(1.5), jnp.float64(1.75))
        z = jnp.asarray(np.geomspace(1e-3, 1.5, 60) * np.exp(1e-3j))
        kappa = self_consistent_scale(bins, jnp.float64(0.01), 0.0, -z)
        residual = kappa * (1 - solvers.degrees_of_freedom(bins, kappa) / 100) + z
        modes = flow_modes(bins, jnp.float64(0.01), jnp.float64(1e3), 240)
        kappa, residual, modes, bins = jax.tree.map(np.asarray, (kappa, residual / z, modes, bins))
    assert np.all(kappa.imag < 0)
    assert np.max(np.abs(residual)) < 1e-10
    assert modes.error < 1e-7
    # the measure sums to the whole target
    total = np.sum(bins.weights * bins.teacher_power)
    np.testing.assert_allclose(np.sum(modes.measure.real) + modes.floor, total, rtol=1e-7)


@pytest.mark.slow
def test_networks_approach_the_theory_of_finitely_many_features():
    task = tasks.power_law(40, 1.5, 1.75)
    protocol = lx.GradientFlow(np.append(0.0, np.geomspace(0.1, 20.0, 12)))
    report = lx.compare(limit(3.0, 12.0), task, protocol, sizes=(1, 2, 4), seeds=48)
    assert report.agrees, report.agreement
    assert abs(report.rate["test_loss"] + 0.5) < 0.15


@pytest.mark.slow
def test_networks_on_the_modes_equal_the_theory():
    report = lx.compare(limit(), TASK, FLOW, seeds=2)
    assert report.sizes is None
    assert report.agrees
    assert max(max(errors) for errors in report.errors.values()) < 1e-6


@pytest.mark.slow
def test_a_network_by_its_weights():
    task, key = tasks.power_law(12, 1.5, 1.75), jax.random.key(1)
    net = limit(2.0, 5.0).finite(task, size=2, key=key)
    assert net.features.shape == (10, 24)
    with jax.enable_x64(True):
        run, trained = lx.nets.train(net, task, lx.GradientFlow([1.0, 4.0]), return_net=True)
        descent, descended = lx.nets.train(net, task, lx.GradientDescent(1e-3, steps=4000), return_net=True)
    x = np.random.default_rng(0).standard_normal((3, 24))
    np.testing.assert_allclose(jax.vmap(trained)(jnp.asarray(x)), x @ np.asarray(trained.coefficients), rtol=1e-5)
    problem = task.population(2)
    loss = np.sum(problem.eigenvalues * (np.asarray(trained.coefficients) - problem.teacher) ** 2)
    np.testing.assert_allclose(run.test_loss[-1], loss, rtol=1e-5)
    np.testing.assert_allclose(descent.test_loss[-1], run.test_loss[-1], rtol=2e-3)
    np.testing.assert_allclose(descent.extras["clock"][-1], run.extras["clock"][-1], rtol=2e-3)
    np.testing.assert_allclose(descended.weights.hidden, trained.weights.hidden, atol=5e-3)
    assert lx.limits.of(net) == limit(2.0, 5.0)


def final(richness=1.0, capacity=1.5, decay=1.75, features=None, time=50.0):
    task, protocol = tasks.power_law(20, capacity, decay), lx.GradientFlow(jnp.stack([jnp.asarray(1.0), time]))
    return limit(richness, features).solve(task, protocol, steps=128, nodes=160, throw=False).test_loss[-1]


def check_slopes(point):
    """Slopes against central differences, with one program for both; returns it."""
    both = jax.jit(jax.value_and_grad(lambda p: final(**p)))
    slopes = both(point)[1]
    for name, value in point.items():
        h = 1e-4 * max(1.0, value)
        up, down = (float(both(point | {name: value + s * h})[0]) for s in (1, -1))
        np.testing.assert_allclose(float(slopes[name]), (up - down) / (2 * h), rtol=3e-6, err_msg=name)
    return both


@pytest.mark.slow
def test_slopes():
    point = {"richness": 1.0, "capacity": 1.5, "decay": 1.75, "time": 50.0}
    with jax.enable_x64(True):
        both = check_slopes(point)
        # one-sided where features begin to learn
        loss = [float(both(point | {"richness": h})[0]) for h in (0.0, 1e-3, 2e-3)]
        slope = float(both(point | {"richness": 0.0})[1]["richness"])
    np.testing.assert_allclose(slope, (4 * loss[1] - loss[2] - 3 * loss[0]) / 2e-3, rtol=1e-3)
    assert slope < 0


@pytest.mark.slow
def test_slopes_with_finitely_many_features():
    with jax.enable_x64(True):
        check_slopes({"richness": 1.0, "capacity": 1.5, "decay": 1.75, "time": 50.0, "features": 15.0})


def test_values_do_not_compile_again():
    chex.clear_trace_counter()

    @eqx.filter_jit
    @chex.assert_max_traces(n=1)
    def loss(richness, times):
        return limit(richness).solve(TASK, lx.GradientFlow(times), steps=16, throw=False).test_loss

    lazy = loss(jnp.asarray(0.0), jnp.asarray([0.5, 2.0]))
    rich = loss(jnp.asarray(2.0), jnp.asarray([0.5, 2.0]))
    assert np.all(rich < lazy)


def test_record_and_status():
    theory = limit().solve(TASK, FLOW)
    assert theory.status == "converged"
    assert theory.loss_convention == "mean_square"
    assert set(theory.extras) == {"kernel_scale", "coefficients_square", "clock", "error"}
    assert all(value.shape == TIMES.shape for value in theory.curves().values())
    assert np.all(np.diff(theory.extras["clock"]) >= np.diff(TIMES))
    assert limit().exact_at_any_size(TASK, FLOW)
    assert not limit(1.0, 5.0).exact_at_any_size(TASK, FLOW)
    hard = lx.GradientFlow([1e-3, 1e9])
    with pytest.raises(lx.ConvergenceError, match="not converged"):
        limit(1e6).solve(TASK, hard, steps=16)
    assert limit(1e6).solve(TASK, hard, steps=16, throw=False).status == "not converged"


V, T = ValueError, TypeError
CASES = [
    (lambda: limit(-1.0), V, "richness must be finite and at least 0; it is -1."),
    (lambda: limit(1.0, 0.0), V, "features must be finite and above 0; it is 0."),
    (lambda: limit().solve(tasks.isotropic(), FLOW), T, "task must be power_law or gaussian for LearnedFeatures; "),
    (
        lambda: limit().solve(TASK, lx.GradientDescent(0.1, steps=2)),
        T,
        "protocol must be GradientFlow for LearnedFeatures; ",
    ),
    (lambda: limit().solve(TASK, FLOW, steps=2), V, "steps must be at least 4; it is 2."),
    (
        lambda: limit().solve(TASK, FLOW, steps=9),
        V,
        "steps must be even, so that half of them tell the error; it is 9.",
    ),
    (lambda: limit().solve(TASK, FLOW, nodes=2), V, "nodes must be at least 8; it is 2."),
    (lambda: limit(1.0, 5.0).finite(TASK, size=0), V, "size must be at least 1; it is 0."),
    (lambda: limit(1.0, 5.0).finite(tasks.power_law(10**12)), V, "modes must be at most "),
    (
        lambda: lx.nets.train(limit().finite(TASK), tasks.power_law(5), FLOW),
        V,
        "task must have the network's 30 modes; it has 5.",
    ),
    (
        lambda: lx.nets.train(limit().finite(TASK), TASK, lx.OnlineSGD(0.1, steps=2)),
        T,
        "protocol must be GradientFlow or GradientDescent for LearnedFeatures; ",
    ),
    (
        lambda: lx.nets.train(limit().finite(TASK), TASK, lx.GradientDescent(0.1, weight_decay=0.1, steps=2)),
        V,
        "weight_decay must be 0: LearnedFeatures trains without weight decay.",
    ),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_messages(case):
    call, kind, sentence = CASES[case]
    with raises(kind, sentence):
        call()
