"""What the site makes out of the package, the README and the recorded runs: pages of systems, of the reference, and the
order of all of them."""

import importlib
import inspect
import json
import re
import tempfile
from pathlib import Path

from limitax.gallery import systems
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GUIDES = ("conventions", "numerics", "control", "practice", "sweeps", "resuming", "devices", "jobs")
THEORIES = ("mlp",)  # pages that several systems share
REFERENCE = {
    "limitax": "Studies",
    "limitax.tasks": "Tasks",
    "limitax.schedules": "Schedules",
    "limitax.problems": "Protocols and records",
    "limitax.objectives": "Objectives",
    "limitax.nets": "Networks",
    "limitax.rules": "Learning rules",
    "limitax.limits": "Limits",
}


@event_priority(100)  # before the plugins read theirs
def on_config(config):
    """The order of pages, in which a new system finds its place by itself, and where the sources are."""
    # The package is the repository's root, under another name: docstrings are read through a link with the right one.
    source = Path(tempfile.mkdtemp(prefix="limitax-docs-"))
    (source / "limitax").symlink_to(ROOT, target_is_directory=True)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(source)]
    pages = [{system.title: own_page(name)} for name, system in systems().items()]
    config.nav = [
        {"Home": "index.md"},
        {"First steps": ["start.md", "choose.md"]},
        {"Systems": ["systems.md", *(f"{name}.md" for name in THEORIES), *pages]},
        {"Guides": [f"{name}.md" for name in GUIDES]},
        {"Notebooks": "notebooks.md"},
        {"Reference": [{title: f"reference/{name}.md"} for name, title in REFERENCE.items()]},
        {"More": ["comparison.md", "benchmarks.md", "contributing.md"]},
    ]
    return config


def on_files(files, config):
    """Adds the pages that are made here."""
    known = {file.src_uri for file in files}
    for path, text in pages().items():
        if path not in known:
            files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts what was recorded of a system before its theory."""
    for name, system in systems().items():
        if page.file.src_uri == own_page(name) and (DOCS / own_page(name)).exists():
            title, _, rest = markdown.partition("\n")
            return f"{title}\n\n{recorded(name, system)}\n{rest}"
    return markdown


def own_page(name: str) -> str:
    """Where the page of a system is or would be."""
    return f"{name.replace('-', '_')}.md"


def pages() -> dict[str, str]:
    """The pages that no file has, by path."""
    readme = (ROOT / "README.md").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    cost = section((DOCS / "devices.md").read_text(), "Cost")
    choose = section(readme, "Which limit for which question").partition("More in [docs]")[0]
    found = {
        "index.md": linked(readme.partition("## Two commands")[0])
        + "\n"
        + section(readme, "What it cannot do yet", True),
        "start.md": "# First steps\n\n"
        + "\n".join(section(readme, t, True) for t in ("Two commands", "In a notebook")),
        "choose.md": f"# Which limit for which question\n\n{choose}\n## Cost in memory and time\n\n{cost}",
        "systems.md": overview(),
        "notebooks.md": notebooks(),
        "benchmarks.md": benchmarks(),
        "contributing.md": linked(contributing),
    }
    found["index.md"] = found["index.md"].partition("\nApache-2.0.")[0] + "\n"
    for name, system in systems().items():
        if not (DOCS / own_page(name)).exists():
            theory = theory_of(name)
            text = f"# {system.title}\n\n{recorded(name, system)}\nEquations and arguments: [{theory}]({theory}).\n"
            found[own_page(name)] = text
    return found | {f"reference/{name}.md": reference(name, title) for name, title in REFERENCE.items()}


def section(text: str, title: str, heading: bool = False) -> str:
    """The section of a page under a heading of second order."""
    body = re.split(rf"^## {re.escape(title)}\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    body = re.split(r"^## ", body, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return linked((f"## {title}\n\n" if heading else "") + body + "\n")


def linked(text: str) -> str:
    """Links of a page at the repository's root, from inside of `docs/`."""
    return text.replace("](docs/", "](").replace("](CONTRIBUTING.md)", "](contributing.md)")


def theory_of(name: str) -> str:
    """The page that explains a system which has none of its own."""
    for page in THEORIES:
        if re.search(rf"\b{re.escape(name)}\b", (DOCS / f"{page}.md").read_text()):
            return f"{page}.md"
    raise FileNotFoundError(f"docs/{own_page(name)} is missing, and no page of several systems speaks of {name}")


def summary(name: str):
    """What was recorded of a system by `docs/record.py`, if anything."""
    file = DOCS / "results" / name / "summary.json"
    return json.loads(file.read_text()) if file.exists() else None


def recorded(name: str, system) -> str:
    """Paper, command, picture, claims and errors of a system."""
    found = summary(name)
    lines = [
        f"System `{name}`: {system.solves}. Source: arXiv [{system.paper}](https://arxiv.org/abs/{system.paper}).",
        "",
        "```",
        f"limitax run {name} --out out/",
        "```",
        "",
    ]
    if found is not None:
        lines += [f"![{system.title}](results/{name}/figure.png)", "", *numbers(found), ""]
    else:
        lines += ["*This system has not been recorded.*", ""]
    if system.claims:
        lines += ["**What it reproduces**", "", *(f"- {claim}" for claim in system.claims), ""]
    shown = ", ".join(f"`{key}={value}`" for key, value in system.settings.items())
    return "\n".join([*lines, f"**Settings** (`--set`) and their defaults: {shown}.", ""])


