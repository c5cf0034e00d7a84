"""Finite deep linear networks fall onto the limit: losses, their bias at finite size, the largest singular values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax import solvers

SPHERE = lx.tasks.gaussian([1.0], [1.0], sample_ratio=2.0)  # a teacher of exactly unit norm in any dimension
MODES = np.arange(1, 21.0)


def power_law(noise=0.3, ratio=1.5):
    lam = MODES**-1.2
    lam = lam / lam.mean()
    signal = MODES**-1.5
    return lx.tasks.gaussian(lam, np.sqrt(signal / signal.sum() / lam), noise, sample_ratio=ratio)


def deep(depth, nu=1.0, **changes):
    return lx.limits.DeepLinear(depth, nu, **({"richness": 1.5, "init_scale": 0.7} | changes))


def descend(rate, momentum=0.0, decay=0.0, steps=30):
    return lx.GradientDescent(rate, momentum, decay, steps=steps)


SETTINGS = {
    "one layer": (deep(1), lx.tasks.isotropic(2.0, 0.3), descend(0.05)),
    "narrow": (deep(2, 0.5), lx.tasks.isotropic(1.5, 0.3), descend(0.05)),
    "few samples, momentum": (deep(2), lx.tasks.isotropic(0.5, 0.0), descend(0.02, 0.8)),
    "fresh batches": (deep(3), lx.tasks.isotropic(noise=0.3), lx.OnlineSGD(0.04, batch_ratio=1.0, steps=30)),
    "look-ahead": (deep(1), lx.tasks.isotropic(noise=0.3), lx.OnlineSGD(0.02, 0.5, 0.03, batch_ratio=1.0, steps=30)),
    "power-law data": (deep(2), power_law(), descend(0.04)),
    "neural-tangent": (deep(2, 2.0, parameterization="ntk"), lx.tasks.isotropic(2.0, 0.3), descend(0.04)),
    "residual": (deep(4, residual=True), lx.tasks.isotropic(2.0, 0.3), descend(0.03)),
    "decay, momentum": (deep(2), lx.tasks.isotropic(2.0, 0.3), descend(0.03, 0.3, 0.3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_losses_approach_the_limit(name):
    report = lx.compare(*SETTINGS[name], sizes=(100, 200, 400), seeds=16, key=jax.random.key(3))
    print(report.summary())
    assert set(report.errors) == {"train_loss", "test_loss"}
    assert {q: a for q, a in report.agreement.items() if a > 3} == {}
    slopes = {q: (r, report.rate_error[q]) for q, r in report.rate.items()}
    assert {q: (r, e) for q, (r, e) in slopes.items() if abs(r + 0.5) > max(0.15, 3 * e)} == {}


@pytest.mark.slow
def test_bias_falls_like_one_over_size():
    limit, protocol = lx.limits.DeepLinear(2, 1.0, 2.0, 0.7), descend(0.05, steps=14)
    theory = limit.solve(SPHERE, protocol).test_loss
    sizes, seeds = np.array([20, 40, 80, 160]), np.array([3200, 4800, 4800, 4000])
    means, errors = [], []
    for size, many in zip(sizes, seeds, strict=True):
        ensemble = signs(limit.ensemble(SPHERE, size=int(size), seeds=int(many), key=jax.random.key(int(size))))
        loss = np.asarray(lx.nets.train(ensemble, SPHERE, protocol, key=jax.random.key(7)).test_loss, float)
        relative = np.mean(loss[:, 4:12] / theory[4:12], axis=1) - 1  # the steps on which the loss falls
        means.append(relative.mean())
        errors.append(relative.std() / many**0.5)
    means, errors = np.array(means), np.array(errors)
    print(means, errors)

    def misfit(power):
        """Of the best multiple of size ** -power, in standard errors, squared and summed."""
        shape = sizes**-power
        amplitude = np.sum(means * shape / errors**2) / np.sum(shape**2 / errors**2)
        return np.sum(((means - amplitude * shape) / errors) ** 2)

    assert np.sum((means / errors) ** 2) > 100
    assert misfit(1.0) < 11.3  # chance would exceed it once in a hundred times
    assert misfit(1.0) < misfit(0.5)
    assert misfit(1.0) < misfit(1.5)


def signs(ensemble):
    """The readout set to plus and minus one scale, without the fluctuation of its norm."""
    members = ensemble.members
    scale = members.design.readout_scale
    flat = eqx.tree_at(lambda m: m.weights.readout, members, scale * jnp.sign(members.weights.readout))
    return eqx.tree_at(lambda e: e.members, ensemble, flat)


def largest(limit, task, protocol, layer, size, seeds):
    """The largest singular value at the end, and its standard error."""
    ensemble = signs(limit.ensemble(task, size=size, seeds=seeds, key=jax.random.key(5)))
    _, trained = lx.nets.train(ensemble, task, protocol, key=jax.random.key(6), return_net=True)
    matrices = np.asarray(trained.members.weights.hidden[layer], float)
    values = np.linalg.norm(matrices / matrices.shape[-1] ** 0.5, ord=2, axis=(1, 2))
    return values.mean(), values.std(ddof=1) / seeds**0.5


def independent(limit, theory, layer):
    """The largest singular value if the spikes knew nothing of the bulk."""
    changes = {name: 0 * value for name, value in theory.extras.items() if name.startswith("response")}
    blind = eqx.tree_at(lambda t: t.extras, theory, theory.extras | changes)
    return lx.spectrum(limit, blind, layer=layer).largest[-1]


OUTLIERS = {
    "below, full batch": (lx.limits.DeepLinear(2, 1.0, 4.0, 0.5), SPHERE, descend(0.04, steps=24), 0),
    "above, full batch": (lx.limits.DeepLinear(2, 1.0, 4.0, 0.5), SPHERE, descend(0.04, steps=24), 1),
    "fresh batches, momentum": (
        lx.limits.DeepLinear(1, 1.5, 5.0, 0.5),
        lx.tasks.gaussian([1.0], [1.0], noise=0.3),
        lx.OnlineSGD(0.02, 0.5, batch_ratio=1.0, steps=16),
        0,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTLIERS)
def test_outliers_of_finite_networks(name):
    limit, task, protocol, layer = OUTLIERS[name]
    theory = limit.solve(task, protocol)
    found = lx.spectrum(limit, theory, layer=layer).largest[-1]
    sizes, seeds = (100, 200, 400), (64, 32, 16)
    means, errors = np.transpose(
        [largest(limit, task, protocol, layer, n, s) for n, s in zip(sizes, seeds, strict=True)]
    )
    fit = np.linalg.lstsq(np.stack([1 / errors, 1 / errors / sizes], 1), means / errors, rcond=None)[0][0]
    print(found, independent(limit, theory, layer), means, errors, fit)
    np.testing.assert_allclose(fit, found, rtol=0.005)
    np.testing.assert_allclose(means[-1], found, rtol=0.005 + 2 / sizes[-1])
    assert abs(independent(limit, theory, layer) / found - 1) > 0.02


@pytest.mark.slow
def test_outliers_of_perceptrons():
    """The mean over networks, extrapolated in the inverse width, with enough of them for an error far below 0.5 %."""
    limit, protocol = lx.limits.MLP(2, "tanh", 3.0), lx.GradientDescent(0.15, steps=13)
    sizes, seeds, clear = (100, 200, 400), (256, 128, 64), 0
    for draw in range(4):
        task = lx.tasks.sphere(jax.random.key(draw), samples=2, dim=6, target="sign")
        theory = limit.solve(task, protocol, samples=16_000)
        spectrum = lx.spectrum(limit, theory, layer=1)
        means, errors = np.transpose(
            [largest_of_pairs(limit, task, protocol, *sized) for sized in zip(sizes, seeds, strict=True)]
        )
        inverse = np.stack([1 / errors, 1 / errors / sizes], 1)
        fit = np.linalg.lstsq(inverse, means / errors, rcond=None)[0][0]
        error = np.sqrt(np.linalg.inv(inverse.T @ inverse)[0, 0])
        print(spectrum.largest[-1], spectrum.sampling_error[-1], independent(limit, theory, 1), means, fit, error)
        if spectrum.margin[-1] > 0.05:  # closer to the threshold the finite-size edge hides the outlier
            clear += 1
            assert error < 0.0015 * fit
            np.testing.assert_allclose(fit, spectrum.largest[-1], rtol=0.005)
    assert clear >= 2


def largest_of_pairs(limit, task, protocol, size, seeds):
    """Mean and standard error of the largest singular value of W^1 after training."""
    ensemble = limit.ensemble(task, size=size, seeds=seeds, key=jax.random.key(9))
    _, trained = lx.nets.train(ensemble, task, protocol, return_net=True)
    matrices = np.asarray(trained.members.weights.hidden[1], float).reshape(seeds, -1, size, size) / size**0.5
    values = np.linalg.norm(matrices, ord=2, axis=(2, 3)).mean(axis=1)
    return values.mean(), values.std(ddof=1) / seeds**0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "richness", "rate", "noise"), [(6.0, 6.0, 0.04, 0.2), (2.0, 8.0, 0.03, 0.0)], ids=["many", "few"]
)
def test_sharpness_of_finite_networks(ratio, richness, rate, noise):
    limit, protocol = lx.limits.DeepLinear(1, 1.0, richness, 0.4), descend(rate, steps=20)
    theory = lx.sharpness(limit, lx.tasks.isotropic(ratio, noise), protocol)
    task = lx.tasks.gaussian([1.0], [1.0], noise, sample_ratio=ratio)
    ensemble = signs(limit.ensemble(task, size=400, seeds=12, key=jax.random.key(2)))
    runs = lx.nets.train(ensemble, task, protocol, key=jax.random.key(3), sharpness=True).extras["sharpness"]
    runs, found = np.asarray(runs, float)[:, [6, 10, 20]], theory.eigenvalue[np.array([6, 10, 20])]
    mean, error = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / 12**0.5
    print(found, mean, error)
    np.testing.assert_allclose(mean, found, rtol=0.02)
    assert np.all(np.abs(mean - found) < 3 * error + 1 / 400)


@pytest.mark.slow
@pytest.mark.parametrize("source", [0.5, 0.7])
def test_rich_training_of_one_hidden_layer_accelerates(source):
    """On power laws the loss of a balanced network falls like t^(-source (L + 1) / (1 + source L)), here L = 1."""
    with jax.enable_x64(True):
        bins = solvers.power_law_bins(2**18, jnp.asarray(1.6), jnp.asarray(1 + 1.6 * source))
        eigenvalues, count = bins.eigenvalues, bins.weights / bins.eigenvalues
        target = jnp.sqrt(count * bins.teacher_power)  # of all modes of a bin together
        times = jnp.linspace(10.0, 2000.0, 200)
        start = 1e-3 * eigenvalues * target
        path = solvers.balanced_flow(jnp.diag(eigenvalues), eigenvalues * target, start, times, 1, substeps=600)
        loss = np.asarray(jnp.sum(eigenvalues * (path - target) ** 2, axis=1))
    slope = -np.polyfit(np.log(times[19:]), np.log(loss[19:]), 1)[0]
    print(source, slope)
    np.testing.assert_allclose(slope, 2 * source / (1 + source), rtol=0.05)
