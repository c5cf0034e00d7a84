"""One-pass SGD on structured data: the recursion against simulation, its derivatives, and its messages."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.limits import _random_features

LIMIT = lx.limits.RandomFeatures()
TASK = lx.tasks.power_law(modes=40, capacity=1.5, decay=2.5, noise=0.3)
STEPS = 40
time = np.arange(STEPS)

PROTOCOLS = {
    "everything varies": lx.OnlineSGD(0.15 / (1 + time / 20), 0.8 * time / STEPS, batch_size=2 + 2 * (time > 20)),
    "extra gradient": lx.OnlineSGD(0.03, 0.7, 0.1 * np.cos(time / 10) ** 2, batch_size=3, steps=STEPS),
    "plain": lx.OnlineSGD(0.1, steps=STEPS),
}


@pytest.mark.parametrize("name", [n if n == "plain" else pytest.param(n, marks=pytest.mark.slow) for n in PROTOCOLS])
def test_simulation(name):
    runs, protocol = 4000, PROTOCOLS[name]
    theory = LIMIT.solve(TASK, protocol).test_loss
    ensemble = LIMIT.ensemble(TASK, size=1, seeds=runs)
    loss = np.asarray(lx.nets.train(ensemble, TASK, protocol, key=jax.random.key(1)).test_loss, np.float64)
    z = (loss.mean(0) - theory)[1:] / (loss.std(0, ddof=1) / np.sqrt(runs))[1:]
    assert np.max(np.abs(z)) < 4
    assert np.sqrt(np.mean(z**2)) < 2  # steps are correlated
    np.testing.assert_allclose(loss[:, 0], theory[0], rtol=1e-5)


def test_one_network():
    net = LIMIT.finite(TASK, size=7)
    run, trained = lx.nets.train(net, TASK, PROTOCOLS["plain"], return_net=True)
    assert run.test_loss.shape == (STEPS + 1,)
    assert run.loss_convention == LIMIT.solve(TASK, PROTOCOLS["plain"]).loss_convention == "mean_square"
    assert lx.limits.of(trained) == LIMIT
    problem = TASK.draw(1)
    np.testing.assert_allclose(
        np.sum(problem.eigenvalues * (trained.weights - problem.teacher) ** 2), run.test_loss[-1], rtol=1e-4
    )
    assert net(jnp.ones(40)) == 0
    again = lx.nets.train(LIMIT.finite(TASK, size=1), TASK, PROTOCOLS["plain"])
    np.testing.assert_array_equal(run.test_loss, again.test_loss)


def test_gaussian_task_is_the_same_theory():
    problem = TASK.draw(1)
    task = lx.tasks.gaussian(problem.eigenvalues, problem.teacher, noise=0.3)
    for protocol in PROTOCOLS.values():
        np.testing.assert_allclose(
            LIMIT.solve(task, protocol).test_loss, LIMIT.solve(TASK, protocol).test_loss, rtol=1e-12
        )


ramp = np.arange(15) / 15
REGULAR = {
    "capacity": 1.5,
    "decay": 2.5,
    "noise": 0.3,
    "learning_rate": 0.1 * (1 - ramp) + 0.01,
    "momentum": 0.1 + 0.8 * ramp,
    "extra_gradient": 0.02,
    "batch_size": 2.5 - ramp,
}
POINTS = {
    "regular": REGULAR,
    "no momentum": REGULAR | {"momentum": 0 * ramp},
    "rates that end": REGULAR | {"learning_rate": np.where(ramp < 0.5, 0.1, 0.0), "momentum": 0.5 * (ramp > 0.3)},
    "no rate at all": REGULAR | {"learning_rate": 0 * ramp, "extra_gradient": 0.0},
    "no noise": REGULAR | {"noise": 0.0, "extra_gradient": 0.0},
}


def loss_of(point, **options):
    task = lx.tasks.power_law(10**6, *(point[name] for name in ("capacity", "decay", "noise")))
    protocol = lx.OnlineSGD(**{name: value for name, value in point.items() if not hasattr(task, name)})
    return lx.final_loss(LIMIT, task, protocol, **options)


gradient = jax.jit(jax.grad(loss_of))


@pytest.mark.parametrize("name", POINTS)
def test_gradients(name):
    point = POINTS[name]
    with jax.enable_x64(True):
        slopes = gradient(jax.tree.map(jnp.asarray, point))
    for field, value in point.items():
        h, direction = 1e-4, 1 + 0.3 * np.sin(np.arange(np.size(value))).reshape(np.shape(value))

        def at(k, field=field, value=value, h=h, direction=direction):
            return float(loss_of(point | {field: value + k * h * direction}))

        if np.min(value) > 0:
            difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
        else:  # the value is at the end of its range: to one side only
            difference = sum(w * at(k) for k, w in enumerate([-25 / 12, 4, -3, 4 / 3, -1 / 4])) / h
        np.testing.assert_allclose(np.vdot(slopes[field], direction), difference, rtol=1e-6, atol=1e-9, err_msg=field)


def test_derivatives_need_no_global_flag():
    def loss(rate, adjoint="blocked"):
        return loss_of(REGULAR | {"learning_rate": rate}, adjoint=adjoint)

    with jax.enable_x64(True):
        exact = jax.grad(loss)(0.1)
    with jax.enable_x64(False):
        np.testing.assert_allclose(jax.grad(loss)(0.1), exact, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(jnp.array([0.05, 0.1]))[1], exact, rtol=1e-6)
        np.testing.assert_allclose(jax.jvp(lambda r: loss(r, "direct"), (0.1,), (1.0,))[1], exact, rtol=1e-6)


def test_traced_and_concrete_agree():
    for protocol in PROTOCOLS.values():
        traced = jax.jit(lambda p: LIMIT.solve(TASK, p, throw=False).test_loss)(protocol)
        np.testing.assert_allclose(traced, LIMIT.solve(TASK, protocol).test_loss, rtol=1e-6)


def test_values_do_not_retrace(monkeypatch):
    traces = []
    recursion = _random_features.second_moment
    monkeypatch.setattr(_random_features, "second_moment", lambda *a, **k: traces.append(1) or recursion(*a, **k))
    for capacity, noise, rate, batch in [(1.5, 1.0, 0.05, 1), (2.0, 0.0, 0.07, 3.5), (1.1, 2.0, 0.01, 10)]:
        task = lx.tasks.power_law(None, capacity, 1.9, noise)
        LIMIT.solve(task, lx.OnlineSGD(rate, batch_size=batch, steps=37))
    assert len(traces) == 1


def test_record():
    theory = LIMIT.solve(TASK, PROTOCOLS["plain"])
    assert theory.status == "converged"
    assert theory.diverged_step == -1
    assert theory.train_loss is None
    assert theory.test_loss.dtype == np.float64
    np.testing.assert_allclose(theory.test_loss[0], np.sum(np.arange(1, 41.0) ** -2.5))
    assert LIMIT.exact_at_any_size(TASK, PROTOCOLS["plain"])


def test_divergence():
    protocol = lx.OnlineSGD(0.9, steps=400)
    with pytest.raises(lx.DivergedError, match=r"at step \d+ .* stable for learning_rate < 0\.549"):
        LIMIT.solve(TASK, protocol)
    record = LIMIT.solve(TASK, protocol, throw=False)
    assert record.status == "diverged"
    assert record.test_loss[record.diverged_step] > 1e6 * record.test_loss[0]
    assert record.test_loss[record.diverged_step - 1] < 1e6 * record.test_loss[0]
    with pytest.raises(lx.DivergedError):
        LIMIT.solve(TASK, lx.OnlineSGD(0.9, 0.9, steps=400))
    just_inside = 0.95 * LIMIT.stable_rate(TASK)
    loss = LIMIT.solve(TASK, lx.OnlineSGD(just_inside, steps=4000)).test_loss
    np.testing.assert_allclose(loss[-1], loss[-2], rtol=1e-6)


def test_messages():
    with pytest.raises(ValueError, match="samples is needed by GradientDescent"):
        LIMIT.solve(TASK, lx.GradientDescent(0.1, steps=3))
    with pytest.raises(
        TypeError, match="protocol must be one of GradientDescent, MinibatchSGD, NormalisedSGD, OnlineSGD for"
    ):
        LIMIT.solve(lx.tasks.power_law(40, samples=10), lx.GradientFlow([1.0]))
    with pytest.raises(ValueError, match="batch_size must be at most the 10 samples without replacement"):
        LIMIT.solve(lx.tasks.power_law(40, samples=10), lx.MinibatchSGD(0.1, 12, replace=False, steps=3))
    with pytest.raises(ValueError, match='method must be "time" with MinibatchSGD'):
        LIMIT.solve(lx.tasks.power_law(40, samples=10), lx.MinibatchSGD(0.1, 2, steps=3), method="contour")
    with pytest.raises(TypeError, match="task must be power_law or gaussian"):
        LIMIT.solve(lx.tasks.isotropic(2.0), PROTOCOLS["plain"])
    with pytest.raises(ValueError, match=r"RandomFeatures takes batch_size"):
        LIMIT.solve(TASK, lx.OnlineSGD(0.1, batch_ratio=2.0, steps=3))
    with pytest.raises(ValueError, match='precision "half" is unknown'):
        LIMIT.solve(TASK, PROTOCOLS["plain"], precision="half")
    with pytest.raises(ValueError, match="features must be finite and above 0; it is 0"):
        lx.limits.RandomFeatures(features=0)
    for modes in (None, 10**12):
        with pytest.raises(ValueError, match="modes must be at most 1048576 for a finite network"):
            LIMIT.finite(lx.tasks.power_law(modes), size=1)
    with pytest.raises(ValueError, match="batch_size must be whole"):
        lx.nets.train(LIMIT.finite(TASK, size=1), TASK, lx.OnlineSGD(0.1, batch_size=1.5, steps=3))
    with pytest.raises(ValueError, match="must have the network's 40 modes; it has 30"):
        lx.nets.train(LIMIT.finite(TASK, size=1), lx.tasks.power_law(30), PROTOCOLS["plain"])
    with pytest.raises(lx.DivergedError):
        lx.nets.train(LIMIT.finite(TASK, size=1), TASK, lx.OnlineSGD(50.0, steps=30))
