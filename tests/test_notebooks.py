"""Notebooks are stories of one form; `notebooks/render.py` is what runs them."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_title_a_switch_and_a_picture_at_the_end(path):
    text = path.read_text()
    ast.parse(text)
    cells = re.split(r"^# %%", text, flags=re.M)[1:]
    assert cells[0].startswith(" [markdown]\n# # ")
    assert 'os.environ.get("FULL") == "1"' in text
    assert cells[-1].rstrip().endswith("plt.show()")
    assert "savefig" in cells[-1]


def test_all_are_listed():
    listed = (FOLDER / "README.md").read_text()
    assert [path.stem for path in NOTEBOOKS] == re.findall(r"^\| `(\w+)`", listed, flags=re.M)
