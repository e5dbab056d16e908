"""Events and log lines: events come once per change of state and in order; log lines are few and complete."""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecache import CachedFile, ConflictError, DiskTier, Event, PageCache, RetryPolicy, WritebackError, loglines
from pagecache.disk.catalogue import Catalogue
from pagecache.disk.device import OS
from pagecache.engine.commit.staging import Staging
from pagecache.engine.report.notices import LINES, TOPICS, WINDOW

from ..file.clock import HandClock, after_flusher_turn
from ..file.rig import FAST, KEY, ONCE, PAGE, QUIET, Log, Make, Patch, Rig, Task, eventually, pattern, raises, raising
from ..stores import ObjectBackend, RecordingBackend, failing_commit

DATA = pattern(4 * PAGE)
NEW = pattern(PAGE, 1)
FULL = OSError(errno.ENOSPC, "no room")
AGAIN = OSError(errno.EIO, "a moment")
PARKS = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, failed_retry=60.0)


@pytest.fixture
def lines(caplog: Log) -> Iterator[Callable[[int], list[str]]]:
    """The log lines so far at a level or above: level, logger and sentence."""

    def so_far(level: int) -> list[str]:
        loglines.outlast(20.0)
        return [f"{r.levelname} {r.name} {r.getMessage()}" for r in caplog.records if r.levelno >= level]

    with caplog.at_level(logging.DEBUG, "pagecache"):
        yield so_far


def listening(rig: Rig) -> list[Event]:
    seen: list[Event] = []
    rig.cache.subscribe(seen.append)
    return seen


# -------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("op", "error", "retry", "times"),
    [
        ("write_from", AGAIN, FAST, 2),
        ("write_from", FULL, PARKS, 2),
        ("commit", AGAIN, PARKS, 1),
        ("commit", FULL, PARKS, 1),
    ],
    ids=["heals", "stays", "of a commit, transient", "of a commit, permanent"],
)
def test_a_failure_is_reported_with_each_try_and_its_repair_once(
    make: Make, op: str, error: OSError, retry: RetryPolicy, times: int
) -> None:
    """There is one failed for each call that failed, parked if it stays, repaired when the bytes went through, and
    committed when they are stored. A repeated acknowledgement repairs no failed commit. [2.14, 2.27]
    """
    rig, file = make({KEY: DATA}, retry=retry).opened("r+b")
    seen = listening(rig)
    rig.backend.fault(op, failing_commit(error) if op == "commit" else error, times=times)
    before = time.time()
    file.pwrite(NEW, PAGE)
    for _ in range(times if retry is PARKS else 0):
        raises(WritebackError, file.fsync)
    file.fsync()
    page, code = ((PAGE, PAGE),), error.errno or 0
    each = [("failed", page, code), ("parked", page, code)] if retry is PARKS else [("failed", page, code)]
    expected = [*each * times, ("repaired", () if op == "commit" else page, None), ("committed", (), None)]
    eventually(lambda: len(seen) == len(expected))
    assert [(event.kind, event.ranges, event.error and event.error.errno) for event in seen] == expected
    assert {(event.volume, event.key) for event in seen} == {("volume", KEY)}
    assert all(before - 1 <= event.time <= time.time() + 1 for event in seen)
    what = "commit" if op == "commit" else "write-back"
    assert seen[0].message.startswith(f"{what} of [{PAGE}, {2 * PAGE}) failed at try 1: {errno.errorcode[code]} (")
    again = r"in 60\.0 s" if retry is PARKS else r"at once|in [\d.]+ s"
    assert re.fullmatch(f"tried again ({again})", seen[1].next)


