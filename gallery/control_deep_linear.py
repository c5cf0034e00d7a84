"""Optimal schedules of deep linear networks that learn features, from theory, against tuned ones in finite networks."""

import numpy as np

from ..studies import _plots as plots
from ._control_deep_linear import CASES, Proofs, build, conduct, gains, strongest
from ._experiment import Experiment


def draw(report: Proofs, path=None):
    """A row a case: rates, losses, paired differences; then, for the first case with a spectrum, how the outlier of the
    first weights, the sharpness and the gain of networks go."""
    cases = list(report.proofs)
    fig, axes = plots.figure(columns=3, rows=len(cases) + 1)
    for row, case in zip(axes, cases, strict=False):
        proof = report.proofs[case][report.sizes[-1]]
        plots.draw_protocols(row[0], {name: proof.protocol(name).learning_rate for name in proof.runs})
        plots.draw_verified_losses(row[1], proof)
        plots.draw_differences(row[2], {"": proof})
        row[0].set_title(case.replace("_", " "), fontsize=9)
    if report.readings:
        _draw_reading(axes[-1], next(iter(report.readings.values())))
    _draw_gains(axes[-1, 2], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_reading(axes, reading) -> None:
    for (name, row), style, shade in zip(reading.items(), ("-", "--"), ("k", "0.4"), strict=True):
        width = 2.0 if name == "best" else 1.4
        axes[0].plot(row["outlier"], style, color=shade, lw=width, label=f"{name}: escape at step {row['escape_step']}")
        axes[1].plot(row["sharpness"], style, color=shade, lw=width, label=name)
    edge = reading["best"]["bulk_edge"]
    axes[0].fill_between(np.arange(len(edge)), 0, edge, color="0.9", lw=0, label="bulk")
    axes[0].set(xlabel="step", ylabel="largest singular value of $W^0/\\sqrt{D}$", ylim=(0, None))
    rate = reading["best"]["stability"] / reading["best"]["sharpness"][:-1]
    axes[1].step(np.arange(len(rate)), 1 / rate, where="post", color="0.6", lw=1.2, label="edge: 2 / rate of the best")
    axes[1].set(xlabel="step", ylabel="sharpness", yscale="log")
    for ax in axes[:2]:
        ax.legend(frameon=False, fontsize=7)


def _draw_gains(ax, report: Proofs) -> None:
    shades = plots.shades(len(report.proofs))
    for (case, proofs), marker, colour in zip(report.proofs.items(), plots.MARKERS, shades, strict=False):
        gain, error, promised = gains(proofs)
        inverse = 1 / np.asarray(list(proofs), float)
        label = f"{case.replace('_', ' ')}, over {strongest(next(iter(proofs.values()))).replace('_', ' ')}"
        ax.errorbar(inverse, 100 * gain, 200 * error, fmt=marker, color=colour, ms=5, capsize=3, lw=1.2, label=label)
        ax.plot(0, 100 * promised, marker, color="w", mec=colour, ms=7, mew=1.4)
    ax.set_xticks([0, *(1 / size for size in report.sizes)], ["$\\infty$", *map(str, report.sizes)])
    ax.set(xlabel="input dimension (open: theory)", ylabel="gain over the best benchmark [%]")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = Experiment(
    name="control-deep-linear",
    title="Optimal schedules of deep linear networks that learn features",
    paper="2502.02531",
    solves="the schedule with the least final loss, from the proportional limit; networks trained by it, in pairs",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(120, 200, 400),
    seeds=16,
    theory=True,
    full={"cases": CASES, "momenta": (0.5, 0.8)},
    claims=(
        "On fresh batches the optimal schedule beats tuned constant, linear, cosine and warm-up schedules, with and "
        "without momentum, in theory and in networks.",
        "It is a kick, a short plateau, a decay as one over time; the kick pulls an outlier out of the bulk at once.",
        "With a full batch and time enough, schedules do not matter.",
        "An optimum of the theory past the edge of stability is false for networks.",
    ),
)
