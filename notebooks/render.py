"""Runs notebooks from top to bottom and writes each as one HTML page with its outputs:

    python notebooks/render.py [NAME ...] [--out FOLDER] [--jobs COUNT]

A name is a part of a file's name, such as `04` or `schedule`; without names all notebooks run. Fails, after having run
them all, if a cell raises or warns, or if a page has no picture or is too large to be sent around.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

HERE = Path(__file__).parent
LARGEST = 1_500_000  # bytes
LONGEST = 3600  # seconds a cell, with FULL=1


def chosen(names: list[str]) -> list[Path]:
    """The notebooks that the names ask for, in order."""
    paths = sorted(HERE.glob("[0-9]*.py"))
    for name in names:
        if not any(name in path.stem for path in paths):
            raise SystemExit(f"no notebook is called {name}; there are: {', '.join(path.stem for path in paths)}.")
    return [path for path in paths if not names or any(name in path.stem for name in names)]


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs. What it saves goes to a folder of its own, which is removed."""
    notebook = jupytext.read(path)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=LONGEST, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        # Cells' own output is in the notebook; what is left is the kernel's advice on how it is connected.
        return client.execute(stderr=subprocess.DEVNULL)


def faults(notebook: nbformat.NotebookNode, page: str) -> list[str]:
    """What a reader should not have to see."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    found = [output.text.strip() for output in outputs if output.get("name") == "stderr"]
    if not any("image/png" in output.get("data", {}) for output in outputs):
        found.append("there is no picture.")
    if len(page.encode()) > LARGEST:
        found.append(f"the page has {len(page.encode()):,} bytes; at most {LARGEST:,} are allowed.")
    return found


def render(path: Path, out: Path) -> bool:
    """Runs one notebook, writes its page, and says how it went."""
    start = time.perf_counter()
    try:
        notebook = execute(path)
    except CellExecutionError as error:
        print(f"{path.stem}: FAILED after {time.perf_counter() - start:.0f} s\n{error}", flush=True)
        return False
    title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
    resources = {"metadata": {"name": title}}
    page, _ = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(
        notebook, resources=resources
    )
    (out / f"{path.stem}.html").write_text(page, encoding="utf-8")
    wrong = faults(notebook, page)
    print(
        f"{path.stem}: {'FAILED, ' if wrong else ''}{time.perf_counter() - start:.0f} s", *wrong, sep="\n", flush=True
    )
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs notebooks and writes each as one HTML page.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of a file's name; all by default")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "notebooks", help="folder of the pages")
    parser.add_argument("--jobs", type=int, default=1, help="how many run at a time")
    arguments = parser.parse_args()
    paths = chosen(arguments.names)
    arguments.out.mkdir(parents=True, exist_ok=True)
    # Threads of LAPACK that wait for each other's cores make small decompositions tens of times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        passed = list(pool.map(lambda path: render(path, arguments.out), paths))
    failed = [path.stem for path, good in zip(paths, passed, strict=True) if not good]
    print(f"FAILED: {', '.join(failed)}" if failed else f"{len(paths)} pages in {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
