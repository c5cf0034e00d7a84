"""Single against double precision: how far each quantity of each family is off, and what is promised.

The table stands in docs/numerics.md as well. Losses are compared value by value, everything else by the largest
difference over the largest value in double precision.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.solvers import context, power_law_bins, stability_bound

TASK = lx.tasks.sphere(jax.random.key(0), samples=3, dim=5, test_samples=2)
PROTOCOL = lx.GradientDescent(0.3, momentum=0.4, weight_decay=0.2, steps=6)
EXPONENTS = {"even": (1.5, 2.5), "hard": (3.0, 1.5), "easy": (1.2, 3.0)}


def sampled(precision):
    limit = lx.limits.MLP(2, "tanh", bias_scale=0.3)
    record = limit.solve(TASK, PROTOCOL, samples=800, replicas=2, precision=precision)
    return _fixed_data(record)


def exact(precision):
    return _fixed_data(lx.limits.MLP(2, "identity", bias_scale=0.3).solve(TASK, PROTOCOL, precision=precision))


def network(precision):
    net = lx.limits.MLP(2, "tanh", bias_scale=0.3).finite(TASK, size=16)
    with context(precision):
        net = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), net)
        record = lx.nets.train(net, TASK, PROTOCOL)
    return _fixed_data(record)


def recursion(name, precision):
    limit, protocol = lx.limits.RandomFeatures(), lx.OnlineSGD(0.05, 0.3, steps=1000)
    task = lx.tasks.power_law(None, *EXPONENTS[name], 1.0)
    bins = power_law_bins(None, *map(jnp.float32, EXPONENTS[name]))

    def final(rate):
        return lx.final_loss(limit, task, lx.OnlineSGD(rate, 0.3, steps=1000), precision=precision)

    with context(precision):
        bins = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), bins)
        return {
            "test_loss": limit.solve(task, protocol, precision=precision).test_loss,
            "slope": jax.grad(final)(jnp.asarray(0.05)),
            "stability_bound": stability_bound(bins, jnp.asarray(3.0)),
        }


def deep_linear(precision):
    record = lx.limits.DeepLinear(2, 1.0, richness=2.0).solve(
        lx.tasks.isotropic(2.0, 0.3), lx.GradientDescent(0.04, momentum=0.3, steps=24), precision=precision
    )
    names = [name for name in record.extras if name.startswith(("correlation", "response"))]
    losses = {"test_loss": record.test_loss, "train_loss": record.train_loss}
    return losses | {"order_parameters": np.stack([record.extras[name] for name in names])}


def recurrent(precision):
    protocol = lx.GradientDescent(0.02, steps=30)
    record = lx.limits.LinearRNN(0.5).solve(lx.tasks.integrator(0.3), protocol, precision=precision)
    return {"test_loss": record.test_loss, "eigenvalues": record.extras["eigenvalue_real"]}


def _fixed_data(record):
    kernels = [np.ravel(kernel) for kernel in record.kernels.values()]
    return {
        "predictions": np.concatenate([record.predictions, record.test_predictions], axis=1),
        "train_loss": record.train_loss,
        **({"kernels": np.stack(kernels)} if kernels else {}),
    }


FAMILIES = {
    "MLP, sampled": sampled,
    "MLP, exact": exact,
    "finite MLP": network,
    "DeepLinear": deep_linear,
    "LinearRNN": recurrent,
    **{f"RandomFeatures, {name}": functools.partial(recursion, name) for name in EXPONENTS},
}
FIXED_DATA = {"predictions": 1e-5, "train_loss": 1e-5}
RECURSION = {"test_loss": 1e-5, "slope": 1e-4, "stability_bound": 1e-5}
TOLERANCES = {
    "MLP, sampled": FIXED_DATA | {"kernels": 1e-5},
    "MLP, exact": FIXED_DATA | {"kernels": 1e-5},
    "finite MLP": FIXED_DATA,
    "DeepLinear": {"test_loss": 1e-5, "train_loss": 1e-5, "order_parameters": 1e-5},
    "LinearRNN": {"test_loss": 3e-5, "eigenvalues": 1e-5},
    **{f"RandomFeatures, {name}": RECURSION for name in EXPONENTS},
}
ROWS = [(family, quantity, bound) for family, table in TOLERANCES.items() for quantity, bound in table.items()]


@functools.cache
def solved(family):
    single, double = FAMILIES[family]("single"), FAMILIES[family]("double")
    assert single.keys() == double.keys() == TOLERANCES[family].keys()
    return {name: (single[name], double[name]) for name in single}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "quantity", "tolerance"), ROWS)
def test_single_precision(family, quantity, tolerance):
    single, double = map(np.asarray, solved(family)[quantity])
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    scale = double if quantity.endswith("loss") else np.max(np.abs(double))
    assert np.max(np.abs((single - double) / scale)) < tolerance


def test_the_documented_table():
    text = (Path(__file__).parents[1] / "docs" / "numerics.md").read_text()
    missing = [row for row in ROWS if "| {} | {} | {:g} |".format(*row) not in text]
    assert missing == []
