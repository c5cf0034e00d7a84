"""To practice: schedules as files that any script reads, and perceptrons as flax modules that train alike."""

import functools
import itertools
import json
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .helpers import raises, same, small_task

ROOT = Path(__file__).parents[1]
TASK = small_task()
WIDTH = 8
LIMIT = lx.limits.MLP(2, "tanh", richness=1.6, init_scale=[0.8, 1.1, 0.9], bias_scale=0.4, rate_scale=[0.5, 1.0, 2.0])
PLAIN = lx.limits.MLP(2, "tanh", richness=2.0)
DESIGNS = {"plain": PLAIN, "layers": LIMIT}
BIASED = lx.limits.MLP(2, "tanh", bias_scale=0.1)
PROTOCOL = lx.GradientDescent([0.3, 0.2, 0.1], [0.1, 0.4, 0.6], [0.2, 0.1, 0.3])

# thirds have no short decimal, and the smallest and the largest doubles are the hardest to write
THIRDS = [1 / 3, 5e-324, 2 / 3]
PROTOCOLS = {
    "descent": lx.GradientDescent([1 / 3, 1.7e308, 0.1 + 0.2], [0.0, 1 - 2**-53, 1 / 3], THIRDS),
    "minibatch": lx.MinibatchSGD(THIRDS, 2, 0.5, replace=False, seed=3),
    "online": lx.OnlineSGD(THIRDS, [0.1, 0.2, 0.3], 0.7, batch_size=1 + 2**-52),
    "proportional": lx.OnlineSGD(THIRDS, batch_ratio=1 / 7),
    "normalised": lx.NormalisedSGD(THIRDS, [1, 2, 3]),
}


def two_outputs():
    rng = np.random.default_rng(1)
    return lx.tasks.from_arrays(rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), rng.standard_normal((2, 3)))


def task_of(outputs):
    return TASK if outputs is None else two_outputs()


@functools.cache
def network(design="plain", outputs=None, dtype="float32"):
    """One draw for all tests that need such a network."""
    with jax.enable_x64(dtype == "float64"):
        return DESIGNS[design].finite(task_of(outputs), size=WIDTH, key=jax.random.key(1))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_file_keeps_every_bit(name, tmp_path):
    protocol, path = PROTOCOLS[name], tmp_path / "schedule.json"
    lx.schedules.save(protocol, path)
    back = lx.schedules.load(str(path))
    assert type(back) is type(protocol)
    same(back, protocol)
    assert [p.name for p in tmp_path.iterdir()] == ["schedule.json"]
    record = json.loads(path.read_text())
    assert list(record) == ["format", "version", "protocol", "steps", "update", "schedules", "options", "network"]
    assert record["steps"] == 3
    assert record["network"] is None
    for values in record["schedules"].values():
        assert [type(v) for v in values] == [float] * 3


def test_a_schedule_of_singles_comes_back_as_doubles_of_the_same_value(tmp_path):
    rates = jnp.asarray([0.1, 0.2], jnp.float32)
    lx.schedules.save(lx.GradientDescent(rates), tmp_path / "s.json")
    back = lx.schedules.load(tmp_path / "s.json").learning_rate
    assert back.dtype == np.float64
    assert np.array_equal(back, np.asarray(rates, np.float64))


def by_script(record, weights, x, y):
    """Training of standard layers by plain numbers, as a script without limitax does it; predictions of every step."""
    weights = [list(layer) for layer in weights]
    speeds = [[0.0, 0.0] for _ in weights]
    schedules, scales = record["schedules"], record["network"]["layers"]
    predictions = []
    for t in range(record["steps"] + 1):
        signals, h = [x], x
        for kernel, bias in weights:
            h = signals[-1] @ kernel + bias
            signals.append(np.tanh(h))
        predictions.append(h[:, 0])
        if t == record["steps"]:
            return np.array(predictions)
        back = (h - y[:, None]) / len(y)
        for l in reversed(range(len(weights))):
            gradients = (signals[l].T @ back, back.sum(0))
            back = (back @ weights[l][0].T) * (1 - signals[l] ** 2)
            for i, (kind, gradient) in enumerate(zip(("kernel", "bias"), gradients, strict=True)):
                scale = scales[l][kind]
                if scale is None:
                    continue
                rate = schedules["learning_rate"][t] * scale["learning_rate"]
                decay = schedules["weight_decay"][t] * scale["weight_decay"]
                speeds[l][i] = schedules["momentum"][t] * speeds[l][i] + gradient + decay * weights[l][i]
                weights[l][i] = weights[l][i] - rate * speeds[l][i]


