"""What the pages say can be pasted: their links lead somewhere, their code compiles, their commands have settings."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from limitax.gallery import parse_settings, system, systems

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = ROOT / "docs" / "results"
# made with the site, see docs/hooks.py
MADE = {"index.md", "start.md", "choose.md", "systems.md", "notebooks.md", "benchmarks.md", "contributing.md"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    words = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", words):
        if "://" not in target and target not in MADE:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_compiles(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_settings(page):
    for block in blocks(page, ""):
        for line in block.splitlines():
            if not re.match(r"limitax (run|optimise) [a-z]", line):
                continue
            words = shlex.split(line, comments=True)
            named, given = system(words[2]), words[words.index("--set") + 1 :] if "--set" in words else []
            given = [word for word in given if "=" in word]
            named.check(parse_settings(tuple(given)), full="--full" in words)


def test_every_system_is_on_a_page():
    text = "".join(page.read_text() for page in PAGES)
    for name in systems():
        assert re.search(rf"\blimitax (run|optimise) {name}\b|`{name}`", text), name


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("*/")), ids=lambda folder: folder.name)
def test_recorded_runs_are_runs_of_systems(folder):
    found = json.loads((folder / "summary.json").read_text())
    assert found["system"] == folder.name
    assert found["paper"] == system(folder.name).paper
    assert {"date", "versions", "status"} <= set(found)
    assert 10_000 < (folder / "figure.png").stat().st_size < 250_000