def test_a_conflict_is_reported_once(make: Make) -> None:
    """The event has the unsaved local bytes, and the ways to settle it. [2.19, 2.27]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).opened("r+b")
    seen = listening(rig)
    file.pwrite(NEW, 0)
    rig.backend.change_remotely(KEY, b"theirs")
    for _ in range(2):
        raises(ConflictError, file.fsync)
    rig.volume.invalidate_remote(KEY, version="another")
    eventually(lambda: "invalidated" in [event.kind for event in seen])
    conflicts = [event for event in seen if event.kind == "conflict"]
    assert len(conflicts) == 1
    assert isinstance(conflicts[0].error, ConflictError)
    assert conflicts[0].next == "nothing until `resolve` or `discard` settles it"


def test_events_of_a_file_are_in_order_whichever_thread_reports_them(make: Make) -> None:
    """Many requests fail and succeed side by side: no range is repaired before it failed. [2.27]"""
    rig, file = make({KEY: bytes(64 * PAGE)}, retry=FAST, limits={"max_write": PAGE, "max_inflight": 8}).opened("r+b")
    seen = listening(rig)
    for turn in range(10):
        rig.backend.fault("write_from", AGAIN, times=32)
        file.pwrite(pattern(64 * PAGE, turn), 0)
        file.fsync()
    eventually(lambda: sum(event.kind == "committed" for event in seen) == 10)
    failed: Counter[tuple[tuple[int, int], ...]] = Counter()
    for event in seen:
        if event.kind == "failed":
            failed[event.ranges] += 1
        elif event.kind == "repaired":
            assert failed.pop(event.ranges), event
        else:
            assert not failed, event
    assert not failed


# -------------------------------------------------------------------- the log


def test_ten_thousand_failing_requests_write_a_few_lines(
    make: Make, clock: HandClock, lines: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line with the number of omitted ones comes when the time is over; all of them are there at DEBUG. [2.27]"""
    nr = 10_000
    monkeypatch.setattr(loglines, "WAITING_MAX", nr)  # their handler may be slower than the calls
    rig = make({KEY: bytes(nr * PAGE)}, capacity="64MiB", max_folio=PAGE, retry=PARKS, limits={"max_write": PAGE})
    file = rig.open("r+b")
    rig.backend.fault("write_from", FULL, times=float("inf"))
    file.pwrite(bytes(nr * PAGE), 0)
    raises(WritebackError, file.fsync)
    warned = [line for line in lines(logging.INFO) if "pagecache.writeback" in line]
    assert len(warned) == LINES
    eventually(lambda: len([line for line in lines(logging.DEBUG) if "failed at try" in line]) == nr)
    for line in warned:
        start = r"WARNING pagecache\.writeback volume: 'file': write-back of \[\d+, \d+\) failed at try 1: "
        assert re.fullmatch(start + r"ENOSPC \(no room\); tried again in 60\.0 s", line), line
    clock.advance(WINDOW)
    after_flusher_turn(rig.cache)
    said = [line for line in lines(logging.INFO) if "left out" in line]
    assert said == [
        f"WARNING pagecache.writeback volume: {nr - LINES} more lines about data that is kept after a failure "
        f"were left out in {WINDOW:g} s"
    ]


def test_nothing_is_said_of_a_request_that_goes_well(make: Make, lines: Callable[[int], list[str]]) -> None:
    """A volume's life at INFO is its beginning and its end. [2.27]"""
    rig, file = make({KEY: DATA}).opened("r+b")
    for number in range(20):
        file.pwrite(b"x", number)
        file.fsync()
        rig.volume.drop_clean()
        file.pread(10, 0)
    rig.cache.close()
    assert lines(logging.INFO) == [
        "INFO pagecache.volume volume: attached: RecordingBackend",
        "INFO pagecache.volume volume: detached; everything is saved",
    ]


def test_a_failure_without_automatic_retries_is_an_error(make: Make, lines: Callable[[int], list[str]]) -> None:
    """A failure that is retried is a warning, and its repair is information. [2.27]"""
    rig = make({KEY: DATA}, retry=ONCE)  # failed_retry is None
    file = rig.open("r+b")
    rig.backend.fault("write_from", FULL)
    file.pwrite(NEW, 0)
    raises(WritebackError, file.fsync)
    file.fsync()
    eventually(lambda: len(lines(logging.INFO)) == 3)
    assert lines(logging.INFO)[1:] == [
        "ERROR pagecache.writeback volume: 'file': write-back of [0, 4096) failed at try 1: ENOSPC (no room); "
        "kept until `retry_failed`, a new write to the file, or `discard`",
        "INFO pagecache.writeback volume: 'file': write-back of [0, 4096) went through; it waits for a commit",
    ]


def test_the_end_of_a_backend_is_logged(make: Make, lines: Callable[[int], list[str]]) -> None:
    """It covers abort, reconnect, and the bytes given up by a detach. [2.22, 2.27]"""
    rig, file = make({KEY: DATA}, retry=ONCE).opened("r+b")
    file.pwrite(NEW, 0)
    rig.volume.abort(ConnectionError("pulled the plug"))
    rig.volume.abort(ConnectionError("again"))
    fresh = rig.backend.successor()
    rig.volume.reconnect(fresh)
    fresh.fault("write_from", FULL, times=float("inf"))
    rig.cache.close(on_failed="discard")
    found = [line for line in lines(logging.INFO) if "writeback" not in line][1:]
    assert found == [
        "WARNING pagecache.volume volume: aborted: pulled the plug; what is not committed is kept as failed until "
        "reconnect; calls of the backend are left alone",
        "INFO pagecache.volume volume: reconnected to RecordingBackend; what is not known to be committed is sent "
        "again",
        "ERROR pagecache.loss volume: 'file': detached; [0, 4096) of 1 files were not saved and are given up; "
        "each handle raises DataLossError once",
    ]


