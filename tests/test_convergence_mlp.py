"""Finite networks fall onto the limit of wide MLPs: predictions, test predictions, and every kernel of every layer."""

import jax
import limitax as lx
import pytest

# activation, depth, richness, rate, momentum, decay, biases, initial scale
SETTINGS = {
    "tanh depth 2": ("tanh", 2, 1.0, 0.3, 0.0, 0.0, 0.0, 1.0),
    "tanh depth 3, momentum, decay, biases": ("tanh", 3, 1.0, 0.2, 0.5, 0.3, 0.3, 1.0),
    "softplus depth 2, biases": ("softplus", 2, 0.7, 0.1, 0.0, 0.0, 0.5, 1.0),
    "identity depth 2, momentum": ("identity", 2, 1.0, 0.2, 0.5, 0.0, 0.0, 1.0),
    "tanh depth 2, initial scale": ("tanh", 2, 1.0, 0.3, 0.0, 0.0, 0.0, 0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_networks_approach_the_limit(name):
    activation, depth, richness, rate, momentum, decay, bias, scale = SETTINGS[name]
    key = jax.random.key(1)
    task = lx.tasks.sphere(key, samples=4, dim=5, test_samples=2)
    protocol = lx.GradientDescent(rate, momentum, decay, steps=10)
    limit = lx.limits.MLP(depth, activation, richness, init_scale=scale, bias_scale=bias)
    sizes = (64, 128, 256, 512)
    report = lx.compare(limit, task, protocol, sizes=sizes, seeds=48, key=key, record=("kernels",), samples=100_000)
    print(report.summary())
    kernels = {f"{kind}_{l}" for kind in ("Phi", "G") for l in range(1, depth + 1)}
    assert kernels | {"predictions", "test_predictions", "train_loss", "test_loss"} == set(report.errors)
    assert {q: a for q, a in report.agreement.items() if a > 3} == {}
    # Single runs approach like size to the -1/2, within the error that this number of seeds leaves to the slope.
    slopes = {q: (r, report.rate_error[q]) for q, r in report.rate.items()}
    assert {q: (r, e) for q, (r, e) in slopes.items() if abs(r + 0.5) > max(0.05, 3 * e)} == {}
    assert abs(slopes["predictions"][0] + 0.5) < 0.15
    # At width 256 the mean is off by about a percent: its bias of order 1/size and the noise of 48 pairs.
    assert report.errors["predictions"][2] < 0.02 + 3 * report.standard_errors["predictions"][2]
