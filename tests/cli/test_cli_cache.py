"""`clarena cache`: what is kept of frozen backbones, and how one is rid of it."""

from pathlib import Path

import fixed_networks
import pytest
from cli_command import clarena, smoke

from clarena.run.cache import Cache

PLUGIN = Path(fixed_networks.__file__)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLARENA_CACHE", str(tmp_path / "cache"))
    return Cache()


def test_features_are_shown_trimmed_and_cleared(tmp_path, cache):
    assert clarena("cache", "show").out.strip() == f"{cache.root}: 0 B of 20.0 GB."
    frozen = ("--backbone", "fixed", "--plugin", PLUGIN, "--set", "backbone.frozen=float16")
    assert smoke(tmp_path / "runs", "finetune", "--seeds", 1, *frozen).code == 0
    shown = clarena("cache", "show")
    assert shown.code == 0
    assert "fixed on split-digits, training samples: " in shown.out
    assert " × 12 float16" in shown.out
    told = clarena("cache", "show", "--json").data
    assert told["root"] == str(cache.root)
    assert {entry["backbone"] for entry in told["entries"]} == {"fixed"}
    newest, oldest = cache.entries()
    assert clarena("cache", "trim", f"{newest.size}B").out.startswith("1 removed")
    assert [entry.key for entry in cache.entries()] == [newest.key]
    refused = clarena("cache", "clear", "zzz")
    assert (refused.code, "no key of cached features named 'zzz'" in refused.err) == (2, True)
    assert clarena("cache", "clear", newest.key[:8]).out.startswith("1 removed")
    assert cache.entries() == []
    assert oldest.key != newest.key


def test_what_is_no_size_is_refused(monkeypatch):
    assert "SIZE = 'much' is no size" in clarena("cache", "trim", "much").err
    monkeypatch.setenv("CLARENA_CACHE_LIMIT", "-3")
    assert "CLARENA_CACHE_LIMIT = '-3' is no size" in clarena("cache", "show").err
