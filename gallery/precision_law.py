"""Scaling laws for precision: how many bits to train with, and when more training harms a model that is rounded."""

import numpy as np

from ..studies import PrecisionLaw
from ..studies import _plots as plots
from ._system import ClosedForm

BITS = np.geomspace(0.5, 16, 200)
BUDGETS = np.array([1e18, 1e20, 1e22])  # parameters x tokens x bits
PARAMETERS = 1e9
TOKENS = np.geomspace(1e9, 1e14, 200)
POST_BITS = np.array([3.0, 4.0, 5.0, 6.0])
PARTS = ("weight", "activation", "cache")


def curves(law: PrecisionLaw):
    """Loss against bits at fixed budgets, loss of a rounded model against tokens, and effective parameters."""
    import xarray

    best = law.compute_optimal(BUDGETS[:, None], BITS)
    rounded = law.loss(PARAMETERS, TOKENS, post_training_bits=POST_BITS[:, None])
    share = [law.effective_parameters(1.0, **{f"{part}_bits": BITS}) for part in PARTS]
    together = law.effective_parameters(1.0, BITS, BITS, BITS)
    data = xarray.Dataset(
        {
            "loss_at_budget": (("budget", "bits"), best.loss),
            "parameters_at_budget": (("budget", "bits"), best.parameters),
            "tokens_at_budget": (("budget", "bits"), best.tokens),
            "loss_rounded": (("post_bits", "tokens"), rounded),
            "loss_not_rounded": (("tokens",), law.loss(PARAMETERS, TOKENS)),
            "critical_tokens": (("post_bits",), law.critical_tokens(PARAMETERS, POST_BITS)),
            "effective_share": (("part", "bits"), np.stack([*share, together])),
            "best_precision": ((), law.best_precision()),
        },
        coords={
            "budget": BUDGETS,
            "bits": BITS,
            "tokens": TOKENS,
            "post_bits": POST_BITS,
            "part": [*PARTS, "all"],
        },
        attrs={"parameters_rounded": PARAMETERS},
    )
    for name, unit in {"bits": "bit", "post_bits": "bit", "best_precision": "bit"}.items():
        data[name].attrs["units"] = unit
    data["budget"].attrs["long_name"] = "parameters times tokens times bits"
    data["loss_rounded"].attrs["long_name"] = "loss after rounding the weights of a model trained without rounding"
    return data


def numbers(report) -> dict:
    """The best precision, by its equation and on the curve of each budget; the critical numbers of tokens, likewise."""
    data = report.dataset
    at_budgets = [_lowest(data.bits.values, curve) for curve in data.loss_at_budget.values]
    rounded = [_lowest(data.tokens.values, curve) for curve in data.loss_rounded.values]
    return {
        "best number of bits": round(float(data.best_precision), 4),
        "bits of least loss at each budget": [round(value, 3) for value in at_budgets],
        "bits after training": data.post_bits.values.tolist(),
        "critical tokens": [float(f"{value:.4g}") for value in data.critical_tokens.values],
        "tokens of least loss": [float(f"{value:.4g}") for value in rounded],
    }


def _lowest(x, curve) -> float:
    """Where a curve is lowest, by the parabola in log x through its lowest points."""
    best = int(np.clip(np.argmin(curve), 1, len(x) - 2))
    near = slice(best - 1, best + 2)
    a, b, _ = np.polyfit(np.log(x[near] / x[best]), curve[near], 2)
    return float(x[best] * np.exp(-b / (2 * a)))


def draw(report, path=None):
    """Loss against training bits at fixed budgets; effective parameters against bits; and loss of rounded models
    against training tokens."""
    data = report.dataset
    fig, axes = plots.figure(columns=3)
    _draw_budgets(axes[0, 0], report.law, data)
    _draw_shares(axes[0, 1], data)
    _draw_rounded(axes[0, 2], data)
    if path is not None:
        fig.savefig(path)
    return fig


def _draw_budgets(ax, law, data) -> None:
    floor = float(law.irreducible_loss)
    for row, marker, colour in zip(data.loss_at_budget, plots.MARKERS, plots.shades(len(data.budget)), strict=False):
        ax.plot(data.bits, row - floor, color=colour, label=f"budget $10^{{{np.log10(float(row.budget)):.0f}}}$")
        low = _lowest(data.bits.values, row.values)
        ax.plot([low], [np.interp(low, data.bits, row - floor)], marker, color=colour, ms=5)
    best = float(data.best_precision)
    ax.axvline(best, color="k", lw=0.8, ls=":", label=f"best: {best:.2f} bits")
    ax.set(xscale="log", yscale="log", xlabel="training bits", ylabel="loss - irreducible loss")
    ax.set_ylim(top=3 * float(np.max(data.loss_at_budget) - floor))
    ax.set_title("the best bits know nothing of the budget")
    _bit_ticks(ax)
    ax.legend(frameon=False, fontsize=7)


def _draw_shares(ax, data) -> None:
    for row, line, colour in zip(data.effective_share, ("--", "-.", ":", "-"), plots.shades(4), strict=True):
        ax.plot(data.bits, row, line, color=colour, label=str(row.part.values))
    ax.set(xscale="log", xlabel="bits", ylabel="effective / actual parameters", ylim=(0, 1.02))
    ax.set_title("what rounding in training costs")
    _bit_ticks(ax)
    ax.legend(frameon=False, fontsize=7)


def _draw_rounded(ax, data) -> None:
    for row, colour in zip(data.loss_rounded, plots.shades(len(data.post_bits)), strict=True):
        ax.plot(data.tokens, row, color=colour, label=f"{float(row.post_bits):g} bits")
        critical = float(data.critical_tokens.sel(post_bits=row.post_bits))
        ax.plot([critical], [np.interp(critical, data.tokens, row)], "o", color=colour, ms=5)
    ax.plot(data.tokens, data.loss_not_rounded, "k--", lw=1.2, label="not rounded")
    low, high = float(data.loss_not_rounded.min()), float(data.loss_not_rounded.max())
    size = np.log10(data.attrs["parameters_rounded"])
    ax.set(
        xscale="log",
        xlabel=f"training tokens of $10^{{{size:g}}}$ parameters",
        ylabel="loss",
        ylim=(low - 0.02 * (high - low), high),
    )
    ax.set_title("rounded after training (dots: critical)")
    ax.legend(frameon=False, fontsize=7, loc="lower left")


def _bit_ticks(ax) -> None:
    ticks = (0.5, 1, 2, 4, 8, 16)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


SYSTEM = ClosedForm(
    name="precision-law",
    title="Scaling laws for precision",
    paper="2411.04330",
    solves="loss against parameters, tokens and bits in closed form; best bits, critical number of tokens",
    build=PrecisionLaw,
    evaluate=curves,
    figure=draw,
    measure=numbers,
    claims=(
        "At a cost of parameters times tokens times bits, the best number of bits is the same for every budget.",
        "A model that is rounded after training has a number of tokens beyond which more of them make it worse.",
    ),
)
