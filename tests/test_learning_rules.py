"""Wide perceptrons that learn otherwise: other rules, several outputs, other losses, layer rates, batches, ReLU.

Networks approach the limit in all of them; what each is made of has closed forms where it is linear.
"""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from limitax.limits import MLP

from .helpers import raises

KEY = jax.random.key(1)
TASK = lx.tasks.sphere(KEY, samples=3, dim=5, test_samples=2)


def descent(rate=0.15, steps=8, **more):
    return lx.GradientDescent(rate, steps=steps, **more)


def two_outputs():
    pair = lambda y: np.stack([y, y**2 - 1], axis=1)  # noqa: E731
    return lx.tasks.from_arrays(TASK.x, pair(TASK.y), TASK.x_test, pair(TASK.y_test))


def three_digits():
    return lx.tasks.digits(KEY, samples=6, test_samples=4, classes=(0, 1, 2))


RULES = {
    "feedback alignment, independent": (MLP(2, "tanh", 2.0, rule=lx.rules.FeedbackAlignment(0.0)), TASK, descent()),
    "feedback alignment, correlated, with everything": (
        MLP(2, "tanh", 2.0, [1.0, 0.8, 1.2], 0.3, rule=lx.rules.FeedbackAlignment(0.6)),
        TASK,
        descent(momentum=0.5, weight_decay=0.3),
    ),
    "direct feedback alignment": (MLP(2, "tanh", 2.0, rule=lx.rules.DirectFeedbackAlignment()), TASK, descent()),
    "Hebb": (MLP(2, "tanh", 2.0, rule=lx.rules.Hebb()), TASK, descent()),
    "gated linear": (MLP(2, "tanh", 2.0, rule=lx.rules.GatedLinear()), TASK, descent()),
    "two outputs": (MLP(2, "tanh", 1.5), two_outputs(), descent(0.3)),
    "two outputs, feedback alignment": (
        MLP(2, "tanh", 1.5, rule=lx.rules.FeedbackAlignment(0.5)),
        two_outputs(),
        descent(0.3),
    ),
    "cross-entropy of three digits": (MLP(2, "tanh", 1.5, loss="cross_entropy"), three_digits(), descent(1.0)),
    "ReLU, momentum and decay": (MLP(2, "relu", 1.0), TASK, descent(0.3, momentum=0.7, weight_decay=0.2)),
    "layer rates": (
        MLP(2, "tanh", bias_scale=0.3, rate_scale=[0.5, 2.0, 1.0]),
        TASK,
        descent(0.3, weight_decay=0.2),
    ),
    "one sequence of batches": (
        MLP(2, "tanh"),
        TASK,
        lx.MinibatchSGD(0.3, 2, momentum=0.3, seed=3, steps=8),
    ),
    "mean over batches": (MLP(1, "identity"), TASK, lx.MinibatchSGD(0.2, 1, steps=6)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_networks_approach_the_limit(name):
    limit, task, protocol = RULES[name]
    options = {"replicas": 64} if name == "mean over batches" else {"samples": 40_000}
    record = ("kernels", "ntk", "alignment")
    report = lx.compare(limit, task, protocol, sizes=(64, 128, 256), seeds=32, key=KEY, record=record, **options)
    print(report.summary())
    expected = {"predictions", "test_predictions", "train_loss", "Phi_1", "G_1", "ntk", "alignment"}
    assert expected <= set(report.errors)
    assert {q: a for q, a in report.agreement.items() if a > 3} == {}
    if name != "mean over batches":
        slope, error = report.rate["predictions"], report.rate_error["predictions"]
        assert abs(slope + 0.5) < max(0.1, 3 * error)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "target", "richness", "rate"), [(2, "linear", 1.0, 0.3), (3, "sign", 1.5, 0.2)])
def test_without_responses_the_theory_fails_visibly(depth, target, richness, rate):
    """As if a weight and its transpose were independent: predictions are off by 20 to 30 %, networks by their noise."""
    task = lx.tasks.sphere(jax.random.key(0), samples=4, dim=5 if depth == 2 else 6, target=target)
    protocol, limit = lx.GradientDescent(rate, steps=10 if depth == 2 else 16), MLP(depth, "tanh", richness)
    report = lx.compare(limit, task, protocol, sizes=(128, 256), seeds=24, key=KEY, samples=40_000)
    assert report.agreement["predictions"] <= 3
    other = limit.solve(task, protocol, approximation="gradient_independence", samples=40_000)
    distance = np.linalg.norm(other.predictions - report.theory.predictions) / np.linalg.norm(report.theory.predictions)
    assert 0.2 < distance < 0.35
    assert report.errors["predictions"][1] + 3 * report.standard_errors["predictions"][1] < distance / 2


@pytest.mark.slow
def test_without_hidden_weights_gradients_are_independent_anyway():
    options = {"samples": 200, "replicas": 1, "key": KEY}
    limit, protocol = MLP(1, "tanh", 2.0), descent(steps=4)
    exact = limit.solve(TASK, protocol, **options)
    same = limit.solve(TASK, protocol, approximation="gradient_independence", **options)
    np.testing.assert_array_equal(exact.predictions, same.predictions)


