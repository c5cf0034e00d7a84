"""The command line: `limitax list`, `run`, `optimise`, `sweep`, `quickstart`, `doctor`."""

import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

Out = Annotated[Path, tyro.conf.arg(help="folder for figure.png, result.nc and summary.json")]
Set = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        name="set",
        metavar="NAME=VALUE ...",
        help="settings of the system (`limitax list --json` has them), or any argument of its limit, task or protocol",
        help_behavior_hint="",
    ),
]
OWN = "(default: the system's own)"
Sizes = Annotated[
    tuple[int, ...] | None,
    tyro.conf.arg(metavar="INT ...", help="sizes of the finite networks", help_behavior_hint=OWN),
]
Seeds = Annotated[
    int | None, tyro.conf.arg(metavar="INT", help="independent networks at every size", help_behavior_hint=OWN)
]
Steps = Annotated[int | None, tyro.conf.arg(metavar="INT", help="number of training steps", help_behavior_hint=OWN)]
Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help="of a system, see `limitax list`")]
Seed = Annotated[int, tyro.conf.arg(help="number of the random key")]
Distributed = Annotated[
    bool, tyro.conf.arg(help="be one of several processes (of SLURM, Open MPI, Kubernetes, a TPU slice) that share it")
]
Timeout = Annotated[int, tyro.conf.arg(help="with --distributed: seconds after which a silent process counts as dead")]


@dataclass(frozen=True)
class List:
    """Every system: name, paper (arXiv), what is solved, status."""

    json: bool = False
    """Print the rows as JSON."""


@dataclass(frozen=True)
class Run:
    """Theory beside finite networks: a table, a picture, and the numbers in files; started again, it resumes."""

    name: Name
    sizes: Sizes = None
    seeds: Seeds = None
    set_: Set = ()
    full: bool = False
    """The settings of the paper's figure."""
    out: Out = Path("out")
    seed: Seed = 0
    distributed: Distributed = False
    timeout: Timeout = 100


@dataclass(frozen=True)
class Optimise:
    """The best schedule or hyperparameter of a system, by differentiating its theory; started again, it resumes."""

    name: Name
    over: tuple[str, ...] = ("learning_rate",)
    """What is free: names of arguments of protocol, limit or task."""
    steps: Steps = None
    set_: Set = ()
    full: bool = False
    """The settings of the paper's figure."""
    verify: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="SIZE",
            help="train finite networks of this size by the optimum, the settings as they were, and tuned usual rates",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    seeds: Annotated[int, tyro.conf.arg(help="with --verify: independent networks")] = 16
    out: Out = Path("out")
    seed: Seed = 0


