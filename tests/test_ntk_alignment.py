"""The system ntk-alignment: kernels from vanishing weights, by depth and by output."""

import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import solvers
from limitax.gallery import ntk_alignment, system

from .helpers import raises


@pytest.mark.parametrize("depth", [1, 3])
def test_the_aligned_kernel_is_that_of_layers_of_rank_one(depth):
    """Tangent kernel by products of explicit layers u v^T of equal strength, inputs that are not orthogonal."""
    rng = np.random.default_rng(depth)
    D, P, N, gamma = 7, 4, 5, 1.7
    x, y = rng.normal(size=(P, D)), rng.normal(size=P)
    beta = np.linalg.pinv(x / np.sqrt(D)) @ y
    strength = (gamma * np.linalg.norm(beta)) ** (1 / (depth + 1))
    ends = [beta / np.linalg.norm(beta)] + [np.full(N, N**-0.5)] * depth
    layers = [np.outer(ends[l + 1], ends[l]) * strength for l in range(depth)]
    readout = ends[-1] * strength
    # f = readout.W...W x / gamma sqrt(D), of which gamma^2 times the sum of squared derivatives is the kernel
    forward = [x / np.sqrt(D)]
    for layer in layers:
        forward.append(forward[-1] @ layer.T)
    back, kernel = readout, forward[-1] @ forward[-1].T
    for l in reversed(range(depth)):
        kernel = kernel + (back @ back) * forward[l] @ forward[l].T
        back = layers[l].T @ back
    np.testing.assert_allclose(forward[-1] @ readout / gamma, y, rtol=1e-10)
    np.testing.assert_allclose(ntk_alignment.aligned_kernel(depth, gamma, x, y), kernel, rtol=1e-10)


def test_alignment_of_orthogonal_inputs_has_a_closed_form():
    _, task, _ = ntk_alignment.build(samples=5, dim=8, target=0.7)
    np.testing.assert_allclose(task.x @ task.x.T / 8, np.eye(5), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.mean(task.y**2), 0.49, rtol=1e-12)
    for depth in (1, 2, 5):
        kernel = ntk_alignment.aligned_kernel(depth, 1.3, task.x, task.y)
        expected = (1 + depth) / np.sqrt(4 + (1 + depth) ** 2)
        np.testing.assert_allclose(ntk_alignment.alignment(kernel, task.y), expected, rtol=1e-12)
        np.testing.assert_allclose(ntk_alignment.white_alignment(depth, 5), expected, rtol=1e-12)


def test_alignment_of_any_kernel():
    rng = np.random.default_rng(0)
    K, y = rng.normal(size=(2, 4, 4)), rng.normal(size=4)
    whole, centre = (K + K.swapaxes(1, 2)) / 2, np.eye(4) - 1 / 4
    for name, axis in (("kernel_alignment", np.eye(4)), ("centred_alignment", centre)):
        kernel, target = axis @ whole @ axis, axis @ y
        expected = [target @ k @ target / (target @ target * np.linalg.norm(k)) for k in kernel]
        with solvers.double():
            found = getattr(solvers, name)(*solvers.as_float((K, y)))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert solvers.kernel_alignment(jnp.asarray(K[0]), jnp.zeros(4)) == 0
    assert solvers.kernel_alignment(jnp.zeros((4, 4)), jnp.asarray(y)) == 0


def test_a_kernel_that_speeds_up_learning_conserves():
    y, kappa, c, dt = np.array([0.6, -1.1, 0.4]), 0.5, 0.7, 1e-3
    error, kernel = y.copy(), kappa * np.eye(3)

    def rates(error, kernel):
        return -kernel @ error, c * np.outer(error, error)

    growth = np.sqrt(1 + c * (y @ y) / kappa**2)
    for step in range(20_000):
        first = rates(error, kernel)
        second = rates(error + dt / 2 * first[0], kernel + dt / 2 * first[1])
        error, kernel = error + dt * second[0], kernel + dt * second[1]
        if step in (500, 2000, 19_999):
            largest = np.linalg.eigvalsh(kernel)[-1] / kappa
            gone = 1 - error @ error / (y @ y)
            np.testing.assert_allclose(largest, ntk_alignment.hastened_eigenvalue(gone, growth), rtol=1e-6)
    np.testing.assert_allclose(largest, growth, rtol=1e-6)


def test_more_inputs_than_dimensions_cannot_be_orthogonal():
    with raises(ValueError, "samples must be at most dim, 4, to be orthogonal; it is 5."):
        system("ntk-alignment").problem({"samples": 5, "dim": 4})


@pytest.mark.slow
def test_theory_goes_to_the_aligned_kernel():
    """The distance falls with the scale of the weights, at least linearly, and alignment grows with depth."""
    found = {}
    for depth, scale, steps in ((1, 0.2, 100), (1, 0.1, 120), (2, 0.2, 140), (2, 0.1, 220)):
        limit, task, protocol = ntk_alignment.build(depth, scale, steps=steps)
        theory = limit.solve(task, protocol, keep="diagonal")
        expected = ntk_alignment.aligned_kernel(depth, 1.0, task.x, task.y)
        distance = np.linalg.norm(theory.extras["ntk"][-1] - expected) / np.linalg.norm(expected)
        found[depth, scale] = distance
        np.testing.assert_allclose(theory.extras["alignment"][0], 6**-0.5, rtol=1e-10)
        end = ntk_alignment.white_alignment(depth, 6)
        assert 0 < end - theory.extras["alignment"][-1] < 0.15 * scale
    assert found[1, 0.1] < found[1, 0.2] / 2 < 0.01
    assert found[2, 0.1] < found[2, 0.2] / 2 < 0.02


@pytest.mark.slow
def test_networks_have_the_kernel_of_the_theory():
    report = lx.compare(*ntk_alignment.build(), sizes=(64, 128), seeds=32, record=("ntk", "alignment"), keep="diagonal")
    assert {"ntk", "alignment", "alignment_1", "alignment_2"} <= set(report.agreement)
    assert report.agrees


@pytest.mark.slow
def test_outputs_specialise_in_relu_networks_from_small_weights_only():
    found = ntk_alignment.specialisation()
    own = {name: np.diag(matrix) for name, matrix in found.items()}
    for matrix in found.values():
        np.testing.assert_allclose(matrix.mean(0), 1, rtol=1e-12)
    assert own["relu, small weights"].min() > 1.04
    assert own["relu, small weights"].mean() > 1.1
    for name in ("relu, lazy", "linear"):
        assert np.abs(own[name] - 1).max() < 0.04
