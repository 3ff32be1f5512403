"""Records on their way to MLflow: what a plan has and MLflow lacks, and one that is away, or hangs."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import troublemakers as trouble
from records_of_matrices import make_record
from tracked_runs import cells, keep, run

from clarena import evaluate
from clarena.protocol.protocol import Protocol
from clarena.record.store import Store
from clarena.run.executors import Event
from clarena.tracking import BackgroundTracker, outbox, sync
from clarena.tracking import tracker as tracker_module


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


# --- what a plan has and MLflow lacks --------------------------------------------------------------------------


def again(store: Store, uri: str, **options):
    chosen = {"benchmark": trouble.Tiny, "protocol": "smoke", "seeds": 3, "jobs": 1, "store": store.path}
    return evaluate(trouble.Plain, tracking_uri=uri, **chosen | options)


def test_a_resumed_evaluation_logs_what_mlflow_lacks_and_nothing_twice(store, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    again(store, uri, track=False)  # killed before any was logged
    results = again(store, uri)
    assert results.untracked == []
    logged = {run.info.run_id: run.data.tags["clarena.seed"] for run in cells(uri)}
    assert sorted(logged.values()) == ["0", "1", "2"]

    def connect(uri: str) -> None:
        raise AssertionError("MLflow was opened, though it has everything")

    with monkeypatch.context() as sealed:
        sealed.setattr(tracker_module, "connect", connect)
        assert again(store, uri).untracked == []
    assert again(store, uri, seeds=4).untracked == []
    after = {run.info.run_id: run.data.tags["clarena.seed"] for run in cells(uri)}
    assert logged.items() <= after.items()
    assert sorted(after.values()) == ["0", "1", "2", "3"]


def test_what_another_process_logged_meanwhile_is_not_logged_again(store, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first, second = keep(store, run(0.5)), keep(store, run(0.5, seed=1))
    slow, other = BackgroundTracker(store, uri), BackgroundTracker(store, uri)
    slow._tracker.log(first)  # has asked by now what is there
    other.submit(second)
    assert other.close() == []
    slow.submit(second)
    assert slow.close() == []
    assert len(cells(uri)) == 2


def test_a_run_in_the_bin_stays_there(store, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    keep(store, run(0.5))
    sync(store, uri)
    MlflowClient(tracking_uri=uri).delete_run(cells(uri)[0].info.run_id)
    report = sync(store, uri)
    assert (report.logged, report.already, cells(uri)) == (0, 1, [])


def test_it_is_said_when_many_records_are_still_to_be_logged(store, tmp_path):
    heard: list[Event] = []
    again(store, f"sqlite:///{tmp_path}/mlflow.db", track=False, seeds=6)
    again(store, f"sqlite:///{tmp_path}/mlflow.db", seeds=6, listener=heard.append)
    assert [event.message for event in heard if event.kind == "logging"] == ["Logging 6 records to MLflow …"]


# --- a server that is away, or hangs ---------------------------------------------------------------------------


class Server:
    """MLflow's own server on 127.0.0.1, with a door that can be shut: `away` answers 503, `hangs` does not answer."""

    def __init__(self, folder: str) -> None:
        from mlflow.server import app
        from mlflow.server.handlers import initialize_backend_stores
        from werkzeug.serving import make_server

        self.database = f"sqlite:///{folder}/mlflow.db"
        initialize_backend_stores(self.database, self.database, f"file://{folder}/artifacts")
        self.app, self.state, self.requests, self.released = app, "up", 0, threading.Event()
        self.refuse: Callable[[str], bool] = lambda path: False
        self.server = make_server("127.0.0.1", 0, self, threaded=True)
        self.server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __call__(self, environ, start_response):
        self.requests += 1
        if self.state == "hangs":
            self.released.wait()
        if self.state != "up" or self.refuse(environ["PATH_INFO"]):
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"away"]
        return self.app(environ, start_response)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    server = Server(str(tmp_path_factory.mktemp("server")))
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def server(started, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started.requests, started.released, started.refuse = 0, threading.Event(), lambda path: False
    yield started
    started.state = "up"
    started.released.set()


DIFFERENT = itertools.count(100)


@pytest.fixture
def records(store):
    """Four runs on a track of this test alone, for all tests share one server."""
    own = Protocol(epochs=next(DIFFERENT))
    return [keep(store, make_record([[0.5, 0.5]] * 3, seed=seed, held_equal=own)) for seed in range(4)]


class Pauses(list[float]):
    """Which pause was taken each time; none is long."""

    def __init__(self) -> None:
        super().__init__([0.001] * 4)
        self.taken: list[int] = []

    def __getitem__(self, index):
        self.taken.append(index)
        return super().__getitem__(index)


def eventually(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def seeds(uri: str, records) -> list[str]:
    track = records[0].track_digest
    return sorted(run.data.tags["clarena.seed"] for run in cells(uri, f"tags.`clarena.track` = '{track}'"))


def test_an_mlflow_that_is_away_for_a_while_gets_everything_once(server, store, records):
    server.state = "away"
    pauses = Pauses()
    tracker = BackgroundTracker(store, server.uri, pauses)
    tracker.submit(*records[:3])
    eventually(lambda: len(pauses.taken) >= 6)
    server.state = "up"
    eventually(lambda: tracker.waiting == 0)
    tracker.submit(records[3])
    assert tracker.close() == []
    assert tracker.outcomes["logged"] == 4
    assert seeds(server.uri, records) == ["0", "1", "2", "3"]
    assert pauses.taken[:6] == [0, 1, 2, 3, 3, 3]


def test_one_that_goes_away_half_way_through_a_record_gets_it_whole(server, store, records):
    left = iter([True] * 3)
    server.refuse = lambda path: "log-batch" in path and next(left, False)
    tracker = BackgroundTracker(store, server.uri, Pauses())
    tracker.submit(*records)
    eventually(lambda: tracker.waiting == 0)
    assert tracker.close() == []
    assert seeds(server.uri, records) == ["0", "1", "2", "3"]
    report = sync(store, server.uri)
    assert (report.logged, report.already, report.failed) == (0, 4, [])


def test_one_that_is_away_at_the_end_is_tried_once_more_and_what_is_left_is_said(server, store, records):
    server.state = "away"
    tracker = BackgroundTracker(store, server.uri, [10_000])  # only `close` ends such a pause
    tracker.submit(*records)
    eventually(lambda: server.requests > 0 and tracker._tracker.failed != {})
    before = server.requests
    failures = tracker.close()
    assert server.requests == before + 1
    assert sorted(failure.cell for failure in failures) == [f"ewc seed {seed}" for seed in range(4)]
    assert sum("503" in failure.reason for failure in failures) >= 1
    assert all("503" in failure.reason or "is out of reach" in failure.reason for failure in failures)


@pytest.mark.parametrize("patient", [True, False])
def test_one_that_hangs_is_not_waited_for(server, store, records, monkeypatch, patient):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1000")
    monkeypatch.setattr(outbox, "EXIT_SECONDS", 0.2)
    server.state = "hangs"
    tracker = BackgroundTracker(store, server.uri)
    tracker.submit(*records)
    eventually(lambda: server.requests > 0)
    failures = tracker.close(patient=patient)
    assert not server.released.is_set()
    assert len(failures) == 4
    assert {failure.reason for failure in failures} == {f"not tried: {server.uri} takes too long"}


def test_a_record_in_trouble_holds_up_no_other(server, store, records):
    (store.folder(records[0].cell) / "record.json").unlink()
    tracker = BackgroundTracker(store, server.uri, Pauses())
    tracker.submit(*records)
    eventually(lambda: tracker.waiting == 1)
    (failure,) = tracker.close()
    assert failure.cell == "ewc seed 0"
    assert "No such file" in failure.reason
    assert seeds(server.uri, records) == ["1", "2", "3"]


def test_an_interrupted_evaluation_does_not_wait_for_mlflow(server, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1000")
    monkeypatch.setattr(outbox, "EXIT_SECONDS", 0.2)
    again(store, server.uri, seeds=1, track=False)
    server.state = "hangs"

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        again(store, server.uri, seeds=2, listener=interrupt)
        raise AssertionError("not interrupted")
    assert not server.released.is_set()
