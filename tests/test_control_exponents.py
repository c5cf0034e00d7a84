"""Long schedules: the exponents of the optimum and its lead over tuned benchmarks (arXiv 2602.04774, one-pass SGD)."""

import limitax as lx
import numpy as np
import pytest
from limitax import schedules
from scipy.optimize import curve_fit

pytestmark = pytest.mark.slow
LIMIT = lx.limits.RandomFeatures()


def optimum(b, a, steps, **options):
    task = lx.tasks.power_law(10**12, b, a, noise=1.0)
    return lx.optimise(LIMIT, task, lx.OnlineSGD(0.02, steps=steps), over="learning_rate", **options)


def slope(quantity, solved):
    (short, first), (long, second) = ((steps, quantity(best)) for steps, best in solved.items())
    return np.log(second / first) / np.log(long / short)


def rate_at(share):
    return lambda best: best.protocol.learning_rate[int(share * best.protocol.steps)]


def clock(best):
    return np.sum(best.protocol.learning_rate)


def annealed_fraction(best):
    return np.mean(best.protocol.learning_rate < rate_at(0.2)(best) / 2)


@pytest.mark.parametrize(("steps", "spread"), [(300, 0.03), (1000, 0.019), (3000, 0.0125), (10_000, 0.008)])
def test_kernel_law(steps, spread):
    best = optimum(1.5, 2.5, steps)
    assert best.stationarity <= 1e-8
    assert best.certificates["kernel_law"] < spread


def test_easy_phase():
    """For a > b: eta ~ T^-(1 - b/a) (1 - t/T)^(2b - 1) and L ~ T^-(a-1)/a."""
    b, a = 1.5, 2.5
    solved = {steps: optimum(b, a, steps) for steps in (10_000, 30_000)}
    assert abs(slope(lambda best: best.value, solved) + (a - 1) / a) < 0.03
    assert abs(slope(rate_at(0.1), solved) + (1 - b / a)) < 0.03
    assert abs(slope(clock, solved) - b / a) < 0.03
    powers = []
    for steps, best in solved.items():
        left = 1 - np.arange(steps) / steps
        window = slice(steps // 5, int(0.999 * steps))
        found, _ = curve_fit(
            lambda x, level, delta, shift: level + delta * np.log(x + shift),
            left[window],
            np.log(best.protocol.learning_rate[window]),
            p0=(-4.0, 2.0, 0.1),
            bounds=([-50, 0, 0], [50, 20, 1]),
        )
        powers.append(found[1])
    assert powers[0] > powers[1] > 2 * b - 1  # from above, slowly
    assert powers[1] < 2 * b - 1 + 0.3


def test_hard_phase():
    """For a < b: a plateau of order one, a short annealing that lasts T^-(b-a)/(2b-1), and L ~ T^-(a-1)/b."""
    b, a = 3.0, 1.5
    solved = {steps: optimum(b, a, steps) for steps in (3000, 10_000)}
    assert abs(slope(lambda best: best.value, solved) + (a - 1) / b) < 0.03
    assert abs(slope(rate_at(0.2), solved)) < 0.03
    assert abs(slope(annealed_fraction, solved) + (b - a) / (2 * b - 1)) < 0.06
    best = solved[3000]
    first = best.protocol.learning_rate[0]
    assert first > 5 > best.limit.stable_rate(best.task)  # one step far beyond the edge


RATIOS = {
    (1.5, 2.5): {"constant": 1.92, "linear": 1.046, "cosine": 1.042, "annealing": 1.039, "late": 1.38},
    (3.0, 4.0): {"constant": 4.22, "linear": 1.43, "cosine": 1.20, "annealing": 1.19, "late": 2.25},
    (3.0, 1.5): {"constant": 1.56, "linear": 1.073, "cosine": 1.070, "annealing": 1.27, "late": 1.031},
}


@pytest.mark.parametrize(("b", "a"), RATIOS)
def test_lead_over_tuned_benchmarks(b, a):
    steps = 30_000
    shapes = {
        "constant": schedules.constant(1.0, steps),
        "linear": schedules.linear(1.0, steps),
        "cosine": schedules.cosine(1.0, steps),
        "annealing": schedules.annealing(1.0, steps, 2 * b - 1),
        "late": schedules.warmup_stable_decay(1.0, steps, warmup=0.0, decay=0.1),
    }
    best = optimum(b, a, steps, benchmarks=shapes)
    ratios = {name: value / best.value for name, value in best.certificates["benchmarks"].items()}
    for name, expected in RATIOS[b, a].items():
        np.testing.assert_allclose(ratios[name], expected, rtol=0.01, err_msg=name)
    # the order of the shapes is the statement: annealing wins where a > b, a late decay where a < b
    assert min(ratios, key=ratios.get) == ("annealing" if a > b else "late")
    assert max(ratios, key=ratios.get) == "constant"


@pytest.mark.parametrize(("b", "a"), RATIOS)
def test_decay_from_the_start_has_the_worse_exponent_of_a_constant_rate(b, a):
    losses = {}
    for steps in (3000, 10_000):
        shapes = {chi: schedules.power(1.0, steps, chi) for chi in (0.0, 0.2, 0.4, 0.6)}
        best = optimum(b, a, steps, benchmarks=shapes)
        tuned = best.certificates["benchmarks"]
        losses[steps] = {"optimum": best.value, "constant": tuned[0.0], "power": min(tuned.values())}
    slopes = {name: slope(lambda loss, name=name: loss[name], losses) for name in ("optimum", "constant", "power")}
    # A constant smaller than that of a constant rate, the same exponent, and the optimum's is better than both.
    assert losses[10_000]["optimum"] < losses[10_000]["power"] < losses[10_000]["constant"]
    assert abs(slopes["power"] - slopes["constant"]) < 0.03
    assert slopes["optimum"] < max(slopes["power"], slopes["constant"]) - 0.02
    assert abs(slopes["constant"] + (a - 1) / (a + b - 1)) < 0.03
