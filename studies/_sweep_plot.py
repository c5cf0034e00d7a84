"""What came of a sweep, in one picture: the loss after training against what was swept."""

from typing import Any

import numpy as np

from ..problems import STATUS
from . import _plots as plots

_LINES = 8


def final_losses(dataset) -> tuple[str, np.ndarray]:
    """The name of the test loss, or else the training loss, and its last values `[...]` over the grid; nan where a
    solution is not to be trusted."""
    name = "test_loss" if "test_loss" in dataset else "train_loss"
    loss = dataset[name].values
    times = loss.shape[-1]
    # points with fewer steps than others are filled up with nan
    last = times - 1 - np.argmax(~np.isnan(loss[..., ::-1]), axis=-1)
    final = np.take_along_axis(loss, last[..., None], axis=-1)[..., 0]
    return name, np.where(dataset["status"].values == STATUS[0], final, np.nan)


def plot_sweep(dataset, path=None):
    """Lines for one dimension, or for few values of a second; a map for two long ones, at the best of all others."""
    name, final = final_losses(dataset)
    dims = dataset["status"].dims
    while final.ndim > 2:
        final, dims = _least(final, final.ndim - 1), dims[:-1]
    others = [str(dim) for dim in dataset["status"].dims if dim not in dims]
    if final.ndim == 2 and final.shape[0] > final.shape[1]:
        final, dims = final.T, dims[::-1]  # the longer one goes along the horizontal axis
    fig, axes = plots.figure(columns=1, width=5.2, height=3.8)
    ax = axes[0, 0]
    x, x_scale = _places(ax, "x", dataset, str(dims[-1]))
    label = f"{name.replace('_', ' ')} after training" + (f", least over {', '.join(others)}" if others else "")
    positive = final[np.isfinite(final)]
    log = positive.size > 0 and positive.min() > 0 and positive.max() > 5 * positive.min()
    if final.ndim == 1 or len(final) <= _LINES:
        rows = np.atleast_2d(final)
        names = _labels(dataset, str(dims[0])) if final.ndim == 2 else [None]
        for row, colour, text, marker in zip(rows, plots.shades(len(rows)), names, _markers(len(rows)), strict=True):
            ax.plot(x, row, marker, ls="-", color=colour, ms=3.5, label=text)
        ax.set(ylabel=label, yscale="log" if log else "linear")
        if final.ndim == 2:
            ax.legend(frameon=False, fontsize=7, title=str(dims[0]).replace("_", " "), title_fontsize=7)
    else:
        y, y_scale = _places(ax, "y", dataset, str(dims[0]))
        start = dataset[name].values[..., 0]
        _map(ax, x, y, final, np.nanmax(start), label, log)
        ax.set_yscale(y_scale)
    ax.set_xscale(x_scale)
    if path is not None:
        fig.savefig(path)
    return fig


def _map(ax, x, y, final: np.ndarray, start: float, label: str, log: bool) -> None:
    """The final losses `[y, x]` by colour, those above the loss at the `start` alike; a cross at the least."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Patch

    finite = final[np.isfinite(final)]
    low, high = (finite.min(), min(finite.max(), max(start, finite.min()))) if finite.size else (0.0, 1.0)
    norm = LogNorm(low, high) if log and low < high else Normalize(low, high)
    mesh = ax.pcolormesh(x, y, final, norm=norm, cmap="viridis_r", shading="nearest")
    above = finite.size and finite.max() > high
    bar = ax.figure.colorbar(mesh, ax=ax, extend="max" if above else "neither")
    size = ax.xaxis.label.get_size()
    bar.set_label(label, size=size)
    bar.ax.tick_params(labelsize=ax.xaxis.get_ticklabels()[0].get_size())
    if finite.size:
        i, j = np.unravel_index(np.nanargmin(final), final.shape)
        ax.plot(x[j], y[i], "x", color="black", ms=6, mew=1.5, label="least")
    ax.set_facecolor("0.9")
    handles, _ = ax.get_legend_handles_labels()
    if finite.size < final.size:
        handles.append(Patch(facecolor="0.9", label="no solution to be trusted"))
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=7)


def _least(values: np.ndarray, axis: int) -> np.ndarray:
    """The least along an axis; nan where all are."""
    least = np.min(np.where(np.isnan(values), np.inf, values), axis=axis)
    return np.where(np.isinf(least), np.nan, least)


def _places(ax, which: str, dataset, dim: str):
    """Where the values of a dimension are on an axis, and its scale; texts are named in even distances."""
    ax.set(**{f"{which}label": dim.replace("_", " ")})
    values = dataset[dim].values
    if values.dtype.kind in "iuf" and np.all(np.isfinite(values)):
        ordered = values.min() > 0 and values.max() > 20 * values.min()
        return values, "log" if ordered else "linear"
    places = np.arange(len(values))
    getattr(ax, f"set_{which}ticks")(places, _labels(dataset, dim))
    return places, "linear"


def _labels(dataset, dim: str) -> list[str]:
    """The values of a dimension as text; those of a list are its places."""
    values = dataset[dim].values
    return [f"{value:.3g}" if values.dtype.kind == "f" else str(value) for value in values]


def _markers(count: int) -> list[str]:
    return [plots.MARKERS[i % len(plots.MARKERS)] for i in range(count)]


def sweep_summary(dataset) -> dict[str, Any]:
    """How many points there are, what became of them, and the best one, as plain data for JSON."""
    name, final = final_losses(dataset)
    statuses, counts = np.unique(dataset["status"].values, return_counts=True)
    best = None
    if np.any(np.isfinite(final)):
        place = dict(zip(dataset["status"].dims, np.unravel_index(np.nanargmin(final), final.shape), strict=True))
        point = dataset["status"].isel(place)
        best = {name: float(np.nanmin(final))} | {str(n): value.values[()] for n, value in point.coords.items()}
    return {
        "points": int(final.size),
        "shape": {str(dim): dataset.sizes[dim] for dim in dataset["status"].dims},
        "status": dict(zip(statuses.tolist(), counts.tolist(), strict=True)),
        "best": best,
    }
