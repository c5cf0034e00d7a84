"""What limits say that they take, beside what the compiler says of the same programs."""

import jax
import limitax as lx
import numpy as np
import pytest

L = lx.limits
KEY = jax.random.key(0)
DATA = lx.tasks.sphere(KEY, samples=6, dim=5, test_samples=2)
MANY = lx.tasks.sphere(KEY, samples=60, dim=40, test_samples=4)
LAW = lx.tasks.power_law(40, 1.5, 2.0, 0.3, samples=40)
FLOW = lx.GradientFlow(np.linspace(0.1, 2, 20))

PROBLEMS = {
    "MLP": (L.MLP(2, "tanh"), DATA, lx.GradientDescent(0.3, steps=5)),
    "DeepLinear": (L.DeepLinear(2, 1.0), lx.tasks.isotropic(2.0, 0.3), lx.GradientDescent(0.04, steps=60)),
    "DiagonalLinear": (L.DiagonalLinear(0.1), DATA, FLOW),
    "ExtensiveOutputs": (L.ExtensiveOutputs(), lx.tasks.linear_map(0.5), lx.GradientDescent(0.05, steps=30)),
    "LearnedFeatures": (L.LearnedFeatures(3.0), LAW, FLOW),
    "LinearModel": (L.LinearModel(), MANY, lx.MinibatchSGD(0.01, batch_size=4, steps=60)),
    "LinearRNN": (L.LinearRNN(0.5), lx.tasks.integrator(0.3), lx.GradientDescent(0.01, steps=20)),
    "QuadraticNetwork": (L.QuadraticNetwork(1.0, 0.5), MANY, lx.GradientDescent(0.01, steps=60)),
    "recursion": (L.RandomFeatures(), lx.tasks.power_law(None, 1.5, 2.0, 0.3), lx.OnlineSGD(0.04, 0.3, steps=800)),
    "contour": (L.RandomFeatures(20.0), LAW, lx.GradientDescent(0.04, steps=200)),
    "time": (L.RandomFeatures(20.0), LAW, lx.GradientDescent(0.04, steps=40)),
    "SmallInitialization": (L.SmallInitialization(1e-2), MANY, FLOW),
}


def test_every_limit_is_here():
    classes = {getattr(L, name) for name in L.__all__ if isinstance(getattr(L, name), type)}
    families = {c for c in classes if issubclass(c, L.AbstractLimit) and c is not L.AbstractLimit}
    assert families == {type(limit) for limit, _, _ in PROBLEMS.values()}


@pytest.mark.parametrize("name", PROBLEMS)
def test_too_little_memory_is_said_before_any_work(name, monkeypatch):
    limit, task, protocol = PROBLEMS[name]
    cost = limit.cost(task, protocol)
    assert cost.bytes > 0
    assert cost.flops > 0
    assert set(cost.needs) == set(cost.remedies)
    monkeypatch.setattr(jax.lax, "scan", None)  # whoever would begin to work needs it
    with pytest.raises(MemoryError, match=r"\.solve would need about .* and 1000 bytes are free; use "):
        limit.solve(task, protocol, memory_limit=1000)


def compiled(limit, task, protocol, **options):
    """The program of a solution, from the solution of the same problem with an unknown first schedule."""
    leaves, structure = jax.tree.flatten(protocol)

    def solve(first):
        return limit.solve(task, jax.tree.unflatten(structure, [first, *leaves[1:]]), throw=False, **options)

    with jax.enable_x64(True):
        return jax.jit(solve).lower(leaves[0]).compile()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DeepLinear", "LinearModel", "QuadraticNetwork", "recursion", "contour", "time"])
def test_memory(name):
    # allocations of the compiler's, of which an estimate from leading sizes may be off by this much
    memory = compiled(*PROBLEMS[name]).memory_analysis()
    share = PROBLEMS[name][0].cost(*PROBLEMS[name][1:]).bytes / (
        memory.temp_size_in_bytes + memory.output_size_in_bytes
    )
    assert 0.5 < share < 3


@pytest.mark.slow
def test_march():
    """Of a loop the compiler counts one turn: there is one more than steps, and everything is inside of it."""
    limit, _, protocol = PROBLEMS["MLP"]
    options = {"samples": 3000, "replicas": 1, "rank": 40, "keep": None, "precision": "double"}
    task = lx.tasks.sphere(KEY, samples=10, dim=12, test_samples=4)
    cost, program = limit.cost(task, protocol, **options), compiled(limit, task, protocol, **options)
    memory = program.memory_analysis()
    # with a rank the program solves twice, one after the other
    assert 0.8 < cost.bytes / (memory.temp_size_in_bytes + memory.output_size_in_bytes) < 1.5
    assert 0.8 < cost.flops / (program.cost_analysis()["flops"] * (protocol.steps + 1)) < 1.3


@pytest.mark.slow
def test_a_capped_basis():
    """Fifty images, a hundred steps, three hidden layers in less than 8 GiB, with the error of what was dropped."""
    task, protocol = lx.tasks.digits(KEY, samples=50, test_samples=50), lx.GradientDescent(1.0, steps=100)
    options = {
        "samples": 4000,
        "replicas": 1,
        "rank": 700,
        "tolerance": 2e-3,
        "keep": "diagonal",
        "memory_limit": 2**33,
    }
    theory = L.MLP(3, "tanh").solve(task, protocol, key=KEY, **options)
    assert theory.status == "converged"
    assert np.max([theory.extras[f"directions_{l}"] for l in (1, 2)]) <= 700
    truncation = theory.extras["truncation_error"]
    assert truncation.shape == (101,)
    # less than the noise of the particles
    assert 0 < np.max(truncation) < 0.01


@pytest.mark.parametrize(
    ("name", "resource", "power"),
    [("DeepLinear", "bytes", 2), ("DeepLinear", "flops", 3), ("time", "bytes", 2), ("recursion", "flops", 1)],
)
def test_growth(name, resource, power):
    limit, task, protocol = PROBLEMS[name]
    options = {"method": "time"} if name == "time" else {}
    long = [type(protocol)(0.04, steps=steps) for steps in (1000, 2000)]
    short, double = (getattr(limit.cost(task, p, **options), resource) for p in long)
    assert abs(np.log2(double / short) - power) < 0.1


def test_particles_and_what_is_recorded():
    limit, task, protocol = PROBLEMS["MLP"]
    few, many = (limit.cost(task, protocol, samples=samples) for samples in (2000, 4000))
    assert many.needs["fields"] == 2 * few.needs["fields"]
    assert few.needs["kernels"] == many.needs["kernels"] > limit.cost(task, protocol, keep="diagonal").needs["kernels"]
    assert limit.cost(task, protocol, samples=2000, approximation="leading_order").flops == 3 * few.flops


def test_a_limit_that_does_not_say():
    class Silent(L.AbstractLimit):
        def solve(self, task, protocol, *, key=None, throw=True, **options):
            raise NotImplementedError

        finite = ensemble = solve

    with pytest.raises(TypeError, match="Silent does not say what it costs"):
        Silent().cost(None, None)
