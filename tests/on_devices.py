"""Prints, as JSON, what comes out on one and on four forced CPU devices; run by `test_devices.py` as a program."""

import json
import os
import sys
import tempfile

# set before the first use of JAX; most of the time is compilation
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)

import limitax as lx  # noqa: E402
import numpy as np  # noqa: E402
from limitax.solvers import Checkpoints, device_count, power_law_bins, shard, spread_map  # noqa: E402

TASK = lx.tasks.sphere(jax.random.key(0), samples=3, dim=4, test_samples=1)
DESCENT = lx.GradientDescent(0.3, momentum=0.4, steps=4)
POWER_LAW = lx.tasks.power_law(None, 1.5, 2.5, 1.0)  # 269 bins, which 4 devices do not share evenly


def difference(one, many) -> float:
    """The largest, over the largest value, of all arrays of two trees."""
    assert jax.tree.structure(one) == jax.tree.structure(many)
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (one, many)), strict=True)]
    return max(float(np.max(abs(a - b)) / np.max(abs(a))) for a, b in pairs if a.dtype.kind == "f" and np.any(a))


def on_both(compute, axis: str, count=None):
    one = compute()
    with lx.devices(count, axis=axis):
        return one, compute()


def layout(array) -> list:
    return [len(array.sharding.device_set), [name for name in array.sharding.spec]]


def trained(limit, task, protocol, size, axis, seeds=4, **record):
    def learn():
        net = limit.ensemble(task, size=size, seeds=seeds) if axis == "seeds" else limit.finite(task, size=size)
        return lx.nets.train(net, task, protocol, return_net=True, **record)

    one, many = on_both(learn, axis)
    curve = many[0].test_loss if many[0].train_loss is None else many[0].train_loss
    members = many[1].members if axis == "seeds" else many[1]
    return {
        "difference": difference(one, many),
        "curve": layout(curve),
        "weights": [layout(w) for w in jax.tree.leaves(members.weights)],
    }


def quick():
    found = {}
    program = jax.jit(lambda x: shard(x, "modes") + 1)
    seen = [len(program(np.zeros(8)).sharding.device_set)]
    for count in (4, 2):
        with lx.devices(count, axis="modes"):
            seen.append(len(program(np.zeros(8)).sharding.device_set))
    found["one program, in turn"] = [*seen, len(program(np.zeros(8)).sharding.device_set)]
    with lx.devices(axis="modes"):
        found["counts"] = [device_count("modes"), device_count("seeds")]
        found["outside"] = layout(shard(np.arange(8.0) / 3, "modes")), shard(np.arange(8.0) / 3, "modes").dtype.name
        found["uneven stays"] = type(shard(np.zeros(7), "modes")).__name__
        found["traced"] = layout(jax.jit(lambda x: shard(x, "modes", -1))(np.zeros((3, 8))))
        squares = jax.jit(lambda x: spread_map(lambda x, y: x * x + y, x, "modes", shared=(1.0,)))(np.arange(6.0))
        found["spread_map"] = squares.tolist()
    found["after"] = device_count("modes")
    assert len(power_law_bins(None, 1.5, 2.5).weights) % 4
    recursion = lx.limits.RandomFeatures()
    rates = lambda rate: lx.OnlineSGD(rate, 0.3, steps=50)  # noqa: E731
    found["recursion"] = difference(*on_both(lambda: recursion.solve(POWER_LAW, rates(0.05)).test_loss, "modes"))
    found["seeds"] = trained(lx.limits.MLP(1, "tanh"), TASK, DESCENT, 8, "seeds")

    # as if the last device were an accelerator without float64
    jax.config.update("jax_default_device", jax.devices()[3])
    jax.default_backend, default_backend = lambda: "tpu", jax.default_backend
    on_host = recursion.solve(POWER_LAW, rates(0.06)).test_loss
    jax.default_backend = default_backend
    as_usual = recursion.solve(POWER_LAW, rates(0.06)).test_loss
    found["host"] = [device.id for device in (*on_host.devices(), *as_usual.devices())]
    found["host differs"] = difference(as_usual, on_host)
    return found


