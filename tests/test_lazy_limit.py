"""The lazy limit: descent with a kernel that stays, for every learning rule, loss and number of outputs."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import linear_optimiser

TASK = lx.tasks.sphere(jax.random.key(0), samples=3, dim=4, test_samples=2)
DESCENT = lx.GradientDescent(0.3, 0.5, steps=6)


def erf_kernels(x, depth):
    """Phi and <phi' phi'> of networks with erf units at initialisation, layers 0 to depth, in closed form."""
    K = x @ x.T / x.shape[1]
    Phi, slopes = [K], [np.ones_like(K)]
    for _ in range(depth):
        size = np.sqrt(np.outer(1 + 2 * np.diag(K), 1 + 2 * np.diag(K)))
        slopes.append(4 / np.pi / np.sqrt(size**2 - 4 * K**2))
        K = 2 / np.pi * np.arcsin(2 * K / size)
        Phi.append(K)
    return Phi, slopes


def lazy_kernel(x, depth, weights):
    r"""$\sum_l c_l G^{l+1}\Phi^l$, with G from the readout down."""
    Phi, slopes = erf_kernels(x, depth)
    G, total = np.ones_like(Phi[0]), 0.0
    for l in range(depth, -1, -1):
        total = total + weights[l] * G * Phi[l]
        G = G * slopes[l]
    return total


def descend_with(K, y, protocol, error):
    """Outputs under the kernel K of all rows with the training samples, by the definition of the optimiser."""
    with jax.enable_x64(True):
        c, _ = linear_optimiser(*map(jnp.asarray, (protocol.learning_rate, protocol.momentum, protocol.weight_decay)))
        c = np.asarray(c)
    errors, f = [], []
    for t in range(protocol.steps + 1):
        f.append(sum((c[t, s] / len(y) * K @ e for s, e in enumerate(errors)), np.zeros((len(K), *y.shape[1:]))))
        errors.append(error(f[-1][: len(y)], y))
    return np.stack(f)


RULES = {
    "backpropagation": (None, [1, 1, 1]),
    "feedback alignment": (lx.rules.FeedbackAlignment(0.6), [0.36, 0.6, 1]),
    "direct feedback alignment": (lx.rules.DirectFeedbackAlignment(), [0, 0, 1]),
    "Hebb": (lx.rules.Hebb(), [0, 0, 1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_rule_descends_with_its_own_kernel(name):
    """rho-feedback alignment weighs layer l by rho^(L-l); rules that send back nothing of the gradient train the
    readout only."""
    rule, weights = RULES[name]
    limit = lx.limits.MLP(2, "erf", richness=0.0, rule=rule)
    theory = limit.solve(TASK, DESCENT, samples=80_000, replicas=8)
    x = np.concatenate([TASK.x, TASK.x_test])
    f = descend_with(lazy_kernel(x, 2, weights)[:, :3], TASK.y, DESCENT, lambda f, y: y - f)
    for found, exact, name in (
        (theory.predictions, f[:, :3], "predictions"),
        (theory.test_predictions, f[:, 3:], "test_predictions"),
    ):
        error = np.linalg.norm(theory.sampling_error[name])
        assert np.linalg.norm(found - exact) < 3 * error + 1e-3 * np.linalg.norm(exact)
        assert error < 0.02 * np.linalg.norm(exact)


@pytest.mark.slow
def test_gated_linear_kernels_have_one_term_for_every_weight():
    r"""$K = (L+1)\, \langle M M'\rangle^L K^x$; with step gates $\langle M M'\rangle = (1 - \theta/\pi)/2$."""
    limit = lx.limits.MLP(2, "relu", richness=0.0, rule=lx.rules.GatedLinear())
    theory = limit.solve(TASK, lx.GradientDescent(0.2, steps=6), samples=80_000, replicas=8)
    x = np.concatenate([TASK.x, TASK.x_test])
    K = x @ x.T / x.shape[1]
    gates = (1 - np.arccos(np.clip(K, -1, 1)) / np.pi) / 2
    protocol = lx.GradientDescent(0.2, steps=6)
    f = descend_with((3 * gates**2 * K)[:, :3], TASK.y, protocol, lambda f, y: y - f)
    error = np.linalg.norm(theory.sampling_error["predictions"])
    assert np.linalg.norm(theory.predictions - f[:, :3]) < 3 * error
    assert np.linalg.norm(theory.test_predictions - f[:, 3:]) < 3 * np.linalg.norm(
        theory.sampling_error["test_predictions"]
    )
    assert error < 0.02 * np.linalg.norm(f[:, :3])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RULES, "gated linear"])
def test_lazy_kernels_are_those_of_wide_networks(name):
    """Closed form, limit and networks within 2 per cent, before and after training."""
    if name == "gated linear":
        rule, (Phi, slopes) = lx.rules.GatedLinear(), erf_kernels(TASK.x, 1)
        exact = 3 * slopes[1] ** 2 * Phi[0]
    else:
        rule, weights = RULES[name]
        exact = lazy_kernel(TASK.x, 2, weights)
    design, width, seeds = lx.limits.MLP(2, "erf", 0.1, rule=rule), 512, 64
    found = []
    for key in jax.random.split(jax.random.key(1), 4):
        nets = design.ensemble(TASK, size=width, seeds=seeds, key=key)
        found.append(lx.nets.train(nets, TASK, lx.GradientDescent(0.2, steps=3), ntk=True).extras["ntk"])
    kernels, size = np.concatenate(found)[:, [0, -1]].astype(float), np.linalg.norm(exact, axis=(0, 1))
    distance = np.linalg.norm(kernels.mean(0) - exact, axis=(1, 2)) / size
    noise = np.linalg.norm(kernels.std(0, ddof=1), axis=(1, 2)) / np.sqrt(len(kernels)) / size
    lazy = lx.limits.MLP(2, "erf", 0.0, rule=rule).solve(
        TASK, lx.GradientDescent(0.2, steps=1), samples=320_000, replicas=16
    )
    assert np.all(distance < 0.02)
    assert np.all(noise < 0.01)
    assert np.linalg.norm(lazy.extras["ntk"][0] - exact) < 0.02 * size


@pytest.mark.parametrize("loss", ["half_mean_square", "cross_entropy"])
def test_outputs_of_linear_networks_share_one_kernel(loss):
    """Several outputs, any loss and layer rates: exact coefficients against the kernel of a linear network."""
    y = np.eye(3)[[0, 2, 1]]
    task = lx.tasks.from_arrays(TASK.x, y, TASK.x_test)
    rates = np.array([0.5, 2.0, 1.0])
    limit = lx.limits.MLP(2, "identity", richness=0.0, loss=loss, rate_scale=rates)
    theory = limit.solve(task, DESCENT)
    x = np.concatenate([TASK.x, TASK.x_test])
    K = rates.sum() * x @ x.T / x.shape[1]
    softmax = lambda f: np.exp(f) / np.exp(f).sum(1, keepdims=True)  # noqa: E731
    error = {"half_mean_square": lambda f, y: y - f, "cross_entropy": lambda f, y: y - softmax(f)}[loss]
    f = descend_with(K[:, :3], y, DESCENT, error)
    np.testing.assert_allclose(theory.predictions, f[:, :3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(theory.test_predictions, f[:, 3:], rtol=0, atol=1e-12)
    assert theory.loss_convention == loss
    assert theory.extras["ntk"].shape == (DESCENT.steps + 1, 3, 3, 3, 3)
    np.testing.assert_allclose(theory.extras["ntk"][0].reshape(9, 9), np.kron(K[:3, :3], np.eye(3)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(theory.extras["sharpness"], np.linalg.eigvalsh(K[:3, :3])[-1] / 3, rtol=1e-12)


def test_one_column_of_targets_is_one_output():
    """Tangent kernel and sharpness of a network that learns features, with and without an axis of outputs."""
    limit, column = lx.limits.MLP(2, "identity"), lx.tasks.from_arrays(TASK.x, TASK.y[:, None])
    one, other = (limit.solve(task, DESCENT) for task in (lx.tasks.from_arrays(TASK.x, TASK.y), column))
    np.testing.assert_allclose(other.extras["ntk"][:, :, 0, :, 0], one.extras["ntk"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(other.extras["sharpness"], one.extras["sharpness"], rtol=1e-12)


def test_static_kernel_is_the_lazy_limit_at_any_richness():
    options = {"samples": 400, "replicas": 1}
    lazy = lx.limits.MLP(1, "tanh", richness=0.0).solve(TASK, DESCENT, **options)
    static = lx.limits.MLP(1, "tanh", richness=2.0).solve(TASK, DESCENT, approximation="static_kernel", **options)
    np.testing.assert_array_equal(lazy.predictions, static.predictions)
    # the kernel of the start, and no other, at all times
    np.testing.assert_allclose(static.extras["ntk"][-1], static.extras["ntk"][0], rtol=1e-5)
