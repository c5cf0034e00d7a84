"""Exponents of scaling laws: compute-optimal training in every regime, gradient noise, and very long runs."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.problems import CONVERGED

SIZES = 2.0 ** np.arange(2, 14)
FRESH = {"batch_size": 2, "learning_rate": 0.2}
WHOLE = {"batch_size": 1e12, "learning_rate": 0.2}

# capacity, decay, protocol, steps, exponents of loss and features
REGIMES = {
    "hard": (2.0, 1.5, WHOLE, 100_000, 1 / 6, 1 / 3),
    "hard, SGD": (1.5, 2.0, FRESH, 100_000, 0.4, 0.4),
    "easy": (1.5, 2.85, WHOLE, 100_000, 1.85 / 2.85, 1 - 1.5 / 2.85),
    "easy, SGD": (1.5, 2.85, FRESH, 100_000, 1.85 / 2.85, 1 - 1.5 / 2.85),
    "easier": (1.5, 3.5, WHOLE, 30_000, 2.5 / 3.5, 1 - 1.5 / 3.5),
    "limited by the noise of SGD": (2.0, 6.0, FRESH, 100_000, 0.75, 0.5),
    "limited by the noise of SGD, flatter": (1.5, 6.0, FRESH, 100_000, 2 / 3, 0.5),
}


def frontier(capacity, decay, drive, steps, sizes=SIZES):
    modes = 10**12 if decay < 1.6 else None
    task, protocol = lx.tasks.power_law(modes, capacity, decay), lx.OnlineSGD(**drive, steps=steps)
    return lx.compute_frontier(lx.limits.RandomFeatures(), task, protocol, sizes=sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGIMES)
def test_without_label_noise(name):
    *problem, loss, features = REGIMES[name]
    found = frontier(*problem)
    print(found.loss_exponent, loss, found.features_exponent, features)
    np.testing.assert_allclose(found.loss_exponent, loss, atol=0.02)
    np.testing.assert_allclose(found.features_exponent, features, atol=0.04)
    assert np.all(np.diff(found.loss) < 0)
    np.testing.assert_allclose(found.features * found.steps, found.compute)


def test_a_short_frontier():
    found = frontier(1.5, 2.0, WHOLE, 2000, 2.0 ** np.arange(2, 9))
    np.testing.assert_allclose(found.loss_exponent, 0.4, atol=0.04)
    assert np.all(np.diff(found.loss) < 0)


def annealed(capacity, decay, sizes, lengths, peaks=13, longest=16_384):
    """Losses `[sizes, lengths]` of linear decays to zero with label noise, the best over the peak."""
    task = lx.tasks.power_law(None, capacity, decay, noise=1.0)
    rates = np.geomspace(1e-3, 0.9 * float(lx.limits.RandomFeatures().stable_rate(task)), peaks)
    losses = []
    with jax.enable_x64(True):
        for length in lengths:
            # few programs serve all lengths: steps of rate zero change nothing
            padded = next(n for n in (512, 4096, longest) if n >= length)
            found = np.asarray(_last_losses(task, sizes, rates, np.maximum(1 - np.arange(padded) / length, 0)))
            losses.append([_least(np.log(rates), row) for row in found])
    return np.array(losses).T


@jax.jit
def _last_losses(task, sizes, rates, shape):
    def solve(size, rate):
        limit = lx.limits.RandomFeatures(size)
        found = limit.solve(task, lx.OnlineSGD(rate * shape), method="contour", throw=False)
        return jnp.where(found.status_code == CONVERGED, found.test_loss[-1], jnp.inf)

    return jax.lax.map(lambda size: jax.vmap(lambda rate: solve(size, rate))(rates), sizes)


def _least(x, losses):
    best = int(np.nanargmin(losses))
    near = slice(best - 1, best + 2)
    if not 0 < best < len(x) - 1 or not np.all(np.isfinite(losses[near])):
        return losses[best]
    a, b, c = np.polyfit(x[near], np.log(losses[near]), 2)
    return np.exp(c - b**2 / (4 * a))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capacity", "decay", "loss", "features"),
    [
        (2.0, 1.5, 0.5 / 3, 1 / 3),
        (1.5, 2.0, 1 / 3, 1 / 3),
        (1.5, 4.0, 3 / 6.5, 2.5 / 6.5),
    ],
    ids=["rate-limited", "between", "easy"],
)
def test_with_label_noise_and_annealing(capacity, decay, loss, features):
    sizes, lengths = 2.0 ** np.arange(1, 9), 2 ** np.arange(5, 15)
    found = lx.studies.frontier_of(sizes, lengths, annealed(capacity, decay, sizes, lengths))
    print(found.loss_exponent, loss, found.features_exponent, features)
    np.testing.assert_allclose(found.loss_exponent, loss, atol=0.02)
    np.testing.assert_allclose(found.features_exponent, features, atol=0.06)


@pytest.mark.slow
def test_what_schedules_change():
    """With label noise a constant rate, tuned for each length, is worse in its exponent, an optimal schedule is not
    better than annealing in it: (a-1)/(a+b-1) against (a-1)/a."""
    capacity, decay = 1.5, 2.5
    task, limit = lx.tasks.power_law(None, capacity, decay, noise=1.0), lx.limits.RandomFeatures()
    lengths = np.array([1000, 4000])
    losses = {"constant": [], "optimal": []}
    for steps in lengths:
        rates = np.geomspace(1e-3, 0.2, 40)
        solve = jax.jit(jax.vmap(lambda r, n=int(steps): lx.final_loss(limit, task, lx.OnlineSGD(r, steps=n))))
        losses["constant"].append(_least(np.log(rates), np.asarray(solve(rates))))
        start = lx.OnlineSGD(lx.schedules.linear(0.05, int(steps)))
        losses["optimal"].append(lx.optimise(limit, task, start, over="learning_rate").value)
    slope = {name: -np.diff(np.log(loss))[0] / np.diff(np.log(lengths))[0] for name, loss in losses.items()}
    print(slope)
    np.testing.assert_allclose(slope["constant"], 0.5, atol=0.02)
    np.testing.assert_allclose(slope["optimal"], 0.6, atol=0.03)


def test_the_noise_of_batches_has_its_exponent():
    """Without label noise, on an easy target at a constant rate: the losses of the past echo like t^-(2 - 1/b)."""
    capacity = 1.5
    task = lx.tasks.power_law(None, capacity, 6.0)
    loss = np.asarray(lx.limits.RandomFeatures().solve(task, lx.OnlineSGD(0.1, steps=30_000)).test_loss)
    slopes = np.diff(np.log(loss[[3000, 10_000, 30_000]])) / np.diff(np.log([3000, 10_000, 30_000]))
    np.testing.assert_allclose(slopes, -(2 - 1 / capacity), atol=0.02)


@pytest.mark.slow
def test_what_a_finite_width_costs_early():
    """On an easy target the excess over infinite width is c/N t^-(1 - 1/b) long before the floor is felt."""
    capacity, steps = 1.5, 10_000
    task, protocol = lx.tasks.power_law(None, capacity, 4.0), lx.OnlineSGD(0.3, batch_size=1e15, steps=steps)
    infinite = np.asarray(lx.limits.RandomFeatures().solve(task, protocol).test_loss)
    times = np.array([1000, 3000, 10_000])
    scaled = []
    for size in (1e5, 1e6):
        loss = lx.limits.RandomFeatures(size).solve(task, protocol, method="contour").test_loss
        scaled.append(size * (np.asarray(loss) - infinite)[times])
        slopes = np.diff(np.log(scaled[-1])) / np.diff(np.log(times))
        np.testing.assert_allclose(slopes, -(1 - 1 / capacity), atol=0.01)
    np.testing.assert_allclose(scaled[0], scaled[1], rtol=0.005)


@pytest.mark.slow
def test_a_million_steps_of_a_trillion_modes():
    """Against the sum over exact modes and an integral, on the way."""
    task, steps, rate = lx.tasks.power_law(10**12, 1.5, 2.0), 10**6, 0.3
    loss = np.asarray(
        lx.limits.RandomFeatures().solve(task, lx.OnlineSGD(rate, batch_size=1e15, steps=steps)).test_loss
    )
    for t in (1000, 30_000, 10**6):
        k = np.arange(1, 2**20 + 0.0)
        head = np.sum(k**-2.0 * np.exp(2 * t * np.log1p(-rate * k**-1.5)))
        x = np.exp(np.linspace(np.log(2**20 - 0.5), np.log(1e12 + 0.5), 20_001))
        tail = np.trapezoid(x**-1.0 * np.exp(2 * t * np.log1p(-rate * x**-1.5)), np.log(x))
        np.testing.assert_allclose(loss[t], head + tail, rtol=1e-3)


@pytest.mark.slow
def test_one_network_is_sgd_on_its_own_modes():
    """The exact reduction of one draw of the features, against runs with these features: within one per cent."""
    task = lx.tasks.power_law(40, 1.5, 2.0, noise=0.3)
    protocol = lx.OnlineSGD(np.linspace(0.2, 0.05, 60), 0.3, batch_size=3)
    net = lx.limits.RandomFeatures(15).finite(task, key=jax.random.key(4))
    reduced = net.on_features(task)
    assert reduced.eigenvalues.shape == (15,)
    theory = lx.limits.RandomFeatures().solve(reduced, protocol).test_loss + reduced.noise**2 - 0.09
    # the same features in every run
    copies = lx.limits.RandomFeatures(15).ensemble(task, seeds=20_000)
    copies = jax.tree.map(lambda a, b: jnp.broadcast_to(b, a.shape), copies, _in_ensemble(copies, net))
    runs = np.asarray(lx.nets.train(copies, task, protocol, key=jax.random.key(1)).test_loss, float)
    error = runs.std(0) / np.sqrt(len(runs)) / runs.mean(0)
    assert error.max() < 0.004
    assert np.all(np.abs(runs.mean(0) / theory - 1) < 0.01)


def _in_ensemble(copies, net):
    """The arrays of one network in the tree of an ensemble."""
    return jax.tree.unflatten(jax.tree.structure(copies), jax.tree.leaves(net))


def test_the_reduction_keeps_the_population_loss():
    """Its floor is what is left where training on the population ends, and the messages."""
    task = lx.tasks.power_law(40, 1.5, 2.0)
    net = lx.limits.RandomFeatures(15).finite(task, key=jax.random.key(4))
    A = np.asarray(net.features[0], float)
    K = A * task.population().eigenvalues @ A.T
    lam_w = task.population().eigenvalues * task.population().teacher
    floor = np.sum(lam_w * task.population().teacher) - A @ lam_w @ np.linalg.solve(K, A @ lam_w)
    np.testing.assert_allclose(net.on_features(task).noise ** 2, floor, rtol=1e-6)
    with pytest.raises(ValueError, match="task must have the network's 40 modes; it has 30"):
        net.on_features(lx.tasks.power_law(30))
    with pytest.raises(ValueError, match="on_features needs one network with random features"):
        lx.limits.RandomFeatures().finite(task).on_features(task)