def test_a_script_trains_standard_layers_from_the_file_alone(tmp_path):
    net = network("layers", None, "float64")
    with jax.enable_x64(True):
        theirs = lx.nets.train(net, TASK, PROTOCOL).predictions
        lx.schedules.save(PROTOCOL, tmp_path / "s.json", net)
        layers = [layer for layer in lx.nets.to_flax(net).layers if isinstance(layer, nnx.Linear)]
        weights = [(np.asarray(m.kernel[...]), 0.0 if m.bias is None else np.asarray(m.bias[...])) for m in layers]
    record = json.loads((tmp_path / "s.json").read_text())
    np.testing.assert_allclose(by_script(record, weights, TASK.x, TASK.y), theirs, rtol=1e-11)
    same(lx.schedules.load(tmp_path / "s.json"), PROTOCOL)


def test_a_file_for_a_network_has_raw_rates(tmp_path):
    net = network()
    lx.schedules.save(PROTOCOL, tmp_path / "s.json", net)
    written = json.loads((tmp_path / "s.json").read_text())["network"]
    assert written["learning_rate_scale"] == 32.0
    assert written["raw"] == {
        "learning_rate": [32 * r for r in PROTOCOL.learning_rate.tolist()],
        "weight_decay": [r / 32 for r in PROTOCOL.weight_decay.tolist()],
    }
    # the readout of standard layers takes steps of 1 / width, its square factor times the scale
    assert written["layers"][2] == {"kernel": {"learning_rate": 0.125, "weight_decay": 8.0}, "bias": None}
    features = lx.limits.RandomFeatures().finite(lx.tasks.power_law(5))
    lx.schedules.save(lx.OnlineSGD(0.1, extra_gradient=0.2, steps=2), tmp_path / "s.json", features)
    written = json.loads((tmp_path / "s.json").read_text())["network"]
    assert written == {
        "learning_rate_scale": 1.0,
        "raw": {"learning_rate": [0.1, 0.1], "extra_gradient": [0.2, 0.2]},
        "layers": None,
    }


def test_raw_rates_stay_finite(tmp_path):
    with raises(ValueError, "learning_rate with the network's scale 32 leaves the range of doubles."):
        lx.schedules.save(PROTOCOLS["descent"], tmp_path / "s.json", network())
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "s.json"
    lx.schedules.save(PROTOCOL, path)

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        lx.schedules.save(lx.GradientDescent(0.1, steps=2), path)
    same(lx.schedules.load(path), PROTOCOL)
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p: lx.schedules.save("sgd", p), "protocol must be GradientDescent, MinibatchSGD, OnlineSGD or Normali"),
        (lambda p: lx.schedules.save(lx.GradientFlow([1.0]), p), "NormalisedSGD; GradientFlow"),
        (lambda p: lx.schedules.save(PROTOCOL, p, 3), "net must be a network of limitax.nets or None; int 3 was given"),
        (
            lambda p: lx.schedules.save(PROTOCOLS["normalised"], p, network()),
            "net must be None for NormalisedSGD: its steps know no scale of the gradient.",
        ),
        (
            lambda p: jax.jit(lambda r: lx.schedules.save(lx.GradientDescent(r, steps=2), p))(0.1),
            "protocol must hold concrete numbers; save it outside of the transformation.",
        ),
        (
            lambda p: lx.schedules.to_optax(PROTOCOLS["normalised"]),
            "protocol must be GradientDescent, OnlineSGD or MinibatchSGD: NormalisedSGD divides by a mean over runs",
        ),
    ],
)
def test_what_cannot_be_saved(call, sentence, tmp_path):
    with raises(TypeError, sentence):
        call(tmp_path / "s.json")
    assert not list(tmp_path.iterdir())