@pytest.mark.slow
def test_leading_order_of_linear_networks():
    r"""$H^l(\infty) = 1 + \gamma^2y^2 l(l+1)/2(L+1)$ and $K(\infty) = L+1+\gamma^2y^2L(L+2)/3$ on one sample, at small
    steps; and the theory leaves it by the fourth power of the richness."""
    task = lx.tasks.from_arrays(np.ones((1, 1)), np.array([1.0]))
    depth, richness = 2, 0.6
    deviation = []
    for rate in (0.04, 0.02):
        protocol = lx.GradientDescent(rate, steps=int(6 / rate))
        leading = MLP(depth, "identity", richness).solve(task, protocol, approximation="leading_order", keep="diagonal")
        kernels = [leading.kernels["Phi", l][-1, 0, 0] for l in (1, 2)]
        expected = [1 + richness**2 * l * (l + 1) / (2 * (depth + 1)) for l in (1, 2)]
        ntk = leading.extras["ntk"][-1, 0, 0]
        moved = np.array([*kernels, ntk]) - [1, 1, 3]
        truth = np.array([*expected, depth + 1 + richness**2 * depth * (depth + 2) / 3]) - [1, 1, 3]
        deviation.append(moved / truth - 1)
    np.testing.assert_allclose(2 * deviation[1] - deviation[0], 0, atol=2e-3)
    protocol = lx.GradientDescent(0.1, steps=20)
    gaps = []
    for richness in (0.2, 0.4):
        limit = MLP(depth, "identity", richness)
        leading = limit.solve(task, protocol, approximation="leading_order").predictions
        gaps.append(np.linalg.norm(leading - limit.solve(task, protocol).predictions))
    assert abs(np.log2(gaps[1] / gaps[0]) - 4) < 0.3


WHITE = lx.tasks.from_arrays(np.sqrt(2) * np.eye(2), np.array([1.0, -0.6]))
TWO_LINEAR_LAYERS = {
    "backpropagation": None,
    "feedback alignment, independent": lx.rules.FeedbackAlignment(0.0),
    "feedback alignment, correlated": lx.rules.FeedbackAlignment(0.6),
    "direct feedback alignment": lx.rules.DirectFeedbackAlignment(),
    "Hebb": lx.rules.Hebb(),
}


def closed_flow(name, richness, y, times):
    r"""Outputs, the diagonal of $\Phi$ and the last tangent kernel, by the flow of two linear layers on orthogonal
    inputs with unit kernel; time goes by the sum over samples.

    But for Hebb only the direction of the targets moves, in which, with $H$ the kernel along it,

    - backpropagation: $H = G = \sqrt{1 + \gamma^2f^2}$;
    - feedback alignment, of which $\rho = 0$ is direct: $\gamma f = (1 + \rho)a + a^3/2$, $\dot a = \gamma(|y| - f)$,
      $H = 1 + a^2$, $\langle g\tilde g\rangle = \rho + a^2/2$.

    Hebb moves every sample: $\dot f = [H + \gamma\Delta f]\Delta$, $\dot H = 2\gamma\Delta^2H$.
    """
    from scipy.integrate import solve_ivp

    size, along = np.linalg.norm(y), np.outer(y, y) / (y @ y)

    def flow(rate, start):
        return solve_ivp(lambda _, state: rate(state), (0, times[-1]), start, t_eval=times, rtol=1e-10, atol=1e-12).y

    def hebbian(state):
        f, H = np.split(state, 2)
        return np.concatenate([(H + richness * (y - f) * f) * (y - f), 2 * richness * (y - f) ** 2 * H])

    if name == "Hebb":
        f, H = np.split(flow(hebbian, np.array([0.0, 0, 1, 1])), 2)
        return f.T, H.T, None
    if name == "backpropagation":
        f = flow(lambda f: 2 * np.sqrt(1 + richness**2 * f**2) * (size - f), [0.0])[0]
        H = G = np.sqrt(1 + richness**2 * f**2)
    else:
        rho = {"feedback alignment, correlated": 0.6}.get(name, 0.0)
        output = lambda a: ((1 + rho) * a + a**3 / 2) / richness  # noqa: E731
        a = flow(lambda a: richness * (size - output(a)), [0.0])[0]
        f, H, G = output(a), 1 + a**2, rho + a**2 / 2
    Phi = np.eye(2) + (H[-1] - 1) * along
    return np.outer(f, y / size), 1 + np.outer(H - 1, np.diag(along)), Phi + G[-1] * np.eye(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_LINEAR_LAYERS)
