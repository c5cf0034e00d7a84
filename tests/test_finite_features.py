"""Finitely many random features and reused samples: two forms of one theory, networks, ensembles, slopes, messages."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

from .helpers import raises

STEPS = 30
RATES = 0.3 * np.sqrt(1 - np.arange(STEPS) / STEPS)
TASK = lx.tasks.power_law(120, 1.5, 2.0, noise=0.3, samples=60)
DESCENT = lx.GradientDescent(RATES)
LIMIT = lx.limits.RandomFeatures(40)


def both(limit, task, protocol):
    return [limit.solve(task, protocol, method=method) for method in ("time", "contour")]


@pytest.mark.parametrize(
    ("limit", "protocol"),
    [
        (LIMIT, lx.GradientDescent(RATES, np.linspace(0, 0.85, STEPS))),
        pytest.param(lx.limits.RandomFeatures(40, 3), DESCENT, marks=pytest.mark.slow),
        pytest.param(lx.limits.RandomFeatures(40, 3, bagging=True), DESCENT, marks=pytest.mark.slow),
        pytest.param(lx.limits.RandomFeatures(), DESCENT, marks=pytest.mark.slow),
    ],
    ids=["momentum", "ensemble", "bagging", "kernel"],
)
def test_time_and_contour_are_one_theory(limit, protocol):
    time, contour = both(limit, TASK, protocol)
    np.testing.assert_allclose(contour.test_loss, time.test_loss, rtol=1e-10)
    assert (time.train_loss is None) == limit.bagging
    if not limit.bagging:
        np.testing.assert_allclose(contour.train_loss, time.train_loss, rtol=1e-10)
    assert time.loss_convention == "mean_square"
    assert all(type(found.test_loss) is np.ndarray and found.test_loss.dtype == float for found in (time, contour))


def test_the_population_is_a_sample_without_end():
    population = lx.limits.RandomFeatures().solve(lx.tasks.power_law(120, samples=np.inf), DESCENT, method="contour")
    k = np.arange(1, 121.0)
    left = np.concatenate([np.ones((1, 120)), np.cumprod(1 - RATES[:, None] * k**-1.5, axis=0)])
    np.testing.assert_allclose(population.test_loss, left**2 @ k**-2.5, rtol=1e-7)
    np.testing.assert_allclose(population.train_loss, population.test_loss, rtol=1e-12)


def test_many_features_are_one_pass_sgd_on_the_modes():
    protocol = lx.OnlineSGD(RATES, 0.3, batch_size=4)
    many = lx.limits.RandomFeatures(1e9).solve(TASK, protocol, method="contour")
    np.testing.assert_allclose(many.test_loss, lx.limits.RandomFeatures().solve(TASK, protocol).test_loss, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("bagging", [False, True])
def test_networks(members, bagging):
    if bagging and members == 1:
        pytest.skip("one member has one set of samples")
    limit = lx.limits.RandomFeatures(40, members, bagging)
    theory = limit.solve(TASK, DESCENT)
    runs = lx.nets.train(limit.ensemble(TASK, size=1, seeds=400), TASK, DESCENT)
    for name, tolerance in (("test_loss", 0.02), ("train_loss", 0.03)):
        if getattr(theory, name) is None:
            assert bagging
            continue
        many = np.asarray(getattr(runs, name), float)
        error = many.std(0) / np.sqrt(len(many)) / many.mean(0)
        away = np.abs(many.mean(0) / getattr(theory, name) - 1)
        assert np.all(away < tolerance + 2 * error), name


BATCHES = {
    "with replacement": lx.MinibatchSGD(0.15, 4, steps=STEPS),
    "without replacement": lx.MinibatchSGD(0.2, 10, replace=False, steps=STEPS),
    "momentum": lx.MinibatchSGD(0.1, 4, momentum=np.linspace(0, 0.8, STEPS)),
}


@pytest.mark.slow
@pytest.mark.parametrize("features", [None, 30])
@pytest.mark.parametrize("protocol", BATCHES.values(), ids=BATCHES)
def test_batches_of_reused_samples(features, protocol):
    """The noise of the choice of batches in both losses, to the error of size 1/P, which replication divides."""
    task = lx.tasks.power_law(60, 1.2, 1.8, noise=0.5, samples=40)
    limit = lx.limits.RandomFeatures(features)
    theory = limit.solve(task, protocol)
    whole = limit.solve(task, lx.GradientDescent(protocol.learning_rate, protocol.momentum))
    assert whole.train_loss[-1] < 0.98 * theory.train_loss[-1]
    for size, seeds, tolerance in ((1, 3000, 0.025), (4, 600, 0.007)):
        runs = lx.nets.train(limit.ensemble(task, size=size, seeds=seeds), task, protocol)
        for name in ("test_loss", "train_loss"):
            many = np.asarray(getattr(runs, name), float)
            error = many.std(0) / np.sqrt(seeds) / many.mean(0)
            assert np.all(np.abs(many.mean(0) / getattr(theory, name) - 1) < tolerance + 2.5 * error), (size, name)


@pytest.mark.slow
def test_batches_have_their_limits():
    """All samples without replacement are the whole batch; of samples without end every batch is fresh."""
    descent, limit = lx.GradientDescent(RATES), lx.limits.RandomFeatures(40)
    drawn = limit.solve(TASK, lx.MinibatchSGD(RATES, 60, replace=False))
    np.testing.assert_allclose(drawn.train_loss, limit.solve(TASK, descent).train_loss, rtol=1e-12)
    endless = lx.tasks.power_law(120, 1.5, 2.0, noise=0.3, samples=np.inf)
    fresh = limit.solve(endless, lx.OnlineSGD(RATES, batch_size=4), method="time")
    drawn = limit.solve(endless, lx.MinibatchSGD(RATES, 4))
    np.testing.assert_allclose(drawn.test_loss, fresh.test_loss, rtol=1e-12)
    np.testing.assert_allclose(drawn.train_loss, fresh.test_loss + 0.09, rtol=1e-12)


@pytest.mark.slow
def test_replication_approaches_the_theory():
    """The mean over networks differs from the theory by 1/size, a single one by its root."""
    task = lx.tasks.power_law(40, 1.2, 1.8, noise=0.3, samples=20)
    limit, protocol = lx.limits.RandomFeatures(12), lx.GradientDescent(0.3, steps=40)
    theory = limit.solve(task, protocol).test_loss[-1]
    sizes, seeds = np.array([1, 2, 4]), (20_000, 20_000, 32_000)
    means, errors, spread = [], [], []
    for size, many in zip(sizes, seeds, strict=True):
        ensemble = limit.ensemble(task, size=int(size), seeds=many, key=jax.random.key(int(size)))
        loss = np.asarray(lx.nets.train(ensemble, task, protocol).test_loss, float)[:, -1] / theory - 1
        means.append(loss.mean())
        errors.append(loss.std() / many**0.5)
        spread.append(loss.std())
    means, errors = np.array(means), np.array(errors)
    print(means, errors, spread)
    assert np.all(np.abs(means[:2]) > 4 * errors[:2])
    slope = np.polyfit(np.log(sizes), np.log(np.abs(means)), 1)[0]
    centred = np.log(sizes) - np.log(sizes).mean()
    slope_error = np.hypot(*(centred * errors / means)[[0, -1]]) / np.sum(centred**2)
    print(slope, slope_error)
    # close enough to tell the inverse from the inverse root
    assert slope_error < 0.1
    assert abs(slope + 1) < 3 * slope_error
    np.testing.assert_allclose(np.polyfit(np.log(sizes), np.log(spread), 1)[0], -0.5, atol=0.12)


@pytest.mark.slow
def test_compare_replicates():
    task = lx.tasks.power_law(30, 1.2, 1.8, noise=0.3, samples=15)
    report = lx.compare(lx.limits.RandomFeatures(10), task, lx.GradientDescent(0.3, steps=10), sizes=(4, 8), seeds=16)
    assert set(report.errors) == {"test_loss", "train_loss"}
    assert all(agreement < 4 for agreement in report.agreement.values())
    assert report.runs[8].test_loss.shape == (16, 11)


def test_one_network():
    net = LIMIT.finite(TASK, size=2, key=jax.random.key(1))
    run, trained = lx.nets.train(net, TASK, DESCENT, return_net=True)
    assert net.features.shape == (1, 80, 240)
    assert net.weights.shape == (1, 80)
    np.testing.assert_array_equal(trained.features, net.features)
    x = jax.random.normal(jax.random.key(2), (240,))
    np.testing.assert_allclose(trained(x), trained.weights[0] @ (net.features[0] @ x) / 80**0.5, rtol=1e-4)
    assert run.train_loss.shape == (STEPS + 1,)
    pair = LIMIT.ensemble(TASK, size=2, seeds=2)
    assert pair.member(1)(x) == 0.0
    assert jax.tree.leaves(lx.nets.trainable(net)) == [True, False]


POINT = {
    "features": 40.0,
    "samples": 60.0,
    "noise": 0.3,
    "capacity": 1.5,
    "decay": 2.0,
    "momentum": np.full(STEPS, 0.3),
}
POINT |= {"rate": RATES}


def loss_of(point, method):
    task = lx.tasks.power_law(120, *(point[name] for name in ("capacity", "decay", "noise", "samples")))
    protocol = lx.GradientDescent(point["rate"], point["momentum"])
    limit = lx.limits.RandomFeatures(point["features"])
    return jnp.log(limit.solve(task, protocol, method=method, throw=False).test_loss[-1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["contour", "time"])
def test_slopes(method):
    """Without the global flag, under the caller's jit."""
    assert not jax.config.jax_enable_x64
    slopes = jax.jit(jax.grad(loss_of), static_argnums=1)(POINT, method)
    with jax.enable_x64(True):
        at = jax.jit(loss_of, static_argnums=1)
        for name, value in POINT.items():
            h = 1e-4 * np.mean(value)
            direction = 1 + 0.3 * np.sin(np.arange(np.size(value))).reshape(np.shape(value))
            ends = [float(at(POINT | {name: value + k * h * direction}, method)) for k in (-2, -1, 1, 2)]
            expected = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / (12 * h)
            np.testing.assert_allclose(np.vdot(slopes[name], direction), expected, rtol=2e-6, err_msg=name)