def test_a_discard_is_reported_with_its_ranges(make: Make, lines: Callable[[int], list[str]]) -> None:
    """Lost data is an error, even on request. [2.18, 2.27]"""
    rig, file = make({KEY: DATA}).opened("r+b")
    for page in range(0, 4, 2):
        file.pwrite(NEW, page * PAGE)
    rig.volume.discard(KEY)
    assert lines(logging.WARNING) == [
        "ERROR pagecache.loss volume: 'file': discard: [0, 4096), [8192, 12288) given up; "
        "each handle raises DataLossError once"
    ]


@pytest.mark.parametrize("failing", [None, "line 0"])
def test_slow_handlers_of_the_log_hold_up_nothing_and_fill_no_memory(
    lines: Callable[[int], list[str]], failing: str | None
) -> None:
    """Lines below WARNING leave room for others; one reports the number of those left out, if a handler raises too."""
    logger, entered, go_on = logging.getLogger("pagecache.volume"), threading.Event(), threading.Event()

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            go_on.wait(20)
            if record.getMessage() == failing:
                raise FULL

    logger.addHandler(wait := Waits())
    try:
        loglines.say(logger, logging.INFO, "first line")
        assert entered.wait(20)
        for number in range(loglines.WAITING_MAX + 11):
            loglines.say(logger, logging.INFO, "line %d", number)
        for number in range(loglines.WAITING_MAX):
            loglines.say(logger, logging.ERROR, "loss %d", number)
        go_on.set()
        found = lines(logging.INFO)
    finally:
        logger.removeHandler(wait)
    assert len(found) == 2 * loglines.WAITING_MAX + 2 - bool(failing)
    assert len([line for line in found if "loss" in line]) == loglines.WAITING_MAX
    assert [line for line in found if "left out" in line] == [
        "WARNING pagecache.volume 11 lines were left out: log handlers are slow"
    ]


@pytest.mark.parametrize(
    ("of", "method", "logger", "call"),
    [
        (OS, "pwritev", "volume", lambda file: file.volume.remove(KEY)),
        (OS, "pwritev", "volume", lambda file: file.truncate(PAGE)),
        (Catalogue, "drop", "disk", lambda file: file.volume.remove(KEY)),
        (Staging, "spill", "volume", lambda file: file.pwrite(bytes(1 << 21), 0)),
    ],
    ids=["journal, remove", "journal, truncate", "copies", "spool"],
)
def test_no_handler_of_the_log_is_called_with_a_lock_held_when_a_disk_fails(
    of: object, method: str, logger: str, call: Callable[[CachedFile], object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A handler may look at the volume, and write to the file that changes. [2.27, 2.28]"""
    answers: list[object] = []

    class Looks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            answers.append((volume.stats(), volume.failed(), volume.dirty_ranges(KEY), file.pwrite(b"x", 0)))

    handler, log = Looks(), logging.getLogger(f"pagecache.{logger}")
    tier = DiskTier(tmp_path, size="16MiB", segment="1MiB")
    with PageCache("1MiB", **QUIET, disk=tier) as cache:
        store = ObjectBackend({KEY: DATA}) if of is Staging else RecordingBackend({KEY: DATA})
        volume = cache.attach(store, durability="disk")
        with volume.open(KEY, "r+b") as file:
            file.pwrite(NEW, 0)
            file.fsync()
            log.addHandler(handler)
            try:
                monkeypatch.setattr(of, method, raising(FULL))
                Task(call, file).result()
                eventually(lambda: answers)
                monkeypatch.undo()
            finally:
                log.removeHandler(handler)


def test_a_handler_of_the_log_that_raises_harms_no_call(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exception is printed, and it gets the next line. [2.27]"""
    rig, file = make({KEY: DATA}, retry=FAST).opened("r+b")
    got: list[str] = []

    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record.levelname)
            raise SystemExit("in a handler")

    handler, logger = Raises(), logging.getLogger("pagecache.writeback")
    logger.addHandler(handler)
    try:
        rig.backend.fault("write_from", AGAIN, times=2)
        file.pwrite(NEW, 0)
        file.fsync()
        loglines.outlast(20.0)
    finally:
        logger.removeHandler(handler)
    assert got == ["WARNING"] * 2
    assert capsys.readouterr().err.count("SystemExit: in a handler") == 2


def test_each_topic_has_a_logger_that_the_documentation_names() -> None:
    """docs/events.md lists the children of `pagecache`. [2.27]"""
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    for child in {*TOPICS.values(), "events", "internal"}:
        assert f"`pagecache.{child}`" in page, child
