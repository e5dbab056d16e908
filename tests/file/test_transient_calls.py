"""Transient errors of calls that carry no bytes: repeated if a second try can be distinguished from the first. [2.14]

Failing calls take 20 ms, as those of a store do. `done=True`: the call was carried out, and its answer got lost.
"""

from __future__ import annotations

import errno
import gc
import io
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pagecache import BackendError, PageCache, ShutdownError, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..aio.over import Over
from ..stores import PublishingBackend, RecordingBackend, StoredObject
from .clock import HandClock
from .rig import FAST, ONCE, PAGE, QUIET, Task, attached, content_of, eventually, make_rig, raises, stored

KEY = "object"
DATA = bytes(range(256)) * 16
LATENCY = 0.02

Make = Callable[..., tuple[Volume, Any]]


@pytest.fixture(params=["memory", "dir", "async"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A volume of a store that fails on command, and the switch for it."""
    caches: list[PageCache] = []

    def maker(*rules: Rule, retry: Any = FAST) -> tuple[Volume, Any]:
        store: Any = MemoryBackend()
        if request.param == "dir":
            store = DirectoryBackend(tmp_path)
            (tmp_path / KEY).write_bytes(DATA)
        else:
            store.put(KEY, DATA)
        backend: Any
        if request.param == "async":
            backend = Over(FaultyBackend(store))
        else:
            backend = FaultyBackend(store)
        caches.append(PageCache("8MiB", **{**QUIET, "retry": retry}))
        volume = caches[-1].attach(backend)
        backend.use(rules)
        backend.calls.clear()
        return volume, backend

    yield maker
    for cache in caches:
        cache.check()
        cache.close(timeout=20, on_failed="discard")


def fails(operation: str, times: int = 2, **more: Any) -> Rule:
    return Rule(operation, **{"error": errno.EIO, "delay": LATENCY, "times": times, **more})


READS: dict[str, tuple[str, Callable[[Volume], object]]] = {
    "an open": ("open", lambda volume: volume.open(KEY, "rb").close()),
    "an open to write": ("open", lambda volume: volume.open(KEY, "r+b").close()),
    "a stat": ("stat", lambda volume: volume.stat(KEY)),
    "exists": ("stat", lambda volume: volume.exists(KEY)),
    "a listing": ("list", lambda volume: list(volume.list())),
    "a remove": ("remove", lambda volume: volume.remove(KEY)),
    "a rename": ("rename", lambda volume: volume.rename(KEY, "other")),
    "a sync": ("sync", lambda volume: volume.sync(20)),
    "a sync of the cache": ("sync", lambda volume: volume.cache.sync(20)),
    "a detach": ("sync", lambda volume: volume.detach(timeout=20)),
}


# An error, and its tries by each of two policies.
ERRORS: dict[str, tuple[OSError, int, int]] = {
    "transient": (BackendError(errno.EIO, "no", retry=True), 3, 1),
    "too large": (BackendError(errno.EMSGSIZE, "no", retry=True, max_write=PAGE), 3, 1),  # a limit of bytes only
    "errno": (PermissionError(errno.EACCES, "no"), 1, 1),
    "no errno": (PermissionError("no"), 1, 1),
    "unsupported": (io.UnsupportedOperation("no"), 1, 1),
    "it says so": (BackendError(errno.EIO, "no", retry=False), 1, 1),
}


@pytest.mark.parametrize("once", [False, True], ids=["three attempts", "one attempt"])
@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize("error", ERRORS)
def test_the_last_error_is_raised_as_it_is(make: Make, call: str, error: str, once: bool) -> None:
    """It comes after as many tries as the policy has if it is transient, at once if not. [2.14]"""
    (operation, run), (raised, *tries) = READS[call], ERRORS[error]
    volume, backend = make(Rule(operation, error=raised), retry=ONCE if once else FAST)
    if error == "unsupported" and operation == "sync":
        run(volume)  # names need no sync there
    else:
        caught = raises(OSError, run, volume, match="no")
        assert error != "transient" or caught.errno == errno.EIO
    assert len(backend.calls_of(operation)) == tries[once]
    backend.use([])


def test_an_open_that_fails_after_the_open_closes_the_file(tmp_path: Path) -> None:
    """`stat` of the new file fails: the file of each try is closed. [2.20]"""
    (tmp_path / KEY).write_bytes(DATA)
    backend = FaultyBackend(DirectoryBackend(tmp_path), FaultPlan([fails("stat")]))
    with PageCache("1MiB", retry=FAST) as cache:
        cache.attach(backend).open(KEY, "rb").close()
        assert [call.op for call in backend.calls_of("open", "close")] == ["open", "close", "open", "close", "open"]


@pytest.mark.parametrize(("count", "fails_at", "begun"), [(4, 2, 2), (2000, 1500, 1)])
def test_a_listing_is_made_again_unless_some_entries_were_returned(count: int, fails_at: int, begun: int) -> None:
    """Only the backend can go on from there; none is returned twice. [2.14]"""

    class Listing(MemoryBackend):
        begun = 0

        def list(self, prefix: str = "") -> Iterator[Any]:
            self.begun += 1
            for nr, found in enumerate(super().list(prefix)):
                if nr == fails_at and self.begun == 1:
                    raise OSError(errno.EIO, "in the middle")
                yield found

    store = Listing()
    for nr in range(count):
        store.put(f"{nr:04}", b"")
    with PageCache("1MiB", retry=FAST) as cache:
        listing = cache.attach(store).list()
        returned = min(count, 1000)
        assert [next(listing).key for _ in range(returned)] == [f"{nr:04}" for nr in range(returned)]
        raises(OSError if begun == 1 else StopIteration, next, listing)
        assert store.begun == begun


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("known", [False, True], ids=["not cached", "cached"])
def test_a_remove_is_made_again(make: Make, lost: bool, known: bool) -> None:
    """FileNotFoundError of a later try is no error: the first one was carried out. [2.14]"""
    volume, backend = make(fails("remove", 1, done=lost))
    if known:
        volume.open(KEY, "rb").close()
    volume.remove(KEY)
    assert not volume.exists(KEY)
    assert len(backend.calls_of("remove")) == (1 if lost else 2)


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("known", [False, True], ids=["not cached", "cached"])
def test_a_rename_is_made_again(make: Make, lost: bool, replace: bool, known: bool) -> None:
    """The tokens of a cached file are lent to each try. [2.14, 2.20]"""
    volume, backend = make(fails("rename", 1, done=lost))
    file = volume.open(KEY, "r+b") if known else None
    volume.rename(KEY, "other", replace=replace)
    assert len(backend.calls_of("rename")) == (1 if lost else 2)
    assert (volume.exists(KEY), volume.stat("other").size) == (False, len(DATA))
    if file is not None:
        file.pwrite(b"later", 0)
        file.fsync()
        file.close()
    assert content_of(volume, "other") == (b"later" + DATA[5:] if known else DATA)


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("over", [False, True], ids=["to a free name", "over an object"])
def test_a_rename_of_a_new_object_is_made_again(make: Make, lost: bool, over: bool) -> None:
    """A store that writes in place has its name, committed or not. [2.14, 2.20]"""
    volume, backend = make()
    name = KEY if over else "other"
    with volume.open("new", "wb") as file:
        file.write(b"made")
        backend.use([fails("rename", 1, done=lost)])
        volume.rename("new", name)
        assert (volume.exists("new"), volume.stat(name).size) == (False, 4)
    assert content_of(volume, name) == b"made"


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
def test_a_rename_of_an_object_that_is_not_committed_is_made_again(lost: bool) -> None:
    """The store has no record of the name; the backend's open file has it, or had it. [2.14, 2.20]"""
    store = PublishingBackend()
    backend = FaultyBackend(store)
    with attached(backend, "1MiB", retry=FAST) as volume, volume.open("new", "wb") as file:
        file.write(b"made")
        backend.use([fails("rename", 1, done=lost)])
        volume.rename("new", "other")
        assert (volume.exists("new"), volume.exists("other")) == (False, True)
    assert (store.committed("new"), store.committed("other")) == (None, b"made")


@pytest.mark.parametrize("operation", ["remove", "rename"])
def test_a_missing_name_is_reported_though_the_store_failed_before(make: Make, operation: str) -> None:
    """The error says that the call was not carried out: FileNotFoundError of the next try is the truth. [2.14]"""
    volume, _backend = make(fails(operation, 1, error=errno.EAGAIN))
    with pytest.raises(FileNotFoundError):
        volume.remove("nothing") if operation == "remove" else volume.rename("nothing", "other")


def test_a_rename_of_a_missing_name_leaves_the_destination(make: Make) -> None:
    """It was not replaced, by its version, and keeps its unsaved bytes. [2.14, 2.20]"""
    volume, _backend = make(fails("rename", 1))
    with volume.open(KEY, "r+b") as file:
        file.pwrite(b"unsaved", 0)
        raises(OSError, volume.rename, "nothing", KEY, match="Input/output error")
        file.fsync()
    assert content_of(volume, KEY) == b"unsaved" + DATA[7:]


def test_a_remove_leaves_the_object_that_another_program_made_since() -> None:
    """Its version says so, and the first error is raised. [2.14]"""

    class Shared(MemoryBackend):
        def remove(self, key: Any) -> None:
            super().remove(key)
            self.put(key, b"another")

    store = Shared()
    store.put(KEY, DATA)
    lost = BackendError(errno.EIO, "lost", retry=True)
    backend = FaultyBackend(store, FaultPlan([fails("remove", 1, error=lost, done=True)]))
    with attached(backend, "1MiB", retry=FAST) as volume:
        volume.open(KEY, "rb").close()
        raises(BackendError, volume.remove, KEY, match="lost")
    assert store.snapshot(KEY) == b"another"
    assert len(backend.calls_of("remove")) == 1


def test_a_rename_without_replace_is_not_made_again_if_the_destination_is_there(make: Make) -> None:
    """A store that copies and removes may have copied: the outcome cannot be determined. [2.14]"""
    volume, backend = make(fails("rename", 1, error=BackendError(errno.EIO, "lost", retry=True)))
    stored(volume, "other", b"other")
    volume.sync(20)
    raises(OSError, volume.rename, KEY, "other", replace=False, match="lost")
    assert len(backend.calls_of("rename")) == 1
    volume.rename(KEY, "other")
    assert volume.stat("other").size == len(DATA)


@pytest.mark.parametrize(
    ("mode", "lost"), [*((mode, lost) for mode in ("wb", "ab", "w+b") for lost in (False, True)), ("xb", False)]
)
def test_a_creation_is_made_again(make: Make, lost: bool, mode: Any) -> None:
    """The object counts as created by this open, so a commit makes it durable. [2.14, 2.20]"""
    first = 1 if mode == "xb" else 2  # other modes try to open an existing object before
    volume, backend = make(Rule("open", key="new", nth=first, error=errno.EIO, delay=LATENCY, done=lost))
    with volume.open("new", mode) as file:
        file.write(b"made")
    volume.sync(20)
    assert volume.stat("new").size == 4
    if mode != "xb":
        assert len(backend.calls_of("open")) == (3 if lost else 4)


def test_an_exclusive_creation_that_may_have_been_carried_out_raises_its_error(make: Make) -> None:
    """FileExistsError of the next try does not reveal the creator of the object. [2.14]"""
    error = BackendError(errno.EIO, "lost", retry=True)
    volume, _backend = make(Rule("open", key="new", nth=1, error=error, done=True, delay=LATENCY))
    raises(BackendError, volume.open, "new", "xb", match="lost")
    raises(FileExistsError, volume.open, "new", "xb")


def test_an_exclusive_creation_whose_status_fails_is_made(make: Make) -> None:
    """The object was created for certain, and the next try opens it. [2.14]"""
    volume, _backend = make(fails("stat", 1))
    stored(volume, "new", b"made", "xb")
    volume.sync(20)
    assert volume.stat("new").size == 4


def test_an_exclusive_open_finds_the_object_that_another_program_has_made_since() -> None:
    """It has removed the object of the first try between the creation and the look at it. [2.14, 2.20]"""
    rig = make_rig(retry=FAST)

    def replaced(backend: RecordingBackend, key: Any) -> None:
        backend.objects[key] = StoredObject(b"another")
        raise FileNotFoundError(errno.ENOENT, "no such object", key)

    rig.backend.fault("file_stat", BackendError(errno.EIO, "no answer", retry=True))
    rig.backend.fault("open", replaced, skip=1)
    raises(FileExistsError, rig.volume.open, KEY, "x+b")
    rig.finish()


CALLS = {call: READS[call] for call in ("an open", "a stat", "a listing", "a remove", "a rename")}


def between_tries(volume: Volume, run: Callable[[Volume], object]) -> Task[object]:
    """A call that waits for its next try."""
    task = Task(run, volume)
    eventually(lambda: any("next try" in wait.what for wait in volume.cache.waits()))
    return task


@pytest.mark.parametrize("late", [False, True], ids=["before the reconnect", "after it"])
@pytest.mark.parametrize("call", CALLS)
def test_an_abort_ends_the_wait_for_the_next_try(make: Make, call: str, late: bool) -> None:
    """That try is not made in the next backend, whenever the caller notices. [I-23, 2.22]"""
    operation, run = CALLS[call]
    volume, backend = make(fails(operation, 1, error=BackendError(errno.EIO, "no", retry=True, retry_after=100.0)))
    task = between_tries(volume, run)
    volume.abort()
    if not late:
        raises(ShutdownError, task.result)
    backend.use([])
    volume.reconnect(backend)
    raises(ShutdownError, task.result)
    run(volume)


@pytest.mark.parametrize("call", CALLS)
def test_other_calls_go_on_between_two_tries(make: Make, call: str) -> None:
    """No thread of the volume sleeps: there are as many calls between tries as there are threads. [2.1]"""
    operation, _run = CALLS[call]
    volume, backend = make(Rule(operation, error=BackendError(errno.EIO, "no", retry=True, retry_after=100.0)))
    threads = int(volume.backend.limits.max_inflight) + 1
    many: dict[str, Callable[[int], Callable[[], object]]] = {
        "open": lambda nr: lambda: volume.open(KEY, "rb"),
        "stat": lambda nr: lambda: volume.stat(f"{nr}"),
        "list": lambda nr: lambda: list(volume.list()),
        "remove": lambda nr: lambda: volume.remove(f"{nr}"),
        "rename": lambda nr: lambda: volume.rename(f"{nr}", f"to {nr}"),
    }
    tasks = [Task(many[operation](nr)) for nr in range(1 if operation == "open" else threads)]
    eventually(lambda: sum("next try" in wait.what for wait in volume.cache.waits()) == len(tasks))
    backend.use([])
    Task(volume.sync, 20).result()
    if operation != "open":
        Task(lambda: volume.open(KEY, "rb").close()).result()
    volume.abort()
    for task in tasks:
        raises(ShutdownError, task.result)


def test_a_name_is_busy_between_two_tries_of_a_remove(clock: HandClock, make: Make) -> None:
    """It is free after the last one, whatever its outcome. [2.20]"""
    error = BackendError(errno.EIO, "no", retry=True, retry_after=100.0)
    volume, backend = make(fails("remove", 1, error=error))
    task = between_tries(volume, lambda volume: volume.remove(KEY, timeout=7.0))
    opening = Task(volume.open, KEY, "rb", timeout=5.0)
    eventually(lambda: any(wait.thread == opening.thread.ident for wait in volume.cache.waits()))
    clock.advance(5.0)
    raises(TimeoutError, opening.result, match="busy with remove")
    clock.advance(2.0)
    raises(TimeoutError, task.result, match="EIO")
    volume.open(KEY, "rb").close()
    assert len(backend.calls_of("remove")) == 1


@pytest.mark.parametrize("call", ["open", "stat", "remove", "rename"])
def test_a_call_that_fails_keeps_nothing_of_its_caller(make: Make, call: str) -> None:
    """Files that the caller drops are closed at once, not at the next collection."""
    volume, _ = make()

    def caller() -> weakref.ref[Any]:
        own = MemoryBackend()
        with suppress(FileNotFoundError):
            getattr(volume, call)("absent", *(["other"] if call == "rename" else []))
        return weakref.ref(own)

    gc.collect()
    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()