@dataclass(frozen=True)
class Sweep:
    """The theory of a system at every point of a grid; the same command again resumes."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="a TOML file, see docs/sweeps.md")]
    out: Out = Path("out")
    distributed: Distributed = False
    timeout: Timeout = 100


@dataclass(frozen=True)
class Quickstart:
    """A network beside its limit, and an optimal schedule beside a tuned constant one, in under two minutes."""

    out: Out = Path("quickstart")


@dataclass(frozen=True)
class Doctor:
    """Versions, devices and precision, and one number a family against its closed form, in a minute."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Optimise, tyro.conf.subcommand("optimise")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: 0 done and in agreement, 1 theory and networks disagree, 2 bad input, 3 diverged,
    4 another process of the same job was lost."""
    command = tyro.cli(Command, prog="limitax", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    if getattr(command, "distributed", False):
        from .solvers import in_child

        code = in_child(_exit_with, _joined, command)
        if code < 0:
            _complain(
                f"this process was ended by signal {-code}, as JAX does when another process of the job is lost. "
                "Nothing half-written is left; start the job again.",
                4,
            )
        sys.exit(4 if code < 0 else code)
    _exit_with(_COMMANDS[type(command)], command)


def _exit_with(work: Callable[[Any], int], command: Any) -> None:
    from .problems import ConvergenceError, DivergedError

    try:
        code = work(command)
    except (DivergedError, ConvergenceError) as error:
        code = _complain(error, 3)
    except OSError as error:
        code = _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 2)
    except (ValueError, TypeError, MemoryError, ImportError) as error:
        code = _complain(error, 2)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    sys.exit(code)


def _complain(error, code: int) -> int:
    print(f"limitax: {error}", file=sys.stderr)
    return code


def _key(seed: int):
    import jax

    from .problems import _checks as checks

    return jax.random.key(checks.integer("seed", seed, low=0, high=2**32 - 1))


def _list(command: List) -> int:
    from .gallery import systems
    from .studies import show_progress, track

    with show_progress():
        rows = [
            {name: getattr(s, name) for name in ("name", "paper", "title", "solves", "settings")}
            | {"status": s.status()}
            for s in track(systems().values(), "building every system")
        ]
    if command.json:
        print(json.dumps(rows, indent=1))
        return 0
    from .studies.tables import show

    cells = [tuple(row[name] for name in ("name", "paper", "solves", "status")) for row in rows]
    show(("name", "arXiv", "what is solved", "status"), cells)
    return 0


def _joined(command: Run | Sweep) -> int:
    import jax

    from .problems import _checks as checks
    from .solvers import devices, first_line, join_processes

    number = join_processes(checks.integer("timeout", command.timeout))
    try:
        with devices(axis="seeds" if isinstance(command, Run) else "sweep"):
            return _COMMANDS[type(command)](command, writes=number == 0)
    except jax.errors.JaxRuntimeError as error:
        _complain(
            f"process {number} cannot go on, perhaps for the end of another: {first_line(error)}. Nothing half-written "
            "is left; start the job again.",
            4,
        )
        sys.stderr.flush()
        # the usual end of a process would wait for the one that is lost
        os._exit(4)


def _run(command: Run, writes: bool = True) -> int:
    from .gallery import parse_settings, system
    from .studies import show_progress
    from .studies.results import Folder
    from .studies.tables import show_measured

    chosen = system(command.name)
    settings = parse_settings(command.set_)
    chosen.check(settings, full=command.full)
    folder, key = Folder(command.out) if writes else None, _key(command.seed)
    wanted: dict[str, Any] = {"full": command.full, "sizes": command.sizes, "seeds": command.seeds, "key": key}
    with _unfinished(command.out) as work, show_progress() if writes else nullcontext():
        if "out" in inspect.signature(chosen.run).parameters:
            wanted["out"] = work
        report = chosen.run(settings, **wanted)
        if folder is None:
            return 0 if report.agrees else 1
        _write_run(folder, command, chosen, settings, report)
    chosen.show(report)
    show_measured(chosen.measured(report))
    print(f"figure.png, result.nc and summary.json are in {folder.path}")
    if not report.agrees:
        return _complain(chosen.disagreement(report), 1)
    return 0


def _write_run(folder, command: Run, chosen, settings, report) -> None:
    shown = chosen.settings | (dict(chosen.full) if command.full else {}) | settings
    folder.dataset(report.to_dataset(), system=chosen.name, paper=chosen.paper, settings=shown)
    measured = chosen.measured(report)
    about = {"system": chosen.name, "paper": chosen.paper, "settings": shown}
    folder.summary(about | report.summary() | {"measured": measured or None})
    folder.picture(partial(chosen.plot, report))


@contextmanager
def _unfinished(out: Path):
    """The folder for what is done of a run that may be killed: the same command goes on with it. It is gone when the
    run has come to its end, good or bad, and where nothing is in it."""
    import jax

    from .problems import ConvergenceError, DivergedError
    from .solvers import one_run_in

    work, ended = out / "unfinished", False
    with one_run_in(work):
        try:
            yield work
            ended = True
        except (DivergedError, ConvergenceError):
            ended = True
            raise
        finally:
            if jax.process_index() == 0 and (ended or not any(work.rglob("[0-9]*.json"))):
                shutil.rmtree(work, ignore_errors=True)


def _optimise(command: Optimise) -> int:
    import jax

    from .gallery import parse_settings, system
    from .problems import _checks as checks
    from .studies import optimise, show_progress, verify, working
    from .studies.results import Folder
    from .studies.tables import show_optimum, show_verification

    chosen, size = system(command.name), command.verify
    settings = parse_settings(command.set_)
    if size is not None:
        checks.integer("verify", size)
        checks.integer("seeds", command.seeds, low=2)
    if command.steps is not None:
        if "steps" in settings:
            raise ValueError("--steps and --set steps=... were both given; give one of them.")
        settings["steps"] = command.steps
    limit, task, protocol = chosen.problem(settings, full=command.full)
    folder, key, proof = Folder(command.out), _key(command.seed), None
    shown = chosen.settings | (dict(chosen.full) if command.full else {}) | settings
    content = {"system": chosen.name, "paper": chosen.paper, "settings": shown}
    with _unfinished(folder.path) as work:
        with show_progress(), working(f"optimising {', '.join(command.over)}"):
            rates = size is not None and "learning_rate" in command.over
            best = optimise(limit, task, protocol, over=command.over, benchmarks=rates, key=key, out=work)
        content |= best.summary()
        folder.dataset(best.to_dataset(), system=chosen.name, paper=chosen.paper, settings=shown)
        folder.summary(content)
        folder.picture(best.plot)
        if size is not None:
            with show_progress():
                rivals = {"as it was": (limit, protocol), **best.benchmarks}
                proof = verify(best, rivals, size=size, seeds=command.seeds, key=jax.random.fold_in(key, 1))
            folder.summary(content | {"verification": proof.summary()})
            folder.picture(proof.plot, "verification.png")
    title = f"{chosen.name} (arXiv {chosen.paper})"
    show_optimum(best, title)
    if proof:
        show_verification(proof, title)
    print(f"{'verification.png, ' if proof else ''}figure.png, result.nc and summary.json are in {folder.path}")
    if proof and not proof.accepted:
        lost = f"{proof.diverged['best']} of {command.seeds} networks diverged" if proof.diverged["best"] else ""
        close = ", ".join(name for name, better in proof.better.items() if not better)
        close = f"no better than {close.replace('_', ' ')} within two standard errors" if close else ""
        return _complain(f"networks do not confirm the optimum: {'; '.join(filter(None, (lost, close)))}", 1)
    return 0


def _sweep(command: Sweep, writes: bool = True) -> int:
    from .gallery import system
    from .studies import plot_sweep, read_sweep_file, show_progress, sweep, sweep_summary
    from .studies.results import Folder

    asked = read_sweep_file(command.file)
    chosen = system(asked.system)
    limit, task, protocol = chosen.problem(asked.settings, full=asked.full)
    folder, options = Folder(command.out) if writes else None, {**getattr(chosen, "options", {}), **asked.solve}
    work = {"record": asked.record, "chunk": asked.chunk, "key": _key(asked.seed), **options}
    with show_progress(lines=True) if writes else nullcontext():
        dataset = sweep(limit, task, protocol, asked.grid, out=command.out, **work)
    if folder is None:
        return 0
    shown = chosen.settings | (dict(chosen.full) if asked.full else {}) | asked.settings
    about = {"system": chosen.name, "paper": chosen.paper, "settings": shown}
    folder.dataset(dataset, **about)
    folder.summary(about | sweep_summary(dataset))
    folder.picture(partial(plot_sweep, dataset))
    print(f"figure.png, result.nc and summary.json are in {folder.path}")
    return 0


def _quickstart(command: Quickstart) -> int:
    from .gallery._quickstart import quickstart

    return quickstart(command.out)


def _doctor(command: Doctor) -> int:
    import jax

    from .limits._memory import free_memory
    from .problems import versions
    from .studies import show_progress, track
    from .studies._doctor import checks
    from .studies.tables import show

    devices = jax.devices()
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"{len(devices)} x {devices[0].device_kind}, {free_memory() / 2**30:.1f} GiB free")
    sampled = "double" if jax.numpy.result_type(float) == jax.numpy.float64 else "single"
    print(f"Monte Carlo in {sampled} precision, other theory in double")
    known = checks()
    with show_progress():
        found = [known[name]() for name in track(list(known), "checking")]
    cells = [
        (c.name, f"{c.value:.9g}", f"{c.expected:.9g}", f"{c.tolerance:.1g}", "yes" if c.passes else "NO")
        for c in found
    ]
    show(("check", "value", "expected", "within", "passes"), cells)
    failed = [check.name for check in found if not check.passes]
    return _complain(f"these checks fail: {', '.join(failed)}", 1) if failed else 0


_COMMANDS: dict[type, Callable[..., int]] = {
    List: _list,
    Run: _run,
    Optimise: _optimise,
    Sweep: _sweep,
    Quickstart: _quickstart,
    Doctor: _doctor,
}
