"""The server beside its clients: many, slow, dead, rude; and the cache that ends under them."""

from __future__ import annotations

import gc
import json
import os
import threading
import weakref
from pathlib import Path

import pytest

from pagecache import PageCache, ShutdownError, UnsavedDataError
from pagecache.observe import server
from pagecache.observe.documents import Refused
from tests.file.rig import Patch, Task, beside, eventually, raises

from .conftest import Served
from .wire import Connection, connect, ended, get, request

ALL_FILES = b"GET /v1/files?limit=1000 HTTP/1.1\r\n\r\n"


def test_a_connection_answers_one_request_after_the_other(served: Served) -> None:
    connection = Connection(served.path)
    status, document, headers = connection.ask("/v1/stats")
    first = connection.sock
    assert (status, document["schema"], headers["Cache-Control"]) == (200, 1, "no-store")
    length = len(json.dumps(connection.ask("/v1/waits")[1]))
    status, body, headers = connection.ask("/v1/waits", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", str(length))
    assert connection.ask("/v1/nothing")[0] == 404
    assert connection.sock is first
    connection.close()


WRONG = [
    ("GET", "/nowhere", 404, "/nowhere"),
    ("DELETE", "/v1/stats", 405, "GET, HEAD"),
    ("GET", "/v1/sync", 405, "POST"),
    ("POST", "/v1/sync/1", 405, "GET, HEAD"),
    ("BREW", "/metrics", 501, "BREW"),
    ("GET", "/v1/files?volume=W", 404, "'W'"),
    ("GET", "/v1/failed?volume=W", 404, "'W'"),
    ("POST", "/v1/sync?volume=W", 404, "'W'"),
    ("GET", "/v1/files?sort=size", 400, "dirty, cached"),
    ("GET", "/v1/files?limit=1001", 400, "1000"),
    ("GET", "/v1/files?limit=-1", 400, "'-1'"),
    ("GET", "/v1/files?limit=%D9%A3", 400, "number"),
    ("GET", "/v1/stats?verbose=1", 400, "'verbose'"),
    ("GET", "/v1/files?match=%FF", 400, "path with parameters"),
    ("GET", "/v1/sync/99", 404, "99"),
    ("GET", "/v1/sync/x", 400, "'x'"),
]


@pytest.mark.parametrize(("method", "target", "status", "message"), WRONG)
def test_errors_of_a_request_are_json(served: Served, method: str, target: str, status: int, message: str) -> None:
    found, document = request(served.path, target, method)
    assert (found, document["schema"]) == (status, 1)
    assert message in document["error"]


def test_an_unknown_path_is_answered_with_the_known_ones(served: Served) -> None:
    paths = request(served.path, "/nowhere")[1]["error"].partition("there are: ")[2].split(", ")
    assert {"/v1/stats", "/v1/files", "/metrics"} <= set(paths)
    assert {request(served.path, path, "DELETE")[0] for path in paths} == {405}


def test_a_request_with_a_body_is_refused(served: Served) -> None:
    for headers in ({"Content-Length": "5"}, {"Content-Length": "1e3"}, {"Transfer-Encoding": "chunked"}):
        assert request(served.path, "/v1/sync", "POST", headers=headers)[0] == 413
    assert request(served.path, "/v1/sync", "POST", headers={"Content-Length": "0"})[0] == 200


@pytest.mark.parametrize(
    ("line", "status"), [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/3.0\r\n\r\n", 505), (b"GET /" + b"a" * 70_000, 414)]
)
def test_a_malformed_request_ends_its_connection(served: Served, line: bytes, status: int) -> None:
    with connect(served.path) as client, client.makefile("rb") as answer:
        client.sendall(line)
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["schema"] == 1


def test_no_other_client_waits_for_one_that_does_not_read(served: Served) -> None:
    served.fill()
    with connect(served.path) as slow, slow.makefile("rb") as answer:
        slow.sendall(ALL_FILES)
        for _ in range(5):  # the server has begun to send by now, and goes on
            assert get(served.path, "/v1/files?limit=0")["total"] == 300
        with served.volume.open("another", "w") as f:
            f.write(b"y")
        slow.shutdown(1)  # no further request
        assert len(json.loads(answer.read().partition(b"\r\n\r\n")[2])["files"]) >= 300


@pytest.mark.parametrize("sent", [b"", b"GET /v1", ALL_FILES])
def test_a_silent_client_is_dropped(served: Served, monkeypatch: Patch, sent: bytes) -> None:
    """It sends nothing or half a request, or it does not take its answer."""
    served.fill()
    monkeypatch.setattr(server._Handler, "timeout", 0.05)
    live = served.cache.live
    assert live is not None
    with connect(served.path) as client:
        client.sendall(sent)
        eventually(lambda: not live._clients)
        if sent != ALL_FILES:
            assert ended(client)


def test_closing_the_cache_ends_every_connection_and_waits_for_none(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    cache = PageCache("8MiB")
    served = Served(cache, cache.attach("memory:"), path, tmp_path)
    cache.serve_stats(path)
    served.fill()
    with connect(path) as idle, connect(path) as half, connect(path) as slow:
        half.sendall(b"GET /v1")
        slow.sendall(ALL_FILES)
        live = cache.live
        assert live is not None
        eventually(lambda: len(live._clients) == 3)
        cache.close()
        assert not Path(path).exists()
        assert not any(thread.is_alive() for _, thread in live._listeners)
        assert ended(idle)
        assert ended(half)
        eventually(lambda: not live._clients)
    raises(Refused, live.document, "GET", "/v1/stats", match="closed")


def test_a_cache_that_cannot_be_closed_is_served_on(tmp_path: Path) -> None:
    """A document has the reason."""
    with PageCache("8MiB") as cache:
        volume = cache.attach("memory:", name="V")
        path = str(tmp_path / "s")
        cache.serve_stats(path)
        handle = volume.open("f", "w+")
        handle.write(b"x")
        volume.abort(OSError(5, "gone"))
        raises(UnsavedDataError, cache.close)
        one = get(path, "/v1/stats")["volumes"][0]
        assert (one["state"], one["reason"]) == ("aborted", "[Errno 5] gone")
        assert [r["length"] for r in get(path, "/v1/failed")["failed"]] == [1]
        cache.close(on_failed="discard")


def request_beside(served: Served) -> Task[object]:
    """Begin a request, which then waits for the lock of the cache; the caller has it."""
    live = served.cache.live
    assert live is not None
    reader = Task[object](live.document, "GET", "/v1/stats")
    eventually(live._building.locked)
    return reader


def test_a_second_path_is_served_beside_a_request(served: Served, monkeypatch: Patch) -> None:
    readers: list[Task[object]] = []
    with monkeypatch.context() as patch:

        def late() -> None:
            with served.cache._lock:
                readers.append(request_beside(served))

        beside(patch, server.Server, "add", late)
        Task(served.cache.serve_stats, served.folder / "t").result()
    readers[0].result()
    assert get(str(served.folder / "t"), "/v1/stats")["cache"]["name"] == served.cache.name


def test_no_path_is_served_once_the_cache_is_closed(served: Served, monkeypatch: Patch) -> None:
    live = served.cache.live
    assert live is not None
    beside(monkeypatch, server.Server, "add", served.cache.close)
    raises(ShutdownError, served.cache.serve_stats, served.folder / "t")
    assert os.listdir(served.folder) == []
    eventually(lambda: not any(thread.name.endswith("-live") for thread in threading.enumerate()))


def test_a_signal_handler_closes_the_cache_beside_a_request(served: Served) -> None:
    """The request waits for a lock that the thread of the handler has. [2.22]"""

    def interrupted() -> Task[object]:
        with served.cache._lock:
            reader = request_beside(served)
            served.cache.close()
        return reader

    Task(interrupted).result().finished.wait()


def test_a_cache_is_closed_though_its_server_got_no_thread(tmp_path: Path, monkeypatch: Patch) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.endswith("-live"):
            raise RuntimeError("can't start new thread")
        start(thread)

    cache = PageCache("1MiB")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        raises(BlockingIOError, cache.serve_stats, tmp_path / "s")
    assert cache.close() == []
    assert os.listdir(tmp_path) == []


def test_a_dropped_cache_is_not_kept_by_being_served(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    cache = PageCache("8MiB")
    cache.serve_stats(path)
    gone = weakref.ref(cache)
    with connect(path):
        get(path, "/v1/stats")
        del cache
        eventually(lambda: gc.collect() >= 0 and gone() is None)
    assert not Path(path).exists()
