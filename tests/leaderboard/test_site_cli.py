"""`clarena leaderboard` on the command line: what it says, what it refuses, and that it stays light."""

import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from clarena_leaderboard.cli import site_server
from clarena_leaderboard.site.render import MEMORY, security_policy
from cli_command import clarena
from site_stores import Made, make_store

from clarena.errors import UsageError

LIGHT = """
import sys
from clarena.cli import main
sys.argv = ["clarena", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", sorted({"torch", "mlflow", "jinja2", "scipy", "scikit_posthocs"} & set(sys.modules)))
"""


@pytest.fixture
def place(made_site, tmp_path, monkeypatch):
    """A folder with a store in it."""
    shutil.copytree(made_site.parent / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", [("--help",), ("leaderboard", "--help"), ("leaderboard", "build", "--help")])
def test_the_help_imports_nothing_heavy(arguments, tmp_path):
    shown = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert shown.stdout.endswith("HEAVY []\n")
    assert "leaderboard" in shown.stdout


def test_the_help_names_the_commands_that_join():
    shown = clarena("--help").out
    assert [name for name in ("results", "compare", "leaderboard", "sync") if f"│ {name} " in shown] == [
        "results",
        "compare",
        "leaderboard",
        "sync",
    ]
    for command in ("build", "serve"):
        assert "Example" in clarena("leaderboard", command, "--help").out


def test_build_writes_a_site_and_says_where(place):
    first = clarena("leaderboard", "build")
    assert first.code == 0, first.err
    assert "2 tracks, 18 rows" in first.out
    assert (place / "site" / "index.html").is_file()
    again = clarena("leaderboard", "build")
    assert " 0 files written" in again.out


def test_the_log_of_changes_remembers_the_last_build(place):
    clarena("leaderboard", "build")
    make_store(place / "runs", [Made("newcomer", 0.6)])
    clarena("leaderboard", "build")
    changes = json.loads((place / "site" / MEMORY).read_text())["changes"]
    assert [(change["kind"], change["label"]) for change in changes if change["label"] == "newcomer"] == [
        ("appeared", "newcomer")
    ]
    assert "newcomer" in (place / "site" / "changes.html").read_text()


def test_settings_are_obeyed(place):
    Path("board.toml").write_text('title = "Ours & <theirs>"\nseeds = 2\n')
    assert clarena("leaderboard", "build", "--config", "board.toml").code == 0
    index = (place / "site" / "index.html").read_text()
    assert "Ours &amp; &lt;theirs&gt;" in index
    (track,) = (place / "site" / "track").glob("*-class-*.html")
    assert 'data-row="young-' in track.read_text().partition('<tbody class="ranked">')[2].partition("</tbody>")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--store", "empty"), "There is no readable run"),
        (("--store", "absent"), "There is no store at absent"),
        (("--out", "runs"), "no leaderboard"),
        (("--config", "absent.toml"), "cannot be read"),
        (("--tracking-uri", "folder"), "MLflow cannot keep runs"),
    ],
)
def test_bad_input_leaves_the_old_site(place, arguments, said):
    (place / "empty").mkdir()
    clarena("leaderboard", "build")
    before = {path: path.read_bytes() for path in place.glob("site/**/*.html")}
    outcome = clarena("leaderboard", "build", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert {path: path.read_bytes() for path in place.glob("site/**/*.html")} == before


def test_a_damaged_record_is_named_and_the_rest_is_shown(place):
    record = next((place / "runs").glob("*/er-seed3-*/record.json"))
    record.write_text("{")
    outcome = clarena("leaderboard", "build")
    assert outcome.code == 0
    assert "cannot be read" in outcome.err
    assert str(place) not in (place / "site" / "index.html").read_text()  # nobody's folders are published
    assert "1 record could not be read" in (place / "site" / "index.html").read_text()


def test_served_pages_carry_the_policy_as_a_header(made_site):
    with site_server(made_site, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(f"{address}/index.html") as answer:
            assert answer.headers["Content-Security-Policy"] == security_policy()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.read() == (made_site / "index.html").read_bytes()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/../runs/")
        with pytest.raises(UsageError, match="Choose another with --port"):
            site_server(made_site, server.server_address[1])
        assert server.server_address[0] == "127.0.0.1"
        server.shutdown()


def test_serve_says_where_to_look(place, monkeypatch):
    from http.server import ThreadingHTTPServer

    def stopped(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", stopped)
    outcome = clarena("leaderboard", "serve", "--port", 0)
    assert outcome.code == 0
    assert "Leaderboard: http://127.0.0.1:" in outcome.out
    assert "mlflow ui --backend-store-uri sqlite:///" in outcome.out
