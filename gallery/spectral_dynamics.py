"""Singular values of hidden weights along training: a bulk that stays and outliers that escape from it."""

from typing import Any

import jax
import numpy as np

from .. import limits
from ..limits import Spectrum, spectrum
from ..problems import GradientDescent, tasks
from ..studies import _plots as plots
from ._system import Problem, System

WIDTH_RATIOS = (1.0, 2.0, 4.0, 8.0)


def build(
    model: str = "linear",
    depth: int = 2,
    width_ratio: float = 1.0,
    richness: float = 4.0,
    init_scale: float = 0.5,
    parameterization: str = "mup",
    sample_ratio: float = 2.0,
    noise: float = 0.0,
    learning_rate: float = 0.04,
    steps: int = 24,
    samples: int = 2,
    dim: int = 6,
    target: str = "sign",
    data_seed: int = 0,
) -> Problem:
    """A deep linear network in the proportional limit (`model="linear"`), one with extensively many outputs
    (`"extensive"`), or, by the name of its activation, a wide network at fixed data (`samples`, `dim`,
    `target`, `data_seed`)."""
    protocol = GradientDescent(learning_rate, steps=steps)
    if model == "linear":
        limit = limits.DeepLinear(depth, width_ratio, richness, init_scale, 1.0, parameterization)
        return Problem(limit, tasks.isotropic(sample_ratio, noise), protocol)
    if model == "extensive":
        task = tasks.linear_map(output_ratio=0.5 * width_ratio, scale=richness)
        return Problem(limits.ExtensiveOutputs(width_ratio, init_scale), task, protocol)
    task = tasks.sphere(jax.random.key(data_seed), samples=samples, dim=dim, target=target)
    return Problem(limits.MLP(depth, model, richness, init_scale), task, protocol)


def spectra(report) -> dict[int, Any]:
    """The theory's spectrum of every layer of which the networks recorded singular values."""
    names = next(iter(report.runs.values())).extras
    layers = sorted(int(name.rsplit("_", 1)[1]) for name in names if name.startswith("singular_values"))
    return {layer: spectrum(report.limit, report.theory, layer) for layer in layers}


def measure(report) -> dict[str, Any]:
    """For every layer the step at which an outlier escaped, and the relative error of the mean over networks of the
    largest singular value after training, by size; not where it hides in a bulk at rest, whose edge is blurred."""
    found: dict[str, Any] = {}
    for layer, theory in spectra(report).items():
        found[f"escape step of layer {layer}"] = theory.escape_step
        if not isinstance(theory, Spectrum) or theory.escape_step is not None:
            largest = float(theory.largest[-1])
            means = [float(np.mean(_largest(run, layer)[:, -1])) for run in report.runs.values()]
            found[f"error of the largest singular value of layer {layer}"] = [
                round(mean / largest - 1, 4) for mean in means
            ]
    return found


def _largest(run, layer: int) -> np.ndarray:
    """`[seeds, time]`."""
    return np.asarray(run.extras[f"singular_values_{layer}"])[..., 0]


