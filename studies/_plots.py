"""Pictures: theory as black lines over the mean and spread of finite networks, legible in print and in grey."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._compare import Comparison
    from ._verify import Verification

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LABELS = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "predictions": "predictions",
    "test_predictions": "test predictions",
}


def figure(columns: int, rows: int = 1, width: float = 4.2, height: float = 3.4):
    """A figure and its axes `[rows, columns]`, without any global plotting state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        fig = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=150)
        axes = fig.subplots(rows, columns, squeeze=False)
    return fig, axes


def shades(count: int) -> list[Any]:
    """`count` colours from light to dark, monotone in brightness."""
    from matplotlib import colormaps

    return [colormaps["viridis"](v) for v in (np.linspace(0.8, 0.15, count) if count > 1 else [0.35])]


def plot_comparison(report: "Comparison", path=None):
    """Losses, predictions and distances from the theory of a `Comparison`; see `Comparison.plot`."""
    names = report.errors
    losses = [n for n in ("train_loss", "test_loss") if n in names]
    fields = [n for n in ("predictions",) if n in names]
    fig, axes = figure(len(losses[:2]) + len(fields) + 1)
    for ax, name in zip(axes[0], losses, strict=False):
        draw_curve(ax, report, name)
    if fields:
        draw_predictions(axes[0, len(losses)], report)
    if report.sizes is None:
        draw_residual(axes[0, -1], report, losses[-1])
    else:
        draw_convergence(axes[0, -1], report)
    if path is not None:
        fig.savefig(path)
    return fig


def draw_curve(
    ax, report: "Comparison", name: str, label: str = "theory", reference=None, reference_label: str | None = None
) -> None:
    """One loss against steps: theory over mean (markers) and standard deviation (bands) of every size.

    On a logarithmic axis a band reaches down by the same factor as up, since a loss cannot fall below zero.
    `reference` is another trajectory to compare with, drawn dashed. Dotted lines in the colour of a size are the
    predicted mean, plus and minus a standard deviation, where there are `fluctuations`.
    """
    theory = np.asarray(report.theory.curves()[name])
    time = np.arange(theory.shape[0])
    log_time = len(time) > 200
    log_loss = theory.min() > 0 and theory.max() / theory.min() > 5
    where = _marked(len(time), log_time)
    for (size, run), colour, marker in zip(report.runs.items(), shades(len(report.runs)), MARKERS, strict=False):
        values = np.asarray(run.curves()[name])
        mean, deviation = values.mean(0), values.std(0)
        low = mean**2 / (mean + deviation) if log_loss else mean - deviation
        text = f"{report.seeds} networks" if report.sizes is None else f"{report.limit.size_name} {size}"
        ax.fill_between(time, low, mean + deviation, color=colour, alpha=0.2, lw=0)
        ax.plot(time[where], mean[where], marker, color=colour, ms=4, mew=0, label=text)
        if report.fluctuations is not None:
            expected = report.fluctuations.predicted_loss(size, test=name == "test_loss")
            deviation = report.fluctuations.band(size)[name]
            low = expected**2 / (expected + deviation) if log_loss else expected - deviation
            for edge in (low, expected + deviation):
                ax.plot(time, edge, ":", color=colour, lw=1.2)
    if reference is not None:
        ax.plot(time, np.asarray(reference.curves()[name]), "--", color="0.45", lw=1.2, label=reference_label)
    ax.plot(time, theory, "k-", lw=1.4, label=label)
    if name in (errors := report.theory.errors()):
        error = np.asarray(errors[name])
        ax.fill_between(time, theory - error, theory + error, color="k", alpha=0.15, lw=0)
    if log_loss:
        ax.set_yscale("log")
    if log_time:
        ax.set(xscale="log", xlim=(1, time[-1]))
    ax.set(xlabel="step", ylabel=f"{_LABELS.get(name, name)} ({_CONVENTIONS[report.theory.loss_convention]})")
    ax.legend(frameon=False)


def draw_losses(axes, report: "Comparison") -> None:
    """A row of three: the losses that were compared, then their convergence."""
    losses = [name for name in ("test_loss", "train_loss") if name in report.errors]
    for ax, name in zip(axes, losses, strict=False):
        draw_curve(ax, report, name)
    for ax in axes[len(losses) : -1]:
        ax.axis("off")
    draw_convergence(axes[-1], report)


