"""Reading the live documents of a socket, and the errors for every kind of socket without documents."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pagecache.observe.answers import Histogram, Malformed, Stats, decode
from pagecache.observe.client import (
    Client,
    LiveError,
    NewerSchema,
    NoSocket,
    NotAllowed,
    NotListening,
    NotPagecache,
    Refused,
    TooSlow,
    find_sockets,
)

from . import documents
from .serving import LONG, Owner, as_json, wait_until

MIB = 1 << 20


def test_documents_are_read_as_the_schema_says(owner: Owner) -> None:
    with Client(owner.path) as client:
        stats = client.stats()
        assert (stats.pid, stats.cache.name, stats.cache.capacity) == (4711, "cache-1", 256 * MIB)
        photos, scratch = stats.volumes
        assert photos.oldest.dirty == 3.25
        assert photos.queue.waiting["background"] == 7
        assert photos.latency.commit.count == 15
        assert [one.next for one in photos.errors] == ["tried again in 3.2 s", "tried again in 5 min"]
        assert scratch.oldest.dirty is None
        assert [wait.owner is None for wait in client.waits().waits] == [False, True]
        assert client.folios(100, offset=5 * MIB, length=MIB).runs == ((5 * MIB, MIB, "writeback"),)


def test_files_are_asked_for_by_volume_order_and_number(owner: Owner) -> None:
    owner.count = 5000
    with Client(owner.path) as client:
        assert client.files(match="db/MAIN").total == 2
        page = client.files(volume="photos", sort="hits", limit=3)
    assert (page.total, [one.key for one in page.files]) == (
        5000,
        ["many/04999.bin", "many/04998.bin", "many/04997.bin"],
    )
    assert owner.requests == [
        "/v1/files?sort=dirty&limit=200&match=db%2FMAIN",
        "/v1/files?volume=photos&sort=hits&limit=3",
    ]


def test_folios_in_several_answers_are_one(owner: Owner) -> None:
    with Client(owner.path) as client:
        assert len(client.folios(100).runs) == documents.RUNS_MAX
        found = client.all_folios(100)
        assert (found.offset, found.length, len(found.runs)) == (0, 40 * MIB, 8)
        assert [state for _, _, state in found.runs] == documents.STATES
        part = client.all_folios(100, offset=4 * MIB, length=20 * MIB)
        assert (part.offset, part.length, part.runs[-1][2]) == (4 * MIB, 20 * MIB, "unstable")
        owner.size = MIB
        assert client.all_folios(100, offset=4 * MIB).length == 0


def test_a_file_that_becomes_shorter_between_two_answers_ends_there(owner: Owner) -> None:
    first = as_json(documents.folios(100, 0, None))
    owner.size = 2 * MIB

    def answers() -> tuple[int, bytes]:
        return first if len(owner.requests) == 1 else as_json(documents.folios(100, 13 * MIB, None, size=2 * MIB))

    owner.answer = lambda method, target: answers()  # type: ignore[method-assign]
    with Client(owner.path) as client:
        found = client.all_folios(100)
    assert len(found.runs) == documents.RUNS_MAX
    assert len(owner.requests) == 2


def test_a_ticket_is_begun_and_asked_for(owner: Owner) -> None:
    answer = {"schema": 1, "ticket": 7, "total": 10, "remaining": 4, "rate": 2.0, "expected": 2.0, "done": False,
              "seconds": 3.0, "errors": [{"volume": "V", "message": "no", "ranges": [
                  {"key": "a", "offset": 0, "length": 4, "errno": 5, "message": "no"}]}]}  # fmt: skip
    owner.changed["/v1/sync"] = owner.changed["/v1/sync/7"] = as_json(answer)
    with Client(owner.path) as client:
        begun = client.begin_sync("a b")
        assert begun == client.sync(begun.ticket)
    assert begun.errors[0].ranges[0].key == "a"
    assert owner.requests == ["/v1/sync?volume=a+b", "/v1/sync/7"]


def test_a_failed_range_is_read(owner: Owner) -> None:
    entry = {"volume": "V", "key": "a/b", "offset": 0, "length": 4096, "errno": 5, "name": "EIO", "attempts": 5,
             "next_retry": None, "message": "no", "since": 20.0}  # fmt: skip
    owner.changed["/v1/failed"] = as_json({"schema": 1, "failed": [entry]})
    with Client(owner.path) as client:
        assert client.failed().failed[0].next_retry is None


def test_one_connection_serves_all_requests(owner: Owner) -> None:
    with Client(owner.path) as client:
        for _ in range(3):
            client.stats()
    assert len(owner.connections) == 1


def test_a_kept_connection_that_is_gone_is_made_again(owner: Owner) -> None:
    with Client(owner.path) as client:
        client.stats()
        owner.die()
        owner.come_back()
        assert client.stats().pid == 4711


def test_additions_of_a_later_version_are_ignored(owner: Owner) -> None:
    document = {**documents.busy(), "new": {"deep": [1]}}
    document["cache"]["also new"] = None
    owner.changed["/v1/stats"] = as_json(document)
    with Client(owner.path) as client:
        assert client.stats().cache.name == "cache-1"


def test_a_path_without_a_socket_says_so(place: Path) -> None:
    with Client(place / "none.sock") as client, pytest.raises(NoSocket, match="no such socket: not served, or"):
        client.stats()
    plain = place / "plain"
    plain.write_text("a file")
    for path in (plain, place):
        with Client(path) as client, pytest.raises(NoSocket, match="not a socket"):
            client.stats()
    with Client(plain / "below") as client, pytest.raises(NoSocket):
        client.stats()


def test_a_path_longer_than_a_socket_may_have_is_no_obstacle(place: Path) -> None:
    deep = place / ("x" * 120)
    deep.mkdir()
    (place / "s").symlink_to(deep)
    owner = Owner(place / "s" / "cache.sock").start()
    try:
        with Client(deep / "cache.sock") as client:
            assert client.stats().pid == 4711
        with Client(deep / "none.sock") as client, pytest.raises(NoSocket, match="no such socket: not served"):
            client.stats()
        owner.die()
        with Client(deep / "cache.sock") as client, pytest.raises(NotListening):
            client.stats()
    finally:
        owner.close()


def test_a_socket_whose_owner_died_says_so(owner: Owner) -> None:
    owner.die()
    with Client(owner.path) as client, pytest.raises(NotListening, match="nobody listens: its owner died"):
        client.stats()


def test_an_owner_that_dies_between_requests_says_so(owner: Owner) -> None:
    with Client(owner.path) as client:
        client.stats()
        owner.die()
        with pytest.raises(NotListening):
            client.stats()
        owner.close()
        with pytest.raises(NoSocket):
            client.stats()


def test_an_owner_that_dies_in_the_middle_of_an_answer_says_so(owner: Owner) -> None:
    owner.raw = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"
    with Client(owner.path) as client, pytest.raises(NotListening, match="ended early"):
        client.stats()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_socket_of_another_program_says_so(owner: Owner) -> None:
    owner.path.chmod(0)
    with Client(owner.path) as client, pytest.raises(NotAllowed, match="only the owner"):
        client.stats()


def test_a_refused_permission_says_so(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errno alone is simulated, for tests that run as root."""

    def connect(self: socket.socket, path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pagecache.observe.client.DeadlineSocket.connect", connect, raising=False)
    with Client(owner.path) as client, pytest.raises(NotAllowed, match="only the owner"):
        client.stats()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\xff garbage\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"schema\": 0}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n<html>no</html>",
    ],
)  # fmt: skip
def test_a_socket_of_another_protocol_is_an_error(owner: Owner, raw: bytes) -> None:
    owner.raw = raw
    with Client(owner.path) as client, pytest.raises(NotPagecache, match="not a pagecache socket"):
        client.stats()