def test_two_linear_layers_flow_to_their_fixed_points(name):
    richness, time = 1.5, 12.0
    limit, found = MLP(1, "identity", richness, rule=TWO_LINEAR_LAYERS[name]), []
    for rate in (0.04, 0.02):
        theory = limit.solve(WHITE, lx.GradientDescent(2 * rate, steps=round(time / rate)), keep="diagonal")
        every = round(0.04 / rate)
        diagonal = np.einsum("tmm->tm", theory.kernels["Phi", 1])
        found.append((theory.predictions[::every], diagonal[::every], theory.extras["ntk"][-1]))
    # without the error of order of the step
    f, diagonal, kernel = (2 * fine - coarse for coarse, fine in zip(*found, strict=True))
    expected = closed_flow(name, richness, WHITE.y, np.linspace(0, time, len(f)))
    np.testing.assert_allclose(f, expected[0], atol=1e-3)
    np.testing.assert_allclose(f[-1], WHITE.y, atol=1e-3)
    np.testing.assert_allclose(diagonal, expected[1], rtol=1e-3)
    if name == "backpropagation":
        y = WHITE.y
        np.testing.assert_allclose(y @ kernel @ y / (y @ y), 2 * np.sqrt(1 + richness**2 * y @ y), rtol=1e-3)
    if name != "Hebb":
        np.testing.assert_allclose(kernel, expected[2], atol=1e-3)
    else:
        assert np.max(np.abs(kernel - np.diag(np.diag(kernel)))) < 1e-9  # and so does not turn to the targets


@pytest.mark.slow
def test_frozen_copies_of_the_weights_share_the_first_two_predictions():
    """At correlation 1 feedback alignment is backpropagation until the weights have moved."""
    options = {"samples": 200, "replicas": 1, "key": KEY}
    protocol = descent(0.3, steps=3)
    copied = MLP(2, "tanh", 2.0, rule=lx.rules.FeedbackAlignment(1.0)).solve(TASK, protocol, **options)
    gradient = MLP(2, "tanh", 2.0).solve(TASK, protocol, **options)
    np.testing.assert_allclose(copied.predictions[:2], gradient.predictions[:2], atol=1e-6)
    assert np.max(np.abs(copied.predictions[2] - gradient.predictions[2])) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("gated", "richness"), [(False, 1.0), (True, 0.0)])
def test_batches_of_test_points_change_nothing(gated, richness):
    rule = lx.rules.GatedLinear() if gated else None
    task = lx.tasks.sphere(KEY, samples=3, dim=5, test_samples=7)
    options = {"samples": 200, "replicas": 1, "key": KEY}
    limit = MLP(2, "tanh", richness, bias_scale=0.2, rule=rule)
    whole = limit.solve(task, descent(steps=4), **options)
    parts = limit.solve(task, descent(steps=4), test_batch=3, **options)
    np.testing.assert_allclose(whole.predictions, parts.predictions, atol=1e-6)
    np.testing.assert_allclose(whole.test_predictions, parts.test_predictions, atol=1e-6)


def test_the_derivative_of_relu_is_refused():
    def loss(richness):
        limit = MLP(1, "relu", richness)
        return lx.final_loss(limit, TASK, descent(steps=2), samples=40, replicas=1)

    assert np.isfinite(loss(1.0))
    with raises(TypeError, 'the limit of activation "relu" cannot be differentiated'):
        jax.grad(loss)(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["feedback alignment", "direct feedback alignment", "Hebb", "gated linear", "two outputs", "cross-entropy"]
)
def test_gradients_of_every_rule(name):
    """Of a loss and the alignment of the tangent kernel with the targets, with respect to richness, initial scales,
    rates of layers, schedule and correlation, against central differences with fixed keys."""
    rules = {
        "feedback alignment": lambda rho: lx.rules.FeedbackAlignment(rho),
        "direct feedback alignment": lambda rho: lx.rules.DirectFeedbackAlignment(),
        "Hebb": lambda rho: lx.rules.Hebb(),
        "gated linear": lambda rho: lx.rules.GatedLinear(),
    }
    task = {"two outputs": two_outputs, "cross-entropy": three_digits}.get(name, lambda: TASK)()
    more = {"loss": "cross_entropy"} if name == "cross-entropy" else {}

    def value(values):
        richness, scales, rates, schedule, rho = values
        rule = rules[name](rho) if name in rules else None
        limit = MLP(2, "tanh", richness, scales, rule=rule, rate_scale=rates, **more)
        options = {"samples": 200, "replicas": 1, "tolerance": 1e-2, "keep": "diagonal"}
        theory = limit.solve(task, lx.GradientDescent(schedule), **options)
        return theory.test_loss[-1] + theory.extras["alignment"][-1]

    with jax.enable_x64(True):
        values = (1.3, np.array([0.9, 1.1, 1.2]), np.array([0.8, 1.2, 1.0]), np.full(6, 0.2), 0.5)
        direction = (0.7, np.array([0.4, -0.3, 0.6]), np.array([0.3, -0.5, 0.4]), np.linspace(-0.1, 0.2, 6), 0.3)
        values, direction = jax.tree.map(jnp.asarray, (values, direction))
        gradient = jax.jit(jax.grad(value))(values)
        shifted = lambda step: jax.tree.map(lambda v, d: v + step * d, values, direction)  # noqa: E731
        step, run = 1e-4, jax.jit(value)
        difference = (run(shifted(step)) - run(shifted(-step))) / (2 * step)
        along = sum(jnp.sum(g * d) for g, d in zip(gradient, direction, strict=True))
        np.testing.assert_allclose(along, difference, rtol=1e-5)
