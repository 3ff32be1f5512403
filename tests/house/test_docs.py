"""The documentation says what the code does: what is made from it has not drifted, and every public name is there."""

import json
import re
import sys
from pathlib import Path

import pytest

import clarena
import clarena.testing
from clarena import hookspecs
from clarena.protocol.protocol import PRESETS, REVISION, SCENARIOS
from clarena.record.record import RETRIED, Status

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "perf" / "README.md"])

sys.path.insert(0, str(DOCS))

from made import floors, links, llms, notebook, reference, regions  # noqa: E402


@pytest.mark.parametrize("page", regions.KEPT)
def test_regions_that_are_committed_have_not_drifted(page):
    name = regions.KEPT[page]
    assert regions.held((ROOT / page).read_text())[name] == regions.REGIONS[name](), "run: python docs/build.py"


def test_a_drift_is_noticed(monkeypatch):
    monkeypatch.setattr(floors, "table", lambda: (("errors",), ("attic",)))
    monkeypatch.setattr(floors, "told", lambda name: name)
    assert regions.drifted() == ["CONTRIBUTING.md", "docs/architecture.md"]


def test_every_region_of_a_page_can_be_filled():
    named = {name for page in PAGES for name in regions.held(page.read_text())}
    assert named == set(regions.REGIONS)


def test_both_drawings_of_the_house_name_every_floor():
    drawn, told = floors.drawing(), floors.folders()
    for level, names in enumerate(floors.table()):
        assert f"\n{level:>2}  {'  '.join(names)}\n" in drawn
        assert all(f"| {level} | `{name}` |" in told for name in names)


def directives(page):
    return re.findall(r"^::: (\S+)$", (DOCS / page).read_text(), re.MULTILINE)


def test_every_public_name_is_documented_once():
    tested = [
        f"clarena.testing.{name}"
        for name, value in vars(clarena.testing).items()
        if getattr(value, "__module__", "") == "clarena.testing" and not name.startswith("_")
    ]
    assert sorted(directives("api.md")) == sorted([*(f"clarena.{name}" for name in clarena.__all__), *tested])


def test_every_hook_is_documented():
    hooks = [name for name, value in vars(hookspecs).items() if hasattr(value, "clarena_spec")]
    assert hooks
    assert sorted(directives("hooks.md")) == sorted(f"clarena.hookspecs.{name}" for name in [*hooks, "Register"])


def test_machines_read_signatures_in_place_of_directives():
    text = llms.outlined((DOCS / "hooks.md").read_text())
    assert ":::" not in text
    assert "def clarena_register_strategies(register: Register) -> None:" in text


def test_every_page_has_its_place_on_the_site():
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads past the names of Python objects."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    placed = [name for _, pages in llms.sections(nav) for _, name in pages]
    assert len(placed) == len(set(placed))
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= set(placed)


def test_the_notebook_is_committed_without_outputs():
    cells = json.loads((DOCS / "tutorial-notebook.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


def test_a_notebook_is_written_with_its_outputs():
    cell = {"cell_type": "code", "source": "1 + 1"}
    outputs = [{"data": {"text/plain": "2"}}, {"name": "stdout", "text": "said\n"}, {"data": {"image/png": "UE5H"}}]
    cells = [{"cell_type": "markdown", "source": "# Title"}, cell | {"outputs": outputs}]
    page, pictures = notebook.written({"cells": cells}, Path("some.ipynb"))
    assert "```python\n1 + 1\n```" in page
    assert "\n2\n" in page
    assert "\nsaid\n" in page
    assert pictures == {"some-1.png": b"PNG"}


def test_what_is_amiss_with_links_is_found(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="below/b.html#here"></a><a href="#top"></a><a href="https://example.org"></a>'
        '<a href="gone.html"></a><a href="below/b.html#gone"></a><img src="data:image/png,"><script src="//cdn/x.js">'
    )
    (tmp_path / "below" / "b.html").write_text('<h2 id="here"></h2><a href="../a.html"></a><img src="gone.png">')
    assert links.problems(tmp_path) == [
        "a.html loads //cdn/x.js",
        "a.html links to gone.html, which is not there",
        "a.html links to below/b.html#gone, and there is no such anchor",
        "below/b.html links to gone.png, which is not there",
    ]


def test_outlines_keep_signatures_and_drop_bodies():
    source = '''
class Sample:
    """What it is."""

    field: int = 3
    _hidden: int = 4

    def __init__(self) -> None:
        secret = 1

    @property
    def wide(
        self,
    ) -> int:
        """How wide.

        In full.
        """
        return secret

    def _private(self) -> None:
        """Not shown."""
'''
    lines = source.strip().splitlines()
    assert "\n".join(reference.outline(reference.ast.parse("\n".join(lines)).body[0], lines)) == (
        'class Sample:\n    """What it is."""\n\n    field: int = 3\n\n    def __init__(self) -> None: ...\n\n'
        "    @property\n    def wide(\n        self,\n    ) -> int:\n"
        '        """How wide.\n\n        In full.\n        """'
    )


def test_the_protocol_page_names_what_there_is():
    page = (DOCS / "protocol.md").read_text()
    assert f"protocol, revision {REVISION}" in page
    for preset in PRESETS:
        assert f"`{preset}`" in page
    for scenario in SCENARIOS:
        assert f"| {scenario} |" in page
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \|$", page, re.MULTILINE))
    assert rows == {status: "yes" if status in RETRIED else "no" for status in Status.__args__}


def test_the_protocol_page_states_how_generators_are_seeded():
    import numpy as np

    from clarena.toolbox.seeding import Seeds, crc32

    seeds = Seeds(7)
    seeds.start(2)
    word = np.random.SeedSequence([7, crc32(b"data"), 3]).generate_state(1, np.uint64)[0]
    assert seeds.torch("data").initial_seed() == int(word) >> 1
    assert "numpy.random.SeedSequence([seed, crc32(name), e + 1])" in (DOCS / "protocol.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_links_within_pages_lead_to_headings():
    """On a forge, too, which makes its anchors as this does; the site's build holds its own."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text()):
            there = (page.parent / target) if target else page
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            if there.name not in ("api.md", "metrics.md", "strategies.md"):  # made when the site is built
                assert anchor in made, f"{page.name}: {target}#{anchor}"


def test_commands_in_the_readme_exist():
    import typer

    from clarena.cli import app, commands  # noqa: F401

    known = typer.main.get_command(app).commands
    pages = [(ROOT / "README.md").read_text(), (DOCS / "plugins.md").read_text()]
    named = set(re.findall(r"^clarena (\w+)", "\n".join(pages), re.MULTILINE))
    assert {"new", "check", "evaluate", "list"} <= named <= set(known)
    for command, text in re.findall(r"^clarena (\w+)(.*?)(?:#.*)?$", pages[0], re.MULTILINE):
        meant = known[command]
        if hasattr(meant, "commands"):  # a group; `results` is a command as well
            meant = meant.commands.get(text.split()[0], meant)
        flags = {flag for parameter in meant.params for flag in parameter.opts}
        assert set(re.findall(r"--[\w-]+", text)) <= flags
