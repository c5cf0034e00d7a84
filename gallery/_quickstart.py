"""The first command: a network beside its limit, and a schedule from theory beside the tuned constant rate."""

from pathlib import Path

import jax
import numpy as np

from ..problems import schedules
from ..studies import AGREEMENT, Comparison, compare, optimise, show_progress, track, working
from ..studies import _plots as plots
from ..studies.results import Folder
from ..studies.tables import show, show_comparison
from . import mlp_dmft, power_law_sgd

#: Single runs must approach the theory like size to the -1/2, within this.
RATES = (-0.65, -0.35)
_NETWORKS = {"sizes": (64, 128, 256, 512), "seeds": 64, "samples": 60_000, "replicas": 12}
_SETTINGS = {"richness": 2.0, "steps": 30, "samples": 8, "test_samples": 32}
_RUNS = 400


def quickstart(out: Path) -> int:
    """Runs both parts, writes `figure.png` and `summary.json` into `out`, and returns the exit code: 0 only if theory
    and simulation agree and single runs approach the theory at the expected rate."""
    folder = Folder(out)
    key_mlp, key_sgd = jax.random.split(jax.random.key(0))
    with show_progress():
        wide = mlp_dmft.SYSTEM.run(_SETTINGS, key=key_mlp, **_NETWORKS)
        limit, task, protocol = mlp_dmft.SYSTEM.problem(_SETTINGS | {"richness": 0.0})
        lazy = limit.solve(task, protocol, key=key_mlp, **mlp_dmft.SYSTEM.options)
        show_comparison(wide, "Feature learning in a tanh network, and its limit (arXiv 2205.09653)")
        best, runs = _control(key_sgd)
    _show_control(best, runs)

    failures = _failures(wide, runs)
    folder.summary(
        {
            "system": "quickstart",
            "paper": None,
            "settings": {
                "mlp-dmft": mlp_dmft.SYSTEM.settings | _SETTINGS,
                "power-law-sgd": power_law_sgd.SYSTEM.settings,
            },
            "mlp-dmft": wide.summary(),
            "power-law-sgd": {
                "optimum": best.summary(),
                **{name: report.summary() for name, report in runs.items()},
            },
            "failures": failures,
        }
    )
    folder.picture(lambda path: _picture(wide, lazy, best, runs, path))
    print(f"figure.png and summary.json are in {folder.path}")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def _control(key) -> tuple:
    """The optimal schedule of the power law, and runs of SGD with it and with the best constant rate."""
    limit, task, protocol = power_law_sgd.SYSTEM.problem()
    shapes = {"constant": schedules.constant(1.0, protocol.steps)}
    with working("optimal schedule"):
        best = optimise(limit, task, protocol, over="learning_rate", benchmarks=shapes)
    protocols = {"tuned constant": best.benchmarks["constant"], "optimal": best.protocol}
    runs = {
        name: compare(limit, task, candidate, seeds=_RUNS, key=key)
        for name, candidate in track(protocols.items(), "SGD runs")
    }
    return best, runs


def _gain(runs: dict[str, Comparison]) -> tuple[float, float, float]:
    """Relative reduction of the final loss by the optimal schedule: in theory, in simulation, and its standard error.

    Both schedules see the same samples, run by run, so that the difference is a paired one.
    """
    theory = {name: float(report.theory.test_loss[-1]) for name, report in runs.items()}
    final = {name: np.asarray(next(iter(report.runs.values())).test_loss)[:, -1] for name, report in runs.items()}
    constant = final["tuned constant"].mean()
    difference = final["optimal"] - final["tuned constant"]
    error = difference.std(ddof=1) / np.sqrt(difference.size)
    return 1 - theory["optimal"] / theory["tuned constant"], -difference.mean() / constant, error / constant


def _show_control(best, runs: dict[str, Comparison]) -> None:
    rows = []
    for name, report in runs.items():
        final = np.asarray(next(iter(report.runs.values())).test_loss)[:, -1]
        error = final.std(ddof=1) / np.sqrt(final.size)
        theory = float(report.theory.test_loss[-1])
        rows.append(
            (name, f"{theory:.5f}", f"{final.mean():.5f} ± {error:.5f}", f"{report.agreement['test_loss']:.2f}")
        )
    title = f"Final loss of SGD on a power law, {_RUNS} runs (arXiv 2602.04774)"
    show(("learning rate", "theory", "simulation", "agreement"), rows, title)
    theory, simulation, error = _gain(runs)
    print(
        f"the optimal schedule lowers the loss by {theory:.1%} in theory, {simulation:.1%} ± {error:.1%} in simulation"
    )


def _failures(wide: Comparison, runs: dict[str, Comparison]) -> list[str]:
    found = []
    for title, report in {"mlp-dmft": wide, **{f"power-law-sgd, {name}": r for name, r in runs.items()}}.items():
        for name, value in report.agreement.items():
            if not value <= AGREEMENT:
                found.append(f"{title}: {name} differs from theory by {value:.1f} standard errors (at most 3)")
        for name, rate in report.rate.items():
            if rate is not None and not RATES[0] <= rate <= RATES[1]:
                found.append(f"{title}: spread of {name} falls like size^{rate:.2f} (expected -0.5)")
    return found


def _picture(wide: Comparison, lazy, best, runs: dict[str, Comparison], path) -> None:
    fig, axes = plots.figure(columns=2, rows=2)
    plots.draw_curve(
        axes[0, 0], wide, "test_loss", label="infinite width", reference=lazy, reference_label="infinite width, lazy"
    )
    plots.draw_convergence(axes[1, 0], wide)
    plots.draw_schedules(axes[0, 1], {name: report.protocol.learning_rate for name, report in runs.items()})
    plots.draw_runs(axes[1, 1], runs)
    theory, simulation, error = _gain(runs)
    axes[0, 0].set_title("a tanh network learns features")
    axes[1, 0].set_title("networks approach their limit")
    axes[0, 1].set_title("a schedule from theory")
    axes[1, 1].set_title(f"its gain: theory {theory:.0%}, runs {simulation:.0%} ± {error:.0%}")
    fig.savefig(path)
