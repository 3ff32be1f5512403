"""Progress in a notebook, with a kernel that is made up: no IPython is needed, and none is imported."""

import sys
from types import SimpleNamespace

import pytest

from clarena import evaluate


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, html):
        self.shown.append(html)


@pytest.fixture
def pages(monkeypatch):
    """What a notebook's one display has shown."""
    shown = []

    def display(html, display_id):
        shown.append(html)
        return Handle(shown)

    kernel = SimpleNamespace(kernel=object())
    module = SimpleNamespace(get_ipython=lambda: kernel, display=SimpleNamespace(HTML=str, display=display))
    monkeypatch.setitem(sys.modules, "IPython", module)
    return shown


def run(store, **options):
    return evaluate("finetune", seeds=2, protocol="smoke", limit=16, jobs=1, store=store, track=False, **options)


def test_a_notebook_follows_the_runs(pages, tmp_path):
    results = run(tmp_path)
    assert "0 of 2 runs" in pages[0]
    assert "2 of 2 runs" in pages[-1]
    assert 'value="1.000"' in pages[-1]
    assert all(f"{record.cell.label}: {record.outcome}" in pages[-1] for record in results)
    shown = len(pages)
    run(tmp_path)  # all is there already
    assert len(pages) == shown


def test_elsewhere_nothing_is_shown(pages, tmp_path, monkeypatch, capsys):
    heard = []
    run(tmp_path, listener=heard.append)  # who listens himself is left alone
    assert heard
    assert not pages
    sys.modules["IPython"].get_ipython = lambda: SimpleNamespace()  # IPython in a terminal
    run(tmp_path / "terminal")
    monkeypatch.delitem(sys.modules, "IPython")
    run(tmp_path / "plain")
    assert not pages
    assert capsys.readouterr() == ("", "")
    assert "IPython" not in sys.modules
