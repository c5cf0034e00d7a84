"""Tables on the terminal."""

from typing import Any

_LINE = 140  # characters of numbers that are still read


def show(header, rows, title: str | None = None) -> None:
    """Prints a table; on a terminal it is fitted to the width, in a file it is as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(markup=False)  # a word in square brackets is a word
    if not console.is_terminal:
        console = Console(markup=False, width=160)
    console.print(table)


def show_comparison(report, title: str) -> None:
    """Prints the numbers of a `Comparison`, a row a quantity."""
    sizes = ["all sizes"] if report.sizes is None else [f"{report.limit.size_name} {size}" for size in report.sizes]
    rows = []
    for name, errors in report.errors.items():
        cells = [f"{e:.3g} ± {s:.2g}" for e, s in zip(errors, report.standard_errors[name], strict=True)]
        rows.append([name, *cells, number(report.rate[name], "+.2f"), number(report.agreement[name], ".2f")])
    show(["error of the mean", *sizes, "rate of spread", "agreement"], rows, title)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())
    print(f"theory: {report.status}; {seconds}; {report.seeds} seeds")


def show_optimum(best, title: str) -> None:
    """Prints the numbers of an `Optimum`."""
    content = best.summary()
    certificates = content.pop("certificates")
    rows = [(name.replace("_", " "), _cell(value)) for name, value in content.items()]
    rows += [(f"certificate: {name.replace('_', ' ')}", _cell(value)) for name, value in certificates.items()]
    show(("", "optimum"), rows, title)


def show_verification(proof, title: str) -> None:
    """Prints the numbers of a `Verification`, a row a protocol."""
    rows = [("best", _theory(proof, "best"), _networks(proof, "best"), "-", "-", "-", proof.diverged["best"])]
    for name in proof.against:
        difference = f"{proof.difference[name]:.3g} ± {proof.standard_error[name]:.2g}"
        relative = f"{100 * proof.relative_difference[name]:+.1f} ± {100 * proof.relative_error[name]:.1f} %"
        median = f"{proof.median[name]:.3g}"
        rows.append(
            (name, _theory(proof, name), _networks(proof, name), difference, relative, median, proof.diverged[name])
        )
    header = ("protocol", "theory", "networks", "best - it, paired", "relative", "median", "diverged")
    show(header, rows, title)
    verdict = "accepted" if proof.accepted else "NOT accepted"
    print(f"{verdict}: {proof.seeds} pairs of networks, {proof.best.limit.size_name} {proof.size}")


def show_measured(measured: dict[str, Any]) -> None:
    """Prints further numbers by name, those that fit on a line; the others are in the summary."""
    for name, value in measured.items():
        text = _cell(value)
        print(f"{name}: {text if len(text) <= _LINE else 'in summary.json'}")


def _theory(proof, name: str) -> str:
    return f"{proof.expected[name]:.4g}"


def _networks(proof, name: str) -> str:
    return f"{proof.mean[name]:.4g} ± {proof.mean_error[name]:.2g}"


def number(value: Any, style: str) -> str:
    """A number in the given format; `-` for `None`."""
    return "-" if value is None else (format(float(value), style) if not isinstance(value, (str, bool)) else str(value))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        cells = {name: _cell(entry) for name, entry in value.items()}
        return ", ".join(f"{name} ({text})" if "," in text else f"{name} {text}" for name, text in cells.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
