"""What several devices gain, and what they say to each other: `python -m limitax.bench.devices [--quick]`.

The devices are forced ones of this machine's processor, in a process of their own: `gain` is the time on one over the
time on `devices`, of which there are at most as many as cores. `bytes a step` are counted in the compiled program.
"""

import json
import math
import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import limits, nets
from ..nets._mlp_run import run
from ..problems import GradientDescent, OnlineSGD, tasks
from ..solvers import MarchInputs, MarchOptions, SampleAxis, devices, march
from ._clock import best_seconds, print_rows

_FORCED = 4


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    program = [sys.executable, "-c", f"from limitax.bench.devices import _report; _report({quick})"]
    found = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def _report(quick: bool) -> None:
    jax.config.update("jax_num_cpu_devices", _FORCED)
    found = [_width(n) for n in ((64, 128) if quick else (256, 512, 1024))]
    found += [_particles(n) for n in ((400,) if quick else (4000, 16000))]
    counts = [n for n in (2, 4) if n <= (os.cpu_count() or 1)]
    print(json.dumps(found + [_gain(name, count, quick) for name in ("seeds", "samples", "modes") for count in counts]))


def _width(width: int) -> dict[str, Any]:
    task, protocol = tasks.sphere(jax.random.key(0), samples=8, dim=16), GradientDescent(0.3, steps=5)
    with devices(axis="width"):
        net = limits.MLP(2, "tanh").finite(task, size=width)
        weights = jax.tree.map(lambda w: w[None, None], net.weights)
        keys = jax.random.split(jax.random.key(0), 1)
        text = run.lower(weights, None, keys, net.design, task, protocol, 5, (), 0).compile().compiled.as_text()
    said = _bytes_a_step(text)
    return {"what": f"width {width} on {_FORCED}", "bytes a step": said, "over those of n^2": said / (4 * width**2)}


def _particles(particles: int) -> dict[str, Any]:
    samples, steps = 4, 6
    x = jnp.asarray(np.random.default_rng(0).standard_normal((samples, 8)), jnp.float32)
    one = jnp.ones(steps)
    scales = jnp.ones(()), jnp.ones(3), jnp.zeros(())
    inputs = MarchInputs(x, x[:, 0], jnp.zeros((0, 8)), 0.3 * one, 0 * one, 0 * one, *scales)
    solve = jax.jit(
        lambda inputs: (
            march(
                inputs,
                jax.random.key(0),
                MarchOptions(jnp.tanh),
                axis=SampleAxis(particles),
                capacity=20,
                tolerance=2 / particles,
            ).predictions
        )
    )
    with devices(axis="samples"):
        said = _bytes_a_step(solve.lower(inputs).compile().as_text() or "")
    fields = 4 * samples * particles
    return {"what": f"{particles} particles on {_FORCED}", "bytes a step": said, "over a layer's fields": said / fields}


def _bytes_a_step(text: str) -> float:
    """Of what the devices send each other in loops: the sizes of results, of 4 bytes a number."""
    loops, _, _ = text.partition("\nENTRY")
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (\(?[^=]*?) (?:{kinds})(?:-start)?\(", loops)
    shapes = [shape for result in found for shape in re.findall(r"\w+\[([\d,]*)\]", result)]
    return 4.0 * sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)


def _gain(axis: str, count: int, quick: bool) -> dict[str, Any]:
    task = tasks.sphere(jax.random.key(0), samples=8, dim=16)
    perceptron, steps = limits.MLP(2, "tanh"), 20 if quick else 200
    law, fast = tasks.power_law(None, 1.5, 2.5, 1.0), OnlineSGD(0.05, 0.3, steps=50 * steps)

    def learn():
        net = perceptron.ensemble(task, size=32 if quick else 128, seeds=8)
        return nets.train(net, task, GradientDescent(0.3, steps=steps)).train_loss

    def solve():
        samples = 2000 if quick else 40_000
        return perceptron.solve(task, GradientDescent(0.3, steps=10), samples=samples, rank=88, keep=None).train_loss

    work = {"seeds": learn, "samples": solve, "modes": lambda: limits.RandomFeatures().solve(law, fast).test_loss}[axis]
    alone = best_seconds(work)
    with devices(count, axis=axis):
        together = best_seconds(work)
    return {"what": axis, "devices": count, "gain": alone / together, "seconds on one": alone}


if __name__ == "__main__":
    print_rows(rows, __doc__ or "")