def families():
    """Every way in which finite networks are trained side by side."""
    lim, data = lx.limits, lx.tasks.power_law(8, 1.5, 2.0, 0.3, samples=10)
    flow = lx.GradientFlow(np.linspace(0, 1, 3))
    feedback = lim.MLP(2, "tanh", rule=lx.rules.FeedbackAlignment(0.5))
    cases = {
        "feedback": (feedback, TASK, lx.MinibatchSGD(0.3, batch_size=2, steps=4), 8),
        "uneven": (lim.MLP(1, "tanh"), TASK, DESCENT, 8),
        "deep linear": (lim.DeepLinear(depth=2, width_ratio=1.0), lx.tasks.isotropic(2.0, 0.3), DESCENT, 8),
        "normalised": (lim.RandomFeatures(), data, lx.NormalisedSGD(0.05, batch_size=4, steps=4), 1),
        "learned features": (lim.LearnedFeatures(richness=3.0), lx.tasks.power_law(8, 1.5, 2.0), flow, 1),
        "linear model": (lim.LinearModel(), TASK, lx.MinibatchSGD(0.05, batch_size=2, steps=4), 4),
    }
    slope = jax.grad(lambda rate: lx.final_loss(lim.RandomFeatures(), POWER_LAW, lx.OnlineSGD(rate, 0.3, steps=50)))
    found: dict = {"slope": {"difference": difference(*on_both(lambda: slope(0.05), "modes", 3)), "devices": 4}}
    found["width"] = trained(lim.MLP(2, "tanh", bias_scale=0.3), TASK, DESCENT, 16, "width")
    for name, (limit, task, protocol, size) in cases.items():
        seeds = 6 if name == "uneven" else 4

        def learn(limit=limit, task=task, protocol=protocol, size=size, seeds=seeds):
            return lx.nets.train(limit.ensemble(task, size=size, seeds=seeds), task, protocol)

        one, many = on_both(learn, "seeds")
        curve = many.test_loss if many.train_loss is None else many.train_loss
        found[name] = {"difference": difference(one, many), "devices": len(curve.sharding.device_set)}
    return found


def sampled():
    """The march, forward and backward: replicas on devices of their own, then the particles of one on all of them."""
    found = {}
    for depth, replicas in ((1, 4), (2, 1)):
        limit = lx.limits.MLP(depth, "tanh", bias_scale=0.3)

        def loss(rate, limit=limit, replicas=replicas):
            protocol, samples = lx.GradientDescent(rate, steps=3), 402 * replicas
            return lx.final_loss(limit, TASK, protocol, samples=samples, replicas=replicas, keep=None)

        one, many = on_both(lambda loss=loss: jax.value_and_grad(loss)(jax.numpy.asarray(0.3)), "samples")
        found[f"{replicas} replicas"] = difference(one, many)
    return found


class Stopped(Exception):
    """What ends a run in the place of a signal, right after a save."""


def resumed():
    """Runs that stop on some devices and go on on others, beside the same runs on one device throughout."""
    save = Checkpoints.save
    lx.solvers._checkpoints._SHARE = 0.0  # every piece is saved

    def stopping(*args, **options):
        save(*args, **options)
        raise Stopped

    def moved(compute, axis, first, then):
        """`compute` a piece on `first` devices, then a piece on `then`, and the rest on `first` again."""
        with tempfile.TemporaryDirectory() as out:
            Checkpoints.save = stopping
            for count in (first, then):
                try:
                    with lx.devices(count, axis=axis):
                        compute(out)
                except Stopped:
                    continue
                raise AssertionError("the run was over before it could be stopped")
            Checkpoints.save = save
            with lx.devices(first, axis=axis):
                return compute(out)

    limit = lx.limits.MLP(1, "tanh")

    def train(out, axis):
        net = limit.ensemble(TASK, size=8, seeds=4) if axis == "seeds" else limit.finite(TASK, size=16)
        return lx.nets.train(net, TASK, DESCENT, return_net=True, out=out)

    def solve(out):
        return limit.solve(TASK, DESCENT, samples=1608, replicas=4, out=out)

    def search(out):
        protocol, options = lx.OnlineSGD(0.05, 0.3, steps=5), {"method": "lbfgs", "max_evaluations": 8}
        best = lx.optimise(lx.limits.RandomFeatures(), POWER_LAW, protocol, over="learning_rate", out=out, **options)
        return best.value, best.history

    cases = {
        "seeds": (lambda out: train(out, "seeds"), "seeds"),
        "width": (lambda out: train(out, "width"), "width"),
        "samples": (solve, "samples"),
        "modes": (search, "modes"),
    }
    found = {}
    for name, (compute, axis) in cases.items():
        whole = compute(None)
        for first, then in ((4, 1), (1, 4)):
            found[f"{name}, {first} to {then}"] = difference(whole, moved(compute, axis, first, then))
    return found


if __name__ == "__main__":
    print(json.dumps({f.__name__: f for f in (quick, families, sampled, resumed)}[sys.argv[1]]()))
