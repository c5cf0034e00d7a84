"""Long single computations that are killed and started again: nothing is lost, repeated or changed."""

import random
import re
import subprocess
import sys
import time

import jax
import limitax as lx
import numpy as np
import optax
import pytest
import xarray
from limitax import cli
from limitax.nets import _mlp_pieces as pieces

from .helpers import raises, same, small_task

TASK = small_task()
SLOW = pytest.mark.slow


class Stopped(Exception):
    """What ends a run in the place of a signal."""


class Saves:
    """Every piece is saved, and a run ends right after `left` of them; `made` are the numbers under which they were."""

    def __init__(self, save):
        self.save, self.left, self.made = save, None, []

    def __call__(self, saved, step, *args, **options):
        self.save(saved, step, *args, **options)
        self.made.append(step)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Stopped

    def killed(self, run, *lefts):
        """Runs that end after so many saves each, and a last one that does not."""
        self.made = []
        for self.left in lefts:
            with pytest.raises(Stopped):
                run()
        self.left = None
        return run()


@pytest.fixture
def saves(monkeypatch):
    monkeypatch.setattr(lx.solvers._checkpoints, "_SHARE", 0.0)
    counted = Saves(lx.solvers.Checkpoints.save)
    monkeypatch.setattr(lx.solvers.Checkpoints, "save", lambda *args, **options: counted(*args, **options))
    return counted


def equal(a, b):
    """The same record, bit for bit."""
    same(a, b)
    assert a.to_dataset().identical(b.to_dataset())


CASES = {
    "batches": (1, lx.MinibatchSGD(0.3, batch_size=2, momentum=0.5, steps=6), {}, 2),
    "kernels": (2, lx.GradientDescent(0.3, steps=8), {"kernels": True, "sharpness": True}, 3),
    "optax": (1, optax.chain(optax.add_noise(0.1, 0.5, 0), optax.adam(1e-2)), {"steps": 7}, 2),
    "one network": (1, lx.GradientDescent(0.3, steps=6), {"ntk": True}, None),
}


@pytest.mark.parametrize("name", ["batches", *(pytest.param(name, marks=SLOW) for name in list(CASES)[1:])])
def test_training_goes_on_where_it_stopped(name, tmp_path, saves, monkeypatch):
    monkeypatch.setattr(pieces, "_PIECES", 6)
    monkeypatch.setattr(lx.nets._mlp_run, "_WEIGHTS_AT_ONCE", 2 * 16**2)  # groups of one pair
    depth, protocol, options, seeds = CASES[name]
    limit = lx.limits.MLP(depth, "tanh")
    net = limit.finite(TASK, size=16) if seeds is None else limit.ensemble(TASK, size=16, seeds=seeds)

    def train(out):
        return lx.nets.train(net, TASK, protocol, return_net=True, out=out, **options)

    plain, _ = train(None)
    whole, final = train(tmp_path / "whole")
    same(plain.curves(), whole.curves(), rtol=1e-5, atol=1e-6)
    steps = saves.made
    assert len(steps) > 5
    resumed, again = saves.killed(lambda: train(tmp_path / "killed"), *((2,) if name == "batches" else (1, 2, 1)))
    assert saves.made == steps
    equal(resumed, whole)
    same(again, final)
    equal(lx.Trajectory.load(tmp_path / "killed" / "result.nc"), resumed)
    saves.made = []
    equal(train(tmp_path / "killed")[0], whole)
    assert saves.made == []


def test_other_training_is_refused(tmp_path):
    limit, protocol = lx.limits.MLP(1, "tanh"), lx.GradientDescent(0.3, steps=2)
    net = limit.finite(TASK, size=8)
    folder = tmp_path / "checkpoints"

    def refused(sentence, net=net, task=TASK, protocol=protocol, **options):
        with raises(ValueError, f"{folder} was made for another configuration: {sentence}"):
            lx.nets.train(net, task, protocol, out=tmp_path, **options)

    lx.nets.train(net, TASK, protocol, out=tmp_path)
    refused("net.weights.hidden", net=limit.finite(TASK, size=8, key=jax.random.key(1)))
    refused("task.x.sha256 was", task=small_task(key=1))
    refused("protocol.learning_rate was [0.3", protocol=lx.GradientDescent(0.2, steps=2))
    refused("protocol was ", protocol=optax.sgd(0.1), steps=2)
    refused("record.kernels is new", kernels=True)
    refused("key was ", key=jax.random.key(3))
    file = folder / "configuration.json"
    file.write_text(file.read_text().replace('"jax": "', '"jax": "1'))
    refused("versions.jax was")


