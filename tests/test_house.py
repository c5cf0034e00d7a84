"""The house itself: packages, floors, import cost."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import limitax
import numpy as np
import pytest

ROOT = Path(limitax.__file__).parent
FLOORS = {"solvers": 0, "problems": 0, "nets": 1, "limits": 2, "studies": 3, "gallery": 4, "cli": 5, "bench": 5}


def _sources():
    return [p for floor in FLOORS for p in (ROOT / floor).rglob("*.py")]


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")
def test_every_folder_with_code_is_a_package():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"limitax"}
    for top in ("solvers", "problems", "nets", "limits", "studies", "gallery", "bench"):
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join(("limitax", *init.parent.relative_to(ROOT).parts)))
    assert listed == found


def _climbs(path: Path):
    """Relative imports of a file that reach a higher floor, or the other half of the ground floor."""
    here = path.relative_to(ROOT).parts[:-1]
    floor = here[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = here[: len(here) - (node.level - 1)]
        module = tuple(node.module.split(".")) if node.module else ()
        targets = [base + module] if module else [(*base, alias.name) for alias in node.names]
        for target in targets:
            if target and target[0] in FLOORS and target[0] != floor:
                same_ground = {target[0], floor} == {"solvers", "problems"}
                if same_ground or FLOORS[target[0]] > FLOORS[floor]:
                    yield f"{path.name}:{node.lineno} -> {'.'.join(target)}"


def test_imports_point_down():
    assert [climb for path in _sources() for climb in _climbs(path)] == []


def test_import_is_light():
    heavy = ("xarray", "matplotlib", "diffrax", "flax", "orbax", "sklearn", "tyro", "rich", "netCDF4")
    code = f"import sys, limitax; print([m for m in {heavy!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_import_makes_no_array():
    code = "import jax, limitax; print(len(jax.live_arrays()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "0"


def test_shapes_are_checked_at_run_time():
    from limitax.solvers import exact_bins

    with pytest.raises(jaxtyping.TypeCheckError):
        exact_bins(np.ones(3), np.ones(4))
