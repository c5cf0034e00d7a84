"""As many outputs as units: moments, edge and loss against finite networks and closed forms."""

import jax
import limitax as lx
import numpy as np
import pytest

from .helpers import raises

PROTOCOL = lx.GradientDescent(0.2, steps=30)


def solve(width_ratio=1.0, outputs_per_unit=0.5, init_scale=1.0, target=2.0, protocol=PROTOCOL):
    limit = lx.limits.ExtensiveOutputs(width_ratio, init_scale)
    return limit, lx.tasks.linear_map(outputs_per_unit * width_ratio, target), protocol


def test_the_start_is_a_bulk_of_random_entries():
    for ratio in (0.5, 1.0, 2.0):
        theory = lx.limits.ExtensiveOutputs(ratio, 0.7).solve(lx.tasks.linear_map(0.5, 1.0), PROTOCOL)
        np.testing.assert_allclose(theory.extras["bulk_edge"][0], 0.7 * (1 + ratio**0.5), rtol=1e-9)
        np.testing.assert_allclose(theory.extras["first_moment"][0], 0.49, rtol=1e-9)
        # loss: target plus the random function, half of each
        np.testing.assert_allclose(theory.test_loss[0], (1 + 0.49) / 2, rtol=1e-9)


@pytest.mark.parametrize(("ratio", "edge"), [(0.5, 4.08371), (1.0, 4.54940), (2.0, 5.23472)])
def test_the_edge_after_training(ratio, edge):
    limit, task, protocol = solve(ratio)
    np.testing.assert_allclose(limit.solve(task, protocol).extras["bulk_edge"][-1], edge, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("outputs_per_unit", [0.5, 2.0])
def test_networks_approach_it(outputs_per_unit):
    momentum = lx.GradientDescent(0.05, momentum=0.5, steps=20)
    report = lx.compare(*solve(1.0, outputs_per_unit, protocol=momentum), sizes=(40, 80, 160), seeds=8)
    assert set(report.agreement) == {"test_loss", "first_moment", "second_moment"}
    assert report.agrees, report.agreement
    largest = np.asarray(report.runs[160].extras["largest_singular_value"]).mean(0)
    # the edge of a finite matrix lies lower by a few N^(-2/3)
    np.testing.assert_allclose(largest, report.theory.extras["bulk_edge"], rtol=0.06)


@pytest.mark.slow
def test_the_density():
    limit, task, protocol = solve()
    theory = limit.solve(task, protocol)
    spectrum = lx.spectrum(limit, theory, layer=0)
    x = np.linspace(1e-3, 1.02 * spectrum.bulk_edge[-1], 4000)
    density = spectrum.density(x)
    step = x[1] - x[0]
    np.testing.assert_allclose(np.sum(density) * step, 1.0, atol=5e-3)
    np.testing.assert_allclose(np.sum(density * x**2) * step, theory.extras["first_moment"][-1], rtol=1e-3)
    np.testing.assert_allclose(np.sum(density * x**4) * step, theory.extras["second_moment"][-1], rtol=1e-3)
    assert np.all(density[x > 1.001 * spectrum.bulk_edge[-1]] < 1e-3)
    assert spectrum.escape_step is None
    assert np.all(np.isnan(spectrum.outliers))


def test_gradients():
    def edge(scale, rate):
        limit, task, protocol = solve(init_scale=scale, protocol=lx.GradientDescent(rate, steps=10))
        return limit.solve(task, protocol).extras["bulk_edge"][10]

    found = jax.grad(edge, argnums=(0, 1))(1.0, 0.2)
    step = 1e-5
    for i, at in enumerate(((step, 0.0), (0.0, step))):
        difference = (edge(1.0 + at[0], 0.2 + at[1]) - edge(1.0 - at[0], 0.2 - at[1])) / (2 * step)
        np.testing.assert_allclose(found[i], difference, rtol=1e-6)


@pytest.mark.slow
def test_the_readout_does_not_train():
    limit, task, protocol = solve()
    net = limit.finite(task, size=20)
    _, trained = lx.nets.train(net, task, protocol, return_net=True)
    np.testing.assert_array_equal(trained.weights.readout, net.weights.readout)
    gradient = jax.grad(lambda net: net(np.ones(20)).sum(), allow_int=True)(net)
    assert np.all(np.asarray(gradient.weights.readout) == 0)
    assert net(np.ones(20)).shape == (10,)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: lx.limits.ExtensiveOutputs(0.0), ValueError, "width_ratio must be finite and above 0; it is 0."),
        (lambda: lx.limits.ExtensiveOutputs(1.0, -1.0), ValueError, "init_scale must be finite and at least 0"),
        (lambda: lx.tasks.linear_map(-1.0), ValueError, "output_ratio must be finite and above 0; it is -1."),
        (lambda: lx.tasks.linear_map(1.0, np.nan), ValueError, "scale must be finite and at least 0; it is nan."),
        (lambda: solve()[0].solve(lx.tasks.isotropic(), PROTOCOL), TypeError, "task must be linear_map"),
        (
            lambda: solve()[0].solve(solve()[1], lx.GradientDescent(0.1, weight_decay=0.1, steps=2)),
            ValueError,
            "weight_decay must be 0",
        ),
        (
            lambda: solve()[0].finite(lx.tasks.linear_map(0.01), size=10),
            ValueError,
            "size must give at least one neuron",
        ),
    ],
)
def test_bad_input(call, kind, sentence):
    with raises(kind, sentence):
        call()


def test_divergence():
    limit, task, _ = solve()
    with pytest.raises(lx.DivergedError, match="at step"):
        limit.solve(task, lx.GradientDescent(2.0, steps=60))