def draw_predictions(ax, report: "Comparison", name: str = "predictions", most: int = 6) -> None:
    """The outputs on the first few samples against steps, with the largest networks beside the theory."""
    theory = np.asarray(report.theory.curves()[name])[:, :most]
    size, run = list(report.runs.items())[-1]
    values = np.asarray(run.curves()[name])[..., :most]
    time = np.arange(theory.shape[0])
    where = _marked(len(time), False)
    colour = shades(len(report.runs))[-1]
    mean, deviation = values.mean(0), values.std(0)
    expected = report.fluctuations if name == "predictions" else None
    for i in range(theory.shape[1]):
        if expected is not None:
            middle = expected.predictions[:, i] + expected.prediction_bias[:, i] / size
            for sign in (-1, 1):
                edge = middle + sign * expected.band(size)[name][:, i]
                ax.plot(time, edge, ":", color=colour, lw=1.2, label="predicted spread" if i == sign - 1 else None)
        ax.fill_between(time, mean[:, i] - deviation[:, i], mean[:, i] + deviation[:, i], color=colour, alpha=0.2, lw=0)
        ax.plot(
            time[where],
            mean[where, i],
            MARKERS[i],
            color=colour,
            ms=4,
            mew=0,
            label=f"{report.limit.size_name} {size}" if i == 0 else None,
        )
        ax.plot(time, theory[:, i], "k-", lw=1.2, label="theory" if i == 0 else None)
    ax.set(xlabel="step", ylabel=_LABELS[name])
    # The curves go anywhere inside the axes.
    ax.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def width_axis(ax, widths, **labels) -> None:
    """Logarithmic axes over widths, with a tick at each of them."""
    ax.set(xscale="log", yscale="log", xlabel="width $N$", **labels)
    ticks(ax, widths)
    ax.legend(frameon=False, fontsize=7)


def ticks(ax, values) -> None:
    """Whole numbers on an axis, and nothing between them."""
    ax.set_xticks(values, [f"{int(value)}" for value in values])
    ax.minorticks_off()


def draw_convergence(ax, report: "Comparison", most: int = 3) -> None:
    """Distance from the theory against size: single runs, expected as size to the -1/2, and seed means."""
    sizes = np.asarray(report.sizes, float)
    preferred = ("predictions", "test_loss", "train_loss", "test_predictions")
    names = ([n for n in preferred if n in report.errors] + [n for n in report.errors if n not in preferred])[:most]
    for name, marker, colour in zip(names, MARKERS, shades(len(names)), strict=False):
        rate = report.rate[name]
        label = _LABELS.get(name, name) + ("" if rate is None else f": slope {rate:.2f}")
        ax.plot(sizes, report.spread[name], marker + "-", color=colour, ms=5, lw=1, label=label)
        means, deviations = np.asarray(report.errors[name]), np.asarray(report.standard_errors[name])
        # A distance is positive: on the logarithmic axis its error bar is kept from falling to zero.
        bars = np.stack([np.minimum(deviations, 0.7 * means), deviations])
        ax.errorbar(sizes, means, bars, fmt=marker, color=colour, ms=5, mfc="white", lw=0.8)
    ax.plot(sizes, report.spread[names[0]][0] * 1.35 * (sizes / sizes[0]) ** -0.5, "k:", lw=1, label="slope -1/2")
    ax.set(xscale="log", yscale="log", xlabel=report.limit.size_name, ylabel="relative distance from theory")
    lowest = min(min(report.errors[name]) for name in names)
    ax.set_ylim(bottom=max(lowest / 30, 1e-6))
    ticks(ax, sizes)
    title = f"filled: single runs; open: mean of {report.seeds}"
    ax.legend(fontsize=7, title=title, title_fontsize=7, frameon=False, loc="lower left")


def draw_residual(ax, report: "Comparison", name: str) -> None:
    """Seed mean minus theory in units of its standard error, against steps."""
    theory = np.asarray(report.theory.curves()[name])
    values = np.asarray(next(iter(report.runs.values())).curves()[name])
    error = values.std(0, ddof=1) / np.sqrt(values.shape[0])
    # Before the first update every run has the same loss: what is left there is rounding.
    known = error > 1e-5 * np.abs(theory)
    score = np.divide(values.mean(0) - theory, error, out=np.full_like(theory, np.nan), where=known)
    log_time = len(score) > 200
    # Neighbouring steps fluctuate together: a line through all of thousands would only blacken the late ones.
    shown = _marked(len(score), log_time, most=100)
    ax.axhspan(-2, 2, color="0.9", lw=0)
    ax.plot(shown, score[shown], "o-" if log_time else "-", color=shades(1)[0], lw=0.8, ms=2.5, mew=0)
    ax.axhline(0, color="k", lw=0.8)
    if log_time:
        ax.set(xscale="log", xlim=(1, len(score) - 1))
    ax.set(xlabel="step", ylabel="(mean of networks - theory) / standard error", ylim=(-5, 5))