def record_of(**changes):
    return {
        "format": "limitax schedule",
        "version": 1,
        "protocol": "GradientDescent",
        "steps": 2,
        "schedules": {"learning_rate": [0.1, 0.2], "momentum": [0, 0], "weight_decay": [0.0, 0.0]},
        "options": {},
    } | changes


def rates(*values):
    return {"learning_rate": list(values), "momentum": [0.0, 0.0], "weight_decay": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is not JSON: Expecting value: line 1 column 1 (char 0)."),
        (b"\x80\x03}q\x00.", "it is not text."),
        ("[" * 100_000, "it is nested too deeply."),
        ("[1, 2]", "the file must be an object of names and values; it is [1, 2]."),
        ('{"a": 1, "a": 2}', '"a" is there twice.'),
        ({}, 'format must be "limitax schedule"; it is null.'),
        (record_of(version=True), "version must be a whole number of at least 1; it is true."),
        (record_of(version=2), "version 2 is newer than this limitax, which reads up to 1."),
        (record_of(protocol="os.system"), 'NormalisedSGD; it is "os.system".'),
        (record_of(steps=2.0), "steps must be a whole number; float 2.0 was given."),
        (record_of(steps=3), "learning_rate must have one value a step; it has 2 and steps is 3."),
        (
            record_of(schedules=rates(0.1, -0.2)),
            "learning_rate must be finite and at least 0 at every step; step 1 is -",
        ),
        (record_of(schedules=rates(0.1, True)), "learning_rate must be a number at every step; step 1 is true."),
        (record_of(schedules=rates(0.1, "1")), 'learning_rate must be a number at every step; step 1 is "1".'),
        (json.dumps(record_of(schedules=rates(0.1, 1e999))), "Infinity is not a finite number."),
        (
            json.dumps(record_of()).replace("0.2", "1e999"),
            "learning_rate must be finite and at least 0 at every step; s",
        ),
        (json.dumps(record_of()).replace("0.2", "9" * 400), "int too large to convert to float"),
        (record_of(schedules={"learning_rate": 0.1}), "schedules has no momentum, which GradientDescent needs."),
        (
            record_of(schedules={**rates(0.1, 0.2), "steps": [1, 2]}),
            'schedules has "steps", which is unknown; one of: ',
        ),
        (record_of(schedules={**rates(0.1, 0.2), "momentum": 0.5}), "momentum must be a list of numbers; it is 0.5."),
        (record_of(options={"seed": 1}), 'options has "seed", which is unknown; there are none for this protocol.'),
        (
            record_of(protocol="NormalisedSGD", schedules={"learning_rate": [1, 2]}),
            "schedules has no batch_size, which NormalisedSGD needs.",
        ),
    ],
)
def test_foreign_files_are_refused_by_name(content, problem, tmp_path):
    path = tmp_path / "foreign.json"
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with raises(ValueError, f"{path} is not a schedule saved by limitax: ") as caught:
        lx.schedules.load(path)
    assert problem in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        lx.schedules.load(tmp_path / "none.json")
    with raises(ValueError, f"{tmp_path} is not a schedule saved by limitax: it is a folder."):
        lx.schedules.load(tmp_path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    part=st.sampled_from(sorted(record_of())), inner=st.sampled_from([None, "learning_rate", "seed"]), value=ANYTHING
)
def test_fuzzed_files_are_read_or_refused(part, inner, value):
    record = record_of()
    record[part] = {**record[part], inner: value} if inner and isinstance(record[part], dict) else value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.json"
        path.write_text(json.dumps(record))
        try:
            result = lx.schedules.load(path)
        except ValueError as error:
            result = str(error)
    refused = f"{path} is not a schedule saved by limitax: "
    assert isinstance(result, lx.GradientDescent) or result.startswith(refused)


WHOLE_FILE = json.dumps(record_of()).encode()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    start=st.integers(0, len(WHOLE_FILE)), length=st.integers(0, 20), new=st.binary(max_size=6) | st.just(b"[" * 9999)
)
def test_damaged_files_are_read_or_refused(start, length, new):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.json"
        path.write_bytes(WHOLE_FILE[:start] + new + WHOLE_FILE[start + length :])
        try:
            result = lx.schedules.load(path)
        except ValueError as error:
            result = str(error)
    refused = f"{path} is not a schedule saved by limitax: "
    assert isinstance(result, lx.GradientDescent) or result.startswith(refused)


