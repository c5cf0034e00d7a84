"""Spectra of trained matrices: the responding spikes against their equation, random matrices, slopes, messages."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import SpikedMatrix, bulk_density, bulk_edge, orthonormal_basis, outliers, overlap_matrix
from limitax.solvers import singular_value as strength_to_value

from .helpers import small_task

GROUND = lx.limits.DeepLinear(2, 0.8, 4.0, 0.5)
TASK = lx.tasks.isotropic(2.0, 0.3)
RATES = np.where(np.arange(14) == 6, 0.0, 0.05 + 0.01 * np.cos(np.arange(14)))  # one rate is zero
PROTOCOL = lx.GradientDescent(RATES, 0.4)


@pytest.fixture(scope="module")
def solved():
    return GROUND.solve(TASK, PROTOCOL)


@pytest.fixture(scope="module", params=[0, 1])
def layer(request, solved):
    """A layer, its spectrum, and what the oracle needs of it."""
    l, extras = request.param, solved.extras
    fields = [extras[f"{kind}_{side}"] for kind in ("correlation", "response") for side in (f"k_{l}", f"g_{l + 1}")]
    aspect = 0.8 if l == 0 else 1.0
    return lx.spectrum(GROUND, solved, layer=l), (*fields, 4.0 * extras["optimiser"], aspect, 0.25)


def omega(z, C_k, C_g, R_k, R_g, c, q):
    """The resolvent between the spikes, from its traces by square roots; responses to fields of power q."""
    b = z**2 - q + c * q
    rp = (b - np.sqrt(b**2 - 4 * c * q * z**2)) / (2 * c * q * z)
    r = 1 / (z - c * q * rp)
    one, none = np.eye(len(C_k)), np.zeros_like(C_k)
    a, b = np.concatenate([one, none]), np.concatenate([none, one])
    S_q = (r * b @ R_k + c * q * r * rp * a @ R_g @ R_k) @ np.linalg.inv(one - c * q**2 * r * rp * R_g @ R_k)
    S_p = rp * (a + q * S_q) @ R_g
    below, above = b + c * q * S_p, a + q * S_q
    X = np.linalg.inv(one - c * q**2 * r * rp * R_k @ R_g) @ (r * (C_k @ below.T + c * q * rp * R_k @ C_g @ above.T))
    return np.concatenate([c * rp * (C_g @ above.T + q * R_g @ X), X])


def roots(coefficients, *fields):
    """Every z above the edge at which det(1 - J Omega(z)) changes its sign, the largest first."""
    zero = np.zeros((len(coefficients),) * 2)
    J = np.block([[zero, np.diag(coefficients)], [np.diag(coefficients), zero]])

    def sign(z):
        return np.linalg.slogdet(np.eye(len(J)) - J @ omega(z, *fields))[0]

    edge = np.sqrt(fields[-1]) * (1 + np.sqrt(fields[-2]))
    grid, found = edge * np.geomspace(1 + 1e-6, 10, 400), []
    signs = [sign(z) for z in grid]
    for low, high, before, after in zip(grid[:-1], grid[1:], signs[:-1], signs[1:], strict=True):
        if before != after:
            for _ in range(50):
                middle = (low + high) / 2
                low, high = (middle, high) if sign(middle) == before else (low, middle)
            found.append(low)
    return found[::-1]


def until(time, fields):
    """What later times made is not yet there."""
    *matrices, coefficients, c, q = fields
    return [m[:time, :time] for m in matrices], coefficients[time, :time], c, q


def test_outliers_solve_the_equation_in_the_given_fields(layer):
    spectrum, fields = layer
    escaped = 0
    for time in (1, 4, 7, 10, 14):
        matrices, coefficients, c, q = until(time, fields)
        expected = roots(coefficients, *matrices, c, q)
        found = spectrum.outliers[time]
        found = found[~np.isnan(found)]
        assert len(found) == len(expected), time
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        escaped += len(found)
        # of spikes that do not know the bulk, other values
        C_k, C_g, R_k, R_g = matrices
        naive = roots(coefficients, C_k, C_g, 0 * R_k, 0 * R_g, c, q)
        assert not naive or not expected or abs(naive[0] / expected[0] - 1) > 0.005
    assert escaped >= 2
    assert spectrum.converged


def test_margin_and_escape(layer):
    spectrum, fields = layer
    exist = ~np.isnan(spectrum.outliers[:, 0])
    np.testing.assert_array_equal(spectrum.margin > 0, exist)
    assert spectrum.margin[0] == -1  # nothing is learned yet
    assert spectrum.escape_step == np.argmax(exist) > 0
    np.testing.assert_allclose(spectrum.bulk_edge, 0.5 * (1 + np.sqrt(fields[-2])), rtol=1e-14)
    np.testing.assert_array_equal(spectrum.largest, np.where(exist, spectrum.outliers[:, 0], spectrum.bulk_edge))
    # a step at rate zero leaves the matrix as it was, but for momentum
    assert spectrum.outliers.shape[1] == 1


def test_a_rate_of_zero_changes_nothing():
    protocol = lx.GradientDescent(RATES)
    spectrum = lx.spectrum(GROUND, GROUND.solve(TASK, protocol), layer=1)
    np.testing.assert_allclose(spectrum.largest[7], spectrum.largest[6], rtol=1e-12)
    np.testing.assert_allclose(spectrum.margin[7], spectrum.margin[6], rtol=1e-9)


def test_never_escaped():
    lazy = lx.limits.DeepLinear(2, 1.0, 0.1)
    spectrum = lx.spectrum(lazy, lazy.solve(TASK, lx.GradientDescent(0.02, steps=14)), layer=1)
    assert spectrum.escape_step is None
    assert np.all(np.isnan(spectrum.outliers))
    np.testing.assert_array_equal(spectrum.largest, spectrum.bulk_edge)
    assert np.all(spectrum.margin < 0)


def one_matrix(matrix, count=2):
    right, _ = orthonormal_basis(matrix.correlation_k, len(matrix.correlation_k))
    left, _ = orthonormal_basis(matrix.correlation_g, len(matrix.correlation_g))
    return outliers(matrix, left, right, count=count)


solve_matrix = jax.jit(one_matrix, static_argnames="count")


def spiked(core, aspect=1.0, scale=1.0, **changes):
    core = np.atleast_2d(np.asarray(core, float))
    one, zero = np.eye(len(core)), np.zeros((len(core),) * 2)
    fields = {"correlation_k": one, "correlation_g": one, "response_k": zero, "response_g": zero} | changes
    return SpikedMatrix(**jax.tree.map(jnp.asarray, fields | {"core": core, "aspect": aspect, "scale": scale}))


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
def test_independent_spike(aspect):
    """The classical threshold and value (Benaych-Georges and Nadakuditi)."""
    sigma = 0.7
    threshold = sigma * aspect**0.25
    with jax.enable_x64(True):
        for theta in threshold * np.array([0.0, 0.5, 0.99, 1.01, 1.5, 4.0]):
            # a spike of strength theta, its norm shared among core and correlations
            core, k, g = theta / np.sqrt(aspect) / 1.5, np.array([[0.9]]), np.array([[2.5]])
            found = solve_matrix(spiked(core, aspect, sigma, correlation_k=k, correlation_g=g))
            assert bool(found.exist[0]) == (found.margin > 0) == (theta > threshold)
            assert not found.exist[1]
            if theta > threshold:
                z = np.sqrt((theta**2 + sigma**2) * (theta**2 + aspect * sigma**2)) / theta
                np.testing.assert_allclose(found.values[0], z, rtol=1e-10)
                left = (1 - aspect * sigma**4 / theta**4) / (1 + aspect * sigma**2 / theta**2)
                right = (1 - aspect * sigma**4 / theta**4) / (1 + sigma**2 / theta**2)
                overlaps = np.sort([found.left_overlap[0, 0] ** 2, found.right_overlap[0, 0] ** 2])
                np.testing.assert_allclose(overlaps, np.sort([left, right]), rtol=1e-8)
            else:
                assert np.isnan(found.values[0])
        np.testing.assert_allclose(strength_to_value(threshold, sigma, aspect), bulk_edge(sigma, aspect), rtol=1e-14)


def test_two_independent_spikes():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        rotate = [np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(2)]
        strengths = np.array([3.0, 1.7])
        found = solve_matrix(spiked(rotate[0] @ np.diag(strengths) @ rotate[1]))
        np.testing.assert_allclose(found.values, strength_to_value(strengths, 1.0, 1.0), rtol=1e-10)
        assert np.all(found.exist)


def test_without_a_bulk_spikes_are_the_matrix():
    with jax.enable_x64(True):
        found = solve_matrix(spiked(np.diag([0.3, 2.0]), aspect=0.5, scale=0.0))
        np.testing.assert_allclose(found.values, np.sqrt(0.5) * np.array([2.0, 0.3]), rtol=1e-6)
        gradient = jax.grad(lambda core: solve_matrix(spiked(0.3)._replace(core=core)).margin)
        assert np.all(np.isfinite(gradient(jnp.zeros((1, 1)))))


def test_overlap_matrix_is_symmetric_and_positive(layer):
    _, (C_k, C_g, R_k, R_g, _, c, q) = layer
    with jax.enable_x64(True):
        matrix = SpikedMatrix(*map(jnp.asarray, (C_k, C_g, R_k * q**0.5, R_g * q**0.5, np.eye(15), c, q**0.5)))
        for strength in (1.0001 * q**0.5 * c**0.25, 1.0, 3.0):
            ours = np.asarray(overlap_matrix(matrix, jnp.asarray(strength)))
            assert np.abs(ours - ours.T).max() < 1e-12 * np.abs(ours).max()
            assert np.linalg.eigvalsh(ours)[0] > -1e-12 * np.trace(ours)
            z = float(strength_to_value(strength, q**0.5, c))
            np.testing.assert_allclose(ours, omega(z, C_k, C_g, R_k, R_g, c, q), rtol=1e-9, atol=1e-10)


@pytest.fixture(scope="module")
def tanh():
    """A perceptron's march, its trained matrix, and its spectrum."""
    limit = lx.limits.MLP(2, "tanh", 3.0)
    task = lx.tasks.sphere(jax.random.key(0), samples=2, dim=6, target="sign")
    theory = limit.solve(task, lx.GradientDescent(0.15, steps=10), samples=1000, replicas=2)
    return limit, theory


