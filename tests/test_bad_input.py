"""Wrong arguments: refused before any work, in one sentence that names the argument, the value and what is allowed."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limitax import schedules, tasks
from limitax.problems import PowerLaw

from .helpers import raises, small_task

TASK = small_task()
LIMIT = lx.limits.MLP(1, "tanh")
NET = LIMIT.finite(TASK, size=2)
GD = lx.GradientDescent(0.1, steps=2)
POWER = tasks.power_law(4)
LINEAR = lx.limits.RandomFeatures().finite(POWER)
nan, inf = np.nan, np.inf
X, Y = np.ones((3, 2)), np.ones(3)


def sphere(**k):
    return tasks.sphere(**{"samples": 4, "dim": 3} | k)


def gd(rate=0.1, **k):
    return lx.GradientDescent(rate, **{"steps": 3} | k)


def online(rate=0.1, **k):
    return lx.OnlineSGD(rate, **{"steps": 3} | k)


def minibatch(rate=0.1, batch_size=2, **k):
    return lx.MinibatchSGD(rate, batch_size, **{"steps": 3} | k)


def train(net=NET, task=TASK, protocol=GD, **k):
    return lx.nets.train(net, task, protocol, **k)


def mlp(depth=2, activation="tanh", **k):
    return lx.limits.MLP(depth, activation, **k)


A_NUMBER = "must be a number; "
SCHEDULE = "must be a number or an array with one value a step; "
V, T = ValueError, TypeError

# what is called, and the error with its sentence
CASES = [
    # the five sentences of the voice, as far as they apply here
    (
        lambda: gd([0.1] * 17 + [-0.2], steps=None),
        V,
        "learning_rate must be finite and at least 0 at every step; step 17 is -0.2.",
    ),
    (lambda: sphere(samples=0), V, "sphere(samples=0): at least 1 sample is needed."),
    (
        lambda: mlp(activation="gelux"),
        V,
        'activation "gelux" is unknown; one of: erf, gelu, identity, relu, softplus, tanh, or any callable.',
    ),
    # sphere
    (lambda: sphere(samples=-3), V, "sphere(samples=-3): at least 1 sample is needed."),
    (lambda: sphere(samples=2.0), T, "samples must be a whole number; float 2.0 was given."),
    (lambda: sphere(samples=True), T, "samples must be a whole number; bool True was given."),
    (lambda: sphere(test_samples=-1), V, "sphere(test_samples=-1): the number of test samples cannot be negative."),
    (lambda: sphere(dim=1), V, "sphere(dim=1): at least 2 input dimensions are needed."),
    (lambda: sphere(dim="3"), T, "dim must be a whole number; str '3' was given."),
    (lambda: sphere(target="cubic"), V, 'target "cubic" is unknown; one of: linear, sign, gegenbauer.'),
    (lambda: sphere(target=3), V, "target 3 is unknown; one of: linear, sign, gegenbauer."),
    (lambda: sphere(degree=3), V, 'degree goes with target="gegenbauer"; target is "linear" and degree is 3.'),
    (
        lambda: sphere(target="gegenbauer"),
        V,
        'degree goes with target="gegenbauer"; target is "gegenbauer" and degree is None.',
    ),
    (lambda: sphere(target="gegenbauer", degree=0), V, "degree must be at least 1; it is 0."),
    (lambda: sphere(target="gegenbauer", degree=1.5), T, "degree must be a whole number; float 1.5 was given."),
    (lambda: sphere(key=3), T, "key must be a random key such as jax.random.key(0); int 3 was given."),
    (
        lambda: sphere(key=jax.random.split(jax.random.key(0))),
        V,
        "key must be a single random key; an array of keys of shape (2,)",
    ),
    # digits
    (lambda: tasks.digits(samples=0), V, "digits(samples=0): at least 1 sample is needed."),
    (lambda: tasks.digits(samples="ten"), T, "samples must be a whole number; str 'ten' was given."),
    (
        lambda: tasks.digits(test_samples=-1),
        V,
        "digits(test_samples=-1): the number of test samples cannot be negative.",
    ),
    (
        lambda: tasks.digits(samples=300, test_samples=61),
        V,
        "digits(samples=300, test_samples=61): there are 360 images of the classes 0, 1.",
    ),
    (lambda: tasks.digits(classes=(3,)), V, "classes must be at least two different digits; (3,) was given."),
    (lambda: tasks.digits(classes=(3, 3)), V, "classes must be at least two different digits; (3, 3) was given."),
    (lambda: tasks.digits(classes=(3, 10)), V, "classes must be between 0 and 9; it is 10."),
    (lambda: tasks.digits(classes=3), T, "classes must be None or a tuple of digits from 0 to 9; 3 was given."),
    (lambda: tasks.digits(classes="01"), T, "classes must be None or a tuple of digits from 0 to 9; '01' was given."),
    (lambda: tasks.digits(key="seed"), T, "key must be a random key such as jax.random.key(0); str 'seed' was given."),
    # from_arrays
    (lambda: tasks.from_arrays(Y, Y), V, "x must have 2 axes; an array of shape (3,) was given."),
    (lambda: tasks.from_arrays(X, 1.0), V, "y must have 1 or 2 axes; an array of shape () was given."),
    (lambda: tasks.from_arrays(X, Y[:2]), V, "x and y must have the same number of samples; they have 3 and 2."),
    (
        lambda: tasks.from_arrays(np.ones((0, 2)), np.ones(0)),
        V,
        "x must not be empty; an array of shape (0, 2) was given.",
    ),
    (lambda: tasks.from_arrays([[1.0, nan]], [1.0]), V, "x must be finite at every entry; entry (0, 1) is nan."),
    (lambda: tasks.from_arrays(X, [1, 2, inf]), V, "y must be finite at every entry; entry 2 is inf."),
    (lambda: tasks.from_arrays("x", Y), T, "x must be an array of numbers; str 'x' was given."),
    (lambda: tasks.from_arrays([[1], [1, 2]], Y), T, "x must be an array of numbers; list [[1], [1, 2]] was given."),
    (lambda: tasks.from_arrays(None, Y), T, "x must be an array of numbers; NoneType None was given."),
    (lambda: tasks.from_arrays(X * 1j, Y), T, "x must be an array of numbers; ndarray "),
    (lambda: tasks.from_arrays(X, Y, y_test=Y), V, "y_test was given without x_test; give both or neither."),
    (
        lambda: tasks.from_arrays(X, Y, X[:, :1]),
        V,
        "x_test must have the 2 input dimensions of x; its shape is (3, 1).",
    ),
    (
        lambda: tasks.from_arrays(X, Y, X, Y[:1]),
        V,
        "x_test and y_test must have the same number of samples; they have 3 and 1.",
    ),
    (lambda: tasks.from_arrays(X, Y, X, X), V, "y_test must have 1 axes; an array of shape (3, 2) was given."),
    (
        lambda: tasks.from_arrays(X, X, X, X[:, :1]),
        V,
        "y_test must have the outputs of y; the shapes are (3, 1) and (3, 2).",
    ),
    # distributions
    (lambda: tasks.power_law(0), V, "modes must be at least 1; it is 0."),
    (lambda: tasks.power_law(1e12), T, "modes must be a whole number; float 1000000000000.0 was given."),
    (
        lambda: tasks.power_law(capacity=1.0),
        V,
        "capacity must be above 1 with infinitely many modes, or the sum over them diverges;",
    ),
    (lambda: tasks.power_law(decay=0.5), V, "decay must be above 1 with infinitely many modes"),
    (lambda: tasks.power_law(5, capacity=0), V, "capacity must be finite and above 0; it is 0."),
    (lambda: tasks.power_law(5, decay=-1), V, "decay must be finite and above 0; it is -1."),
    (lambda: tasks.power_law(5, decay=[2, 3]), V, "decay must be a single number; an array of shape (2,) was given."),
    (lambda: tasks.power_law(5, noise=-0.1), V, "noise must be finite and at least 0; it is -0.1."),
    (lambda: tasks.power_law(5, noise=nan), V, "noise must be finite and at least 0; it is nan."),
    (lambda: tasks.power_law(5, noise="loud"), T, f"noise {A_NUMBER}str 'loud' was given."),
    (lambda: tasks.power_law(5, noise=None), T, f"noise {A_NUMBER}NoneType None was given."),
    (lambda: tasks.power_law(5, noise=True), T, f"noise {A_NUMBER}bool True was given."),
    (lambda: tasks.power_law(5, samples=0.5), V, "samples must be a number and at least 1; it is 0.5."),
    (lambda: tasks.power_law().draw(2), V, "power_law(modes=None) cannot be drawn"),
    (lambda: POWER.draw(0), V, "size must be at least 1; it is 0."),
    (lambda: POWER.draw(1.5), T, "size must be a whole number; float 1.5 was given."),
    (
        lambda: tasks.gaussian([1, -1], [1, 1]),
        V,
        "eigenvalues must be finite and at least 0 at every entry; entry 1 is -1.",
    ),
    (lambda: tasks.gaussian([1, 1], [1]), V, "teacher must have one entry an eigenvalue; there are 1 and 2."),
    (lambda: tasks.gaussian([], []), V, "eigenvalues must not be empty; an array of shape (0,) was given."),
    (lambda: tasks.gaussian([1.0], [nan]), V, "teacher must be finite at every entry; entry 0 is nan."),
    (
        lambda: tasks.gaussian([1], [1], samples=2, sample_ratio=1),
        V,
        "samples and sample_ratio were both given; give one of them.",
    ),
    (lambda: tasks.gaussian([1], [1], sample_ratio=0), V, "sample_ratio must be a number and above 0; it is 0."),
    (lambda: tasks.isotropic(0.0), V, "sample_ratio must be a number and above 0; it is 0."),
    (lambda: tasks.isotropic(nan), V, "sample_ratio must be a number and above 0; it is nan."),
    (lambda: tasks.isotropic("all"), T, f"sample_ratio {A_NUMBER}str 'all' was given."),
    (lambda: tasks.isotropic(noise=inf), V, "noise must be finite and at least 0; it is inf."),
    (lambda: tasks.isotropic().draw(0), V, "size must be at least 1; it is 0."),
    # protocols
    (lambda: gd(-0.1), V, "learning_rate must be finite and at least 0; it is -0.1."),
    (lambda: gd(nan), V, "learning_rate must be finite and at least 0; it is nan."),
    (lambda: gd(inf), V, "learning_rate must be finite and at least 0; it is inf."),
    (lambda: gd("fast"), T, f"learning_rate {SCHEDULE}str 'fast' was given."),
    (lambda: gd(None), T, f"learning_rate {SCHEDULE}NoneType None was given."),
    (lambda: gd(momentum=None), T, f"momentum {SCHEDULE}NoneType None was given."),
    (lambda: gd([True, False], steps=None), T, f"learning_rate {SCHEDULE}list [True, False] was given."),
    (lambda: gd(jnp.array([True])), T, f"learning_rate {SCHEDULE}ArrayImpl "),
    (lambda: gd(momentum=1.0), V, "momentum must be finite, at least 0 and below 1; it is 1."),
    (
        lambda: gd(momentum=[0, 0.5, -0.1]),
        V,
        "momentum must be finite, at least 0 and below 1 at every step; step 2 is -0.1.",
    ),
    (lambda: gd(weight_decay=-1), V, "weight_decay must be finite and at least 0; it is -1."),
    (lambda: gd(steps=0), V, "steps must be at least 1; it is 0."),
    (lambda: gd(steps=2.5), T, "steps must be a whole number; float 2.5 was given."),
    (
        lambda: gd(steps=None),
        V,
        "steps is needed when no schedule is an array; give steps=... or learning_rate as an array.",
    ),
    (lambda: gd([]), V, "learning_rate has no entries: at least 1 step is needed."),
    (lambda: gd([[0.1]]), V, "learning_rate must be a number or have one axis, the steps; its shape is (1, 1)."),
    (lambda: gd([0.1, 0.2]), V, "learning_rate must have one value a step; it has 2 and steps is 3."),
    (
        lambda: gd([0.1, 0.2], momentum=[0.1] * 3, steps=None),
        V,
        "momentum must have one value a step; it has 3 and learning_rate has 2.",
    ),
    (lambda: online(batch_size=0), V, "batch_size must be finite and at least 1; it is 0."),
    (
        lambda: online(batch_size=[1, 2, nan]),
        V,
        "batch_size must be finite and at least 1 at every step; step 2 is nan.",
    ),
    (lambda: online(batch_ratio=0), V, "batch_ratio must be finite and above 0; it is 0."),
    (lambda: online(batch_size=1, batch_ratio=1), V, "batch_size and batch_ratio were both given; give one of them."),
    (lambda: online(extra_gradient=-1), V, "extra_gradient must be finite and at least 0; it is -1."),
    (lambda: online(momentum=1.5), V, "momentum must be finite, at least 0 and below 1; it is 1.5."),
    (lambda: minibatch(batch_size=0.5), V, "batch_size must be finite and at least 1; it is 0.5."),
    (lambda: minibatch(batch_size=None), T, f"batch_size {SCHEDULE}NoneType None was given."),
    (lambda: minibatch(replace=1), T, "replace must be True or False; int 1 was given."),
    (lambda: lx.GradientFlow([0.0, 1.0, 1.0]), V, "times must increase; entry 2 is 1 after 1."),
    (lambda: lx.GradientFlow([-1.0, 1.0]), V, "times must be finite and at least 0 at every entry; entry 0 is -1."),
    (lambda: lx.GradientFlow([]), V, "times must not be empty; an array of shape (0,) was given."),
    (lambda: lx.GradientFlow(3.0), V, "times must have 1 axes; an array of shape () was given."),
    # schedules
    (lambda: schedules.constant("a", 3), T, f"value {A_NUMBER}str 'a' was given."),
    (lambda: schedules.constant(0.1, 0), V, "steps must be at least 1; it is 0."),
    (lambda: schedules.power(nan, 3, 1), V, "peak must be finite; it is nan."),
    (lambda: schedules.power([0.1, 0.2], 3, 1), V, "peak must be a single number; an array of shape (2,) was given."),
    (lambda: schedules.annealing(0.1, 3, None), T, f"exponent {A_NUMBER}NoneType None was given."),
    (lambda: schedules.linear(0.1, 3, final=inf), V, "final must be finite; it is inf."),
    (lambda: schedules.cosine(0.1, 3.0), T, "steps must be a whole number; float 3.0 was given."),
    (
        lambda: schedules.warmup_stable_decay(0.1, 3, warmup=-1),
        V,
        "warmup must be finite, at least 0 and at most 1; it is -1.",
    ),
    (
        lambda: schedules.warmup_stable_decay(0.1, 3, 0.7, 0.6),
        V,
        "warmup and decay must add up to at most 1; they are 0.7 and 0.6.",
    ),
    (lambda: schedules.knots([], 3), V, "values must not be empty; an array of shape (0,) was given."),
    (
        lambda: schedules.knots([0.1, 0.0], 3, log=True),
        V,
        "values must be finite and above 0 at every entry; entry 1 is 0.",
    ),
    (lambda: schedules.resample(0.1, 3), V, "schedule must have 1 axes; an array of shape () was given."),
    (lambda: schedules.resample([0.1], 0), V, "steps must be at least 1; it is 0."),
    (lambda: schedules.from_optax(0.1, 3), T, "schedule must be a function of the step; float 0.1 was given."),
    (
        lambda: schedules.to_optax("sgd"),
        T,
        "protocol must be GradientDescent, OnlineSGD or MinibatchSGD; str 'sgd' was given.",
    ),
    (
        lambda: schedules.to_optax(lx.GradientFlow([1.0])),
        T,
        "protocol must be GradientDescent, OnlineSGD or MinibatchSGD; GradientFlow",
    ),
    (lambda: schedules.to_optax(GD, 3), T, "net must be a network of limitax.nets or None; int 3 was given."),
    # the MLP and its limit
    (lambda: mlp(0), V, "depth must be at least 1; it is 0."),
    (lambda: mlp(2.0), T, "depth must be a whole number; float 2.0 was given."),
    (lambda: mlp(activation=3), V, "activation 3 is unknown; one of: erf, gelu"),
    (lambda: mlp(richness=-1), V, "richness must be finite and at least 0; it is -1."),
    (lambda: mlp(richness=[1, 2]), V, "richness must be a single number; an array of shape (2,) was given."),
    (
        lambda: mlp(init_scale=[1, 1]),
        V,
        "init_scale must be a number or have depth + 1 = 3 entries, the readout's last; it has 2.",
    ),
    (lambda: mlp(init_scale=[1, -1, 1]), V, "init_scale must be finite and at least 0 at every layer; layer 1 is -1."),
    (lambda: mlp(bias_scale=nan), V, "bias_scale must be finite and at least 0; it is nan."),
    (lambda: LIMIT.finite(TASK, size=0), V, "size must be at least 1; it is 0."),
    (lambda: LIMIT.finite(TASK, size=2.5), T, "size must be a whole number; float 2.5 was given."),
    (
        lambda: LIMIT.finite(TASK, size=2, key=1),
        T,
        "key must be a random key such as jax.random.key(0); int 1 was given.",
    ),
    (lambda: LIMIT.ensemble(TASK, size=2, seeds=0), V, "seeds must be at least 1; it is 0."),
    (lambda: LIMIT.ensemble(TASK, size=-2, seeds=1), V, "size must be at least 1; it is -2."),
    (lambda: mlp(richness=0.0).finite(TASK, size=2), V, "richness must be above 0 for a finite network"),
    (lambda: lx.nets.MLP.init(LIMIT, 0, 2), V, "dim must be at least 1; it is 0."),
    (lambda: LIMIT.solve(3, GD), T, "task must be "),
    (lambda: LIMIT.solve(POWER, GD), T, "task must be "),
    (lambda: LIMIT.solve(TASK, 0.1), T, "protocol must be GradientDescent"),
    (lambda: LIMIT.solve(TASK, GD, samples=1), V, "samples must be at least 2; it is 1."),
    (lambda: LIMIT.solve(TASK, GD, replicas=0), V, "replicas must be at least 1; it is 0."),
    (lambda: LIMIT.solve(TASK, GD, precision="half"), V, 'precision "half" is unknown; one of: None, double, single.'),
    (lambda: LIMIT.solve(TASK, GD, keep="some"), V, 'keep "some" is unknown; one of: all, diagonal, None.'),
    (lambda: LIMIT.solve(TASK, GD, key=1), T, "key must be a random key such as jax.random.key(0); int 1 was given."),
    (lambda: LIMIT.solve(TASK, GD, throw=0), T, "throw must be True or False; int 0 was given."),
    (lambda: lx.limits.of(3), T, "net must be a network made by a limit; int has no limit as its design."),
    (lambda: NET(np.ones(3)), V, "x must have shape [5], one input (jax.vmap takes many); its shape is (3,)."),
    (lambda: NET(TASK.x), V, "x must have shape [5], one input (jax.vmap takes many); its shape is (4, 5)."),
    # training
    (lambda: train("net"), T, "net must be a network or an ensemble of networks; str 'net' was given."),
    (lambda: train(task=X), T, "task must be a fixed data set (sphere, digits, from_arrays) for a nets.MLP; ndarray "),
    (lambda: train(task=tasks.from_arrays(X, Y)), V, "task must have the network's 5 input dimensions; it has 2."),
    (
        lambda: train(task=tasks.from_arrays(X, X)),
        V,
        "y must have shape [samples] for a network with one output; its shape is (3, 2).",
    ),
    (
        lambda: train(protocol=0.1),
        T,
        "protocol must be GradientDescent, MinibatchSGD or an optax.GradientTransformation; float was given.",
    ),
    (
        lambda: train(protocol=online()),
        T,
        "protocol OnlineSGD draws fresh samples, which a fixed data set cannot give; use MinibatchSGD.",
    ),
    (lambda: train(protocol=lx.GradientFlow([1.0])), T, "protocol must be GradientDescent, MinibatchSGD or an optax"),
    (lambda: train(protocol=optax.adam(0.1)), V, "steps is needed with an optax optimiser."),
    (lambda: train(protocol=optax.adam(0.1), steps=0), V, "steps must be at least 1; it is 0."),
    (lambda: train(steps=3), V, "steps goes with an optax optimiser; the protocol's schedules have their own number."),
    (
        lambda: train(protocol=minibatch(batch_size=1.5)),
        V,
        "batch_size must be whole to train a finite network; step 0 is 1.5.",
    ),
    (
        lambda: train(protocol=minibatch(batch_size=5, replace=False)),
        V,
        "batch_size must be at most the 4 samples without replacement; it is 5.",
    ),
    (lambda: train(key="a"), T, "key must be a random key such as jax.random.key(0); str 'a' was given."),
    (lambda: train(kernels="all"), T, "kernels must be True or False; str 'all' was given."),
    (lambda: train(throw=None), T, "throw must be True or False; NoneType None was given."),
    (lambda: train(return_net=1), T, "return_net must be True or False; int 1 was given."),
    (
        lambda: train(task=POWER),
        T,
        "task must be a fixed data set (sphere, digits, from_arrays) for a nets.MLP; PowerLaw ",
    ),
    (
        lambda: train(task=POWER, protocol=online()),
        T,
        "task must be a fixed data set (sphere, digits, from_arrays) for a nets.MLP; PowerLaw ",
    ),
    (lambda: train(LINEAR, POWER, online(), steps=3), V, "steps goes with an optax optimiser"),
    (lambda: train(LINEAR, tasks.power_law(5), online()), V, "task must have the network's 4 modes; it has 5."),
    (
        lambda: train(LINEAR, POWER, online(batch_size=1.5)),
        V,
        "batch_size must be whole to train a finite network; step 0 is 1.5.",
    ),
    (
        lambda: train(LINEAR, TASK),
        T,
        "task must be power_law or gaussian for RandomFeatures; Dataset ",
    ),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_sentence(number):
    call, kind, sentence = CASES[number]
    with raises(kind, sentence) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_divergence_is_told_in_the_same_voice():
    with pytest.raises(lx.DivergedError, match=r"^training left the stable region at step \d+ \(loss \S+\)"):
        lx.nets.train(lx.limits.MLP(1, "identity").finite(TASK, size=2), TASK, lx.GradientDescent(1e6, steps=9))


def test_memory_is_refused_before_it_is_taken():
    with raises(MemoryError, "MLP.solve would need about "):
        LIMIT.solve(TASK, lx.GradientDescent(0.1, steps=100_000))


NOT_NUMBERS = st.one_of(
    st.text(max_size=5),
    st.booleans(),
    st.binary(max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.complex_numbers(),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
    st.builds(object),
)
FEW = settings(max_examples=25, deadline=None)
SLOTS = {
    "learning_rate": (lambda v: lx.GradientDescent(v, steps=3), 0.0, inf),
    "momentum": (lambda v: lx.GradientDescent(0.1, v, steps=3), 0.0, 1.0),
    "weight_decay": (lambda v: lx.MinibatchSGD(0.1, 2, 0.0, v, steps=3), 0.0, inf),
    "extra_gradient": (lambda v: lx.OnlineSGD(0.1, 0.0, v, steps=3), 0.0, inf),
    "noise": (lambda v: tasks.isotropic(1.0, v), 0.0, inf),
    "richness": (lambda v: lx.limits.MLP(1, "tanh", v), 0.0, inf),
}


@pytest.mark.parametrize("name", SLOTS)
@FEW
@given(value=NOT_NUMBERS)
def test_whatever_is_no_number_is_named(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be a number.*; .* was given\\.$"):
        SLOTS[name][0](value)


@pytest.mark.parametrize("name", SLOTS)
@FEW
@given(value=st.one_of(st.floats(), st.integers(-3, 3)))
def test_a_number_is_kept_or_refused(name, value):
    make, low, below = SLOTS[name]
    if low <= value < below:
        kept = getattr(make(value), name)
        np.testing.assert_array_equal(kept, np.full(np.shape(kept), value, float))
    else:
        with pytest.raises(ValueError, match=f"^{name} must be finite.* at least 0.*; it is .*\\.$"):
            make(value)


@FEW
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_the_first_bad_step_of_a_schedule_is_named(values):
    bad = [t for t, v in enumerate(values) if not (np.isfinite(v) and v >= 0)]
    if not bad:
        np.testing.assert_array_equal(lx.GradientDescent(values).learning_rate, values)
    else:
        with raises(ValueError, f"at every step; step {bad[0]} is {values[bad[0]]:g}."):
            lx.GradientDescent(values)


@FEW
@given(capacity=st.floats(1.01, 4), decay=st.floats(1.01, 4), size=st.integers(1, 4))
def test_replication_conserves_signal_for_any_exponents(capacity, decay, size):
    task = PowerLaw(7, capacity, decay)
    signal = [np.sum(p.eigenvalues * p.teacher**2) for p in (task.draw(1), task.draw(size))]
    np.testing.assert_allclose(signal[1], signal[0], rtol=1e-12)


@FEW
@given(values=st.lists(st.floats(0.01, 10), min_size=1, max_size=9), log=st.booleans(), steps=st.integers(1, 30))
def test_knots_stay_within_their_values(values, log, steps):
    curve = schedules.knots(values, steps, log=log)
    assert curve.shape == (steps,)
    assert np.all(curve >= min(values) * (1 - 1e-12))
    assert np.all(curve <= max(values) * (1 + 1e-12))
