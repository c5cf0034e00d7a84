"""Feature-learning networks are consistent across widths: what is the same for all, and what is not, and when."""

import numpy as np

from ..studies import _plots as plots
from ._consistency import build, conduct, excess
from ._experiment import Experiment


def draw(report, path=None):
    """Test error, its excess over the widest networks, and predictions against steps; then variance, kernels, and bias
    and variance against width."""
    data = report.dataset
    fig, axes = plots.figure(columns=3, rows=2)
    _draw_errors(axes[0, 0], data)
    _draw_excess(axes[0, 1], data)
    _draw_points(axes[0, 2], data)
    _draw_variance(axes[1, 0], data)
    _draw_kernels(axes[1, 1], data)
    _draw_widths(axes[1, 2], data)
    if path is not None:
        fig.savefig(path)
    return fig


def _widths(data):
    return zip(data.width.values, plots.MARKERS, plots.shades(data.sizes["width"]), strict=False)


def _draw_errors(ax, data) -> None:
    for width, marker, colour in _widths(data):
        ax.plot(data.time, data.single.sel(width=width), marker + "-", color=colour, ms=4, lw=1, label=f"width {width}")
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="test error (mean square)", title="one network")
    ax.legend(frameon=False, fontsize=7)


def _draw_excess(ax, data) -> None:
    own = list(_widths(data))[:-1]
    for width, marker, colour in own:
        for name, line, face in (("single", "-", colour), ("infinite", ":", "white")):
            values = excess(data, name).sel(width=width)
            label = f"width {width}" if name == "single" else None
            ax.plot(data.time, values, marker + line, color=colour, mfc=face, ms=4, lw=1, label=label)
    ax.axhline(0, color="k", lw=0.8)
    ax.set_yscale("symlog", linthresh=0.2)
    ax.set(xscale="log", xlabel="step", ylabel="error / that of the widest - 1")
    ax.set_title("excess (open, dotted: mean of many)")
    ax.legend(frameon=False, fontsize=7, loc="upper left")


def _draw_points(ax, data, most: int = 3) -> None:
    for width, marker, colour in _widths(data):
        for i in range(most):
            label = f"width {width}" if i == 0 else None
            values = data.one_network.sel(width=width).isel(point=i)
            ax.plot(data.time, values, marker + "-", color=colour, ms=3, lw=0.8, label=label)
    ax.set(xscale="log", xlabel="step", ylabel="prediction of one network")
    ax.set_title(f"{most} inputs")
    ax.legend(frameon=False, fontsize=7)


def _draw_variance(ax, data) -> None:
    for width, marker, colour in _widths(data):
        values = width * data.variance.sel(width=width)
        ax.plot(data.time, values, marker + "-", color=colour, ms=4, lw=1, label=f"width {width}")
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="width x variance of predictions")
    ax.set_title("variance falls as one over width")
    ax.legend(frameon=False, fontsize=7)


def _draw_kernels(ax, data) -> None:
    for width, marker, colour in _widths(data):
        scatter = np.sqrt(data.kernel_variance.sel(width=width))
        ax.plot(data.time, scatter, marker + "-", color=colour, ms=4, lw=1, label=f"width {width}")
        if width != data.width.values[-1]:
            distance = data.kernel_distance.sel(width=width)
            ax.plot(data.time, distance, marker + ":", color=colour, mfc="white", ms=4, lw=1)
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="relative size")
    ax.set_title("last kernel: scatter (full), shift of mean (dotted)")
    ticks = (0.02, 0.05, 0.1, 0.2, 0.5)
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=7, ncols=2)


def _draw_widths(ax, data) -> None:
    late, width = data.isel(time=-1, width=slice(0, -1)), data.width.values[:-1].astype(float)
    bias = late.infinite - data.infinite.isel(time=-1, width=-1)
    dark, light = plots.shades(3)[2], plots.shades(3)[0]
    ax.plot(width, late.variance, "o-", color=dark, label="variance")
    ax.plot(width, bias.where(bias > 0), "s--", color=light, label="bias: mean of many - widest")
    ax.plot(width, 1.5 * float(late.variance[0]) * width[0] / width, "k:", lw=1, label="slope -1")
    plots.width_axis(ax, width, ylabel="part of the test error", title=f"after {int(data.time[-1])} steps")


SYSTEM = Experiment(
    name="width-consistency",
    title="Feature-learning networks are consistent across widths at realistic scales",
    paper="2305.18411",
    solves="centred networks on the same fresh batches: errors and kernels across widths; bias, variance",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(32, 64, 128, 256),
    seeds=8,
    full={"steps": 12_800, "test_samples": 4096, "reference_width": 1024, "reference_seeds": 4},
    claims=(
        "Errors, predictions and kernels of different widths agree early in training and deviate later.",
        "The variance of predictions falls as one over width, and ensembles are without it.",
        "Narrow networks keep a bias that no ensemble removes.",
    ),
)
