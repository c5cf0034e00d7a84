"""Derivatives and use of the deep linear limit: differences, adjoints, divergence, records, precision, messages."""

import chex
import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.limits import _deep_linear

from .helpers import raises

STEPS = 6


def exact(value):
    """A number that single precision holds exactly, so that no rounding of it can be seen in a slope."""
    return np.asarray(value, np.float32).astype(float)


RATES = exact(np.where(np.arange(STEPS) == 3, 0.0, 0.07 + 0.02 * np.cos(np.arange(STEPS))))
POINT = {
    "learning_rate": RATES,  # one is zero
    "momentum": np.zeros(STEPS),
    "width_ratio": exact(0.7),
    "richness": exact(1.2),
    "init_scale": exact(0.8),
    "readout_scale": exact(1.1),
    "sample_ratio": exact(1.4),
    "noise": exact(0.3),
}
PROBLEMS = {"full batch": (2, False, False), "fresh batches": (1, True, False), "residual": (3, False, True)}


def problem_of(point, name):
    depth, fresh, residual = PROBLEMS[name]
    scales = (point[field] for field in ("width_ratio", "richness", "init_scale", "readout_scale"))
    limit = lx.limits.DeepLinear(depth, *scales, residual=residual)
    rates = point["learning_rate"], point["momentum"]
    if fresh:
        protocol = lx.OnlineSGD(*rates, batch_ratio=point["sample_ratio"])
        return limit, lx.tasks.isotropic(noise=point["noise"]), protocol
    return limit, lx.tasks.isotropic(point["sample_ratio"], point["noise"]), lx.GradientDescent(*rates)


def loss_of(point, name, adjoint="tape"):
    limit, task, protocol = problem_of(point, name)
    return jnp.log(limit.solve(task, protocol, adjoint=adjoint, throw=False).test_loss[-1])


slopes_of = jax.jit(jax.grad(loss_of), static_argnums=(1, 2))


def difference(name, field, value, direction, one_sided):
    h = 1e-4

    def at(k):
        limit, task, protocol = problem_of(POINT | {field: value + k * h * direction}, name)
        return np.log(limit.solve(task, protocol).test_loss[-1])

    if one_sided:
        return sum(w * at(k) for k, w in enumerate([-25 / 12, 4, -3, 4 / 3, -1 / 4])) / h
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n == "fresh batches" else pytest.param(n, marks=pytest.mark.slow) for n in PROBLEMS]
)
def test_slopes_are_differences(name):
    """Without the global flag: the theory computes in double precision, and only its answer is rounded."""
    assert not jax.config.jax_enable_x64
    slopes = slopes_of(POINT, name, "tape")
    for field, value in POINT.items():
        up = (value == 0) * (1 + 0.3 * np.sin(np.arange(value.size)).reshape(value.shape))
        both = (value > 0) * (1 + 0.3 * np.cos(np.arange(value.size)).reshape(value.shape))
        for direction, one_sided in ((up, True), (both, False)):
            if np.any(direction):
                expected = difference(name, field, value, direction, one_sided)
                found = np.vdot(np.asarray(slopes[field], float), direction)
                np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=field)
    assert slopes["learning_rate"][-1] != 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_adjoints_agree(name):
    with jax.enable_x64(True):
        point = jax.tree.map(jnp.asarray, POINT)
        taped, direct = (slopes_of(point, name, adjoint) for adjoint in ("tape", "direct"))
        chex.assert_trees_all_close(taped, direct, rtol=1e-11, atol=1e-13)
        if name == "full batch":
            chex.assert_trees_all_close(slopes_of(point, name, "blocked"), direct, rtol=1e-11, atol=1e-13)
            along = jax.tree.map(lambda a: jnp.cos(1.0 + jnp.arange(a.size)).reshape(a.shape), point)
            _, pushed = jax.jit(lambda p: jax.jvp(lambda p: loss_of(p, name, "direct"), (p,), (along,)))(point)
            pulled = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (direct, along)), strict=True))
            np.testing.assert_allclose(pushed, pulled, rtol=1e-11)


