"""The whole table of ratios: `python -m limitax.bench [NAME ...] [--quick] [--repeats 2] [--out bench.json]`."""

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import platform
import time
from pathlib import Path
from typing import Any

import jax

from ..studies.results import plain, versions
from ._clock import line
from ._record import compare, into, merged, read


def names() -> list[str]:
    """The benchmarks, by the names of their modules."""
    folder = Path(__file__).parent
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))


def machine() -> dict[str, Any]:
    """What ran them."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def run(chosen: list[str], quick: bool = False, repeats: int = 1, passes: list[dict] | None = None) -> dict[str, Any]:
    """Runs and prints the chosen benchmarks: their rows by name, medians of all passes, earlier ones included, which
    are kept beside them; with date, machine and versions."""
    result = {"date": datetime.date.today().isoformat(), "quick": quick, "machine": machine(), "versions": versions()}
    passes, start = list(passes or []), time.perf_counter()
    for _ in range(repeats):
        rows: dict[str, list] = {}
        for name in chosen:
            print(f"== {name}", flush=True)
            rows[name] = []
            for row in importlib.import_module(f".{name}", __package__).rows(quick):
                print(line(row), flush=True)
                rows[name].append(row)
            jax.clear_caches()
        passes.append(plain(rows))
    return result | {"seconds": time.perf_counter() - start, "rows": merged(passes), "passes": passes}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m limitax.bench", description="Ratios measured in one process.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(names())}; default all")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--repeats", type=int, default=1, help="how often all is measured; medians and spreads are kept"
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="file for the table")
    parser.add_argument("--onto", type=Path, help="an earlier table of this machine, whose passes count too")
    parser.add_argument("--against", type=Path, help="an earlier table, printed as factors beside the new one")
    parser.add_argument("--readme", type=Path, help="only write the headlines of the table --out into this page")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in names()]
    if unknown:
        parser.error(f'name "{unknown[0]}" is unknown; one of: {", ".join(names())}.')
    if given.repeats < 1:
        parser.error(f"repeats must be at least 1; it is {given.repeats}.")
    try:
        if given.readme:
            given.readme.write_text(into(given.readme.read_text(), read(given.out)))
            return
        record = read(given.against) if given.against else None
        passes = _passes(given.onto, given.quick) if given.onto else None
        given.out.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(f"{error.filename}: {error.strerror}." if isinstance(error, OSError) else str(error))
    found = run(given.names or names(), given.quick, given.repeats, passes)
    given.out.write_text(json.dumps(plain(found), indent=1, allow_nan=False) + "\n")
    print(f"the table is in {given.out}")
    if record:
        print("new over recorded:", *compare(record, found), sep="\n")


def _passes(path: Path, quick: bool) -> list[dict]:
    """What an earlier table was made of, if it is one of the same sizes on the same machine."""
    known, here = read(path), {"quick": quick, **machine()}
    known = {"passes": [known["rows"]], "quick": False} | known
    for name in ("quick", "devices", "processor", "cores"):
        found = {**known["machine"], "quick": known["quick"]}.get(name)
        if found != here[name]:
            raise ValueError(f"{path} was made with {name} = {found}, and this is {here[name]}.")
    return known["passes"]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(text.split(":")[1].strip() for text in file if text.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