def test_json_that_nests_too_deep_is_no_document(owner: Owner) -> None:
    owner.changed["/v1/stats"] = (200, b"[" * 200_000)
    with Client(owner.path) as client, pytest.raises(NotPagecache):
        client.stats()


def test_an_answer_without_end_is_not_read(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagecache.observe.client.ANSWER_MAX", 1000)
    owner.changed["/v1/stats"] = (200, b" " * 1001)
    with Client(owner.path) as client, pytest.raises(NotPagecache, match="an answer of more than"):
        client.stats()


def test_a_datagram_socket_is_none_of_ours(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(place / "log"))
        with Client(place / "log") as client, pytest.raises(NotPagecache, match="datagrams"):
            client.stats()


def test_an_owner_that_hangs_is_left_after_the_timeout(owner: Owner) -> None:
    owner.open_gate.clear()
    with Client(owner.path, timeout=0.05) as client, pytest.raises(TooSlow, match=r"no answer within 0\.05 s"):
        client.stats()


def test_an_owner_that_answers_byte_by_byte_is_left_after_the_timeout(owner: Owner) -> None:
    """Each byte comes in time, the answer does not: the timeout covers the whole answer."""
    owner.drip = 0.01
    with Client(owner.path, timeout=0.1) as client, pytest.raises(TooSlow):
        client.stats()


def test_an_owner_that_accepts_no_connection_is_waited_for_and_left(place: Path) -> None:
    """A full queue of connections refuses at once; it may empty in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place / "full"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(place / "full"))
            with Client(place / "full", timeout=0.1) as client, pytest.raises(TooSlow):
                client.stats()


def test_an_owner_that_recovers_is_read_again_by_the_same_client(owner: Owner) -> None:
    with Client(owner.path, timeout=0.2) as client:
        owner.open_gate.clear()
        with pytest.raises(TooSlow):
            client.stats()
        owner.open_gate.set()
        client.timeout = LONG
        assert client.waits().waits  # and not the late answer of the request before
        owner.raw = b"garbage\r\n\r\n"
        with pytest.raises(NotPagecache):
            client.stats()
        owner.raw = None
        assert client.stats().pid == 4711


def test_an_interrupted_request_leaves_no_answer_to_the_next(owner: Owner) -> None:
    owner.open_gate.clear()

    def interrupt() -> None:
        wait_until(lambda: bool(owner.requests), "the request")
        os.kill(os.getpid(), 2)

    with Client(owner.path) as client:
        with pytest.raises(KeyboardInterrupt):
            threading.Thread(target=interrupt).start()
            client.stats()
        owner.open_gate.set()
        assert len(client.waits().waits) == 2


def test_a_newer_schema_says_which_program_has_to_be_updated(owner: Owner) -> None:
    owner.changed["/v1/stats"] = as_json({"schema": 2, "other": True})
    with (
        Client(owner.path) as client,
        pytest.raises(NewerSchema, match="speaks schema 2, this program knows 1: update"),
    ):
        client.stats()


def test_a_refusal_has_the_status_and_the_sentence(owner: Owner) -> None:
    owner.changed["/v1/stats"] = as_json({"schema": 1, "error": "the cache is closed"}, 503)
    with Client(owner.path) as client, pytest.raises(Refused, match="the cache is closed") as caught:
        client.stats()
    assert caught.value.status == 503


def test_a_document_that_lacks_a_field_or_has_another_kind_names_it(owner: Owner) -> None:
    def complaint(path: tuple[str | int, ...], value: object) -> str:
        document = json.loads(json.dumps(documents.busy()))
        place = document
        for name in path[:-1]:
            place = place[name]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        owner.changed["/v1/stats"] = as_json(document)
        with Client(owner.path) as client, pytest.raises(NotPagecache) as caught:
            client.stats()
        return str(caught.value)

    assert "cache has no 'capacity'" in complaint(("cache", "capacity"), None)
    assert "the document has no 'uptime'" in complaint(("uptime",), None)
    assert "volumes[1].name is 7, not a string" in complaint(("volumes", 1, "name"), 7)
    assert "uptime is True, not a number" in complaint(("uptime",), True)
    for number in ("nan", "inf", "-inf", "1e+101"):
        assert f"uptime is {number}, not a number" in complaint(("uptime",), float(number))
    assert "cache.counters.clean is 'x', not a number" in complaint(("cache", "counters", "clean"), "x")
    assert "cache.capacity is -1, not a whole number from 0 on" in complaint(("cache", "capacity"), -1)
    assert "volumes is {}, not an array" in complaint(("volumes",), {})


def test_unknown_values_may_be_null() -> None:
    document = documents.busy()
    document["volumes"][0] |= {"rate": None, "clean_in": None, "oldest": {"dirty": None, "failed": None}}
    volume = decode(Stats, document).volumes[0]
    assert (volume.rate, volume.clean_in, volume.oldest.dirty) == (None, None, None)
    with pytest.raises(Malformed, match="bounds is None, not an array"):
        decode(Histogram, {"bounds": None})


def test_sockets_are_found_by_environment_and_folder(place: Path) -> None:
    folder = place / "pagecache"
    folder.mkdir()
    for name in ("b.sock", "a.sock", "other"):
        (folder / name).touch()
    runtime = {"XDG_RUNTIME_DIR": str(place)}
    assert find_sockets(runtime) == [folder / "a.sock", folder / "b.sock"]
    named = {"PAGECACHE_SOCKET": f"/x/one::{folder / 'b.sock'}"}
    assert find_sockets(runtime | named) == [Path("/x/one"), folder / "b.sock", folder / "a.sock"]
    assert find_sockets({}) == []


def test_the_folder_of_sockets_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[b]" / "pagecache").mkdir(parents=True)
    (tmp_path / "a[b]" / "pagecache" / "x.sock").touch()
    assert len(find_sockets({"XDG_RUNTIME_DIR": str(tmp_path / "a[b]")})) == 1


def test_all_errors_have_a_few_words_for_a_column() -> None:
    briefs = [error.brief for error in LiveError.__subclasses__()]
    assert len(set(briefs)) == 7
    assert max(map(len, briefs)) <= 22


def test_a_real_owner_that_is_killed_says_so(place: Path) -> None:
    """It is a separate process, and a real kill."""
    from .serving import wait_until

    path = place / "own.sock"
    with subprocess.Popen([sys.executable, "-m", "tests.top.serving", str(path)]) as process:
        try:
            wait_until(path.exists, "the socket")
            with Client(path) as client:
                assert client.stats().pid == process.pid
                process.kill()
                process.wait(20)
                with pytest.raises(NotListening):
                    client.stats()
        finally:
            process.kill()