# --- flax ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("design", "outputs", "dtype"), [("plain", None, "float32"), ("layers", 2, "float64")])
def test_a_flax_module_computes_the_same_and_comes_back(design, outputs, dtype):
    task, net = task_of(outputs), network(design, outputs, dtype)
    module = lx.nets.to_flax(net)
    back = lx.nets.from_flax(module, DESIGNS[design])
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(task.x, dtype)
        ours, theirs = jax.jit(jax.vmap(net))(x), nnx.jit(lambda module, x: module(x))(module, x)
    assert theirs.dtype == dtype
    assert theirs.shape == (len(x), outputs or 1)
    scale = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(theirs.reshape(ours.shape), ours, rtol=0, atol=scale)
    same(back.weights, net.weights, rtol=scale)
    assert back.frozen == net.frozen


def test_the_module_is_of_standard_layers():
    module = lx.nets.to_flax(network("layers", 2, "float64"))
    assert type(module) is nnx.Sequential
    assert [type(layer) for layer in module.layers[::2]] == [nnx.Linear] * 3
    assert list(module.layers[1::2]) == [jnp.tanh] * 2
    assert [layer.kernel.shape for layer in module.layers[::2]] == [(3, 8), (8, 8), (8, 2)]
    assert [layer.bias is None for layer in module.layers[::2]] == [False, False, True]


@pytest.mark.parametrize("outputs", [None, 2])
def test_flax_training_is_train(outputs):
    task = task_of(outputs)
    net = network("layers", outputs, "float64")
    with jax.enable_x64(True):
        run = lx.nets.train(net, task, PROTOCOL)
        module = lx.nets.to_flax(net)
        optimiser = nnx.Optimizer(module, lx.nets.flax_optimiser(PROTOCOL, net), wrt=nnx.Param)
        x, y = jnp.asarray(task.x), jnp.asarray(task.y).reshape(len(task.x), -1)

        @nnx.jit
        def step(module, optimiser):
            def loss(module):
                return 0.5 * jnp.mean(jnp.sum((y - module(x)) ** 2, -1))

            optimiser.update(module, nnx.grad(loss)(module))

        predictions = [module(x)]
        for _ in range(PROTOCOL.steps):
            step(module, optimiser)
            predictions.append(module(x))
    np.testing.assert_allclose(np.reshape(predictions, run.predictions.shape), run.predictions, rtol=1e-11)
    assert np.abs(run.predictions[-1] - run.predictions[0]).max() > 0.1


class Own(nnx.Module):
    """A module as users write them, with layers in a list and the activation in the call."""

    def __init__(self, sizes, activation, last_bias=False, norm=False):
        rngs = nnx.Rngs(0)
        pairs = list(itertools.pairwise(sizes))
        self.layers = nnx.List(
            [nnx.Linear(a, b, use_bias=i < len(pairs) - 1 or last_bias, rngs=rngs) for i, (a, b) in enumerate(pairs)]
        )
        self.activation = activation
        self.norm = nnx.LayerNorm(sizes[1], rngs=rngs) if norm else None

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


@functools.cache
def own(sizes=(5, 8, 8, 1), activation=jnp.tanh, **changes):
    return Own(sizes, activation, **changes)


def test_a_module_of_ones_own_becomes_a_network():
    module = own(activation=nnx.relu)
    net = lx.nets.from_flax(module, lx.limits.MLP(2, "relu", bias_scale=0.1))
    x = jnp.asarray(TASK.x, jnp.float32)
    np.testing.assert_allclose(jax.vmap(net)(x), module(x)[:, 0], atol=1e-6)


