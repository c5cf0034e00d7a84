"""The limit of wide perceptrons through its front door."""

import equinox as eqx
import jax
import jax.numpy as jnp
import limitax.limits as limits
import numpy as np
import pytest
from limitax.nets.rules import Hebb
from limitax.problems import (
    ConvergenceError,
    DivergedError,
    GradientDescent,
    OnlineSGD,
    PowerLaw,
)
from limitax.problems.tasks import from_arrays, sphere
from limitax.solvers import CoefficientAxis, SampleAxis, linear_optimiser

STEPS = 6
TASK = sphere(samples=3, dim=5, test_samples=2)
PROTOCOL = GradientDescent(0.3, momentum=0.4, weight_decay=0.2, steps=STEPS)
SMALL = {"samples": 800, "replicas": 2}


@pytest.fixture(scope="module")
def theory():
    return limits.MLP(2, "tanh", bias_scale=0.3).solve(TASK, PROTOCOL, **SMALL)


def test_the_record(theory):
    assert theory.status == "converged"
    assert theory.loss_convention == "half_mean_square"
    assert theory.predictions.shape == (STEPS + 1, 3)
    assert theory.test_predictions.shape == (STEPS + 1, 2)
    assert set(theory.kernels) == {(kind, l) for kind in ("Phi", "G") for l in (1, 2)}
    assert theory.kernels["G", 2].shape == (STEPS + 1, STEPS + 1, 3, 3)
    assert np.abs(theory.predictions[0]).max() < 1e-7
    residual = TASK.y - np.asarray(theory.predictions)
    np.testing.assert_allclose(theory.train_loss, 0.5 * np.mean(residual**2, axis=1), rtol=1e-5)
    residual = TASK.y_test - np.asarray(theory.test_predictions)
    np.testing.assert_allclose(theory.test_loss, 0.5 * np.mean(residual**2, axis=1), rtol=1e-5)
    errors = theory.sampling_error
    assert {"predictions", "test_predictions", "train_loss", "test_loss", "Phi_1", "G_2"} <= set(errors)
    assert 1e-4 < errors["predictions"][-1].max() < 0.1
    assert len(jax.tree.leaves(theory)) > 10


def test_kernels_are_positive_over_time_and_samples(theory):
    for kernel in theory.kernels.values():
        square = np.asarray(kernel, np.float64).swapaxes(1, 2).reshape(3 * (STEPS + 1), -1)
        np.testing.assert_allclose(square, square.T, atol=1e-6)
        assert np.linalg.eigvalsh(square)[0] > -1e-5


@pytest.mark.slow
def test_diagonal_kernels(theory):
    limit = limits.MLP(2, "tanh", bias_scale=0.3)
    diagonal = limit.solve(TASK, PROTOCOL, keep="diagonal", **SMALL)
    for name, kernel in diagonal.kernels.items():
        np.testing.assert_allclose(kernel, np.einsum("ttmn->tmn", theory.kernels[name]), atol=1e-5)


def linear(richness=1.0, protocol=PROTOCOL, task=TASK, depth=2, **options):
    return limits.MLP(depth, "identity", richness, bias_scale=0.3).solve(task, protocol, **options)


def test_linear_networks_are_solved_exactly_in_double_precision():
    out = linear()
    assert out.sampling_error is None
    assert np.asarray(out.predictions).dtype == np.float64
    again = linear(tolerance=1e-14, rank=18)
    np.testing.assert_allclose(out.predictions, again.predictions, rtol=0, atol=1e-12)


