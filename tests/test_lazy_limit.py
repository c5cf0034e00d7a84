"""The lazy limit: descent with a kernel that stays, for every learning rule, loss and number of outputs."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import SampleAxis, linear_optimiser

from .helpers import raises

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


def gated_kernel(x):
    r"""$K = (L+1)\, \langle M M'\rangle^L K^x$; with step gates $\langle M M'\rangle = (1 - \theta/\pi)/2$."""
    K = x @ x.T / x.shape[1]
    angle = np.arccos(np.where(K > 1 - 1e-14, 1, K))  # of a sample with itself there is none
    return 3 * ((1 - angle / np.pi) / 2) ** 2 * K


@pytest.mark.parametrize("name", [*RULES, "gated linear"])
def test_every_rule_descends_with_its_own_kernel(name):
    """rho-feedback alignment weighs layer l by rho^(L-l); rules that send back nothing of the gradient train the
    readout only; gated linear networks have one term for every weight."""
    x = np.concatenate([TASK.x, TASK.x_test])
    if name == "gated linear":
        limit, K = lx.limits.MLP(2, "relu", richness=0.0, rule=lx.rules.GatedLinear()), gated_kernel(x)
    else:
        rule, weights = RULES[name]
        limit, K = lx.limits.MLP(2, "erf", richness=0.0, rule=rule), lazy_kernel(x, 2, weights)
    theory = limit.solve(TASK, DESCENT)
    f = descend_with(K[:, :3], TASK.y, DESCENT, lambda f, y: y - f)
    np.testing.assert_allclose(theory.predictions, f[:, :3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(theory.test_predictions, f[:, 3:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(theory.extras["ntk"][-1], K[:3, :3], rtol=0, atol=1e-12)
    assert theory.sampling_error is None


EVERYTHING = {"init_scale": [0.9, 1.2, 0.8], "bias_scale": 0.4, "rate_scale": [0.5, 2.0, 1.5]}
TWO = lx.tasks.from_arrays(
    TASK.x, np.stack([TASK.y, TASK.y**2 - 1], 1), TASK.x_test, np.stack([TASK.y_test, TASK.y_test], 1)
)
CLASSES = lx.tasks.from_arrays(TASK.x, np.eye(3)[[0, 2, 1]], TASK.x_test)
ANNEALED = lx.GradientDescent(np.linspace(0.3, 0.1, 6), 0.5)
BATCHES = lx.MinibatchSGD(0.3, 2, momentum=0.3, seed=3, steps=6)
DIRECT = lx.rules.DirectFeedbackAlignment()
SAMPLED = {
    "everything": (lx.limits.MLP(2, "tanh", 0.0, **EVERYTHING), TASK, ANNEALED),
    "feedback alignment": (
        lx.limits.MLP(2, "tanh", 0.0, rule=lx.rules.FeedbackAlignment(0.6), **EVERYTHING),
        TASK,
        ANNEALED,
    ),
    "direct feedback alignment": (
        lx.limits.MLP(2, "tanh", 0.0, rule=lx.rules.DirectFeedbackAlignment()),
        TASK,
        ANNEALED,
    ),
    "Hebb": (lx.limits.MLP(2, "relu", 0.0, rule=lx.rules.Hebb()), TASK, ANNEALED),
    "gated linear": (lx.limits.MLP(2, "tanh", 0.0, rule=lx.rules.GatedLinear(), **EVERYTHING), TASK, ANNEALED),
    "two outputs": (lx.limits.MLP(1, "gelu", 0.0), TWO, ANNEALED),
    "cross-entropy": (lx.limits.MLP(1, "tanh", 0.0, loss="cross_entropy"), CLASSES, ANNEALED),
    "one sequence of batches": (
        lx.limits.MLP(1, "tanh", 0.0),
        TASK,
        lx.MinibatchSGD(0.3, 2, momentum=0.3, seed=3, steps=6),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_particles_fall_onto_descent_with_the_kernel(name):
    """Everything that is recorded, at equal and at all times, within the noise of two independent particle runs."""
    limit, task, protocol = SAMPLED[name]
    exact = limit.solve(task, protocol)
    sampled = limit.solve(task, protocol, axis=SampleAxis(), samples=64_000, replicas=16)
    shared = {"ntk", "sharpness", "alignment", *(f"alignment_{l + 1}" for l in range(limit.depth))}
    assert shared <= set(exact.extras) & set(sampled.extras)
    pairs = {name: (getattr(exact, name), getattr(sampled, name)) for name in ("predictions", "test_predictions")}
    pairs |= {f"{kind}_{l}": (exact.kernels[kind, l], sampled.kernels[kind, l]) for kind, l in exact.kernels}
    pairs |= {name: (exact.extras[name], sampled.extras[name]) for name in shared}
    assert len(exact.kernels) == len(sampled.kernels) == 2 * limit.depth
    for name, (one, other) in pairs.items():
        assert one.shape == other.shape, name
        error = np.linalg.norm(sampled.sampling_error[name])
        assert np.linalg.norm(one - other) < 4 * error + 1e-5 * np.linalg.norm(one), name
        assert error < 0.03 * np.linalg.norm(one), name
    diagonal = limit.solve(task, protocol, keep="diagonal")
    for key, kernel in diagonal.kernels.items():
        np.testing.assert_allclose(kernel, np.einsum("ttmn->tmn", exact.kernels[key]), rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_the_mean_over_batches():
    """Outputs are linear in independent batches, so that their mean is descent on all samples."""
    limit = lx.limits.MLP(1, "tanh", 0.0)
    batches = limit.solve(TASK, lx.MinibatchSGD(0.1, 1, steps=8), replicas=400)
    whole = limit.solve(TASK, lx.GradientDescent(0.1, steps=8))
    distance = np.linalg.norm(batches.predictions - whole.predictions)
    assert 0 < distance < 3 * np.linalg.norm(batches.sampling_error["predictions"])
    assert np.linalg.norm(batches.sampling_error["predictions"]) < 0.05 * np.linalg.norm(whole.predictions)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_of_the_lazy_limit(activation):
    """In scales, rates of layers and the schedule; that of ReLU too, whose averages are smooth."""

    def loss(values):
        scales, rates, schedule = values
        limit = lx.limits.MLP(2, activation, 0.0, scales, 0.3, rate_scale=rates)
        return lx.final_loss(limit, TASK, lx.GradientDescent(schedule, 0.3), keep=None)

    values = (np.array([0.9, 1.2, 0.8]), np.array([0.5, 2.0, 1.5]), np.linspace(0.3, 0.1, 5))
    direction = (np.array([0.3, -0.5, 0.4]), np.array([-0.2, 0.3, 0.5]), np.linspace(-0.1, 0.2, 5))
    gradient = jax.jit(jax.grad(loss))(values)
    with jax.enable_x64(True):
        shifted = [loss(jax.tree.map(lambda v, d, s=s: v + s * d, values, direction)) for s in (1e-4, -1e-4)]
    along = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(along, float(shifted[0] - shifted[1]) / 2e-4, rtol=1e-5)


@pytest.mark.slow
def test_what_needs_particles():
    """Densities, single precision, decay, under which the kernel shrinks, and kinks without a closed form."""
    kink = lambda h: jnp.maximum(h, 0.1 * h)  # noqa: E731
    options = {"samples": 200, "replicas": 2}
    for limit, protocol, more in (
        (lx.limits.MLP(1, "tanh", 0.0), DESCENT, {"densities": True}),
        (lx.limits.MLP(1, "tanh", 0.0), DESCENT, {"precision": "single"}),
        (lx.limits.MLP(1, "tanh", 0.0), lx.GradientDescent(0.3, weight_decay=0.1, steps=6), {}),
        (lx.limits.MLP(1, kink, 0.0), DESCENT, {}),
    ):
        assert limit.solve(TASK, protocol, **options, **more).sampling_error is not None
    limit = lx.limits.MLP(2, jnp.tanh, 0.0)
    theory = limit.solve(TASK, DESCENT, **options)
    assert theory.sampling_error is None
    with raises(ValueError, "trajectory was solved by the kernel of the lazy limit, which has no directions; use axis"):
        lx.spectrum(limit, theory, layer=1)


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
    lazy = lx.limits.MLP(2, "erf", 0.0, rule=rule).solve(TASK, lx.GradientDescent(0.2, steps=1))
    assert np.all(distance < 0.02)
    assert np.all(noise < 0.01)
    np.testing.assert_allclose(lazy.extras["ntk"][0], exact, rtol=0, atol=1e-12)


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
