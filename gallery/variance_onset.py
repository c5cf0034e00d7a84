"""The onset of variance-limited behaviour: from how many samples on a network's own randomness limits what it
learns."""

import numpy as np

from ..studies import _plots as plots
from ._experiment import Experiment
from ._onset import averaged, build, conduct


def draw(report, path=None):
    """Test error against samples for each richness; then where the variance sets in, the variance against width, and
    kernel flow beside networks."""
    data = averaged(report.dataset)
    count = data.sizes["richness"]
    fig, axes = plots.figure(columns=max(3, count), rows=2)
    for i in range(axes.shape[1]):
        if i < count:
            _draw_errors(axes[0, i], data.isel(richness=i), first=i == 0)
        else:
            axes[0, i].set_axis_off()
    _draw_onsets(axes[1, 0], data)
    _draw_variance(axes[1, 1], data)
    _draw_kernels(axes[1, 2], data)
    for ax in axes[1, 3:]:
        ax.set_axis_off()
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_errors(ax, data, first: bool) -> None:
    for width, marker, colour in zip(data.width.values, plots.MARKERS, plots.shades(data.sizes["width"]), strict=False):
        row = data.sel(width=width)
        ax.plot(data.samples, row.single, marker + "-", color=colour, ms=4, lw=1, label=f"width {width}")
        ax.plot(data.samples, row.ensemble, ":", color=colour, lw=1.4)
    ax.plot(data.samples, data.reference, "k-", lw=1.6, label=f"width {data.attrs['reference_width']}, no variance")
    if first and "static_kernel" in data:
        ax.plot(data.samples, data.static_kernel, "--", color="0.45", lw=1.6, label="infinite width, lazy limit")
    ax.set(xscale="log", yscale="log", xlabel="training samples $P$", ylabel="test error (mean square)")
    ax.set_title(f"richness {float(data.richness):g} (dotted: mean of the networks)")
    plots.ticks(ax, data.samples.values[::2])
    ax.legend(frameon=False, fontsize=7)


def _draw_onsets(ax, data) -> None:
    width = data.width.values.astype(float)
    for i, (marker, colour) in enumerate(zip(plots.MARKERS, plots.shades(data.sizes["richness"]), strict=False)):
        row = data.isel(richness=i)
        ax.plot(
            width, row.onset_single, marker + "-", color=colour, ms=5, lw=1, label=f"$\\gamma_0$ = {row.richness:g}"
        )
        ax.plot(width, row.onset_ensemble, marker + ":", color=colour, ms=5, mfc="white", lw=1.2)
    start = 0.75 * min(float(np.min(data.onset_single)), float(data.samples[-1]))
    ax.plot(width, start * (width / width[0]) ** 0.5, "k--", lw=1, label="slope 1/2")
    title = "onset (open, dotted: mean of the networks)"
    plots.width_axis(ax, width, ylabel="$P^*$: test error twice the reference", title=title)
    ax.set_yticks(data.samples.values, [str(value) for value in data.samples.values])
    ax.set_ylim(0.8 * start, data.samples.values[-1])


def _draw_variance(ax, data) -> None:
    width, last = data.width.values.astype(float), data.isel(samples=-1)
    for i, (marker, colour) in enumerate(zip(plots.MARKERS, plots.shades(data.sizes["richness"]), strict=False)):
        row = last.isel(richness=i)
        ax.plot(width, row.variance, marker + "-", color=colour, ms=5, lw=1, label=f"$\\gamma_0$ = {row.richness:g}")
    ax.plot(width, 1.5 * float(last.variance.max()) * width[0] / width, "k--", lw=1, label="slope -1")
    title = f"variance at {int(data.samples[-1])} samples"
    plots.width_axis(ax, width, ylabel="variance of test predictions", title=title)


def _draw_kernels(ax, data) -> None:
    error = data.single.sel(samples=data.kernel_samples).transpose(*data.final_kernel.dims)
    for i, (marker, colour) in enumerate(zip(plots.MARKERS, plots.shades(data.sizes["richness"]), strict=False)):
        x = error.values[i].ravel()
        for kind, face in (("final", colour), ("initial", "white")):
            label = f"{kind}, $\\gamma_0$ = {float(data.richness[i]):g}"
            values = data[f"{kind}_kernel"].values[i].ravel()
            ax.plot(x, values, marker, color=colour, mfc=face, ms=5, label=label)
    ends = np.array([error.min(), error.max()])
    ax.plot(ends, ends, "k-", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="test error of the network", ylabel="test error of its tangent kernel")
    ax.set_title("kernels before and after training")
    ax.legend(frameon=False, fontsize=7)


SYSTEM = Experiment(
    name="variance-onset",
    title="The onset of variance-limited behaviour for networks in the lazy and rich regimes",
    paper="2212.12147",
    solves="test error of centred networks against samples, width and richness; tangent kernels before and after",
    build=build,
    conduct=conduct,
    figure=draw,
    sizes=(16, 32, 64),
    seeds=4,
    theory=True,
    full={
        "dim": 10,
        "samples": (3, 5, 10, 18, 32, 57, 103, 184, 329, 588, 1052, 1880, 3360, 6005, 10000),
        "kernel_samples": (103, 588),
        "test_samples": 2000,
        "steps": 30_000,
    },
    claims=(
        "Test errors follow those of infinite width up to P* samples and are limited by variance beyond.",
        "P* grows as about the square root of the width.",
        "Ensembles of networks, and richer networks, have a larger P*.",
        "Descent with the tangent kernel after training reproduces the error of the network.",
    ),
)