@pytest.mark.slow
def test_batching_is_a_loop():
    with jax.enable_x64(True):
        many = jax.tree.map(lambda a: jnp.stack([a, 0.9 * a, 1.1 * a]), jax.tree.map(jnp.asarray, POINT))
        batched = jax.jit(jax.vmap(jax.grad(lambda p: loss_of(p, "full batch"))))(many)
        for i in range(3):
            one = slopes_of(jax.tree.map(lambda a, i=i: a[i], many), "full batch", "tape")
            chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], batched), one, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_infinite_width_has_slopes():
    with jax.enable_x64(True):
        for parameterization in ("mup", "ntk"):

            def loss(richness, rate, parameterization=parameterization):
                limit = lx.limits.DeepLinear(2, jnp.inf, richness, parameterization=parameterization)
                protocol = lx.GradientDescent(rate, steps=STEPS)
                return limit.solve(lx.tasks.isotropic(2.0), protocol).test_loss[-1]

            for slope in jax.jit(jax.grad(loss, argnums=(0, 1)))(1.3, 0.04):
                assert np.isfinite(slope)
                assert slope != 0


def test_divergence():
    limit, task, protocol = problem_of(POINT | {"learning_rate": np.full(60, 1.5), "momentum": 0.0}, "full batch")
    with pytest.raises(lx.DivergedError, match=r"^training left the stable region at step \d+ \(loss \S+\)"):
        limit.solve(task, protocol)
    record = limit.solve(task, protocol, throw=False)
    step = int(record.diverged_step)
    assert record.status == "diverged"
    assert 0 < step < 60
    assert (
        not record.test_loss[step] <= 1e6 * record.test_loss[0]
        or not record.train_loss[step] <= 1e6 * (record.train_loss[0])
    )
    assert record.test_loss[step - 1] <= 1e6 * record.test_loss[0]