def test_out_is_for_numbers(tmp_path):
    net, protocol = lx.limits.MLP(1, "tanh").finite(TASK, size=8), lx.GradientDescent(0.3, steps=2)

    def loss(rate):
        return lx.nets.train(net, TASK, lx.GradientDescent(rate, steps=2), out=tmp_path, throw=False).train_loss[-1]

    with raises(TypeError, "out saves numbers, and there are none inside of a transformation"):
        jax.grad(loss)(0.3)
    with raises(TypeError, "kernels must be True or False"):
        lx.nets.train(net, TASK, protocol, out=tmp_path, kernels=3)
    lx.nets.train(net, TASK, protocol, out=tmp_path, kernels=True)  # what came to nothing is in nobody's way


def test_other_families_are_saved_when_they_have_been_trained(tmp_path, saves):
    limit, task, protocol = lx.limits.DeepLinear(1), lx.tasks.isotropic(2.0), lx.GradientDescent(0.1, steps=3)
    nets = limit.ensemble(task, size=8, seeds=2)
    plain = lx.nets.train(nets, task, protocol)
    for _ in range(2):
        equal(lx.nets.train(nets, task, protocol, out=tmp_path), plain)
    assert len(saves.made) == 1


def march(out, replicas=3, depth=1, **options):
    limit, protocol = lx.limits.MLP(depth, "tanh"), lx.MinibatchSGD(0.3, batch_size=2, steps=4)
    return limit.solve(TASK, protocol, samples=300, replicas=replicas, out=out, **options)


@pytest.mark.parametrize(
    "options",
    [{}, *(pytest.param(o, marks=SLOW) for o in ({"rank": 9, "depth": 2}, {"approximation": "leading_order"}))],
)
def test_a_march_goes_on_where_it_stopped(options, tmp_path, saves):
    whole = march(tmp_path / "whole", **options)
    if options:
        same(whole.curves(), march(None, **options).curves(), rtol=1e-5, atol=1e-6)
    steps = saves.made
    assert len(steps) > 3
    resumed = saves.killed(lambda: march(tmp_path / "killed", **options), 1, 1)
    assert saves.made == steps
    equal(resumed, whole)
    saves.made = []
    equal(march(tmp_path / "killed", **options), whole)
    assert saves.made == []
    with raises(ValueError, "was made for another configuration: replicas was 3 and is 4"):
        march(tmp_path / "killed", replicas=4, **options)


@SLOW
def test_a_march_whose_bases_grow(tmp_path, saves, monkeypatch):
    monkeypatch.setattr("limitax.limits._mlp_problem.Problem.room", 4)
    options = {"depth": 2, "keep": None, "replicas": 2}
    whole = march(None, **options)
    assert dict(whole.attributes)["rank"] > 4
    resumed = saves.killed(lambda: march(tmp_path, **options), 1, 2)
    same(resumed.curves(), whole.curves(), rtol=1e-5, atol=1e-6)
    assert dict(resumed.attributes) == dict(whole.attributes)
    # one replica fills the smaller bases; both are marched in the larger ones
    assert saves.made == [0, 2, 3, 99_999_999]


@SLOW
def test_what_diverges_says_so_again(tmp_path):
    for _ in range(2):
        with raises(lx.DivergedError, "at initialisation it is linearly stable for learning_rate < "):
            lx.limits.MLP(1, "tanh").solve(TASK, lx.GradientDescent(50.0, steps=9), samples=100, out=tmp_path)


SEARCHES = {
    "gradients": ("lbfgs", {"max_evaluations": 8}),
    "two starts, finer and finer": ("lbfgs", {"starts": 2, "knots": (2, None), "max_evaluations": 5}),
    "sweeps": ("sweeps", {"max_evaluations": 4, "cross_check": True}),
}


@pytest.mark.parametrize("name", ["gradients", *(pytest.param(name, marks=SLOW) for name in list(SEARCHES)[1:])])
def test_a_search_goes_on_where_it_stopped(name, tmp_path, saves):
    task, protocol = lx.tasks.power_law(30, 1.5, 2.5, 0.3), lx.OnlineSGD(0.1, steps=5)
    method, options = SEARCHES[name]

    def search(out, over="learning_rate"):
        return lx.optimise(lx.limits.RandomFeatures(), task, protocol, over=over, method=method, out=out, **options)

    plain, whole = search(None), search(tmp_path / "whole")
    np.testing.assert_allclose(whole.history, plain.history, rtol=1e-9)
    assert whole.evaluations == plain.evaluations
    steps = saves.made
    assert len(steps) > 4
    resumed = saves.killed(lambda: search(tmp_path / "killed"), 1, 2, 1)
    assert saves.made == steps
    assert resumed.to_dataset().identical(whole.to_dataset())
    assert resumed.summary() == whole.summary()
    assert xarray.load_dataset(tmp_path / "killed" / "result.nc").equals(whole.to_dataset())
    saves.made = []
    assert search(tmp_path / "killed").to_dataset().identical(whole.to_dataset())
    assert saves.made == []
    with raises(ValueError, "was made for another configuration: problem.controls"):
        search(tmp_path / "killed", over="batch_size")


