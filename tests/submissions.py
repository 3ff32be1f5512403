"""A tiny plugin, the bundle that its author would submit, and how a forger changes one."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from clarena.plugins.host import Host
from clarena.record.archive import pack
from clarena.record.store import Store
from clarena.run.evaluation import carry_out
from clarena.run.planning import make_plan
from clarena.submission.bundle import MANIFEST, read_bundle, sha256, write_files
from clarena.submission.manifest import Manifest
from clarena.submission.source import gather, importable, plugin_sources
from clarena.submission.submit import About, claimed, make_bundle

PLUGIN = '''
"""Pulls weights towards zero."""

from typing import Annotated

from pydantic import Field

from clarena import GradientStrategy, hookimpl
from mine_helper import half


class Mine(GradientStrategy):
    """Pulls every weight towards zero."""

    name = "mine"
    reference = "Tibshirani 1996, Regression Shrinkage and Selection via the Lasso."

    def __init__(self, *, strength: Annotated[float, Field(ge=0, description="Weight of the pull.")] = 0.002) -> None:
        super().__init__()
        self.strength = strength

    def penalty(self):
        return half(self.strength) * sum(p.abs().sum() for p in self.model.parameters())


@hookimpl
def clarena_register_strategies(register):
    register(Mine)
'''
HELPER = "def half(value):\n    return value / 2\n"
SETTINGS = {"protocol": {"epochs": 1}, "benchmark": {"experiences": 2}}
ABOUT = About(authors=["Ada Lovelace"], licence="MIT", paper="https://example.org/paper")


def write_plugin(folder: Path, text: str = PLUGIN, name: str = "mine.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine_helper.py").write_text(HELPER)
    path = folder / name
    path.write_text(text)
    return path


def submit(plugin: Path, store: Path, strategy: str = "mine", seeds: int = 5, about: About = ABOUT, **options) -> bytes:
    """The bundle of a plugin on one track, its runs made in this process; the conformance kit is not asked."""
    source = gather(plugin)
    copy = store.parent / f"copy-{store.name}"
    write_files(copy, source.files)
    with importable(copy):
        host = Host.discover(plugin_sources(copy, source.entry))
        chosen = {"benchmark": "split-digits", "scenario": "class", "backbone": "mlp", "preset": "standard"} | options
        chosen = {"settings": SETTINGS, "limit": None} | chosen
        plan = make_plan([strategy], seeds=range(seeds), device="cpu", store=store, retry=False, host=host, **chosen)
        records = carry_out(plan, store, jobs=1, track=False).records
    return make_bundle(source, about, [claimed(plan, strategy, records)], records, Store(store))


@pytest.fixture
def honest() -> bytes:
    """The content of a bundle with nothing wrong."""
    return _honest()


@cache
def _honest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return submit(write_plugin(Path(folder) / "plugin"), Path(folder) / "runs")


def reseal(content: bytes, folder: Path, change: Callable[[dict[str, bytes]], None], **manifest) -> Path:
    """The bundle after `change` to its parts, every hash made to fit again, fields of its manifest replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "forged.zip"
    path.write_bytes(content)
    bundle = read_bundle(path)
    parts = {name: part for name, part in bundle.parts.items() if name != MANIFEST}
    change(parts)
    hashes = {name: sha256(part) for name, part in parts.items()}
    told = Manifest.model_validate(bundle.manifest.model_dump() | {"parts": hashes} | manifest)
    path.write_bytes(pack(parts | {MANIFEST: told.model_dump_json().encode()}))
    return path