@pytest.mark.slow
def test_single_precision():
    limit, task, protocol = problem_of(POINT, "full batch")
    double, single = (limit.solve(task, protocol, precision=precision) for precision in ("double", "single"))
    assert double.test_loss.dtype == np.float64
    assert single.test_loss.dtype == np.float32
    assert {np.asarray(a).dtype for a in single.extras.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(single.test_loss, double.test_loss, rtol=1e-4)
    np.testing.assert_allclose(single.train_loss, double.train_loss, rtol=1e-4)
    slope = jax.grad(lambda rate: final_single(rate, "single"))(0.07)
    np.testing.assert_allclose(slope, jax.grad(lambda rate: final_single(rate, "double"))(0.07), rtol=1e-3)


def final_single(rate, precision):
    limit, task, _ = problem_of(POINT, "full batch")
    return limit.solve(task, lx.GradientDescent(rate, steps=STEPS), precision=precision).test_loss[-1]


def test_values_do_not_retrace(monkeypatch):
    traces = []
    sweep = _deep_linear.deep_linear
    monkeypatch.setattr(_deep_linear, "deep_linear", lambda *a, **k: traces.append(1) or sweep(*a, **k))
    for nu, richness, ratio, noise, rate in [
        (1.0, 1, 2.0, 0.3, 0.05),
        (np.inf, 0.5, 0.5, 0.0, 0.0),
        (3, 2.0, 9, 1, 0.01),
    ]:
        limit = lx.limits.DeepLinear(2, nu, richness, 0.7)
        limit.solve(lx.tasks.isotropic(ratio, noise), lx.GradientDescent(rate, momentum=rate, steps=5))
    assert len(traces) == 1


def test_record_survives_a_file(tmp_path):
    limit, task, protocol = problem_of(POINT, "full batch")
    theory = limit.solve(task, protocol)
    theory.save(tmp_path / "run.nc")
    loaded = lx.Trajectory.load(tmp_path / "run.nc")
    assert loaded.loss_convention == "half_mean_square"
    chex.assert_trees_all_equal(loaded.curves(), theory.curves())
    for layer in (0, 1):
        there, back = (lx.spectrum(limit, record, layer=layer) for record in (theory, loaded))
        chex.assert_trees_all_equal(there, back)


ISOTROPIC, PROTOCOL = lx.tasks.isotropic(2.0), lx.GradientDescent(0.1, steps=2)


def deep(depth=2, **k):
    return lx.limits.DeepLinear(depth, **k)


V, T = ValueError, TypeError
CASES = [
    (lambda: deep(0), V, "depth must be at least 1; it is 0."),
    (lambda: deep(1.5), T, "depth must be a whole number; float 1.5 was given."),
    (lambda: deep(width_ratio=0), V, "width_ratio must be a number and above 0; it is 0."),
    (lambda: deep(width_ratio=-1.0), V, "width_ratio must be a number and above 0; it is -1."),
    (lambda: deep(width_ratio=np.nan), V, "width_ratio must be a number and above 0; it is nan."),
    (lambda: deep(width_ratio="wide"), T, "width_ratio must be a number; str 'wide' was given."),
    (lambda: deep(richness=0), V, "richness must be finite and above 0; it is 0."),
    (lambda: deep(richness=np.inf), V, "richness must be finite and above 0; it is inf."),
    (lambda: deep(init_scale=-1), V, "init_scale must be finite and at least 0; it is -1."),
    (lambda: deep(readout_scale=np.nan), V, "readout_scale must be finite and at least 0; it is nan."),
    (lambda: deep(parameterization="sp"), V, 'parameterization "sp" is unknown; one of: mup, ntk.'),
    (lambda: deep(residual=1), T, "residual must be True or False; int 1 was given."),
    (
        lambda: deep(width_ratio=0.01).finite(ISOTROPIC, size=20),
        V,
        "size must give at least one neuron: width_ratio 0.01 times 20 inputs is less than one.",
    ),
    (
        lambda: deep(width_ratio=np.inf).finite(ISOTROPIC, size=20),
        V,
        "width_ratio must be finite for a finite network; it is inf. The theory alone takes it.",
    ),
    (lambda: deep().finite(ISOTROPIC, size=0), V, "size must be at least 1; it is 0."),
    (
        lambda: deep().finite(lx.tasks.power_law(5), size=10),
        T,
        "task must be isotropic or gaussian for DeepLinear; PowerLaw ",
    ),
    (
        lambda: lx.nets.train(deep().finite(ISOTROPIC, size=10), structured(), PROTOCOL),
        V,
        "size must be a multiple of the 3 modes of the task, each of which is repeated; it is 10.",
    ),
    (
        lambda: lx.nets.train(deep().finite(ISOTROPIC, size=10), ISOTROPIC, lx.OnlineSGD(0.1, batch_size=2, steps=2)),
        V,
        "batch_size is a number; in many dimensions give batch_ratio, fresh samples over dimensions.",
    ),
    (
        lambda: deep().solve(ISOTROPIC, lx.OnlineSGD(0.1, batch_size=2, steps=2)),
        V,
        "batch_size is a number; in the proportional limit give batch_ratio, samples over input dimensions.",
    ),
    (
        lambda: deep().solve(lx.tasks.gaussian([1.0], [1.0]), PROTOCOL),
        V,
        "sample_ratio is needed by GradientDescent: samples over input dimensions, inf: the population.",
    ),
    (
        lambda: deep().solve(lx.tasks.gaussian([1.0], [1.0], samples=20), PROTOCOL),
        V,
        "samples is a number; in the proportional limit give sample_ratio, samples over input dimensions.",
    ),
    (
        lambda: deep().solve(ISOTROPIC, lx.MinibatchSGD(0.1, 2, steps=2)),
        T,
        "protocol must be GradientDescent or OnlineSGD for DeepLinear",
    ),
    (lambda: deep().solve(lx.tasks.sphere(samples=3, dim=4), PROTOCOL), T, "task must be isotropic or gaussian for "),
    (lambda: deep().solve(ISOTROPIC, PROTOCOL, precision="half"), V, 'precision "half" is unknown; one of: double, '),
    (lambda: deep().solve(ISOTROPIC, PROTOCOL, adjoint="implicit"), V, 'adjoint "implicit" is unknown; one of: tape, '),
    (lambda: deep().solve(ISOTROPIC, PROTOCOL, throw=0), T, "throw must be True or False; int 0 was given."),
    (
        lambda: deep().solve(ISOTROPIC, lx.GradientDescent(0.1, steps=100_000)),
        MemoryError,
        "DeepLinear.solve would need about ",
    ),
    (
        lambda: deep().solve(ISOTROPIC, PROTOCOL, memory_limit=100),
        MemoryError,
        "DeepLinear.solve would need about 4.6 kiB for order parameters (steps=2, 1 modes, depth=2) and 100 bytes are "
        "free; use fewer steps or modes (memory_limit= overrides the free amount).",
    ),
]


def structured():
    return lx.tasks.gaussian([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], sample_ratio=2.0)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_sentence(number):
    call, kind, sentence = CASES[number]
    with raises(kind, sentence) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