@pytest.mark.slow
def test_perceptron(tanh):
    limit, theory = tanh
    matrices = limit.spiked_matrices(theory, 1)
    with jax.enable_x64(True):
        first = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[0]), float), matrices)
        ours = np.asarray(overlap_matrix(first._replace(scale=first.scale[-1]), jnp.asarray(1.5)))
    assert np.abs(ours - ours.T).max() < 1e-12 * np.abs(ours).max()
    assert np.linalg.eigvalsh(ours)[0] > 0
    spectrum = lx.spectrum(limit, theory, layer=1)
    np.testing.assert_allclose(spectrum.bulk_edge, 2.0)
    assert spectrum.converged
    assert spectrum.escape_step is not None
    assert 4 < spectrum.escape_step < 9
    last = spectrum.sampling_error[-1, 0]
    assert 0 < last < 0.05 * spectrum.outliers[-1, 0]


@pytest.mark.slow
def test_spikes_that_respond_against_random_matrices():
    """The left field is made of the right one by the bulk itself, plus noise."""
    n, draws, share, strength = 600, 16, 0.8, 1.3
    rng = np.random.default_rng(1)
    measured = []
    for _ in range(draws):
        Z, k, noise = rng.standard_normal((n, n)), rng.standard_normal(n), rng.standard_normal(n)
        k = k / np.linalg.norm(k) * n**0.5
        g = share * Z @ k / n**0.5 + noise
        left, values, right = np.linalg.svd(Z / n**0.5 + strength * np.outer(g, k) / n)
        cosines = abs(left[:, 0] @ g) / np.linalg.norm(g), abs(right[0] @ k) / np.linalg.norm(k)
        measured.append((values[0], *cosines))
    mean, error = np.mean(measured, 0), np.std(measured, 0) / draws**0.5
    with jax.enable_x64(True):
        C_g, R_g = np.array([[1 + share**2]]), np.array([[share]])
        found = solve_matrix(spiked(strength, correlation_g=C_g, response_g=R_g))
        naive = solve_matrix(spiked(strength, correlation_g=C_g))
        found, naive = jax.tree.map(np.asarray, (found, naive))
    theory = np.array([found.values[0], abs(found.left_overlap[0, 0]), abs(found.right_overlap[0, 0])])
    assert np.all(np.abs(mean - theory) < 4 * error + 0.5 / n)
    assert abs(naive.values[0] - mean[0]) > 20 * error[0]


