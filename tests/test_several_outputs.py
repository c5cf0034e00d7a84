"""Wide perceptrons with several outputs: what each of them sends back, beside the sum that trains."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

pytestmark = pytest.mark.slow

TARGETS = jnp.array([[1.0, -0.5], [-0.7, 0.8], [0.3, 1.0]])
DESCENT = lx.GradientDescent(0.3, momentum=0.3, steps=6)


def task(y):
    x = lx.tasks.sphere(jax.random.key(2), samples=3, dim=5).x
    return lx.tasks.from_arrays(x, y)


def test_outputs_add_up_to_what_trains():
    rates, here = jnp.array([0.5, 2.0, 1.5]), task(TARGETS)
    theory = lx.limits.MLP(2, "identity", 1.5, rate_scale=rates).solve(here, DESCENT, keep="diagonal")
    error = TARGETS - theory.predictions
    Phi, G = ([theory.kernels[name, l] for l in (1, 2)] for name in ("Phi", "G"))
    both = jnp.einsum("tmk,tnk->tmn", error, error)
    summed = rates[0] * G[0] * (here.x @ here.x.T / 5) + rates[1] * G[1] * Phi[0] + rates[2] * Phi[1] * both
    ntk = theory.extras["ntk"]
    np.testing.assert_allclose(jnp.einsum("tmk,tmknj,tnj->tmn", error, ntk, error), summed, atol=1e-6)
    size = jnp.linalg.norm(ntk.reshape(-1, 36), axis=1)
    aligned = jnp.einsum("mk,tmknj,nj->t", TARGETS, ntk, TARGETS) / (jnp.sum(TARGETS**2) * size)
    np.testing.assert_allclose(theory.extras["alignment"], aligned, rtol=1e-5)


def test_one_column_of_targets_has_the_kernels_of_one_output():
    limit, found = lx.limits.MLP(2, "identity", 1.5), []
    for y in (TARGETS[:, 0], TARGETS[:, :1]):
        nets = limit.ensemble(task(y), size=16, seeds=2, key=jax.random.key(0))
        run = lx.nets.train(nets, task(y), DESCENT, kernels=True, alignment=True)
        found.append({f"G_{l}": run.kernels["G", l] for l in (1, 2)} | {"alignment": run.extras["alignment"]})
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["half_mean_square", "cross_entropy"])
def test_networks_have_the_tangent_kernel_of_the_theory(loss):
    squares = loss == "half_mean_square"
    here = task(TARGETS if squares else jnp.eye(2)[jnp.array([0, 1, 1])])
    record = ("ntk", "alignment", "sharpness") if squares else ("ntk", "alignment")
    limit, how = lx.limits.MLP(2, "tanh", 1.0, loss=loss), {"key": jax.random.key(1), "samples": 20_000}
    report = lx.compare(limit, here, DESCENT, sizes=(64, 128, 256), seeds=48, record=record, **how)
    assert {*record, "predictions", "alignment_1", "alignment_2"} <= set(report.agreement)
    assert {q: a for q, a in report.agreement.items() if a > 3} == {}
