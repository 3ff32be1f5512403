"""Files that are downloaded once: whole or not at all, through a real server that may break off."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clarena import DataError, data_root, fetch

CONTENT = b"0123456789" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Sends the file, a part of it, or something else."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write({"/broken": CONTENT[:500], "/other": CONTENT[::-1]}.get(self.path, CONTENT))

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "data"))
    Server.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def left() -> list[str]:
    return sorted(path.name for path in data_root().rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_file_is_downloaded_once(server: str) -> None:
    for _ in range(2):
        path = fetch("set/file.bin", f"{server}/file", DIGEST)
        assert path == data_root() / "set" / "file.bin"
        assert path.read_bytes() == CONTENT
    assert Server.asked == ["/file"]
    assert left() == ["file.bin"]


def test_an_md5_is_told_by_its_length(server: str) -> None:
    fetch("set/file.bin", f"{server}/file", hashlib.md5(CONTENT).hexdigest())
    with pytest.raises(DataError, match=r"its MD5 is .{32}, not 0{32}"):
        fetch("set/file.bin", f"{server}/file", "0" * 32)


def test_those_who_start_together_download_once(server: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch("set/file.bin", f"{server}/file", DIGEST), range(4)))
    assert len(set(paths)) == 1
    assert Server.asked == ["/file"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "is missing, and could not be downloaded from .*404"),
        ("broken", "is missing, and could not be downloaded|is not the file that was published"),
        ("other", "is not the file that was published"),
    ],
)
def test_what_breaks_off_leaves_nothing(server: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fetch("set/file.bin", f"{server}/{name}", DIGEST)
    assert left() == []
    assert fetch("set/file.bin", f"{server}/file", DIGEST).read_bytes() == CONTENT


def test_a_damaged_file_is_neither_read_nor_overwritten(server: str) -> None:
    (data_root() / "set").mkdir(parents=True)
    damaged = data_root() / "set" / "file.bin"
    damaged.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"damaged or of another version.*Move it away"):
        fetch("set/file.bin", f"{server}/file", DIGEST)
    assert damaged.read_bytes() == CONTENT[:-1]
    assert Server.asked == []


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"could not be downloaded from http://127.0.0.1:9/file.*\nRun once online"):
        fetch("set/file.bin", "http://127.0.0.1:9/file", DIGEST)
    assert left() == []


def test_a_root_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("")
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="Set CLARENA_DATA to a folder you can write to"):
        fetch("set/file.bin", "http://127.0.0.1:9/file", DIGEST)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(DataError, match=r"set.zip is neither a file nor a folder"):
        fetch("set.zip", "http://127.0.0.1:9/set.zip", DIGEST)