def test_zero_richness_is_gradient_descent_with_the_static_kernel():
    """By hand for a linear network: with decay d, Phi^l(t, s) and G^l(t, s) carry one factor d(t) d(s) a layer."""
    depth, sigma = 2, 0.3
    out = linear(richness=0.0)
    with jax.enable_x64(True):
        c, d = linear_optimiser(*map(jnp.asarray, (PROTOCOL.learning_rate, PROTOCOL.momentum, PROTOCOL.weight_decay)))
        c, d = np.asarray(c), np.asarray(d)
    x = np.concatenate([TASK.x, TASK.x_test])
    dd = np.outer(d, d)[:, :, None, None]
    Phi = [np.broadcast_to(x @ TASK.x.T / 5, (STEPS + 1, STEPS + 1, 5, 3))]
    for _ in range(depth):
        Phi.append(dd * (Phi[-1] + sigma**2))
    G = [dd ** (depth - l) for l in range(depth)] + [1.0]
    K = sum(G[l] * Phi[l] for l in range(depth + 1)) + sum(G[:depth])
    f = np.zeros((STEPS + 1, 5))
    for t in range(1, STEPS + 1):
        f[t] = np.einsum("s,smn,sn->m", c[t, :t], K[t, :t], TASK.y - f[:t, :3]) / 3
    np.testing.assert_allclose(out.predictions, f[:, :3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.test_predictions, f[:, 3:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(linear(richness=1e-3).predictions, f[:, :3], atol=1e-5)


@pytest.mark.slow
def test_small_richness_approaches_the_static_kernel_for_nonlinear_networks():
    limit = lambda richness: limits.MLP(2, "tanh", richness, bias_scale=0.3)  # noqa: E731
    lazy, near = (limit(r).solve(TASK, PROTOCOL, axis=SampleAxis(), **SMALL) for r in (0.0, 0.02))
    np.testing.assert_allclose(near.predictions, lazy.predictions, atol=1e-3)
    np.testing.assert_allclose(near.test_predictions, lazy.test_predictions, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [pytest.param(True, marks=pytest.mark.slow), False])
def test_gradients_through_the_front_door(wide):
    with jax.enable_x64(wide):
        rates = jnp.full(STEPS, 0.2)

        @jax.jit
        def loss(rates, beta, decay, richness, scale, bias, x):
            task = from_arrays(x, TASK.y, TASK.x_test, TASK.y_test)
            limit = limits.MLP(2, "identity", richness, scale, bias)
            return limit.solve(task, GradientDescent(rates, beta, decay), keep=None).test_loss[-1]

        # every dtype is given: a bare number has a type of its own, and each would compile the program again
        at = (rates, 0.3, 0.1, 1.0, np.ones(3), 0.3, TASK.x)
        at = tuple(jnp.asarray(value, rates.dtype) for value in at)
        derive = jax.jit(jax.grad(loss, argnums=tuple(range(7))))
        gradient = derive(*at)
        if not wide:
            assert all(g.dtype == np.float32 and np.all(np.isfinite(g)) for g in gradient)
            return
        rng, step = np.random.default_rng(0), 1e-4
        for i, value in enumerate(at):
            move = jnp.asarray(rng.standard_normal(value.shape))
            ends = [loss(*at[:i], value + s * step * move, *at[i + 1 :]) for s in (1, -1)]
            np.testing.assert_allclose(jnp.vdot(gradient[i], move), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
        assert derive(*at[:3], jnp.zeros_like(at[3]), *at[4:])[3] == 0.0


def test_divergence_is_an_error_with_the_stability_bound_or_a_status():
    hot = GradientDescent(40.0, steps=12)
    with pytest.raises(
        DivergedError, match=r"training left the stable region at step \d+ .*stable for learning_rate < "
    ):
        linear(protocol=hot)
    out = linear(protocol=hot, throw=False)
    assert out.status == "diverged"
    assert out.diverged_step > 0


@pytest.mark.slow
def test_the_rank_grows_by_itself_and_is_an_error_if_given():
    limit = limits.MLP(2, "tanh")
    with pytest.raises(ConvergenceError, match="raise rank"):
        limit.solve(TASK, PROTOCOL, rank=3, tolerance=1e-6, **SMALL)
    out = limit.solve(TASK, PROTOCOL, rank=3, tolerance=1e-6, throw=False, **SMALL)
    assert out.status == "overflow"


def test_memory_is_refused_before_any_work():
    protocol = GradientDescent(0.1, steps=2000)
    task = from_arrays(np.ones((40, 3)), np.ones(40))
    with pytest.raises(MemoryError, match=r"MLP.solve would need about .* for kernels \(steps=2000, 40 data samples\)"):
        limits.MLP(2, "tanh").solve(task, protocol, memory_limit=2**30)


def test_errors_name_the_argument():
    message = 'activation "gelux" is unknown; one of: erf, gelu, identity, relu, softplus, tanh, or any callable.'
    with pytest.raises(ValueError, match="gelux") as error:
        limits.MLP(2, "gelux")
    assert str(error.value) == message
    limit, lazy = limits.MLP(2, "tanh"), limits.MLP(2, "tanh", richness=0.0)
    two_outputs = from_arrays(np.ones((2, 3)), np.ones((2, 2)))
    for wrong, match in (
        (lambda: limits.MLP(0, "tanh"), "depth must be at least 1"),
        (lambda: limits.MLP(2, "tanh", richness=-1.0), "richness must be finite and at least 0"),
        (lambda: limits.MLP(2, "tanh", init_scale=[1.0, 2.0]), "init_scale must be a number or have depth"),
        (lambda: limits.MLP(2, "tanh", bias_scale=float("nan")), "bias_scale must be finite"),
        (lambda: limit.solve(TASK, PROTOCOL, keep="some"), "keep"),
        (lambda: limit.solve(TASK, PROTOCOL, adjoint="none"), "adjoint"),
        (lambda: limit.solve(TASK, PROTOCOL, samples=0), "samples must be at least 2"),
        (lambda: limit.solve(TASK, PROTOCOL, axis=CoefficientAxis()), "linear networks only"),
        (lambda: limits.MLP(2, "tanh", rate_scale=[1.0, 2.0]), "rate_scale must be a number or have depth"),
        (
            lambda: limits.MLP(2, "tanh", loss="hinge"),
            'loss "hinge" is unknown; one of: half_mean_square, cross_entropy',
        ),
        (lambda: limit.solve(TASK, PROTOCOL, approximation="mean"), 'approximation "mean" is unknown'),
        (lambda: lazy.solve(TASK, PROTOCOL, approximation="leading_order"), "needs a richness above 0"),
        (lambda: limits.MLP(2, "tanh", rule=Hebb()).solve(two_outputs, PROTOCOL), "Hebb is for one output"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
    with pytest.raises(TypeError, match="protocol must be GradientDescent"):
        limit.solve(TASK, OnlineSGD(0.1, steps=3))
    with pytest.raises(TypeError, match="task must be a fixed data set"):
        limit.solve(PowerLaw(modes=10, capacity=1.5, decay=2.0), PROTOCOL)


def test_richness_scales_and_activation_functions_are_what_they_say():
    limit = limits.MLP(1, jnp.sin, richness=2, init_scale=1)
    assert limit.richness.dtype == np.float64
    assert not limit.has_biases
    assert eqx.tree_equal(limit, limits.MLP(1, jnp.sin, richness=2.0, init_scale=1.0))
    out = limit.solve(TASK, PROTOCOL, axis=SampleAxis(), keep=None, **SMALL)
    assert out.status == "converged"
    assert out.kernels == {}