def draw_schedules(ax, rates: dict[str, Any]) -> None:
    """Learning rates against steps, on a logarithmic rate axis; several line styles, so that grey print will do."""
    for (name, values), style, colour in zip(rates.items(), ("--", "-", "-.", ":"), shades(len(rates)), strict=False):
        values = np.asarray(values)
        ax.step(np.arange(len(values)), values, style, where="post", color=colour, lw=1.5, label=name)
    ax.set(xlabel="step", ylabel="learning rate", yscale="log")
    ax.legend(frameon=False)


def draw_runs(ax, reports: "dict[str, Comparison]", name: str = "test_loss") -> None:
    """Losses of several protocols on one problem: theory as lines, mean and standard error of the runs as markers."""
    styles = zip(("--", "-", "-.", ":"), shades(len(reports)), MARKERS, strict=False)
    for (label, report), (style, colour, marker) in zip(reports.items(), styles, strict=False):
        theory = np.asarray(report.theory.curves()[name])
        values = np.asarray(next(iter(report.runs.values())).curves()[name])
        time = np.arange(len(theory))
        where = _marked(len(time), True)
        error = values.std(0, ddof=1) / np.sqrt(values.shape[0])
        ax.plot(time, theory, style, color=colour, lw=1.2, label=f"{label}: theory")
        ax.errorbar(
            time[where],
            values.mean(0)[where],
            error[where],
            fmt=marker,
            color=colour,
            ms=4,
            lw=1,
            label=f"{label}: runs",
        )
    convention = next(iter(reports.values())).theory.loss_convention
    ax.set(xscale="log", yscale="log", xlim=(1, len(time) - 1), xlabel="step")
    ax.set_ylabel(f"{_LABELS.get(name, name)} ({_CONVENTIONS[convention]})")
    ax.legend(frameon=False, fontsize=7)


def plot_optimum(best, path=None):
    """What was free, the loss at the optimum, and the history of an `Optimum`; see `Optimum.plot`."""
    schedules = {name: value for name, value in best.found.items() if value.ndim == 1}
    fig, axes = figure(len(schedules) + 2)
    for ax, (name, value) in zip(axes[0], schedules.items(), strict=False):
        ax.step(np.arange(len(value)), value, where="post", color=shades(1)[0], lw=1.5)
        ax.set(xlabel="step", ylabel=name.replace("_", " "))
        if value.min() > 0 and value.max() / value.min() > 5:
            ax.set_yscale("log")
    loss = best.trajectory.test_loss if best.trajectory.test_loss is not None else best.trajectory.train_loss
    kind = "test loss" if best.trajectory.test_loss is not None else "training loss"
    ax = axes[0, -2]
    ax.plot(np.arange(1, len(loss)), np.asarray(loss)[1:], "k-", lw=1.4)
    ax.set(xscale="log", xlabel="step", ylabel=f"{kind} ({_CONVENTIONS[best.trajectory.loss_convention]})")
    ax.set_yscale(_scale(loss))
    excess = np.asarray(best.history) / (best.value if np.isfinite(best.value) else np.nanmin(best.history)) - 1
    axes[0, -1].plot(np.arange(len(excess)), np.maximum(excess, 1e-16), "o-", color=shades(1)[0], ms=3, lw=1)
    axes[0, -1].set(yscale="log", xlabel=f"iteration of {best.method}", ylabel="objective / best - 1")
    if path is not None:
        fig.savefig(path)
    return fig


def plot_verification(proof: "Verification", path=None):
    """Rates, losses and paired differences of a `Verification`; see `Verification.plot`."""
    fig, axes = figure(3)
    rates = {name: getattr(proof.protocol(name), "learning_rate", None) for name in proof.runs}
    draw_protocols(axes[0, 0], {name: rate for name, rate in rates.items() if rate is not None})
    draw_verified_losses(axes[0, 1], proof)
    draw_differences(axes[0, 2], {"": proof})
    if path is not None:
        fig.savefig(path)
    return fig