@pytest.mark.slow
def test_divergence_and_too_few_nodes():
    with pytest.raises(lx.DivergedError, match=r"stable for learning_rate < 1\.\d+"):
        LIMIT.solve(TASK, lx.GradientDescent(2.0, steps=60))
    with pytest.raises(lx.ConvergenceError, match="not converged"):
        LIMIT.solve(TASK, DESCENT, method="contour", nodes=8)
    assert LIMIT.solve(TASK, DESCENT, method="contour", nodes=8, throw=False).status == "not converged"


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: lx.limits.RandomFeatures(-1.0), ValueError, "features must be finite and above 0; it is -1."),
        (lambda: lx.limits.RandomFeatures(members=0), ValueError, "members must be at least 1; it is 0."),
        (
            lambda: lx.limits.RandomFeatures(members=1.5),
            TypeError,
            "members must be a whole number; float 1.5 was given.",
        ),
        (lambda: lx.limits.RandomFeatures(bagging=1), TypeError, "bagging must be True or False; int 1 was given."),
        (
            lambda: LIMIT.solve(TASK, DESCENT, method="laplace"),
            ValueError,
            'method "laplace" is unknown; one of: time, ',
        ),
        (lambda: LIMIT.solve(TASK, DESCENT, nodes=2), ValueError, "nodes must be at least 8; it is 2."),
        (
            lambda: LIMIT.solve(TASK, DESCENT, precision="single"),
            ValueError,
            'precision must be "double" with finitely many features or reused samples.',
        ),
        (
            lambda: LIMIT.solve(TASK, lx.GradientDescent(0.1, weight_decay=0.1, steps=2)),
            ValueError,
            "weight_decay must be 0: RandomFeatures is not solved with weight decay.",
        ),
        (
            lambda: lx.limits.RandomFeatures(9, 2).solve(TASK, lx.OnlineSGD(0.1, steps=3), method="contour"),
            ValueError,
            'members must be 1 with OnlineSGD by method="contour"; method="time" takes any number.',
        ),
        (
            lambda: LIMIT.solve(TASK, lx.GradientDescent(0.1, steps=50_000), method="time"),
            MemoryError,
            "RandomFeatures.solve would need about ",
        ),
        (
            lambda: lx.nets.train(LIMIT.finite(TASK, size=1), lx.tasks.power_law(50, samples=9), DESCENT),
            ValueError,
            "task must have the network's 120 modes; it has 50.",
        ),
    ],
)
def test_messages(call, kind, sentence):
    with raises(kind, sentence):
        call()


