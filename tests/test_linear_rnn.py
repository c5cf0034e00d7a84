"""Linear recurrent networks: the loss and its gradient, the closed system against networks, derivatives, messages."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import solvers, tasks
from limitax.limits import _linear_rnn as theory_of
from limitax.nets._linear_rnn import RecurrentWeights

from .helpers import raises

LIMIT = lx.limits.LinearRNN()
INTEGRATOR, OSCILLATOR = tasks.integrator(decay=0.3), tasks.oscillator(decay=0.3, frequency=0.8)
TARGETS = [(0.3, 0.0), (0.3, 0.8), (1.0, 0.0), (0.05, 0.0), (3.0, 2.0)]
rng = np.random.default_rng(0)


def closed_form(W, u, v, decay, frequency):
    """The loss by Lyapunov equations and resolvents: half of the integral of the squared difference."""
    n, mu = len(u), decay + 1j * frequency
    Q = W - np.eye(n)
    lyapunov = np.kron(Q, np.eye(n)) + np.kron(np.eye(n), Q)
    X = np.linalg.solve(lyapunov, -np.kron(u, u)).reshape(n, n)
    overlap = v @ np.linalg.solve(mu * np.eye(n) - Q, u)
    return (v @ X @ v) / 2 - overlap.real + (1 / mu.real + (1 / mu).real) / 8


def random_weights(n, scale=0.4):
    return scale * rng.standard_normal((n, n)) / np.sqrt(n), *rng.standard_normal((2, n)) / np.sqrt(n)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_loss_and_gradient(target):
    weights = random_weights(5)
    terms = solvers.laguerre_terms(*target)
    with jax.enable_x64(True):
        fit = solvers.fit_impulse_response(*map(jnp.asarray, weights), *target, terms=terms)
        automatic = jax.grad(lambda *w: solvers.fit_impulse_response(*w, *target, terms=terms).loss, argnums=(0, 1, 2))
        through = automatic(*map(jnp.asarray, weights))
    np.testing.assert_allclose(fit.loss, closed_form(*weights, *target), rtol=1e-9, atol=1e-14)
    for k, gradient in enumerate(fit.gradient):
        np.testing.assert_allclose(through[k], gradient, rtol=0, atol=1e-9)
        direction, h = rng.standard_normal(weights[k].shape), 1e-4

        def at(step, k=k, h=h, direction=direction):
            moved = [w + step * h * direction if i == k else w for i, w in enumerate(weights)]
            return closed_form(*moved, *target)

        difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
        np.testing.assert_allclose(np.vdot(gradient, direction), difference, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_loss_is_the_integral_and_vanishes_at_the_target():
    W, u, v = random_weights(4)
    with jax.enable_x64(True):
        net = lx.nets.LinearRNN(RecurrentWeights(*map(jnp.asarray, (W, u, v))), LIMIT.finite(OSCILLATOR, size=4).frozen)
        lag = jnp.linspace(0, 40, 2001)
        difference = jax.vmap(net)(lag) - jnp.exp(-0.3 * lag) * jnp.cos(0.8 * lag)
        fit = solvers.fit_impulse_response(*map(jnp.asarray, (W, u, v)), 0.3, 0.8)
        solved = np.array([[0.7, -0.8], [0.8, 0.7]]), np.array([1.0, 0.0]), np.array([1.0, 0.0])
        at_target = solvers.fit_impulse_response(*map(jnp.asarray, solved), 0.3, 0.8)
    weights = np.full(2001, 0.02) * np.where(np.arange(2001) % 2, 4, 2) / 3
    weights[[0, -1]] = 0.02 / 3
    np.testing.assert_allclose(np.asarray(fit.loss), weights @ np.asarray(difference) ** 2 / 2, rtol=1e-6)
    assert np.asarray(at_target.loss) < 1e-25
    assert all(np.max(np.abs(np.asarray(g))) < 1e-12 for g in at_target.gradient)


@pytest.mark.slow
def test_the_inverse_of_large_matrices():
    W, u, v = random_weights(40)
    with jax.enable_x64(True):
        fit = solvers.fit_impulse_response(*map(jnp.asarray, (W, u, v)), 0.3, 0.8)
    np.testing.assert_allclose(fit.loss, closed_form(W, u, v, 0.3, 0.8), rtol=1e-10)


def reduced(weights):
    """The same network in the span of its source and readout."""
    W, u, v = (np.asarray(w) for w in (weights.recurrent, weights.source, weights.readout))
    basis, _ = np.linalg.qr(np.stack([u, v], axis=1))
    return RecurrentWeights(basis.T @ W @ basis, basis.T @ u, basis.T @ v)


STEPS = 200
VARIED = lx.GradientDescent(np.linspace(0.1, 0.02, STEPS), np.linspace(0.1, 0.6, STEPS), 0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [pytest.param(INTEGRATOR, marks=pytest.mark.slow), OSCILLATOR], ids=["integrator", "oscillator"]
)
def test_two_dimensions_are_exact_without_disorder(task):
    with jax.enable_x64(True):
        net = LIMIT.finite(task, size=50, key=jax.random.key(3))
        run = lx.nets.train(net, task, VARIED)
        loss, matrices = theory_of.train_closed(
            jax.tree.map(jnp.asarray, reduced(net.weights)), task, VARIED, False, 128
        )
        real, imag = theory_of._outliers(matrices)
    np.testing.assert_allclose(run.test_loss, loss, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run.extras["eigenvalue_imag"], imag, atol=1e-6)  # square root at the collision
    away = np.abs(np.asarray(imag[:, 0])) + np.abs(np.asarray(real[:, 0] - real[:, 1])) > 1e-2
    order = np.argsort(-np.asarray(run.extras["eigenvalue_real"]), axis=1, kind="stable")
    found = np.take_along_axis(np.asarray(run.extras["eigenvalue_real"]), order, 1)
    np.testing.assert_allclose(found[away], np.asarray(real)[away], rtol=0, atol=1e-10)


def test_the_integrator_learns_its_eigenvalue():
    theory = LIMIT.solve(INTEGRATOR, lx.GradientDescent(0.01, steps=1500))
    real, imag = theory.extras["eigenvalue_real"], theory.extras["eigenvalue_imag"]
    # published run at N = 50, whose random source and readout overlap by 1/sqrt(50)
    np.testing.assert_allclose(real[[150, 375, 750, 1500], 0], [0.551, 0.636, 0.654, 0.670], atol=0.012)
    assert np.all(np.abs(real[:, 1]) < 0.06)
    assert np.all(imag == 0)
    assert theory.test_loss[0] == pytest.approx(1 / (4 * 0.3))


def test_the_eigenvalues_of_the_oscillator_collide_and_reach_their_target():
    theory = LIMIT.solve(OSCILLATOR, lx.GradientDescent(0.02, steps=2500))
    real, imag = theory.extras["eigenvalue_real"], theory.extras["eigenvalue_imag"]
    np.testing.assert_array_equal(imag[150:400], 0.0)
    assert np.all(real[150:400, 0] > real[150:400, 1])
    assert np.all(imag[750:, 0] > 0.2)
    np.testing.assert_allclose(real[750:, 0], real[750:, 1])
    np.testing.assert_allclose([real[-1, 0], imag[-1, 0]], [0.699, 0.797], atol=1e-3)
    assert theory.test_loss[-1] < 1e-4


def test_words_at_infinite_size_are_those_of_a_large_gaussian_matrix():
    size = 1000
    Z = rng.standard_normal((size, size)) / np.sqrt(size)
    u = rng.standard_normal(size)
    u /= np.linalg.norm(u)
    c = theory_of.circular_element(3)
    e = np.eye(len(c))[0]
    words = ["Z", "T", "ZT", "TZ", "ZZ", "TZTZ", "ZTTZ", "ZZTT", "TTZZ", "ZTZT", "TZZT", "TZTZTZ", "TTZZTZ"]
    for word in words:
        large, small = u, e
        for letter in reversed(word):
            large, small = (
                (Z, c)[0] @ large if letter == "Z" else Z.T @ large,
                c @ small if letter == "Z" else c.T @ small,
            )
        assert abs(u @ large - e @ small) < 0.3 * max(1, e @ small), word


@pytest.mark.slow
def test_orders_converge_as_powers_of_the_disorder():
    protocol = lx.GradientDescent(0.1, steps=60)

    def error(scale, order):
        limit = lx.limits.LinearRNN(scale)
        exact = limit.solve(INTEGRATOR, protocol, order=order + 2).test_loss
        return np.max(np.abs(limit.solve(INTEGRATOR, protocol, order=order).test_loss - exact))

    for order in (0, 1):
        slope = np.log(error(0.1, order) / error(0.05, order)) / np.log(2)
        assert abs(slope - (2 * order + 2)) < 0.2
    assert error(0.1, 2) < 1e-5


@pytest.mark.slow
def test_large_networks_follow_the_theory_with_disorder():
    """The distance from the full theory is that of the finite size; without the words it is far larger."""
    limit, protocol = lx.limits.LinearRNN(0.4), lx.GradientDescent(0.1, steps=40)
    full, bare = (limit.solve(INTEGRATOR, protocol, order=order).test_loss for order in (4, 0))
    runs = lx.nets.train(limit.ensemble(INTEGRATOR, size=200, seeds=6), INTEGRATOR, protocol).test_loss
    mean, error = np.mean(runs, 0), np.std(runs, 0, ddof=1) / 6**0.5
    assert np.max(np.abs(mean - full)) < 3 * np.max(error) < 0.5 * np.max(np.abs(mean - bare))


@pytest.mark.slow
def test_single_networks_approach_the_theory_like_the_root_of_their_size():
    protocol = lx.GradientDescent(0.1, steps=60)
    for scale in (0.0, 0.3):
        limit = lx.limits.LinearRNN(scale)
        report = lx.compare(limit, INTEGRATOR, protocol, sizes=(16, 32, 64, 128), seeds=64, quantities=("test_loss",))
        assert report.agreement["test_loss"] < 3
        assert abs(report.rate["test_loss"] + 0.5) < 0.15
        assert report.spread["test_loss"][0] / report.spread["test_loss"][-1] > 2


ramp = np.linspace(1, 0.3, 25)
POINT = {
    "learning_rate": 0.08 * ramp,
    "momentum": 0.3 * ramp,
    "weight_decay": 0.02 * ramp,
    "decay": 0.4,
    "frequency": 0.6,
}
POINT |= {"init_scale": 0.2}


def loss_of(point):
    limit = lx.limits.LinearRNN(point["init_scale"])
    protocol = lx.GradientDescent(point["learning_rate"], point["momentum"], point["weight_decay"])
    return lx.final_loss(limit, tasks.oscillator(point["decay"], point["frequency"]), protocol, order=1)


@pytest.mark.slow
def test_gradients():
    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(loss_of))(jax.tree.map(jnp.asarray, POINT))
    for field, value in POINT.items():
        h, direction = 1e-3, 1 + 0.3 * np.sin(np.arange(np.size(value))).reshape(np.shape(value))

        def at(k, field=field, value=value, h=h, direction=direction):
            return float(loss_of(POINT | {field: value + k * h * direction}))

        difference = (45 * (at(1) - at(-1)) - 9 * (at(2) - at(-2)) + at(3) - at(-3)) / (60 * h)
        np.testing.assert_allclose(np.vdot(slopes[field], direction), difference, rtol=1e-6, err_msg=field)


@pytest.mark.slow
def test_outliers_are_differentiable_whatever_the_global_flag():
    def final(decay):
        protocol = lx.GradientDescent(0.1, steps=25)
        return LIMIT.solve(tasks.integrator(decay), protocol).extras["eigenvalue_real"][-1, 0]

    np.testing.assert_allclose(jax.grad(final)(0.3), (final(0.301) - final(0.299)) / 0.002, rtol=1e-4)


@pytest.mark.slow
def test_traced_and_concrete_agree():
    limit, protocol = lx.limits.LinearRNN(0.2), VARIED
    traced = jax.jit(lambda p: limit.solve(OSCILLATOR, p, throw=False, order=1).test_loss)(protocol)
    np.testing.assert_allclose(traced, limit.solve(OSCILLATOR, protocol, order=1).test_loss, rtol=1e-6)
    single = limit.solve(OSCILLATOR, protocol, order=1, precision="single").test_loss
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, limit.solve(OSCILLATOR, protocol, order=1).test_loss, rtol=2e-4)


@pytest.mark.slow
def test_an_eigenvalue_beyond_one_is_divergence():
    task, protocol = tasks.integrator(0.1), lx.GradientDescent(0.2, steps=25)
    record = LIMIT.solve(task, protocol, throw=False)
    first = int(record.diverged_step)
    assert record.status == "diverged"
    assert first == 5
    assert np.isinf(record.test_loss[first])
    assert record.extras["eigenvalue_real"][first - 1, 0] < 1 < record.extras["eigenvalue_real"][first, 0]
    with pytest.raises(lx.DivergedError, match=rf"left the stable region at step {first} "):
        LIMIT.solve(task, protocol)
    with pytest.raises(lx.DivergedError, match="left the stable region at step"):
        lx.nets.train(LIMIT.finite(task, size=30), task, protocol)


@pytest.mark.parametrize("eigenvalue", [1.0, 1.02, 1.5, 1.6, 4.0])
def test_unstable_matrices_are_never_resolved(eigenvalue):
    with jax.enable_x64(True):
        weights = jnp.diag(jnp.array([eigenvalue, 0.1])), jnp.ones(2), jnp.ones(2)
        assert not solvers.fit_impulse_response(*weights, 0.3, 0.0).remainder < solvers.UNRESOLVED


@pytest.mark.slow
def test_only_the_recurrent_matrix_trains_if_asked():
    limit = lx.limits.LinearRNN(0.1, recurrent_only=True)
    net = limit.finite(INTEGRATOR, size=30)
    protocol = lx.GradientDescent(0.1, 0.3, steps=25)
    run, trained = lx.nets.train(net, INTEGRATOR, protocol, return_net=True)
    np.testing.assert_array_equal(trained.weights.source, net.weights.source)
    np.testing.assert_array_equal(trained.weights.readout, net.weights.readout)
    assert np.any(trained.weights.recurrent != net.weights.recurrent)
    theory = limit.solve(INTEGRATOR, protocol, order=1)
    assert abs(run.test_loss[-1] / theory.test_loss[-1] - 1) < 0.5
    assert lx.limits.of(trained) == limit


def test_record():
    run = lx.nets.train(LIMIT.finite(OSCILLATOR, size=8), OSCILLATOR, lx.GradientDescent(0.1, steps=3))
    theory = LIMIT.solve(OSCILLATOR, lx.GradientDescent(0.1, steps=3))
    assert theory.test_loss.shape == run.test_loss.shape == (4,)
    assert theory.extras["eigenvalue_real"].shape == run.extras["eigenvalue_imag"].shape == (4, 2)
    assert theory.loss_convention == run.loss_convention == "half_mean_square"
    assert dict(run.attributes)["size"] == 8


V, T = ValueError, TypeError
GD = lx.GradientDescent(0.1, steps=2)
CASES = [
    (lambda: tasks.integrator(0.0), V, "decay must be finite and above 0; it is 0."),
    (lambda: tasks.integrator("slow"), T, "decay must be a number; str 'slow' was given."),
    (lambda: tasks.oscillator(0.3, -1.0), V, "frequency must be finite and at least 0; it is -1."),
    (lambda: tasks.oscillator(0.3, np.inf), V, "frequency must be finite and at least 0; it is inf."),
    (lambda: lx.limits.LinearRNN(-0.1), V, "init_scale must be finite and at least 0; it is -0.1."),
    (lambda: LIMIT.solve(tasks.isotropic(), GD), T, "task must be integrator or oscillator; "),
    (
        lambda: LIMIT.solve(INTEGRATOR, lx.OnlineSGD(0.1, steps=2)),
        T,
        "protocol must be GradientDescent for a LinearRNN; ",
    ),
    (lambda: LIMIT.solve(INTEGRATOR, GD, order=7), V, "order must be between 0 and 6; it is 7."),
    (lambda: LIMIT.solve(INTEGRATOR, GD, precision="half"), V, 'precision "half" is unknown; one of: double, single.'),
    (lambda: LIMIT.solve(tasks.oscillator(1e-3, 5.0), GD), V, "decay must not be so far from frequency and from 1"),
    (lambda: LIMIT.finite(INTEGRATOR, size=1), V, "size must be at least 2; it is 1."),
    (lambda: LIMIT.ensemble(INTEGRATOR, size=4, seeds=0), V, "seeds must be at least 1; it is 0."),
    (lambda: LIMIT.finite(tasks.isotropic(), size=4), T, "task must be integrator or oscillator; "),
    (
        lambda: lx.nets.train(LIMIT.finite(INTEGRATOR, size=4), INTEGRATOR, lx.GradientFlow([1.0])),
        T,
        "protocol must be GradientDescent for a LinearRNN; ",
    ),
    (
        lambda: lx.nets.train(LIMIT.finite(INTEGRATOR, size=4), INTEGRATOR, GD, steps=3),
        V,
        "steps goes with an optax optimiser; the protocol's schedules have their own number.",
    ),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_messages(case):
    call, kind, sentence = CASES[case]
    with raises(kind, sentence):
        call()