LONG = """
import sys, jax, limitax as lx
from limitax.nets import _mlp_pieces as pieces
from limitax.studies import show_progress
lx.solvers._checkpoints._SHARE = 0.0
pieces._PIECES = 40
task = lx.tasks.sphere(samples=4, dim=5, test_samples=2)
what, out = sys.argv[1:]
with show_progress(lines=True):
    if what == "training":
        limit = lx.limits.MLP(2, "tanh")
        nets, protocol = limit.ensemble(task, size=16, seeds=2), lx.MinibatchSGD(0.3, batch_size=2, steps=80)
        lx.nets.train(nets, task, protocol, out=out)
    if what == "theory":
        limit, protocol = lx.limits.MLP(1, "tanh"), lx.GradientDescent(0.3, steps=5)
        limit.solve(task, protocol, samples=2000, replicas=20, out=out)
    if what == "search, at most":
        task, protocol = lx.tasks.power_law(40, 1.5, 2.5, 0.3), lx.OnlineSGD(0.1, steps=6)
        options = {"over": "learning_rate", "method": "lbfgs", "max_evaluations": 25}
        lx.optimise(lx.limits.RandomFeatures(), task, protocol, out=out, **options)
print("finished", flush=True)
"""


@SLOW
@pytest.mark.parametrize("what", ["training", "theory", "search, at most"])
def test_killed_at_a_random_moment(what, tmp_path):
    rng = random.Random(what)

    def start(out):
        return subprocess.Popen([sys.executable, "-c", LONG, what, str(out)], stdout=subprocess.PIPE, text=True)

    def done(lines):
        return [int(found[1]) for line in lines if (found := re.fullmatch(rf"{what}: (\d+) of \d+ \w+ done.*", line))]

    whole = start(tmp_path / "whole").communicate()[0].splitlines()
    process = start(tmp_path / "killed")
    lines = [process.stdout.readline().strip() for _ in range(rng.randint(4, 8))]
    time.sleep(rng.uniform(0.0, 0.1))
    process.kill()
    killed = done([*lines, *process.communicate()[0].splitlines()])
    resumed = start(tmp_path / "killed").communicate()[0].splitlines()
    assert resumed[-1] == whole[-1] == "finished"
    assert done(whole)[0] == 0
    assert done(resumed)[0] in (killed[-1], done(whole)[len(killed)])  # what was saved, and perhaps not yet reported
    assert done(resumed) == done(whole)[done(whole).index(done(resumed)[0]) :]
    found = [xarray.load_dataset(tmp_path / folder / "result.nc") for folder in ("killed", "whole")]
    assert found[0].identical(found[1])


def command(capsys, out, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--out", str(out)])
    return stopped.value.code, capsys.readouterr().err


COMMANDS = {
    "run": ["run", "linear-mlp", "--sizes", "8", "16", "--seeds", "2", "--set", "steps=2"],
    "optimise": ["optimise", "linear-mlp", "--over", "richness", "--set", "steps=2"],
}


@SLOW
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_go_on_where_they_stopped(name, capsys, tmp_path, saves, monkeypatch):
    monkeypatch.setattr(pieces, "_PIECES", 1)
    arguments = COMMANDS[name]
    with lx.solvers.one_run_in(tmp_path / "unfinished"):
        code, said = command(capsys, tmp_path, *arguments)
    assert code == 2
    assert f"another run is at work in {tmp_path / 'unfinished'}" in said
    command(capsys, tmp_path / "whole", *arguments)
    steps = saves.made
    assert saves.killed(lambda: command(capsys, tmp_path, *arguments), 2)[0] in (0, 1)
    assert saves.made == steps
    assert {"figure.png", "result.nc", "summary.json", "whole"} == {path.name for path in tmp_path.iterdir()}
    found = [xarray.load_dataset(folder / "result.nc") for folder in (tmp_path, tmp_path / "whole")]
    assert found[0].identical(found[1])


@SLOW
def test_an_unfinished_run_is_not_overwritten(capsys, tmp_path, saves):
    saves.left = 1
    with pytest.raises(Stopped):
        command(capsys, tmp_path, *COMMANDS["run"])
    saves.left = None
    code, said = command(capsys, tmp_path, *COMMANDS["run"], "--seed", "1")
    assert code == 2
    assert "unfinished/theory/checkpoints was made for another configuration: key was" in said
    assert (tmp_path / "unfinished" / "theory").exists()