def draw_protocols(ax, rates: dict[str, Any]) -> None:
    """Learning rates of an optimum, thick and black, over those of its rivals; zeros are left out."""
    for name, colour, style in _protocol_styles(rates):
        values = np.asarray(rates[name], float)
        shown = np.where(values > 0, values, np.nan)
        width = 2.0 if name == "best" else 1.3
        ax.step(np.arange(len(values)), shown, where="post", color=colour, ls=style, lw=width, label=_words(name))
    ax.set(xlabel="step", ylabel="learning rate", yscale="log")
    ax.legend(frameon=False, fontsize=7)


def draw_verified_losses(ax, proof: "Verification") -> None:
    """Losses of a `Verification` against steps: theory as lines, means over networks that stayed stable as markers."""
    styles = zip(_protocol_styles(proof.runs), MARKERS * len(proof.runs), strict=False)
    for i, ((name, colour, style), marker) in enumerate(styles):
        runs, theory = proof.curves(name)
        runs = runs[np.isfinite(proof.losses[name])]
        time = np.arange(len(theory))
        ax.plot(time, theory, color=colour, ls=style, lw=2.0 if name == "best" else 1.2, label=_words(name))
        if len(runs):
            where = _marked(len(time), len(time) > 200, most=12)
            # shifted against each other, or markers of equal losses would hide each other
            where = np.unique(np.append(np.minimum(where + i, len(time) - 1), len(time) - 1))
            ax.plot(time[where], runs.mean(0)[where], marker, color=colour, ms=4, mew=0)
    label = "training loss" if proof.theory["best"].test_loss is None else "test loss"
    ax.set(xlabel="step", ylabel=f"{label} ({_CONVENTIONS[proof.theory['best'].loss_convention]})")
    ax.set_yscale(_scale(*(proof.curves(name)[1] for name in proof.runs)))
    ax.set_title(f"markers: {proof.seeds} networks, {proof.best.limit.size_name} {proof.size}", fontsize=9)
    ax.legend(frameon=False, fontsize=7)


def draw_differences(ax, proofs: "dict[str, Verification]") -> None:
    """Paired relative differences between the best and every rival, with two standard errors; crosses: the theory's."""
    rows = [(case, name, proof) for case, proof in proofs.items() for name in proof.against]
    for place, (_, name, proof) in enumerate(rows):
        difference, error = -100 * proof.relative_difference[name], 200 * proof.relative_error[name]
        ax.errorbar(difference, place, xerr=error, fmt="o", color=shades(1)[0], ms=5, capsize=3, lw=1.4)
        expected = 100 * (1 - proof.expected["best"] / proof.expected[name])
        ax.plot(expected, place, "x", color="k", ms=6)
        if lost := proof.diverged[name] + proof.diverged["best"]:
            ax.annotate(f"{lost} diverged", (difference, place), (4, 4), textcoords="offset points", fontsize=7)
    ax.axvline(0, color="0.6", lw=0.8)
    ax.set_yticks(range(len(rows)), ["\n".join(filter(None, (case, _words(name)))) for case, name, _ in rows])
    ax.set(xlabel="loss of the best below the rival's [%]", ylim=(len(rows) - 0.5, -0.5))
    ax.set_title("networks, 2 standard errors; crosses: theory", fontsize=9)


def _protocol_styles(names) -> list[tuple[str, Any, str]]:
    """Name, colour and line style: black and solid for the best, which comes last and on top; shades for the rest."""
    rivals = [name for name in names if name != "best"]
    styles = ["--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))] * len(rivals)
    rows = list(zip(rivals, shades(len(rivals)), styles, strict=False))
    return rows + [("best", "k", "-")] * ("best" in names)


def _scale(*curves) -> str:
    """A logarithmic axis where there is something to be seen on it."""
    values = np.concatenate([np.ravel(curve) for curve in curves])
    return "log" if np.any(np.isfinite(values) & (values > 0)) else "linear"


def _words(name: str) -> str:
    return name.replace("_", " ")


_CONVENTIONS = {
    "half_mean_square": "half mean square",
    "mean_square": "mean square",
    "cross_entropy": "cross-entropy",
    "mean_loss": "mean over samples",
}


def _marked(length: int, log: bool, most: int = 24) -> np.ndarray:
    """Indices of at most about `most` points that get a marker."""
    if log:
        return np.unique(np.round(np.geomspace(1, length - 1, most)).astype(int))
    return np.unique(np.round(np.linspace(0, length - 1, min(length, most))).astype(int))