def test_bulk_density():
    for aspect in (0.5, 1.0, 3.0):
        with jax.enable_x64(True):
            edges = 0.7 * np.abs(1 + np.array([-1, 1]) * np.sqrt(aspect))
            theta = (np.arange(4000) + 0.5) * np.pi / 4000
            x = edges.mean() + np.ptp(edges) / 2 * np.cos(theta)
            weights = np.asarray(bulk_density(x, 0.7, aspect)) * np.ptp(edges) / 2 * np.sin(theta) * np.pi / 4000
        np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
        np.testing.assert_allclose(weights @ x**2, 0.49 * max(aspect, 1.0), rtol=1e-5)  # the trace of W^T W
        rng = np.random.default_rng(0)
        rows = int(400 * aspect)
        values = np.linalg.svd(0.7 * rng.standard_normal((rows, 400)) / 20, compute_uv=False)
        np.testing.assert_allclose(weights @ x**4, np.mean(values**4), rtol=0.02)
        outside = np.array([-0.1, 0.0, edges[1] * 1.001, 0.99 * edges[0] if aspect != 1 else 9.0])
        np.testing.assert_array_equal(bulk_density(outside, 0.7, aspect), 0.0)


def test_density_of_a_run(layer):
    spectrum, _ = layer
    x = np.linspace(0.01, 1.5, 7)
    np.testing.assert_allclose(spectrum.density(x), spectrum.density(x, step=3))
    assert spectrum.density(x).dtype == np.float64
    assert spectrum.density(1.2) == 0
    with pytest.raises(ValueError, match="step must be between -15 and 14; it is 15"):
        spectrum.density(x, step=15)