def test_one_step_of_a_split_module():
    net = lx.nets.from_flax(own(), BIASED)
    protocol = lx.MinibatchSGD([0.3, 0.2], 2, 0.5)
    optimiser = lx.nets.flax_optimiser(protocol, net)
    parameters = nnx.split(own())[1]
    ones = jax.tree.map(lambda p: np.ones(p.shape, np.float32), parameters)
    updates, _ = jax.jit(optimiser.update)(ones, optimiser.init(parameters), parameters)
    for update, layer in zip(updates["layers"].values(), net.layer_scales, strict=True):
        for kind, value in update.items():
            np.testing.assert_allclose(value[...], -0.3 * layer[kind]["learning_rate"], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: lx.nets.to_flax(BIASED), TypeError, "net must be a nets.MLP (of an ensemble, one member: ensemble.me"),
        (
            lambda: lx.nets.to_flax(jax.tree.map(lambda w: np.stack([w, w]), network())),
            TypeError,
            "net must be one network; these weights are stacked, take one by ensemble.member(seed).",
        ),
        (
            lambda: lx.nets.to_flax(lx.limits.MLP(1, "tanh", rule=lx.rules.GatedLinear()).finite(TASK, size=4)),
            TypeError,
            "net must be a perceptron of standard layers; the gates of the rule GatedLinear are none.",
        ),
        (
            lambda: lx.nets.flax_optimiser(
                PROTOCOL, lx.limits.MLP(1, "tanh", rule=lx.rules.FeedbackAlignment()).finite(TASK, size=4)
            ),
            TypeError,
            "net must learn by Backpropagation, as a flax module does; its rule is FeedbackAlignment.",
        ),
        (
            lambda: lx.nets.flax_optimiser(PROTOCOL, network()).init({"w": jnp.ones(3)}),
            ValueError,
            "parameter ['w'] is not a kernel or a bias in layers, as those of nets.to_flax are.",
        ),
        (
            lambda: lx.nets.flax_optimiser(PROTOCOL, network()).init(nnx.state(own((5, 6, 6, 1)), nnx.Param)),
            ValueError,
            "the kernels must have the shapes (5, 8), (8, 8), (8, 1) of the network; they have (5, 6), (6, 6), (6, 1).",
        ),
        (
            lambda: lx.nets.from_flax(own(), 3),
            TypeError,
            "design must be a limits.MLP; int 3 was given.",
        ),
        (
            lambda: lx.nets.from_flax(3, BIASED),
            TypeError,
            "module must be a flax.nnx.Sequential, or an nnx.Module with",
        ),
        (
            lambda: lx.nets.from_flax(own(), lx.limits.MLP(2, "tanh", rule=lx.rules.DirectFeedbackAlignment())),
            TypeError,
            "design must have the rule Backpropagation or Hebb: a flax module has none of the frozen arrays of Direct",
        ),
        (
            lambda: lx.nets.from_flax(own(), lx.limits.MLP(2, "tanh", 0.0, bias_scale=0.1)),
            ValueError,
            "richness must be above 0 for a finite network",
        ),
        (
            lambda: lx.nets.from_flax(own((5, 8, 1)), BIASED),
            ValueError,
            "module must have 3 layers nnx.Linear for a design of depth 2; it has 2.",
        ),
        (
            lambda: lx.nets.from_flax(own((5, 8, 6, 1)), BIASED),
            ValueError,
            "module must have hidden layers of one width, 8 as the first; layer 1 is 8 to 6.",
        ),
        (
            lambda: lx.nets.from_flax(own(), lx.limits.MLP(2, "tanh")),
            ValueError,
            "layer 0 must have use_bias=False to fit the design, where bias_scale is 0; it has use_bias=True.",
        ),
        (
            lambda: lx.nets.from_flax(own(last_bias=True), BIASED),
            ValueError,
            "layer 2 must have use_bias=False to fit the design, where the readout has none; it has use_bias=True.",
        ),
        (
            lambda: lx.nets.from_flax(own(norm=True), BIASED),
            ValueError,
            "module must have the 5 parameters of its linear layers only; it has 7.",
        ),
        (
            lambda: lx.nets.from_flax(own(activation=nnx.gelu), lx.limits.MLP(2, "gelu", bias_scale=0.1)),
            ValueError,
            "module must compute what a nets.MLP of this design does; at random inputs it is off by",
        ),
    ],
)
def test_what_has_no_counterpart(call, kind, sentence):
    with raises(kind, sentence):
        call()


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "practice.md").read_text(), flags=re.S)
    names = {}
    for block in blocks:
        exec(compile(block, "practice.md", "exec"), names)
    np.testing.assert_allclose(names["trained"], names["theory"].predictions[-1], atol=0.05)
