"""The snippets that users are shown run as written: the README's example, and the contract of the front door."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_readme_example_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "mlp.png").stat().st_size > 10_000


def test_theory_and_network_side_by_side(tmp_path):
    key = jax.random.key(0)
    task = lx.tasks.sphere(key, samples=4, dim=5, test_samples=2)
    protocol = lx.GradientDescent(learning_rate=0.3, steps=10)
    limit = lx.limits.MLP(depth=2, activation="tanh", richness=1.0)
    theory = limit.solve(task, protocol, key=key, samples=2_000)
    assert theory.predictions.shape == (11, 4)
    assert theory.test_predictions.shape == (11, 2)
    assert theory.train_loss.shape == theory.test_loss.shape == (11,)
    assert theory.loss_convention == "half_mean_square"
    assert theory.kernels["Phi", 1].shape == theory.kernels["G", 2].shape == (11, 11, 4, 4)
    assert theory.status == "converged"
    assert theory.sampling_error["predictions"].shape == (11, 4)

    net = limit.finite(task, size=64, key=key)
    assert jax.vmap(net)(task.x).shape == (4,)
    run = lx.nets.train(net, task, protocol, key=key)
    assert type(run) is type(theory)
    np.testing.assert_allclose(run.predictions[0], jax.vmap(net)(task.x), rtol=1e-5)
    assert lx.limits.of(net) is net.design
    assert jax.tree.leaves(lx.nets.trainable(net)) == [True] * len(jax.tree.leaves(net.weights))
    assert float(net.learning_rate_scale) == 64.0

    report = lx.compare(limit, task, protocol, sizes=(16, 32), seeds=4, key=key, samples=2_000)
    assert {"predictions", "test_loss"} <= set(report.errors) == set(report.rate) == set(report.agreement)
    report.plot(tmp_path / "mlp.png")
    assert (tmp_path / "mlp.png").stat().st_size > 10_000
    assert report.to_dataset().sizes["size"] == 2


@pytest.mark.slow
def test_the_relatives_of_the_wide_perceptron():
    task, protocol = lx.tasks.sphere(samples=2, dim=3), lx.GradientDescent(learning_rate=0.2, momentum=0.5, steps=2)
    limit = lx.limits.MLP(
        depth=2,
        activation="relu",
        richness=2.0,
        init_scale=1.0,
        bias_scale=0.3,
        rule=lx.rules.FeedbackAlignment(correlation=0.6),
    )
    theory = limit.solve(task, protocol, samples=100, replicas=1)
    static = limit.solve(task, protocol, approximation="static_kernel", samples=100, replicas=1)
    assert theory.predictions.shape == static.predictions.shape == (3, 2)


def test_power_law_and_control():
    task = lx.tasks.power_law(modes=10**12, capacity=1.5, decay=2.5, noise=1.0)
    limit = lx.limits.RandomFeatures(features=None)
    protocol = lx.OnlineSGD(learning_rate=0.05, batch_size=1, steps=100)
    theory = limit.solve(task, protocol)
    assert theory.test_loss.shape == (101,)
    assert theory.loss_convention == "mean_square"

    best = lx.optimise(limit, task, protocol, over="learning_rate")
    assert best.protocol.learning_rate.shape == (100,)
    assert best.value < float(theory.test_loss[-1])
    assert best.history[-1] <= best.history[0]
    assert best.stationarity <= 1e-8
    assert best.evaluations > 0
    assert best.objective is lx.objectives.final_loss
    assert not any(np.any(touched) for touched in best.at_bound.values())
    net = limit.finite(lx.tasks.power_law(modes=50, noise=1.0), size=1)
    optimiser = lx.schedules.to_optax(best.protocol, net)
    updates, _ = optimiser.update(net.weights, optimiser.init(net.weights))
    moved = jax.tree.leaves(updates)[0] + best.protocol.learning_rate[0] * jax.tree.leaves(net.weights)[0]
    np.testing.assert_allclose(moved, 0.0, atol=1e-7)

    def loss(rate):
        return lx.final_loss(limit, task, lx.OnlineSGD(learning_rate=rate, batch_size=1, steps=100))

    step = 1e-3
    slope = (loss(0.05 + step) - loss(0.05 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(0.05), slope, rtol=1e-2)


@pytest.mark.slow
def test_optimise_a_hyperparameter_of_the_mlp():
    task = lx.tasks.sphere(samples=3, dim=4)
    limit = lx.limits.MLP(depth=1, activation="identity", richness=1.0)
    protocol = lx.GradientDescent(learning_rate=0.2, momentum=0.3, steps=4)
    best = lx.optimise(limit, task, protocol, over=("learning_rate", "momentum"), max_evaluations=8)
    assert best.value < float(limit.solve(task, protocol).train_loss[-1])
    assert np.all(best.protocol.momentum < 1)
    assert jnp.ndim(best.limit.richness) == 0


def test_proportional_limit_and_spectra():
    limit = lx.limits.DeepLinear(
        depth=2, width_ratio=1.0, richness=4.0, init_scale=0.5, readout_scale=1.0, parameterization="mup"
    )
    task = lx.tasks.isotropic(sample_ratio=2.0, noise=0.3)
    theory = limit.solve(task, lx.GradientDescent(learning_rate=0.04, steps=24))
    assert theory.test_loss.shape == theory.train_loss.shape == (25,)
    assert theory.loss_convention == "half_mean_square"
    online = limit.solve(task, lx.OnlineSGD(learning_rate=0.04, steps=24, batch_ratio=2.0))
    assert online.test_loss[-1] < theory.test_loss[-1]
    spectrum = lx.spectrum(limit, theory, layer=1)
    assert spectrum.bulk_edge.shape == (25,)
    assert spectrum.outliers.shape[0] == 25
    assert np.isnan(spectrum.outliers[0, 0])
    assert 0 < spectrum.escape_step < 24
    assert np.all(spectrum.density(np.linspace(0.01, 0.9, 5), step=-1) > 0)
