"""Continuum is named without being imported, and says how to get it where it is missing."""

import sys

import pytest

from clarena import PluginError
from clarena.plugins.host import Host


def test_its_absence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "continuum", None)
    monkeypatch.delitem(sys.modules, "clarena_continuum.benchmarks", raising=False)
    with pytest.raises(
        PluginError, match=r"needs the package 'continuum', .*pip install 'clarena-bench\[continuum\]'$"
    ):
        Host.discover().benchmarks.load("continuum/permutations:PATH")