def draw(report, path=None):
    """Histograms of the largest networks' singular values under the predicted bulk and outlier at several times,
    outliers over time, and outliers of the theory for several widths in both parameterisations."""
    found = spectra(report)
    layer = max(found)
    linear = isinstance(report.limit, limits.DeepLinear)
    fig, axes = plots.figure(columns=3, rows=2)
    last = len(found[layer].largest) - 1
    escape = found[layer].escape_step or last // 2
    for ax, step in zip(axes[0], (0, min(escape + 2, last), last), strict=True):
        _draw_histogram(ax, report, found[layer], layer, step)
    _draw_outliers(axes[1, 0], report, found)
    if linear:
        for ax, parameterization in zip(axes[1, 1:], ("mup", "ntk"), strict=True):
            _draw_widths(ax, report, layer, parameterization)
        axes[1, 1].sharey(axes[1, 2])
    else:
        plots.draw_curve(axes[1, 1], report, next(iter(report.errors)))
        plots.draw_convergence(axes[1, 2], report)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_histogram(ax, report, theory, layer: int, step: int) -> None:
    size, run = max(report.runs.items())
    values = np.asarray(run.extras[f"singular_values_{layer}"])[..., step, :]
    largest = 1.1 * max(values.max(), float(np.max(theory.largest)))
    edges = np.linspace(0, largest, 60)
    ax.hist(
        values.ravel(),
        edges,
        density=True,
        color="0.8",
        label=f"{len(values)} networks, {report.limit.size_name} {size}",
    )
    x = np.linspace(largest / 600, largest, 600)
    ax.plot(x, theory.density(x, step), "k-", lw=1.4, label="bulk, theory")
    for outlier in theory.outliers[step]:
        if not np.isnan(outlier):
            ax.axvline(outlier, color="k", ls="--", lw=1.2, label="outlier, theory")
            ax.plot(values[:, 0], np.full(len(values), 0.03), "|", color="k", ms=9)
    ax.set(xlabel=f"singular value of $W^{{{layer}}}$", ylabel="density", title=f"after {step} steps")
    ax.set_ylim(0, 1.7 * float(np.max(theory.density(x, step))))
    ax.legend(frameon=False, fontsize=7, loc="upper left")


def _draw_outliers(ax, report, found) -> None:
    title = "outliers escape" if isinstance(found[max(found)], Spectrum) else "the whole bulk broadens"
    styles = zip(found.items(), ("-", "--", "-.", ":"), strict=False)
    for (layer, theory), line in styles:
        time = np.arange(len(theory.largest))
        ax.plot(time, theory.largest, line, color="k", lw=1.4, label=f"layer {layer}, theory", zorder=3)
        shades = plots.shades(len(report.runs))
        for (size, run), colour, marker in zip(report.runs.items(), shades, plots.MARKERS, strict=False):
            values = _largest(run, layer)
            label = f"{report.limit.size_name} {size}" if layer == max(found) else None
            ax.plot(time[::2], values.mean(0)[::2], marker, color=colour, ms=4, mew=0, label=label)
    ax.set(xlabel="step", ylabel="largest singular value", title=title)
    ax.legend(frameon=False, fontsize=7)


def _draw_widths(ax, report, layer: int, parameterization: str) -> None:
    design = report.limit
    for ratio, colour in zip(WIDTH_RATIOS, plots.shades(len(WIDTH_RATIOS)), strict=True):
        limit = limits.DeepLinear(
            design.depth, ratio, design.richness, design.init_scale, design.readout_scale, parameterization
        )
        theory = limit.solve(report.task, report.protocol)
        largest = spectrum(limit, theory, layer).largest
        ax.plot(np.arange(len(largest)), largest, color=colour, label=f"N = {ratio:g} D")
    name = {"mup": "maximal update: alike at every width", "ntk": "neural tangent: they vanish"}[parameterization]
    ax.set(xlabel="step", ylabel=f"largest singular value of $W^{{{layer}}}$", title=name)
    ax.legend(frameon=False, fontsize=7)


SYSTEM = System(
    name="spectral-dynamics",
    title="Bulk and outliers of hidden weights",
    paper="2605.07870",
    solves="singular values of hidden weights: bulk, outliers, escape step; linear and nonlinear networks",
    build=build,
    sizes=(50, 100, 200),
    seeds=8,
    record=("singular_values",),
    full={"noise": 0.3, "steps": 40},
    figure=draw,
    measure=measure,
    claims=(
        "Training pulls few singular values out of a bulk that does not change.",
        "Spikes respond to the bulk: an outlier computed as if they were independent of it is far off.",
        "Outliers are alike at every width in the maximal-update parameterisation, and vanish in the neural-tangent.",
    ),
)