def numbers(found: dict) -> list[str]:
    """The errors of a recorded run, where and when it was made."""
    lines = []
    if found["errors"] and found["sizes"]:
        sizes = found["sizes"]
        lines += [f"| error at size | {' | '.join(map(str, sizes))} | rate of the spread | agreement |"]
        lines += ["|" + "---|" * (len(sizes) + 3)]
        for name, errors in found["errors"].items():
            cells = [f"{error:.2g}" for error in errors]
            rates = [
                f"{found[key][name]:.2f}" if (found.get(key) or {}).get(name) is not None else ""
                for key in ("rate", "agreement")
            ]
            lines += [f"| {name} | {' | '.join(cells + rates)} |"]
        lines += [""]
    elif found.get("agreement"):
        lines += [f"Agreement (at most 3): {', '.join(f'{k} {v:.2f}' for k, v in found['agreement'].items())}.", ""]
    if found.get("claims"):
        lines += ["| measured | value | claimed | holds |", "|---|---|---|---|"]
        for name, claim in found["claims"].items():
            value = "" if claim["value"] is None else f"{claim['value']:.4g}"
            lines += [f"| {name} | {value} | {interval(claim)} | {'yes' if claim['holds'] else 'no'} |"]
        lines += [""]
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("limitax", "jax"))
    seconds = sum(value or 0 for value in found["seconds"].values())
    seeds = f"{found['seeds']} seeds, " if found.get("seeds") else ""
    return [
        *lines,
        f"*Recorded on {found['date']} with {versions} ({seeds}{seconds:.0f} s; status: {found['status']}).*",
    ]


def interval(claim: dict) -> str:
    """The interval of a claim in words."""
    if claim["high"] is None:
        return f"at least {claim['low']:g}"
    return f"at most {claim['high']:g}" if claim["low"] is None else f"{claim['low']:g} to {claim['high']:g}"


def overview() -> str:
    """All systems in one table."""
    lines = [
        "# Systems",
        "",
        "| system | arXiv | what is solved | largest agreement (at most 3) | recorded |",
        "|---|---|---|---|---|",
    ]
    for name, system in systems().items():
        found = summary(name)
        worst = max((v for v in ((found or {}).get("agreement") or {}).values() if v is not None), default=None)
        claims = list(((found or {}).get("claims") or {}).values())
        held = f"{sum(claim['holds'] for claim in claims)} of {len(claims)} claims hold" if claims else ""
        shown = "; ".join(filter(None, ["" if worst is None else f"{worst:.2f}", held]))
        link = f"[{name}]({own_page(name)})"
        lines += [f"| {link} | {system.paper} | {system.solves} | {shown} | {found['date'] if found else 'no'} |"]
    return "\n".join(lines) + "\n\nRecorded runs are those of `python docs/record.py` at default settings.\n"


def notebooks() -> str:
    """The stories, with links to their rendered forms where these have been made."""
    text = (ROOT / "notebooks" / "README.md").read_text()
    made = sorted((DOCS / "notebooks").glob("*.html"))
    links = [f"- [{file.stem}](notebooks/{file.name})" for file in made]
    return "\n".join(["# Notebooks", "", text, "", *links]) + "\n"


def benchmarks() -> str:
    """The recorded table of ratios."""
    file = DOCS / "results" / "benchmarks.json"
    lines = [
        "# Benchmarks",
        "",
        "`python -m limitax.bench` prints and saves this table: ratios of two things timed in one process.",
        "",
    ]
    if not file.exists():
        return "\n".join([*lines, "*It has not been recorded.*"]) + "\n"
    found = json.loads(file.read_text())
    machine = ", ".join(f"{key}: {value}" for key, value in found["machine"].items())
    lines += [f"*Recorded on {found['date']}; {machine}; jax {found['versions']['jax']}.*", ""]
    if len(found["passes"]) > 1:
        typical = importlib.import_module("limitax.bench._record").typical_spread(found)
        lines += [
            f"Medians of {len(found['passes'])} passes at different hours, ± half of their range; that of a typical "
            f"ratio is {100 * typical:.2g} %. With `--against docs/results/benchmarks.json` a new run says which "
            "ratios are within three times their own spread or the typical one. Times are shown to know the sizes; "
            "they follow the machine.",
            "",
        ]
    for name, rows in found["rows"].items():
        first = importlib.import_module(f"limitax.bench.{name}").__doc__.partition("\n")[0].partition(": `")[0]
        lines += [f"## {name}", "", f"{first}.".replace("..", "."), ""]
        lines += [f"- {row_in_words(row)}" for row in rows] + [""]
    return "\n".join(lines)


def row_in_words(row: dict) -> str:
    """One row of the table."""
    spread = row.get("spread", {})

    def cell(name, value):
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        return f"{name.replace('_', ' ')} {shown}" + (f" ± {100 * spread[name]:.2g} %" if name in spread else "")

    rest = ", ".join(cell(name, value) for name, value in row.items() if name not in ("what", "spread"))
    return f"**{row['what']}**" + (f": {rest}" if rest else "")


def reference(module: str, title: str) -> str:
    """What a module makes public, one after the other."""
    found = (
        importlib.import_module(module)
        if module.count(".") == 0
        else getattr(importlib.import_module("limitax"), module.split(".")[1])
    )
    public = getattr(found, "__all__", None) or [
        n for n, v in vars(found).items() if not n.startswith("_") and getattr(v, "__module__", "") == found.__name__
    ]
    names = [name for name in public if not inspect.ismodule(getattr(found, name))]
    if module == "limitax":
        names = [name for name in names if getattr(found, name).__module__.startswith("limitax.studies")]
    return "\n".join(
        [f"# {title}", "", *(f"::: {found.__name__}.{name}\n" for name in names if callable(getattr(found, name)))]
    )