@pytest.mark.parametrize(("capacity", "decay"), [(1.5, 2.0), (1.2, 2.8), (1.2, 4.5)])
def test_exponents_of_width_and_data(capacity, decay):
    def slope(loss):
        counts = np.array([2e4, 1e5])
        return -np.diff(np.log([loss(count) for count in counts]))[0] / np.diff(np.log(counts))[0]

    def data(count):
        return lx.limits.RandomFeatures().stationary_loss(lx.tasks.power_law(None, capacity, decay, samples=count))

    def width(count):
        task = lx.tasks.power_law(None, capacity, decay, samples=np.inf)
        return lx.limits.RandomFeatures(count).stationary_loss(task)

    np.testing.assert_allclose(slope(data), min(decay - 1, 2 * capacity), atol=0.02)
    np.testing.assert_allclose(slope(width), min(decay - 1, capacity), atol=0.02)


def test_frontier_messages():
    limit, task, protocol = lx.limits.RandomFeatures(), lx.tasks.power_law(), lx.OnlineSGD(0.3, steps=10)
    with raises(ValueError, "sizes must be four or more increasing numbers; [1. 2. 3.] was given."):
        lx.compute_frontier(limit, task, protocol, sizes=[1, 2, 3])
    with raises(TypeError, "limit must be a limits.RandomFeatures"):
        lx.compute_frontier(lx.limits.MLP(1, "tanh"), task, protocol, sizes=[1, 2, 3, 4])
    with raises(ValueError, "members must be 1 for a frontier over features times steps; it is 2."):
        lx.compute_frontier(lx.limits.RandomFeatures(9, 2), task, protocol, sizes=[1, 2, 3, 4])
    with raises(TypeError, "task must be power_law or gaussian for RandomFeatures"):
        lx.compute_frontier(limit, lx.tasks.sphere(samples=2, dim=3), protocol, sizes=[1, 2, 3, 4])
    with raises(ValueError, "learning_rate must be the same known number at every step"):
        lx.compute_frontier(limit, task, lx.OnlineSGD(np.array([0.1, 0.2])), sizes=[1, 2, 3, 4])
