"""The documentation says what the code does: pages built from it have not drifted, and every public name is there."""

import importlib.util
import re
from pathlib import Path

import pytest

import clarena
from clarena import hookspecs
from clarena.cli.listing import missing_packages
from clarena.protocol.protocol import PRESETS, REVISION, SCENARIOS
from clarena.record.record import RETRIED, Status

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "perf" / "README.md"])


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MISSING = [extra for extra in ("vision", "timm", "transformers", "continuum", "text") if missing_packages(extra)]


@pytest.mark.skipif(bool(MISSING), reason=f"pages show what these extras bring: {', '.join(MISSING)}")
def test_built_pages_have_not_drifted(build):
    assert build.drifted() == [], "run: python docs/build.py"


def test_a_drift_is_noticed(build, monkeypatch):
    pages = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    monkeypatch.setattr(build, "pages", lambda: pages | {"metrics.md": pages["metrics.md"] + "one line more\n"})
    assert build.drifted() == ["metrics.md"]
    monkeypatch.setattr(build.sys, "argv", ["build.py", "--check"])
    with pytest.raises(SystemExit, match=r"metrics\.md"):
        build.main()


def test_every_public_name_is_documented_once(build):
    listed = [name for names in build.PUBLIC.values() for name in names]
    assert sorted(listed) == sorted([*clarena.__all__, "NEEDS"])


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("clarena_")])
def test_every_hook_is_documented_with_its_signature(hook):
    assert f"def {hook}(register: Register) -> None:" in (DOCS / "hooks.md").read_text()


def test_outlines_keep_signatures_and_drop_bodies(build):
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
    assert "\n".join(build.outline(build.ast.parse("\n".join(lines)).body[0], lines)) == (
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


def test_commands_in_the_readme_exist():
    import typer

    from clarena.cli import app, commands  # noqa: F401

    known = typer.main.get_command(app).commands
    pages = [(ROOT / "README.md").read_text(), (DOCS / "plugins.md").read_text()]
    named = set(re.findall(r"^clarena (\w+)", "\n".join(pages), re.MULTILINE))
    assert {"new", "check", "evaluate", "list"} <= named <= set(known)
    for command, text in re.findall(r"^clarena (\w+)(.*?)(?:#.*)?$", pages[0], re.MULTILINE):
        meant = known[command]
        if hasattr(meant, "commands"):
            meant = meant.commands[text.split()[0]]
        flags = {flag for parameter in meant.params for flag in parameter.opts}
        assert set(re.findall(r"--[\w-]+", text)) <= flags
