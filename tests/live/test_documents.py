"""The documents compared with the actual state: states, ages, queues, failures, syncs."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pagecache import PageCache, RetryPolicy
from pagecache.observe import documents, syncs
from pagecache.observe.syncs import RUNNING_MOST, Syncs
from tests.file.conftest import make as make  # the fixture
from tests.file.rig import KEY, ONCE, PAGE, QUIET, Make, Patch, Rig, Task, at_gate, eventually, raises
from tests.stores import RecordingBackend


def volume_of(rig: Rig) -> dict[str, Any]:
    document = documents.stats(rig.cache)
    json.dumps(document)
    found: dict[str, Any] = document["volumes"][0]
    return found


def only_file(rig: Rig) -> dict[str, Any]:
    (found,) = documents.files(rig.cache, None, "dirty", 10)["files"]
    return dict(found)


# -- stats


def test_the_documents_have_every_field_of_the_schema(make: Make) -> None:
    """The schema is the examples in docs/live.md, so the page cannot promise missing fields."""
    rig, f = make({KEY: b"x" * 3 * PAGE}, retry=ONCE).opened()
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"))
    f.pwrite(b"y", 0)
    raises(OSError, f.fsync, match="full")
    with rig.backend.gate("read_into") as gate:
        _, reading = at_gate(gate, rig.open().pread, PAGE, 2 * PAGE)
        eventually(lambda: any(wait["owner"] for wait in documents.waits(rig.cache)["waits"]))
        ours = [
            documents.stats(rig.cache),
            documents.files(rig.cache, None, "dirty", 10),
            documents.waits(rig.cache),
            documents.failed(rig.cache, None),
            Syncs().begin([]),
        ]
    reading.result()
    page = Path(__file__).parents[2] / "docs" / "live.md"
    examples = [text.split("```")[0] for text in page.read_text(encoding="utf-8").split("```json")[1:]]
    for example, found in zip(examples, ours, strict=True):
        assert missing(json.loads(example.replace("…", "...")), json.loads(json.dumps(found))) == []
    document = ours[0]
    assert document["pid"] == os.getpid()
    assert document["command"].startswith(sys.orig_argv[0])
    assert len(document["command"]) <= documents.COMMAND_MOST
    assert document["cache"]["waiting"] >= 1


def missing(promised: Any, found: Any, where: str = "") -> list[str]:
    """The fields that a document lacks, or has with another type; an empty list promises nothing."""
    if isinstance(promised, dict) and isinstance(found, dict):
        lacks = [f"{where}/{name}" for name in promised.keys() - found.keys()]
        return lacks + [
            m for name in promised.keys() & found for m in missing(promised[name], found[name], f"{where}/{name}")
        ]
    if isinstance(promised, list) and isinstance(found, list):
        return missing(promised[0], found[0], f"{where}/0") if promised and found else []
    alike = promised is None or found is None or isinstance(found, type(promised)) or isinstance(promised, float | int)
    return [] if alike else [where]


def test_the_oldest_dirty_byte_has_its_age(make: Make) -> None:
    rig = make({KEY: b"x", "other": b"x"})
    f, g = rig.open(), rig.open(key="other")
    f.pwrite(b"1", 0)
    rig.cache.native.tick(rig.cache.clock.now())
    first = volume_of(rig)["oldest"]["dirty"]
    g.pwrite(b"2", 0)
    assert 0 <= first <= volume_of(rig)["oldest"]["dirty"]
    f.fsync()
    g.fsync()
    assert volume_of(rig)["oldest"]["dirty"] is None
    assert volume_of(rig)["clean_in"] == 0.0


@pytest.mark.parametrize("change", ["created", "cut", "direct"])
def test_a_change_without_unsaved_bytes_is_not_clean_before_its_commit(make: Make, change: str) -> None:
    """A power cut may take it. [K2]"""
    rig = make({KEY: b"x" * PAGE})
    assert volume_of(rig)["clean_in"] == 0.0
    file = rig.volume.open("new" if change == "created" else KEY, "a+b" if change == "created" else "r+b")
    if change == "cut":
        file.truncate(1)
    elif change == "direct":
        with rig.volume.open(KEY, "r+b", direct=True) as direct:
            direct.pwrite(b"y", 0)
    assert volume_of(rig)["counters"]["local"] == 0
    assert volume_of(rig)["clean_in"] is None
    file.fsync()
    assert volume_of(rig)["clean_in"] == 0.0
    file.close()


def test_waiting_and_running_work_are_counted_separately(make: Make) -> None:
    rig = make({f"{k}": b"" for k in range(6)}, limits={"max_inflight": 2})
    gate = rig.backend.gate("write_from", times=6)
    for k in range(6):
        rig.open(key=f"{k}").pwrite(b"x", 0)
    ticket = rig.volume.begin_sync()
    gate.wait_entered()
    eventually(lambda: volume_of(rig)["queue"]["running"] == 2)
    eventually(lambda: volume_of(rig)["queue"]["waiting"]["integrity"] >= 4)
    assert {name for name, jobs in volume_of(rig)["queue"]["waiting"].items() if jobs} == {"integrity"}
    gate.open()
    rig.backend.open_all_gates()
    ticket.wait(20)
    eventually(lambda: queue(rig) == (0, 0))
    with rig.backend.gate("stat") as gate:  # a call of a name counts as one that runs
        asking = Task(rig.volume.stat, "0")
        gate.wait_entered()
        assert queue(rig) == (1, 0)
    asking.result()


def queue(rig: Rig) -> tuple[int, int]:
    found = volume_of(rig)["queue"]
    return found["running"], sum(found["waiting"].values())


def test_a_volume_that_is_detached_has_its_state_and_leaves_its_counters(make: Make) -> None:
    """Its bytes are gone then."""
    rig, f = make({KEY: b"x" * PAGE}).opened()
    assert f.pread(1, 0) == b"x"
    counters = documents.stats(rig.cache)["cache"]["counters"]
    assert (counters["read_requests"], counters["clean"], counters["folios"]) == (1, PAGE, 1)
    f.pwrite(b"y", 0)
    with rig.backend.gate("write_from") as gate:
        _, leaving = at_gate(gate, rig.volume.detach)
        assert volume_of(rig)["state"] == "detaching"
    leaving.result()
    document = documents.stats(rig.cache)
    assert document["volumes"] == []
    after = document["cache"]["counters"]
    assert (after["read_requests"], after["clean"], after["folios"], after["used"]) == (1, 0, 0, 0)
    assert after.keys() == counters.keys()


def test_a_throttled_writer_is_seen(make: Make) -> None:
    rig = make({KEY: b""}, "1MiB", dirty_background=0.1, dirty_limit=0.25)
    gate = rig.backend.gate("write_from", times=100)
    writing = Task(rig.open().pwrite, b"x" * (1 << 20), 0)
    eventually(lambda: volume_of(rig)["throttle"]["waiting"] == 1)
    eventually(lambda: documents.stats(rig.cache)["cache"]["waiting"] == 1)  # between two pauses no writer waits
    eventually(lambda: volume_of(rig)["throttle"]["position"] == 1.0)
    gate.open()
    rig.backend.open_all_gates()
    writing.result()
    assert volume_of(rig)["throttle"]["waiting"] == 0


# -- trouble


def test_trouble_is_reported_with_its_next_step(make: Make) -> None:
    policy = RetryPolicy(attempts=2, first_delay=0.01, max_delay=0.02, deadline=20.0, failed_retry=60.0)
    rig, f = make({KEY: b"x"}, retry=policy).opened()
    rig.backend.fault("write_from", OSError(errno.EIO, "no luck"), times=2)
    f.pwrite(b"y", 0)
    raises(OSError, f.fsync, match="no luck")
    eventually(lambda: len(volume_of(rig)["errors"]) == 3)  # waiters are woken first
    parked, last, first = volume_of(rig)["errors"]
    assert [e["kind"] for e in (first, last, parked)] == ["failed", "failed", "parked"]
    for entry in (first, last, parked):
        assert (entry["key"], entry["offset"], entry["length"]) == (KEY, 0, 1)
        assert (entry["errno"], entry["name"], entry["message"]) == (errno.EIO, "EIO", "no luck")
        assert entry["next"].startswith("tried again in ")
    assert parked["next"] == "tried again in 60.0 s"
    assert first["age"] >= last["age"] >= parked["age"] >= 0
    assert volume_of(rig)["oldest"]["failed"] >= first["age"]
    assert volume_of(rig)["clean_in"] is None
    (found,) = documents.failed(rig.cache, None)["failed"]
    assert (found["key"], found["errno"], found["name"], found["attempts"]) == (KEY, errno.EIO, "EIO", 2)
    rig.volume.retry_failed()
    f.fsync()
    assert volume_of(rig)["oldest"]["failed"] is None
    assert documents.failed(rig.cache, "volume")["failed"] == []


def test_a_conflict_says_how_it_is_settled(make: Make) -> None:
    rig, f = make({KEY: b"x" * PAGE}).opened()
    f.pwrite(b"y", 0)
    rig.backend.change_remotely(KEY, b"z" * PAGE)
    raises(OSError, rig.open)
    found = {(e["kind"], e["next"]) for e in volume_of(rig)["errors"]}
    assert ("conflict", "nothing until `resolve` or `discard` settles it") in found
    assert len({then for _, then in found}) == 1
    assert only_file(rig)["state"] == "conflict"
    rig.volume.discard(KEY)


def test_only_the_last_twenty_are_kept_and_nothing_that_they_referred_to(make: Make) -> None:
    rig, f = make({KEY: b"x"}, retry=ONCE).opened()
    for k in range(15):
        rig.backend.fault("write_from", OSError(errno.EIO, f"number {k}"))
        f.pwrite(b"y", 0)
        raises(OSError, f.fsync, match=f"number {k}")
        rig.volume.retry_failed()
        f.fsync()
    eventually(lambda: volume_of(rig)["errors"][0]["message"] == "number 14")
    errors = volume_of(rig)["errors"]
    assert [e["message"] for e in errors] == [f"number {k}" for k in range(14, 4, -1) for _ in range(2)]
    assert not any(isinstance(getattr(t, "message", None), BaseException) for t in rig.volume.engine.troubles.last)


# -- files


FIRST = {"age": "dirty", "hits": "hot", "key": "a"}
"""Order -> the first file, if that has not the same name."""


@pytest.mark.parametrize("sort", documents.SORTS)
def test_files_come_in_the_order_that_was_asked_for(make: Make, sort: str) -> None:
    names = ["a", "cached", "dirty", "failed", "hot", "unstable"]
    rig = make(dict.fromkeys(names, b"x" * 8 * PAGE), retry=ONCE)
    files = {name: rig.open(key=name) for name in names}
    files["dirty"].pwrite(b"y" * 3 * PAGE, 0)
    files["cached"].pread(8 * PAGE, 0)
    files["unstable"].pwrite(b"y" * PAGE, 0)
    files["unstable"].flush()
    rig.backend.fault("write_from", OSError(errno.EIO, "no"), key="failed")
    files["failed"].pwrite(b"y", 0)
    raises(OSError, files["failed"].flush)
    for _ in range(9):
        files["hot"].pread(1, 0)
    found = documents.files(rig.cache, "volume", sort, 2)
    assert (found["total"], len(found["files"])) == (6, 2)
    assert found["files"][0]["key"] == FIRST.get(sort, sort)


class Thing:
    def __repr__(self) -> str:
        return "a thing"


def test_files_are_looked_for_by_a_part_of_their_keys_as_people_read_them(make: Make) -> None:
    """The filter covers all files, not only the shown ones, ignores case, and applies to keys of any kind."""
    keys = ("Photos/Straße.jpg", "photos/b.jpg", PurePosixPath("x/photos"), 7, b"photos", Thing(), ("b", "k"))
    rig = make(dict.fromkeys((*keys, "a\udcff"), b""))
    for key in list(rig.backend.objects):
        rig.open(key=key)

    def matching(text: str, limit: int = 100) -> tuple[int, list[str]]:
        found = documents.files(rig.cache, None, "key", limit, text)
        return found["total"], [file["key"] for file in found["files"]]

    assert matching("PHOTOS") == (4, ["Photos/Straße.jpg", "b'photos'", "photos/b.jpg", "x/photos"])
    assert matching("photos", limit=1) == (4, ["Photos/Straße.jpg"])
    assert matching("STRASSE") == (1, ["Photos/Straße.jpg"])
    assert matching("7") == (1, ["7"])
    assert matching("*") == (0, [])
    assert {"a thing", "('b', 'k')", "a\udcff"} <= set(matching("")[1])


def test_a_file_reports_its_state_and_never_gets_the_number_of_another(make: Make) -> None:
    rig, f = make({KEY: b"x" * 5}).opened()
    f.pwrite(b"y", 9)
    one = only_file(rig)
    assert (one["state"], one["handles"], one["size"], one["stored"]) == ("open", 1, 10, 5)
    assert one["counters"] == f.stats().to_dict()
    assert one["oldest_dirty"] >= 0
    f.close()
    assert only_file(rig)["state"] == "idle"
    g = rig.open()
    rig.volume.remove(KEY)
    assert only_file(rig)["state"] == "removed"
    g.close()
    eventually(lambda: documents.files(rig.cache, None, "key", 1)["total"] == 0)
    rig.open("w")
    assert only_file(rig)["id"] != one["id"]


# -- syncs


def test_a_sync_of_all_volumes_is_reported_as_one() -> None:
    first, second = RecordingBackend({KEY: b""}), RecordingBackend({KEY: b""})
    with PageCache("8MiB", **QUIET) as cache:
        files = [cache.attach(b, name=n).open(KEY, "r+") for b, n in ((first, "A"), (second, "B"))]
        for f in files:
            f.pwrite(b"x" * 4 * PAGE, 0)
        gate = second.gate("write_from", times=4)
        syncs = Syncs()
        begun = syncs.begin(list(cache.volumes()))
        assert (begun["total"], begun["done"]) == (8 * PAGE, False)
        number = begun["ticket"]
        eventually(lambda: syncs.document(number)["remaining"] == 4 * PAGE)
        half = syncs.document(number)
        assert half["rate"] >= 0.0
        assert half["expected"] is None or half["expected"] >= 0.0  # the ticket decides how they are measured
        gate.open()
        eventually(lambda: syncs.document(number)["done"])
        over = syncs.document(number)
        assert (over["remaining"], over["expected"], over["errors"]) == (0, 0.0, [])
        assert syncs.document(number) is over
        for f in files:
            f.close()


def test_a_sync_that_fails_says_of_which_volume_and_which_bytes(make: Make) -> None:
    """A volume that was aborted before is an error as a whole."""
    rig = make({KEY: b""}, retry=ONCE)
    rig.open().pwrite(b"x" * PAGE, PAGE)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"))
    syncs = Syncs()
    number = syncs.begin([rig.volume])["ticket"]
    eventually(lambda: syncs.document(number)["done"])
    (error,) = syncs.document(number)["errors"]
    assert (error["volume"], "full" in error["message"]) == ("volume", True)
    found = [(r["key"], r["offset"], r["length"], r["errno"]) for r in error["ranges"]]
    assert found == [(KEY, PAGE, PAGE, errno.ENOSPC)]
    assert syncs.document(number)["expected"] is None
    rig.volume.abort(OSError(errno.EIO, "unplugged"))
    document = syncs.begin([rig.volume])
    assert (document["done"], "unplugged" in document["errors"][0]["message"]) == (True, True)


def test_syncs_are_bounded_and_the_last_ones_are_kept(make: Make, monkeypatch: Patch) -> None:
    """Numbers of one cache are none of the next at its path: a client that polls on would read "saved"."""
    rig = make({KEY: b""})
    rig.open().pwrite(b"x", 0)
    gate = rig.backend.gate("write_from")
    monkeypatch.setattr(syncs, "KEPT_MOST", RUNNING_MOST)
    known = Syncs()
    first, *_, last = [known.begin([rig.volume])["ticket"] for _ in range(RUNNING_MOST)]
    assert last == first + RUNNING_MOST - 1
    raises(documents.Refused, known.begin, [rig.volume], match="under way")
    gate.open()
    eventually(lambda: all(known.document(number)["done"] for number in range(first, last + 1)))
    assert known.begin([rig.volume])["ticket"] == last + 1
    eventually(lambda: known.document(last + 1)["done"])
    assert known.document(last)["done"]
    raises(documents.Refused, known.document, first, match="not known")
    assert len({Syncs().begin([])["ticket"] for _ in range(3)}) == 3