POINT = {"learning_rate": RATES[:8], "momentum": np.full(8, 0.4), "richness": 4.0, "width_ratio": 0.8}
POINT |= {"init_scale": 0.5, "readout_scale": 1.1, "sample_ratio": 2.0, "noise": 0.3}
POINT = {name: np.asarray(value, float) for name, value in POINT.items()}


def of_spectrum(point, layer):
    limit = lx.limits.DeepLinear(2, *(point[n] for n in ("width_ratio", "richness", "init_scale", "readout_scale")))
    task = lx.tasks.isotropic(point["sample_ratio"], point["noise"])
    protocol = lx.GradientDescent(point["learning_rate"], point["momentum"])
    found = lx.spectrum(limit, limit.solve(task, protocol, throw=False), layer=layer, count=1)
    return found.outliers[-1, 0], found.margin[-1], found.margin[1], found.outliers[1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("layer_number", [0, 1])
def test_slopes(layer_number):
    """Central differences; upwards only along the rate of zero, which cannot be lowered."""
    central, ahead, h = np.array([1, -8, 0, 8, -1]) / 12, np.array([-25, 48, -36, 16, -3]) / 12, 1e-4
    moves = []
    for name, value in POINT.items():
        direction = (np.asarray(value) > 0) * (1 + 0.3 * np.sin(np.arange(np.size(value)))).reshape(np.shape(value))
        moves += [(name, direction, np.arange(-2, 3), central)]
    moves += [("learning_rate", np.arange(8) == 6, np.arange(5), ahead)]
    with jax.enable_x64(True):
        at = jax.jit(lambda point: jnp.stack(of_spectrum(point, layer_number)))
        values, slopes = np.asarray(at(POINT)), jax.tree.map(np.asarray, jax.jit(jax.jacrev(at))(POINT))
        for name, direction, nodes, weights in moves:
            near = np.array([at(POINT | {name: np.asarray(POINT[name]) + k * h * direction}) for k in nodes])
            found = np.sum(slopes[name] * direction, axis=tuple(range(1, 1 + np.ndim(direction))))
            np.testing.assert_allclose(found[:3], weights @ near[:, :3] / h, rtol=1e-6, atol=1e-9, err_msg=name)
    assert np.all(np.isfinite(values[:3]))
    assert np.isnan(values[3])
    assert values[1] > 0 > values[2]
    assert all(np.all(np.isfinite(slope)) for slope in slopes.values())
    assert all(np.all(slope[3] == 0) for slope in slopes.values())  # there is no outlier at time 1


def test_escape_step_has_no_derivative():
    def escape(rate):
        theory = GROUND.solve(TASK, lx.GradientDescent(rate, steps=14), throw=False)
        return lx.spectrum(GROUND, theory, layer=1).escape_step

    with pytest.raises(TypeError, match="escape_step is a whole number and has no derivative; inside a transformation"):
        jax.jit(escape)(0.1)


# theory of the white population in the rich regime, L = 2, richness 4, init_scale 1/2, after 19 steps
OUTLIERS = {
    "mup": ((1.569, 1.582, 1.588, 1.591, 1.594), (1.557, 1.529, 1.515, 1.508, 1.503)),
    "ntk": ((1.569, 1.411, 1.227, 1.055, None), (1.557, 1.346, 1.116, 0.876, 0.619)),
}


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", OUTLIERS)
def test_outliers_are_width_consistent_in_one_parameterization(parameterization):
    protocol, task = lx.GradientDescent(0.04, steps=19), lx.tasks.isotropic()
    for nu, *expected in zip((1, 2, 4, 8, 32), *OUTLIERS[parameterization][::-1], strict=True):
        network = lx.limits.DeepLinear(2, nu, 4.0, 0.5, parameterization=parameterization)
        theory = network.solve(task, protocol)
        for layer, value in enumerate(expected):
            found = lx.spectrum(network, theory, layer=layer).outliers[-1, 0] / (nu**0.5 if layer == 0 else 1.0)
            assert np.isnan(found) if value is None else abs(found - value) < 0.00051


nan = np.nan
MLP = lx.limits.MLP(2, "tanh")


def bare(**changes):
    return lx.Trajectory(**({"train_loss": np.ones(15), "test_loss": np.ones(15)} | changes))


V, T = ValueError, TypeError
CASES = [
    (lambda s: lx.spectrum(GROUND, s, layer=2), V, "layer must be between 0 and 1; it is 2."),
    (lambda s: lx.spectrum(GROUND, s, layer=-1), V, "layer must be between 0 and 1; it is -1."),
    (lambda s: lx.spectrum(GROUND, s, layer=1.0), T, "layer must be a whole number; float 1.0 was given."),
    (lambda s: lx.spectrum(GROUND, s, layer=1, count=0), V, "count must be at least 1; it is 0."),
    (lambda s: lx.spectrum(MLP, s, layer=0), V, "layer must be between 1 and 1; it is 0."),
    (
        lambda s: lx.spectrum(lx.limits.MLP(1, "tanh"), s, layer=1),
        V,
        "layer 1 does not exist: depth 1 has no weights between hidden layers.",
    ),
    (
        lambda s: lx.spectrum(MLP, s, layer=1),
        V,
        'trajectory does not hold the order parameter "core_1"; it must come from solve().',
    ),
    (
        lambda s: lx.spectrum(GROUND, bare(), layer=1),
        V,
        'trajectory does not hold the order parameter "correlation_k_1"; it must come from solve().',
    ),
    (
        lambda s: lx.spectrum(lx.limits.RandomFeatures(), bare(), layer=1),
        T,
        "RandomFeatures has no hidden weight matrices, and no spectrum of them.",
    ),
    (
        lambda s: lx.spectrum(GROUND, bare(model="network"), layer=1),
        V,
        "trajectory must be the limit's own solution; that of a network was given.",
    ),
    (lambda s: lx.spectrum(3, s, layer=1), T, "limit must be a limit such as limits.DeepLinear; int 3 was given."),
    (lambda s: lx.spectrum(GROUND, None, layer=1), T, "trajectory must be a trajectory that the limit solved for; "),
    (
        lambda s: lx.spectrum(lx.limits.DeepLinear(2, np.inf), s, layer=0),
        V,
        "layer 0 has no spectrum at width_ratio=inf: its singular values grow with the width.",
    ),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_sentence(number, solved):
    call, kind, sentence = CASES[number]
    with pytest.raises(kind) as caught:
        call(solved)
    assert str(caught.value).startswith(sentence)


@pytest.mark.slow
def test_small_task_is_enough_for_a_flat_record():
    """A march that kept no trained weights says so."""
    theory = MLP.solve(small_task(samples=2), lx.GradientDescent(0.1, steps=2), samples=100, keep=None)
    with pytest.raises(ValueError, match='does not hold the order parameter "core_1"'):
        lx.spectrum(MLP, theory, layer=1)
