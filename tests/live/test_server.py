"""The server beside its clients: many, slow, dead, rude; and the cache that ends under them."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from pagecache import PageCache, UnsavedDataError
from pagecache.observe import server
from pagecache.observe.server import CLIENTS_MOST, _Client
from tests.file.rig import eventually

from .conftest import Served
from .wire import TIMEOUT, Connection, Raw, get, request

STATS = b"GET /v1/stats HTTP/1.1\r\n\r\n"


def fill(served: Served, files: int = 300) -> None:
    """Make enough files for an answer that no socket takes at once."""
    for k in range(files):
        with served.volume.open(f"file-{k:04}", "w") as f:
            f.write(b"x")


HALF = b"POST /v1/sync HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"
ALL_FILES = b"GET /v1/files?limit=1000 HTTP/1.1\r\n\r\n"


def test_a_connection_answers_one_request_after_the_other(served: Served) -> None:
    with Raw(served.path) as client:
        for _ in range(3):
            client.send(STATS)
            status, fields, body = client.answer()
            assert (status, fields["Content-Type"]) == (200, "application/json")
            assert json.loads(body)["schema"] == 1


def test_requests_that_come_at_once_are_answered_in_order(served: Served) -> None:
    count = 200  # more bytes than one turn reads
    with Raw(served.path) as client:
        client.send(b"".join(b"GET /v1/none-%d HTTP/1.1\r\n\r\n" % k for k in range(count)))
        for k in range(count):
            status, _, body = client.answer()
            assert status == 404
            assert f"none-{k}'" in json.loads(body)["error"]


def test_the_standard_client_reuses_its_connection(served: Served) -> None:
    connection = Connection(served.path)
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, "/metrics")
        response = connection.getresponse()
        body = response.read()
        assert (response.status, body == b"") == (200, method == "HEAD")
    connection.close()


def test_head_says_how_long_the_document_is(served: Served) -> None:
    with Raw(served.path) as client:
        client.send(b"HEAD /v1/waits HTTP/1.1\r\n\r\nGET /v1/waits HTTP/1.1\r\n\r\n")
        _, head, _ = client.answer(head=True)
        _, fields, body = client.answer()
        assert head["Content-Length"] == fields["Content-Length"] == str(len(body))


def test_the_last_request_ends_the_connection(served: Served) -> None:
    for last in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"nonsense\r\n\r\n"):
        with Raw(served.path) as client:
            client.send(last + STATS * 3)
            assert client.answer()[1]["Connection"] == "close"
            assert client.ended()


WRONG = {
    "a path": ("GET", "/nowhere", 404, "/nowhere"),
    "a method": ("DELETE", "/v1/stats", 405, "GET, HEAD"),
    "a method of a sync": ("GET", "/v1/sync", 405, "POST"),
    "a method of a ticket": ("POST", "/v1/sync/1", 405, "GET, HEAD"),
    "a method that nobody knows": ("BREW", "/metrics", 405, "GET, HEAD"),
    "a volume": ("GET", "/v1/files?volume=W", 404, "'W'"),
    "a volume of failed data": ("GET", "/v1/failed?volume=W", 404, "'W'"),
    "a volume to be synced": ("POST", "/v1/sync?volume=W", 404, "'W'"),
    "an order": ("GET", "/v1/files?sort=size", 400, "dirty, cached"),
    "a limit": ("GET", "/v1/files?limit=1001", 400, "1000"),
    "a limit below zero": ("GET", "/v1/files?limit=-1", 400, "'-1'"),
    "a limit in other digits": ("GET", "/v1/files?limit=%D9%A3", 400, "number"),
    "a parameter": ("GET", "/v1/stats?verbose=1", 400, "'verbose'"),
    "a file": ("GET", "/v1/folios?file=1", 404, "file 1"),
    "no file": ("GET", "/v1/folios", 400, "file"),
    "a file that is no number": ("GET", "/v1/folios?file=a", 400, "'a'"),
    "an offset": ("GET", "/v1/folios?file=1&offset=1e3", 400, "'1e3'"),
    "a length": ("GET", f"/v1/folios?file=1&length={2**63}", 400, "length"),
    "a ticket": ("GET", "/v1/sync/99", 404, "99"),
    "a ticket that is no number": ("GET", "/v1/sync/x", 400, "'x'"),
}


def test_the_root_lists_the_documents(served: Served) -> None:
    """Each path of the list but the one of a ticket has an answer."""
    paths = get(served.path, "/")["documents"]
    assert {"/v1/stats", "/v1/files", "/metrics"} <= set(paths)
    assert "/" not in paths
    _, document = request(served.path, "/nowhere")
    assert document["error"].endswith(", ".join(paths))
    assert {request(served.path, path, "DELETE")[0] for path in paths} == {405}


@pytest.mark.parametrize("what", WRONG)
def test_errors_of_a_request_are_json(served: Served, what: str) -> None:
    method, target, status, message = WRONG[what]
    found, document = request(served.path, target, method)
    assert (found, document["schema"]) == (status, 1)
    assert message in document["error"]


def test_a_part_of_a_key_is_looked_for_among_all_files(served: Served) -> None:
    for key in ("a b/Ä&1", "a b/2", "c"):
        with served.volume.open(key, "w") as f:
            f.write(b"y")
    found = get(served.path, "/v1/files?match=B%2F%C3%A4%26")
    assert (found["total"], [file["key"] for file in found["files"]]) == (1, ["a b/Ä&1"])
    assert get(served.path, "/v1/files?match=a+b&limit=1")["total"] == 2
    assert get(served.path, "/v1/files?match=")["total"] == get(served.path, "/v1/files")["total"]


def test_a_method_that_is_not_allowed_gets_the_list_of_allowed_ones(served: Served) -> None:
    with Raw(served.path) as client:
        client.send(b"PUT /v1/sync HTTP/1.1\r\n\r\n")
        assert client.answer()[1]["Allow"] == "POST"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_body_is_read_and_means_nothing(served: Served, framing: bytes) -> None:
    with Raw(served.path) as client:
        for _ in range(2):
            client.send(b"POST /v1/sync HTTP/1.1\r\n" + framing)
            assert client.answer()[0] == 200


def test_a_client_that_asks_before_sending_a_body_gets_permission(served: Served) -> None:
    with Raw(served.path) as client:
        client.send(b"POST /v1/sync HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.answer()[0] == 100
        client.send(b"ab")
        assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("data", "status"), [(b"GET /" + b"a" * 20_000, 431), (b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n", 413)]
)
def test_a_request_that_is_too_large_is_refused(served: Served, data: bytes, status: int) -> None:
    with Raw(served.path) as client:
        client.send(data)
        assert client.answer()[0] == status
        assert client.ended()


def test_one_client_too_many_gets_an_error(served: Served) -> None:
    """Those before it are served; the place of a client that leaves is free."""
    clients = [Raw(served.path) for _ in range(CLIENTS_MOST)]
    try:
        for client in clients:
            client.send(STATS)
            assert client.answer()[0] == 200
        status, document = request(served.path, "/v1/stats")
        assert (status, document["error"].split()[0]) == (503, str(CLIENTS_MOST))
        clients.pop().close()
        clients[0].send(STATS)  # a client that hung up before is noticed in this turn, or before
        assert clients[0].answer()[0] == 200
        assert request(served.path, "/v1/stats")[0] == 200
    finally:
        for client in clients:
            client.close()


def test_many_clients_at_once_get_their_own_answers(served: Served) -> None:
    """Those without a place get an error, and no other effect."""
    wrong: list[object] = []

    def client(number: int) -> None:
        for k in range(20):
            status, document = request(served.path, f"/v1/sync/{number}{k:03}")
            if status != 503 and (status, f"sync {number}{k:03} " in document["error"]) != (404, True):
                wrong.append((status, document))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 3)
        assert not thread.is_alive()
    assert wrong == []


def test_no_other_client_waits_for_one_that_does_not_read(served: Served) -> None:
    fill(served)
    with Raw(served.path) as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.send(ALL_FILES * 2)
        for _ in range(5):  # the server has begun to send by now, and goes on
            assert get(served.path, "/v1/files?limit=0")["total"] >= 300
            with served.volume.open("another", "w") as f:
                f.write(b"y")
            served.volume.remove("another")
            assert served.cache.stats().capacity
        for _ in range(2):  # and the client still gets all of it
            status, _, body = slow.answer()
            assert status == 200
            assert len(json.loads(body)["files"]) >= 300


@pytest.mark.parametrize("what", ["silent", "half a request", "half a body", "never reads"])
def test_a_client_that_has_used_up_its_time_is_dropped(served: Served, what: str) -> None:
    """Only the time for its current step is used up: it has plenty of every other."""
    fill(served)
    short = {"silent": "idle", "never reads": "send"}.get(what, "request")
    served.hurry(**{**dict.fromkeys(("idle", "request", "send", "leave"), 3600.0), short: 0.2})
    with Raw(served.path) as client:
        if what == "never reads":
            client.send(ALL_FILES * 8)
            wait_until_gone(served)
            return
        if what != "silent":
            client.send(STATS[:10] if what == "half a request" else HALF)
        assert client.ended()


class Clock:
    """Time that a test moves; everything else is that of the module."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def blocked(served: Served, sending: _Client) -> bool:
    """Check that no more of its answer was sent though the server has served every client."""
    before = len(sending.answer)
    assert get(served.path, "/v1/stats")["schema"] == 1
    return 0 < before == len(sending.answer)


def test_a_client_that_reads_slowly_gets_everything(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time begins again whenever it takes a part of an answer."""
    for k in range(300):
        with served.volume.open(f"{k:04}" + "x" * 3000, "w") as f:
            f.write(b"x")
    live = served.cache.live
    assert live is not None
    clock = Clock()
    monkeypatch.setattr(server, "time", clock)
    served.hurry(idle=3600, request=3600, send=30)
    with Raw(served.path) as slow:
        slow.send(ALL_FILES)
        eventually(lambda: any(client.answer for client in live._clients.values()))
        (sending,) = live._clients.values()

        taken = bytearray()
        for _ in range(3):
            eventually(lambda: blocked(served, sending))
            clock.now += 20

            def more_was_sent() -> bool:
                with contextlib.suppress(BlockingIOError):
                    taken.extend(slow.socket.recv(65536, socket.MSG_DONTWAIT))
                return sending.until >= clock.now + 30

            eventually(more_was_sent)
            assert get(served.path, "/v1/stats")["schema"] == 1  # a late client would have been dropped
        head, _, body = bytes(taken).partition(b"\r\n\r\n")
        (length,) = [int(line.split()[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        while len(body) < length:
            piece = slow.socket.recv(65536)
            assert piece
            body += piece
    assert len(json.loads(body)["files"]) == 300


def test_a_client_that_reads_nothing_is_not_read_either(served: Served) -> None:
    """The server has one answer and one buffer of requests for it, however many it sends."""
    fill(served)
    live = served.cache.live
    assert live is not None
    with Raw(served.path) as rude:
        rude.send(ALL_FILES * 40)
        eventually(lambda: any(client.answer for client in live._clients.values()))
        (sending,) = live._clients.values()
        eventually(lambda: blocked(served, sending))
        rude.socket.setblocking(False)
        sent = [0]
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                while sent[-1] < 32 << 20:
                    sent[-1] += rude.socket.send(STATS * 1000)
            sent.append(sent[-1])
            assert get(served.path, "/v1/stats")["schema"] == 1  # the server has served all its clients once more
    assert 0 < sent[0] == sent[-1]


def test_an_answer_on_its_way_is_finished_before_the_next_begins(served: Served) -> None:
    """Small answers go at once, and their client is served again in the next turn. By then its further requests have
    come, and one of them has an answer that does not go at once.
    """
    fill(served)
    padded = b"GET /v1/stats HTTP/1.1\r\nX-Padding: " + b"x" * 1000 + b"\r\n\r\n"
    with Raw(served.path) as client:
        client.send(STATS * 2 + ALL_FILES * 10 + padded * 30)
        kinds = []
        for _ in range(42):
            status, _, body = client.answer()
            assert status == 200
            kinds.append("files" in json.loads(body))
    assert kinds == [False] * 2 + [True] * 10 + [False] * 30


def wait_until_gone(served: Served) -> None:
    """Wait until the server has no client left: checked inside the server, since a buffer hides it from the outside."""
    live = served.cache.live
    assert live is not None
    eventually(lambda: not live._clients)


CHILD = """
import sys, time
sys.path[:0] = {path!r}
from tests.live.wire import Raw
client = Raw(sys.argv[1])
client.send({request!r})
client.socket.recv(1)
print("reads", flush=True)
time.sleep(60)
"""


def test_a_client_that_is_killed_in_the_middle_of_its_answer_is_gone(served: Served) -> None:
    fill(served)
    root = str(Path(__file__).parents[2])
    source = CHILD.format(path=[root], request=ALL_FILES * 20)
    with subprocess.Popen([sys.executable, "-c", source, served.path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"reads\n"
        child.send_signal(signal.SIGKILL)
        child.wait(TIMEOUT)
    wait_until_gone(served)
    assert get(served.path, "/v1/stats")["schema"] == 1


def test_closing_the_cache_ends_every_connection_and_waits_for_none(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    cache = PageCache("8MiB")
    volume = cache.attach("memory:")
    served = Served(cache, volume, path, tmp_path)
    cache.serve_stats(path)
    fill(served)
    with Raw(path) as idle, Raw(path) as half, Raw(path) as slow:
        half.send(STATS[:10])
        slow.send(ALL_FILES * 20)
        get(path, "/v1/waits")
        live = cache.live
        assert live is not None
        cache.close()
        assert not Path(path).exists()
        assert not live._thread.is_alive()
        assert idle.ended()
        assert half.ended()
    with pytest.raises(FileNotFoundError):
        Raw(path)


def test_a_cache_that_cannot_be_closed_is_served_on(tmp_path: Path) -> None:
    """A document says why."""
    with PageCache("8MiB") as cache:
        volume = cache.attach("memory:", name="V")
        path = str(tmp_path / "s")
        cache.serve_stats(path)
        handle = volume.open("f", "w+")
        handle.write(b"x")
        volume.abort(OSError(5, "gone"))
        with pytest.raises(UnsavedDataError):
            cache.close()
        one = get(path, "/v1/stats")["volumes"][0]
        assert (one["state"], one["reason"]) == ("aborted", "[Errno 5] gone")
        assert [r["length"] for r in get(path, "/v1/failed")["failed"]] == [1]
        cache.close(on_failed="discard")


def test_a_dropped_cache_is_not_kept_by_being_served(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    cache = PageCache("8MiB")
    cache.serve_stats(path)
    thread = cache.live._thread if cache.live is not None else None
    get(path, "/v1/stats")
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert thread is not None
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert not Path(path).exists()
    eventually(lambda: gc.collect() >= 0 and gone() is None)
