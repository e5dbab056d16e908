"""Files of a store that knows names only, and finds an object by its name at each call: none reaches another object
that has its name. [2.20, I-24]
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pagecache.aio
from pagecache import CachedFile, DataLossError, ObjectStat, RetryPolicy, ShutdownError
from pagecache.engine.commit import remote
from pagecache.engine.io import direct
from pagecache.errors import Key
from pagecache.testing import Gate as Gates
from pagecache.volume.keys import Claim
from pagecache.volume.namespace import NameChange

from ..stores import WAIT_LIMIT_S, Gate, RecordingBackend, StoredObject
from .rig import (
    FAST,
    KEY,
    ONCE,
    PAGE,
    SAVES,
    Crowd,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    beside,
    eventually,
    held,
    no_memory,
    pattern,
    raises,
    raising,
    run_program,
    wait_for,
)
from .test_interrupts import ctrl_c

DATA, OTHER = pattern(3 * PAGE), pattern(4 * PAGE, 7)
DOWN, LOST = OSError(errno.ENETUNREACH, "no"), OSError(errno.ECONNRESET, "no answer")


@pytest.fixture
def store(make: Make) -> Rig:
    """A volume on a store of names, with two objects."""
    return make(backend=RecordingBackend({KEY: DATA, "other": OTHER}, by_name=True, max_write=PAGE), retry=FAST)


class StoreOfPaths(RecordingBackend):
    """A rename of a directory moves everything below it."""

    def stat(self, key: Key) -> ObjectStat:
        with self.lock:
            below = any(str(other).startswith(f"{key}/") for other in self.objects)
        return ObjectStat(size=0, kind="dir") if below else super().stat(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        with self.lock:
            below = [key for key in self.objects if str(key).startswith(f"{src}/")]
        for key in below or [src]:
            super().rename(key, f"{dst}{str(key).removeprefix(str(src))}", replace=replace)


# The old and the new name, and the keys of the file before and after.
NAMES = {"a file": (KEY, "new", KEY, "new"), "a directory": ("d", "e", "d/file", "e/file")}


def opened(make: Make, kind: str = "a file", **options: Any) -> tuple[Rig, CachedFile]:
    """Return a rig, and a file with dirty bytes that is open there; at most its first page is cached."""
    key = NAMES[kind][2]
    backend = StoreOfPaths({key: DATA}, **{"by_name": True, "max_write": PAGE, **options})
    store, file = make(backend=backend, retry=ONCE).written(b"dirty", 0, key=key, read_ahead=0)
    return store, file


def make_another(store: Rig, key: str) -> None:
    with store.volume.open(key, "xb") as other:
        other.pwrite(OTHER, 0)
        other.fsync()


def replace_by_new(store: Rig) -> None:
    store.volume.remove(KEY)
    make_another(store, KEY)


def replace_by_rename(store: Rig) -> None:
    store.volume.rename("other", KEY)


Replace = Callable[[Rig], None]
LOSSES = pytest.mark.parametrize("replace", [replace_by_new, replace_by_rename])
ENDS: dict[str, Callable[[Rig, CachedFile], Any]] = {
    **{name: SAVES[name] for name in ("fsync", "flush", "sync", "ticket", "close", "sync_range")},
    "truncate": lambda _store, file: file.truncate(PAGE),
    "extend": lambda _store, file: file.truncate(9 * PAGE),
    "punch_hole": lambda _store, file: file.punch_hole(0, PAGE),
    "write": lambda _store, file: file.pwrite(b"later", 2 * PAGE + 100),
    "try": lambda store, _file: store.volume.retry_failed(),
}


def gone(read: Callable[[], Any]) -> None:
    raises(FileNotFoundError, read)


@LOSSES
@pytest.mark.parametrize("end", ENDS)
def test_nothing_of_a_removed_file_reaches_the_next_one(store: Rig, replace: Replace, end: str) -> None:
    """No call for it reaches the store, its syncs end, and its unsaved bytes stay readable. [2.20]"""
    file = store.dirtied(b"dirty", 0, read_ahead=0)
    replace(store)
    store.backend.calls.clear()
    ENDS[end](store, file)
    if not file.closed:
        if end != "truncate":
            gone(lambda: file.pread(10, PAGE + 100))
        if end not in ("punch_hole", "truncate"):
            assert file.pread(5, 0) == b"dirty"
        file.close()
    store.volume.sync(20)
    ours = ("write_from", "read_into", "truncate", "punch_hole", "commit")
    assert [call for call in store.backend.calls if call.op in ours] == []
    assert store.backend.committed(KEY) == OTHER
    assert not store.volume.unsaved()
    assert not store.volume.failed()


@LOSSES
def test_direct_io_on_a_removed_file_reaches_no_other_object(store: Rig, replace: Replace) -> None:
    """Direct writes stay in the cache like other unsaved bytes, and direct reads find nothing. [2.9, 2.20]"""
    file = store.volume.open(KEY, "r+b", direct=True)
    replace(store)
    file.pwrite(b"direct", 0)
    assert file.pread(6, 0) == b"direct"
    gone(lambda: file.pread(10, PAGE))
    file.close()
    assert store.synced() == OTHER


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("prompt", [False, True])
@LOSSES
def test_a_read_beside_its_loss_is_of_no_other_object(make: Make, replace: Replace, prompt: bool, direct: bool) -> None:
    """Its call may look the name up when another object has it: the answer is dropped. [K12, 2.20]"""
    store = make(backend=RecordingBackend({KEY: DATA, "other": OTHER}, by_name=True, prompt=prompt), retry=FAST)
    file = store.volume.open(KEY, "rb", direct=direct, read_ahead=0)
    gate, reading = at_gate(store.backend.gate("read_into", KEY), file.pread, 10, PAGE)
    replace(store)
    gate.open()
    gone(reading.result)
    file.close()


@pytest.mark.parametrize("prompt", [False, True])
@LOSSES
def test_a_read_past_the_cache_beside_its_loss_is_of_no_other_object(
    make: Make, replace: Replace, prompt: bool
) -> None:
    """[K12, 2.20]"""
    objects: dict[Any, bytes] = {KEY: DATA, "other": OTHER, "full": pattern(16 * PAGE)}
    store = make(backend=RecordingBackend(objects, by_name=True, prompt=prompt), retry=FAST, capacity=16 * PAGE)
    file = store.open("rb", read_ahead=0)
    with no_memory(store, key="full"):
        gate, reading = at_gate(store.backend.gate("read_into", KEY), file.pread, 10, PAGE)
        replace_by_rename(store)
        gate.open()
        gone(reading.result)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("kind", NAMES)
def test_a_read_beside_a_rename_waits_and_uses_the_new_name(make: Make, kind: str, prompt: bool, direct: bool) -> None:
    """The policy of retries has no part in it: nothing was wrong. [2.20]"""
    store, _file = opened(make, kind, prompt=prompt)
    old, new, before, _after = NAMES[kind]
    reader = store.open("rb", key=before, direct=direct, read_ahead=0)
    gate, renaming = at_gate(store.backend.gate("rename answer"), store.volume.rename, old, new)
    reading = Task(reader.pread, 10, PAGE)
    wait_for(store.cache, "the call that changes the name of the object")
    renaming.result(opening=gate)
    assert reading.result() == DATA[PAGE : PAGE + 10]
    assert not [call for call in store.backend.seen("read_into", before) if call.offset]


def rename_to_a_name_that_is_removed_at_once(store: Rig) -> None:
    """Another program removes the new name before the file is opened by it."""
    gate, renaming = at_gate(store.backend.gate("open", "new"), store.volume.rename, KEY, "new")
    store.backend.remove("new")
    renaming.result(opening=gate)


def test_a_clean_file_whose_new_name_another_program_removes_at_once_is_a_removed_one(store: Rig) -> None:
    """The rename is done; the file gets no call, neither by the old name nor by the new one. [2.20]"""
    file = store.open("r+b", read_ahead=0)
    assert file.pread(PAGE, 0) == DATA[:PAGE]
    rename_to_a_name_that_is_removed_at_once(store)
    for key in (KEY, "new"):
        make_another(store, key)
    gone(lambda: file.pread(10, PAGE))
    file.pwrite(b"dirty", 0)
    file.fsync()
    file.close()
    assert (store.backend.committed(KEY), store.backend.committed("new")) == (OTHER, OTHER)


@pytest.mark.parametrize("back", [True, False])
def test_unsaved_bytes_of_a_file_whose_new_name_another_program_removes_at_once_stay(make: Make, back: bool) -> None:
    """The rename is done; each save raises, until something has the name, or they are given up. [2.20]"""
    store, file = opened(make)
    rename_to_a_name_that_is_removed_at_once(store)
    assert raises(OSError, file.fsync).errno == errno.ENOENT
    assert store.volume.unsaved("new")
    if back:
        store.backend.objects["new"] = StoredObject(DATA)
        file.fsync()
        file.close()
    else:
        store.volume.discard("new")
        gone(lambda: file.pread(10, PAGE))
        raises(DataLossError, file.fsync)
        file.close()
    assert (store.backend.committed(KEY), store.backend.committed("new")) == (
        None,
        b"dirty" + DATA[5:] if back else None,
    )


def test_what_a_renamed_file_owes_goes_to_its_new_name(make: Make) -> None:
    """A truncate whose result is unknown is repeated there. [2.17, 2.20]"""
    store = make(backend=RecordingBackend({KEY: DATA, "other": OTHER}, by_name=True), retry=ONCE)
    file = store.open("r+b", read_ahead=0)
    store.backend.fault("truncate", OSError(errno.ECONNRESET, "the line went dead"), key=KEY)
    raises(OSError, file.truncate, PAGE, match="the line went dead")
    store.fails("open", DOWN, OSError, store.volume.rename, KEY, "new", match="no")
    store.volume.rename("other", KEY)
    file.fsync()
    file.close()
    assert store.backend.committed("new") == DATA[:PAGE]
    assert store.backend.committed(KEY) == OTHER


def test_a_remove_is_over_for_a_file_that_could_not_be_opened_by_its_new_name(make: Make) -> None:
    """It is cut off: nothing is owed, and no object of the name is opened for it. [2.20]"""
    store, file = make(backend=RecordingBackend({KEY: DATA}, by_name=True), retry=ONCE).opened("r+b", read_ahead=0)
    store.fails("open", DOWN, OSError, store.volume.rename, KEY, "new", match="no")
    store.volume.remove("new")
    make_another(store, "new")
    gone(lambda: file.pread(10, PAGE))
    file.pwrite(b"dirty", 0)
    file.fsync()
    file.close()
    assert store.backend.committed("new") == OTHER


def rename_without_answer(store: Rig, kind: str = "a file", to: str = "", *, landed: bool = True) -> None:
    """Make a rename that gets no answer. Another program makes an object of its old name, if that is free."""
    old, new, before, _after = NAMES[kind]
    store.fails("rename answer" if landed else "rename", LOST, OSError, store.volume.rename, old, to or new, match="no")
    if landed and kind == "a file":
        store.backend.objects[before] = StoredObject(OTHER)
        store.backend.objects[before].version = 99


def rename(store: Rig, kind: str = "a file") -> None:
    old, new, before, _after = NAMES[kind]
    store.volume.rename(old, new)
    make_another(store, before)


def rename_and_fail_to_open(store: Rig, _kind: str = "") -> None:
    """The rename is done, and raises the error of the open."""
    store.fails("open", OSError(errno.EACCES, "no"), OSError, store.volume.rename, KEY, "new", match="no")
    make_another(store, KEY)


RENAMES: dict[str, Callable[[Rig, str], None]] = {
    "renamed": rename,
    "renamed and not opened": rename_and_fail_to_open,
    "no answer": rename_without_answer,
    "not carried out": lambda store, _kind: rename_without_answer(store, landed=False),
}


CHANGES = pytest.mark.parametrize("change", [replace_by_new, replace_by_rename, rename])
WRITES = "direct writes to end"
EXTENDED = DATA[: 2 * PAGE] + b"d" * 3 * PAGE


def writing_directly(store: Rig, key: str = KEY) -> tuple[Gate, Task[int], CachedFile]:
    """Return a running direct write of three calls, and the gate that holds the first one."""
    file = store.open("r+b", key=key, direct=True)
    return *at_gate(store.backend.gate("write_from", key), file.pwrite, b"d" * 3 * PAGE, 2 * PAGE), file


@CHANGES
@pytest.mark.parametrize("first", ["write", "change"])
def test_a_direct_write_and_a_change_of_the_name_wait_for_each_other(store: Rig, change: Replace, first: str) -> None:
    """Each call of the write looks the name up, and none finds the next object; after the change it goes to the new
    name, or stays in the cache. [2.10, 2.20, I-24]
    """
    if first == "write":
        gate, writing, file = writing_directly(store)
        changing = Task(change, store)
        wait_for(store.cache, WRITES)
        assert not store.backend.seen("remove") + store.backend.seen("rename")
    else:
        file = store.open("r+b", direct=True)
        gate, changing = at_gate(store.backend.gate("remove" if change is replace_by_new else "rename"), change, store)
        writing = Task(file.pwrite, b"d" * 3 * PAGE, 2 * PAGE)
        wait_for(store.cache, "the gate for direct writes")
    gate.open()
    changing.result()
    assert writing.result() == 3 * PAGE
    if first == "change":
        assert file.pread(3 * PAGE, 2 * PAGE) == b"d" * 3 * PAGE
    assert store.backend.written(KEY) == OTHER
    if change is rename:
        assert store.backend.written("new") == EXTENDED


@pytest.mark.parametrize("change", [replace_by_new, replace_by_rename, rename, rename_and_fail_to_open])
def test_a_direct_write_looks_again_once_it_keeps_the_name(store: Rig, monkeypatch: Patch, change: Replace) -> None:
    """The name has changed after the write has taken its file. [2.10, 2.20, I-24]"""
    file = store.open("r+b", direct=True)
    beside(monkeypatch, direct, "_began", lambda: Task(change, store).result())
    file.pwrite(b"d" * 3 * PAGE, 2 * PAGE)
    assert file.pread(3 * PAGE, 2 * PAGE) == b"d" * 3 * PAGE
    assert store.backend.written(KEY) == OTHER
    if change in (rename, rename_and_fail_to_open):
        assert store.backend.written("new") == EXTENDED


@pytest.mark.parametrize("change", ["remove", "rename"])
@pytest.mark.parametrize("end", ["deadline", "Ctrl-C"])
def test_the_wait_for_a_hung_direct_write_ends_and_leaves_nothing(store: Rig, change: str, end: str) -> None:
    """The names stay as they are, and direct writes go on. [2.20, 2.26]"""
    gate, writing, file = writing_directly(store)
    names = (KEY,) if change == "remove" else (KEY, "new")
    if end == "deadline":
        raises(TimeoutError, getattr(store.volume, change), *names, timeout=0.05)
    else:
        waiting = threading.Event()

        def watch() -> None:
            wait_for(store.cache, WRITES)
            waiting.set()

        watching = Task(watch)
        with ctrl_c(waiting), pytest.raises(KeyboardInterrupt):
            getattr(store.volume, change)(*names)
        watching.result()
    writing.result(opening=gate)
    file.pwrite(b"e" * PAGE, 0)
    assert not store.backend.seen(change)
    assert store.backend.written(KEY) == b"e" * PAGE + EXTENDED[PAGE:]
    Task(getattr(store.volume, change), *names).result()


def test_removes_that_wait_for_direct_writes_leave_them_the_threads_of_the_volume(make: Make) -> None:
    """There are as many of them as threads. [2.1, 2.20]"""
    keys = ["a", "b", "c"]
    backend = RecordingBackend(dict.fromkeys(keys, DATA), by_name=True, max_write=PAGE, max_inflight=1)
    store = make(backend=backend, retry=ONCE)
    gate, first, _file = writing_directly(store, "a")
    files = [store.open("r+b", key=key, direct=True) for key in keys[1:]]
    writes = [first, *[Task(file.pwrite, b"d" * 3 * PAGE, 2 * PAGE) for file in files]]
    eventually(lambda: all(file._inode.direct_count() for file in files))
    removes = [Task(store.volume.remove, key) for key in keys]
    eventually(lambda: str(store.cache.waits()).count(WRITES) == len(keys))
    gate.open()
    assert [task.result() for task in writes] == [3 * PAGE] * 3
    for task in removes:
        task.result()


Case = tuple[str, str, str, dict[str, Any]]
DIRECT: list[Case] = [
    ("flush()", "assert file.pwrite(bytes(4096), 0)", call, {"direct": True, "parallel_direct_writes": parallel})
    for call in (
        *("volume.remove('k')", "volume.rename('k', 'old')", "other.truncate(9)", "other.punch_hole(0, 9)"),
        *("other.pwrite(b'x', 0)", "file.pwrite(bytes(8192), 0)"),
    )
    for parallel in (False, True)
]
BEHIND: list[Case] = [
    ("truncate(4096)", "file.pwrite(b'main', 0)", "file.pwrite(b'signal', 0)", {}),  # the inode lock
    ("flush()", "file.truncate(4096)", "volume.rename('k', 'old')", {}),  # the token
    ("flush()", "file.truncate(4096)", "other.fsync()", {}),
    ("flush()", "file.truncate(4096)", "volume.sync()", {}),
]


@pytest.mark.parametrize(("holder", "waiting", "call", "options"), [*DIRECT, *BEHIND])
def test_a_call_of_a_signal_handler_is_refused_behind_one_of_its_own_thread_that_waits(
    tmp_path: Path, holder: str, waiting: str, call: str, options: dict[str, Any]
) -> None:
    """The thread waits for its direct write, or for a lock that the call of another thread has."""
    ended = run_program(
        tmp_path,
        f"""
        import faulthandler, os, signal, threading
        from pagecache import DeadlockError, PageCache
        from tests.file.rig import eventually
        from tests.stores import RecordingBackend
        faulthandler.dump_traceback_later({WAIT_LIMIT_S}, exit=True)
        direct = {bool(options)}
        store = RecordingBackend({{"k": bytes(8192)}}, by_name=direct, parallel_direct_writes=direct)
        cache = PageCache("4MiB", flush_interval=3600.0)
        volume = cache.attach(store, prompt=False)
        file, other = volume.open("k", "r+b", **{options}), volume.open("k", "r+b")
        gate, refused = store.gate("truncate" if "truncate" in "{holder}" else "write_from", "k"), []

        def handler(*_):
            try:
                {call}
            except DeadlockError as error:
                refused.append(error)
            gate.open()

        def interrupt():
            main = threading.main_thread().ident
            gate.wait_entered()
            eventually(lambda: direct or main in [wait.thread for wait in cache.waits()])
            os.kill(os.getpid(), signal.SIGHUP)

        signal.signal(signal.SIGHUP, handler)
        if not direct:
            other.pwrite(b"x", 0)
            threading.Thread(target=lambda: other.{holder}).start()
            gate.wait_entered()
        threading.Thread(target=interrupt).start()
        {waiting}
        assert refused
        {call}
        print("done", flush=True)
        os._exit(0)
    """,
    )
    assert "done" in ended.stdout, ended.stderr


@pytest.mark.parametrize("change", ["remove", "rename"])
def test_the_direct_write_of_a_task_is_not_of_the_thread_of_its_loop(store: Rig, change: str) -> None:
    """The thread waits for it: it ends elsewhere."""
    names = (KEY,) if change == "remove" else (KEY, "new")

    async def run() -> None:
        async with pagecache.aio.open(store.volume, KEY, "r+b", direct=True) as file:
            gate = store.backend.gate("write_from", KEY)
            writing = asyncio.create_task(file.pwrite(b"d" * PAGE, 0))
            await asyncio.to_thread(gate.wait_entered)
            raises(TimeoutError, getattr(store.volume, change), *names, timeout=0.05)
            gate.open()
            assert await writing == PAGE

    asyncio.run(run())


def test_a_direct_write_that_was_left_is_of_no_thread(store: Rig) -> None:
    file, gate = store.open("r+b", direct=True), store.backend.gate("write_from", KEY)
    with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        file.pwrite(b"d" * PAGE, 0)
    raises(TimeoutError, store.volume.remove, KEY, timeout=0.05)
    gate.open()
    store.volume.remove(KEY)


@pytest.mark.parametrize(
    ("change", "kind"),
    [(replace_by_new, "a file"), (replace_by_rename, "a file"), (rename, "a file"), (rename, "a directory")],
)
def test_a_change_of_the_name_waits_for_a_truncate_that_a_read_makes(make: Make, change: Any, kind: str) -> None:
    """It has no token, and looks the name up late: it cuts no other object that gets the name. [2.17, 2.20, I-24]"""
    key = NAMES[kind][2]
    backend = StoreOfPaths({key: DATA, "other": OTHER}, by_name=True)
    store, file = make(backend=backend, retry=FAST).opened(key=key, read_ahead=0)
    backend.fault("truncate", LOST, times=3)
    raises(OSError, file.truncate, 2 * PAGE)  # so it is owed
    gate, reading = at_gate(backend.gate("truncate"), file.pread, PAGE, PAGE)
    changing = Task(change, store, kind) if change is rename else Task(change, store)
    wait_for(store.cache, "a call that is owed")
    assert not backend.seen("remove") + backend.seen("rename")
    changing.result(opening=gate)
    if change is rename:
        assert reading.result() == DATA[PAGE : 2 * PAGE]
        assert backend.written(NAMES[kind][3]) == DATA[: 2 * PAGE]
    else:
        gone(reading.result)
    assert backend.written(key) == OTHER


def rename_twice(store: Rig, name: str) -> None:
    store.volume.rename(name, "next")
    store.volume.rename("next", name)


NEEDS: dict[str, Callable[[Rig, CachedFile, str], Any]] = {
    "read": lambda _store, file, _name: file.pread(10, PAGE),
    "fsync": lambda _store, file, _name: file.fsync(),
    "truncate": lambda _store, file, _name: file.truncate(len(DATA)),
    "write": lambda _store, file, _name: file.pwrite(DATA[2 * PAGE + 100 :][:10], 2 * PAGE + 100),
    "flush": lambda _store, file, _name: file.flush(),
    "sync": lambda store, _file, _name: store.volume.sync(20),
    "open": lambda store, _file, name: store.volume.open(name).close(),
    "rename": lambda store, _file, name: rename_twice(store, name),
}
RENAMED = [("a file", how) for how in RENAMES] + [("a directory", how) for how in ("renamed", "no answer")]


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize(("kind", "how"), RENAMED)
def test_a_file_goes_on_under_the_name_that_it_has_after_a_rename(make: Make, kind: str, how: str, needs: str) -> None:
    """The next call opens it anew, after a look if there was no answer; no call goes by the old name. [2.14, 2.20]"""
    store, file = opened(make, kind)
    *_names, before, after = NAMES[kind]
    RENAMES[how](store, kind)
    NEEDS[needs](store, file, before if how == "not carried out" else after)
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]
    if (kind, how) == ("a directory", "no answer"):
        store.backend.objects[before] = StoredObject(OTHER)
    file.fsync()
    file.close()
    stored = b"dirty" + DATA[5:]
    names = store.backend.committed(before), store.backend.committed(after)
    assert names == ((stored, None) if how == "not carried out" else (OTHER, stored))


def test_a_rename_looks_again_after_it_has_settled_one_without_an_answer(make: Make) -> None:
    """The object that had the name before stays as it is. [2.14, 2.20]"""
    store, file = opened(make)
    store.backend.fault("rename answer", LOST)
    gate, first = at_gate(store.backend.gate("rename"), store.volume.rename, KEY, "new")
    second = Task(store.volume.rename, "new", "last")
    assert second.waits()
    gate.open()
    raises(OSError, first.result, match="no answer")
    second.result()
    assert store.saved(file, "last") == b"dirty" + DATA[5:]
    assert store.backend.committed("new") is None


@pytest.mark.parametrize("below", ["a rename", "a remove", "a rename of a directory"])
@pytest.mark.parametrize("dirty", [True, False])
def test_a_rename_of_a_directory_settles_calls_without_answer_below_it(make: Make, below: str, *, dirty: bool) -> None:
    """The files below have their names before they get others. [2.14, 2.20]"""
    old, new = ("d/e", "d/f") if below.endswith("directory") else ("d/x", "d/y")
    key, moved = (f"{name}/z" if below.endswith("directory") else name for name in (old, new))
    backend = StoreOfPaths({key: DATA, "d/w": OTHER}, by_name=True, max_write=PAGE)
    store, file = make(backend=backend, retry=ONCE).opened("r+b", key=key, read_ahead=0)
    if dirty:
        file.pwrite(b"dirty", 0)
    if below == "a remove":
        store.fails("remove answer", LOST, OSError, store.volume.remove, key, match="no answer")
    else:
        backend.fault("rename answer", LOST, key=key)
        raises(OSError, store.volume.rename, old, new, match="no answer")
    store.volume.rename("d", "last")
    backend.objects[f"last{key[1:]}"] = StoredObject(OTHER)
    file.pwrite(b"dirty", 0)
    file.fsync()
    file.close()
    assert backend.committed(f"last{key[1:]}") == OTHER
    assert backend.committed(f"last{moved[1:]}") == (None if below == "a remove" else b"dirty" + DATA[5:])


def test_a_rename_of_a_directory_settles_a_call_below_it_that_it_has_waited_for(make: Make) -> None:
    """It had no answer, and was not open yet when the rename looked first. [2.14, 2.20]"""
    backend = StoreOfPaths({"d/x": DATA}, by_name=True, max_write=PAGE)
    store, file = make(backend=backend, retry=ONCE).opened("r+b", key="d/x", read_ahead=0)
    backend.fault("rename answer", LOST, key="d/x")
    gate, below = at_gate(backend.gate("rename"), store.volume.rename, "d/x", "d/y")
    renaming = Task(store.volume.rename, "d", "last")
    assert renaming.waits()
    gate.open()
    raises(OSError, below.result, match="no answer")
    renaming.result()
    backend.objects["last/x"] = StoredObject(OTHER)
    file.pwrite(b"dirty", 0)
    file.fsync()
    assert backend.committed("last/x") == OTHER
    assert backend.committed("last/y") == b"dirty" + DATA[5:]


def test_a_replaced_file_asks_for_its_name_after_a_rename_without_an_answer(make: Make) -> None:
    """It has lost its name: it reads and writes nothing of the object that replaces it. [2.14, 2.20]"""
    store = make(backend=RecordingBackend({KEY: DATA, "other": OTHER}, by_name=True, max_write=PAGE), retry=ONCE)
    store.backend.objects["other"].version = 7
    replaced = store.dirtied(b"dirty", 0, key="other", read_ahead=0)
    store.open("rb").close()
    rename_without_answer(store, to="other")
    gone(lambda: replaced.pread(10, PAGE))
    replaced.fsync()
    replaced.close()
    assert store.backend.committed("other") == DATA


def test_a_removed_file_asks_for_its_name_after_a_remove_without_an_answer(make: Make) -> None:
    """Nothing of it is stored in the next object of its name. [2.14, 2.20]"""
    store, file = opened(make)
    store.fails("remove answer", LOST, OSError, store.volume.remove, KEY, match="no answer")
    file.fsync()
    store.backend.objects[KEY] = StoredObject(OTHER)
    gone(lambda: file.pread(10, PAGE))
    file.close()
    store.volume.remove(KEY)  # the same call again: that of unknown result was carried out
    assert store.backend.committed(KEY) == OTHER


def test_the_same_rename_succeeds_once_after_a_file_has_found_it_done(make: Make) -> None:
    """As if the call had found it. [2.14]"""
    store, file = opened(make)
    store.fails("rename answer", LOST, OSError, store.volume.rename, KEY, "new", match="no answer")
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]
    store.volume.rename(KEY, "new")
    gone(lambda: store.volume.rename(KEY, "new"))


def test_a_look_that_fails_leaves_the_file_without_a_name(make: Make) -> None:
    """The call that needs it raises; the next one looks again. [2.14]"""
    store, file = opened(make)
    rename_without_answer(store)
    store.fails("stat", LOST, OSError, file.pread, 10, PAGE, match="no answer")
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]
    assert not [call for call in store.backend.seen("read_into", KEY) if call.offset]


@pytest.mark.parametrize("first", ["file", "name"])
def test_a_file_and_a_call_by_name_that_ask_at_once_find_one_result(make: Make, first: str) -> None:
    """Whichever begins to look first. [2.14]"""
    store, file = opened(make)
    rename_without_answer(store)
    calls = [lambda: file.pread(10, PAGE), lambda: store.volume.exists("new")]
    gate, one = at_gate(store.backend.gate("stat", KEY), calls[first == "name"])
    tasks = [one, Task(calls[first != "name"])]
    waits = "a call that was left behind" if first == "name" else "what the file owes the backend"
    wait_for(store.cache, waits)
    gate.open()
    assert [task.result() for task in tasks] == [DATA[PAGE : PAGE + 10], True][:: 1 if first == "file" else -1]
    file.fsync()
    file.close()
    assert (store.backend.committed(KEY), store.backend.committed("new")) == (OTHER, b"dirty" + DATA[5:])


def found_beside_its_publishing(make: Make, monkeypatch: Patch) -> tuple[Rig, CachedFile, CachedFile, Gate, Crowd]:
    """Return a rename over a file, which a read of the source finds to be carried out: the gate holds it before it is
    published. The crowd is of those that come to publish.
    """
    store = make(backend=RecordingBackend({KEY: DATA, "other": OTHER}, by_name=True, max_write=PAGE), retry=ONCE)
    store.backend.objects["other"].version = 7
    file, replaced = store.open("r+b", read_ahead=0), store.dirtied(b"dirty", 0, key="other", read_ahead=0)
    store.fails("rename answer", LOST, OSError, store.volume.rename, KEY, "other", match="no answer")
    change: Any = store.volume.unsettled[KEY]
    change.publishing = crowd = Crowd(change.publishing)
    gate = held(monkeypatch, NameChange, "publish")
    at_gate(gate, file.pread, 10, PAGE)
    assert crowd.came.acquire(blocking=False)
    return store, file, replaced, gate, crowd


NEXT: dict[str, Callable[[Rig, CachedFile], object]] = {
    "a write of the replaced file": lambda _store, replaced: replaced.fsync(),
    "a new object of the old name": lambda store, _replaced: make_another(store, KEY),
    "a reconnect": lambda store, _replaced: store.reconnect(lose=False),
}


@pytest.mark.parametrize("call", NEXT)
def test_no_call_goes_on_before_a_rename_that_was_found_is_published(make: Make, monkeypatch: Patch, call: str) -> None:
    """Each would take a file for the one that had the name before. [2.14, 2.20]"""
    store, file, replaced, gate, crowd = found_beside_its_publishing(make, monkeypatch)
    going = Task(NEXT[call], store, replaced)
    eventually(lambda: going.finished.is_set() or crowd.came.acquire(blocking=False))
    gate.open()
    going.result()
    file.pwrite(b"mine", 0)
    file.fsync()
    assert store.backend.committed("other") == b"mine" + DATA[4:]
    assert store.backend.committed(KEY) == (OTHER if call == "a new object of the old name" else None)
    assert not store.volume.unsettled or call != "a new object of the old name"


@pytest.mark.parametrize("fenced", [False, True])
def test_a_reconnect_goes_on_once_a_rename_that_was_answered_is_published(
    make: Make, monkeypatch: Patch, fenced: bool
) -> None:
    """Else it would make an object of the name that the file has no longer. [2.20, 2.22]"""
    store, file = opened(make)
    gate, renaming = at_gate(held(monkeypatch, NameChange, "publish"), store.volume.rename, KEY, "new")
    change: Any = file._inode.naming
    change.publishing = crowd = Crowd(change.publishing)
    store.volume.abort()
    raises(ShutdownError, renaming.result)
    reconnecting = Task(store.reconnect, fenced=fenced, lose=False)
    eventually(lambda: reconnecting.finished.is_set() or (crowd.lock.locked() and crowd.came.acquire(blocking=False)))
    gate.open()
    fresh = reconnecting.result()
    file.fsync()
    assert (fresh.committed(KEY), fresh.committed("new")) == (None, b"dirty" + DATA[5:])


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_look_of_a_reconnect_that_was_given_up_changes_no_names(make: Make, *, fenced: bool, whole: bool) -> None:
    """It answers after the next reconnect, and after later calls for these names. [2.17, 2.20]"""
    store, file = opened(make, commit_on_close=whole)
    volume = store.volume
    store.fails("rename answer", LOST, OSError, volume.rename, KEY, "new", match="no answer")
    volume.abort()
    second = store.backend.successor(lose=False)
    silent, first = at_gate(second.gate("stat answer", "new"), volume.reconnect, second, fenced=fenced)
    volume.abort()
    raises(ShutdownError, first.result)
    volume.reconnect(third := store.backend.successor(lose=False), fenced=fenced)  # it settles the rename
    file.fsync()
    volume.rename("new", "third")
    other = volume.open("new", "xb")
    other.pwrite(OTHER, 0)
    file.pwrite(b"later", 0)
    silent.open()
    eventually(lambda: volume.engine.runner.naming() == 0)
    for each in (other, file):
        each.fsync()
    other.close()
    assert (third.committed("new"), third.committed("third")) == (OTHER, b"later" + DATA[5:])


def left_by_its_caller(store: Rig) -> tuple[Gate, RecordingBackend]:
    """A rename that runs on in a backend that is lost; return its gate, and a backend for a reconnect."""
    gate, renaming = at_gate(store.backend.gate("rename answer"), store.volume.rename, KEY, "new")
    store.volume.abort()
    raises(ShutdownError, renaming.result)
    return gate, store.backend.successor(lose=False)


@pytest.mark.parametrize("first", ["rename", "look"])
def test_a_rename_that_returns_beside_the_look_of_a_reconnect_that_was_given_up_is_caught_up_with(
    make: Make, first: str
) -> None:
    """By the next reconnect, whose backend answers. [2.17, 2.20]"""
    store, file = opened(make)
    gate, second = left_by_its_caller(store)
    silent, reconnecting = at_gate(second.gate("stat", times=9), store.volume.reconnect, second, fenced=True)
    if first == "rename":
        gate.open()
        eventually(lambda: file._inode.naming is None or not file._inode.naming.pending)
    store.volume.abort()
    raises(ShutdownError, reconnecting.result)
    store.volume.reconnect(third := store.backend.successor(lose=False))
    if first == "look":
        silent.open()
        eventually(lambda: store.volume.engine.runner.naming() < 2)
        gate.open()
    file.fsync()
    assert (third.committed(KEY), third.committed("new")) == (None, b"dirty" + DATA[5:])
    silent.open()


@pytest.mark.parametrize("step", ["publish", "_give_back"])
def test_a_fenced_reconnect_that_is_given_up_as_it_publishes_leaves_the_file_to_its_rename(
    make: Make, monkeypatch: Patch, step: str
) -> None:
    """The next reconnect has left it closed. [2.17, 2.20]"""
    store, file = opened(make)
    gate, second = left_by_its_caller(store)
    window, first = at_gate(held(monkeypatch, NameChange, step), store.volume.reconnect, second, fenced=True)
    store.volume.abort()
    raises(ShutdownError, first.result)
    store.volume.reconnect(third := store.backend.successor(lose=False))
    window.open()
    eventually(lambda: store.volume.engine.runner.naming() < 2)
    gate.open()
    file.fsync()
    assert (third.committed(KEY), third.committed("new")) == (None, b"dirty" + DATA[5:])


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_rename_that_its_caller_leaves_is_open_before_its_names_are_free_and_not_after(
    make: Make, monkeypatch: Patch, interrupted: bool
) -> None:
    """Its end is completed after an interrupt; what other calls do to the names since is not taken for its own. [2.14,
    2.26]
    """
    slow = RetryPolicy(attempts=3, first_delay=3600.0, max_delay=3600.0, deadline=None, failed_retry=None)
    store = make(backend=RecordingBackend({KEY: DATA}, by_name=True), retry=slow)
    store.open("rb").close()
    store.backend.fault("rename", LOST)
    others: list[CachedFile] = []

    def go_on() -> None:
        store.volume.rename(KEY, "third")
        others.append(store.dirtied(OTHER, 0, "xb", key="new"))

    beside(monkeypatch, Claim, "free", lambda: Task(go_on).result(), after=True)
    if interrupted:
        beside(monkeypatch, NameChange, "_give_up", raising(KeyboardInterrupt()))
    raises((TimeoutError, KeyboardInterrupt), store.volume.rename, KEY, "new", timeout=0.05)
    assert not store.volume.unsettled
    assert not store.volume.exists(KEY)
    assert (store.saved(others[0], "new"), store.content("third")) == (OTHER, DATA)


@pytest.mark.parametrize("prompt", [False, True])
def test_a_read_that_runs_beside_the_rename_of_its_directory_reads_again(make: Make, prompt: bool) -> None:
    """Its call looks the old name up when another object has it. [2.20]"""
    store, file = opened(make, "a directory", prompt=prompt)
    gate, reading = at_gate(store.backend.gate("read_into", "d/file"), file.pread, 10, PAGE)
    store.volume.rename("d", "e")
    make_another(store, "d/file")
    assert reading.result(opening=gate) == DATA[PAGE : PAGE + 10]


@pytest.mark.parametrize("save", ["fsync", "flush", "close", "sync"])
def test_write_back_that_begins_beside_the_rename_of_its_directory_uses_the_new_name(make: Make, save: str) -> None:
    """It waits for the end of the rename, and fails for no policy. [2.20]"""
    store, file = opened(make, "a directory")
    gate, renaming = at_gate(store.backend.gate("rename answer"), store.volume.rename, "d", "e")
    store.backend.objects["d/file"] = StoredObject(OTHER)
    saving = Task(ENDS[save], store, file)
    eventually(lambda: len(store.cache.waits()) > 1)
    renaming.result(opening=gate)
    saving.result()
    written = store.backend.written("d/file"), store.backend.written("e/file")
    file.close()
    assert written == (OTHER, b"dirty" + DATA[5:])


def test_the_rename_of_a_directory_waits_for_write_back_of_its_files(make: Make) -> None:
    """Bytes in flight are stored under the old name first. [2.20]"""
    store, file = opened(make, "a directory")
    gate, saving = at_gate(store.backend.gate("write_from", "d/file"), file.fsync)
    renaming = Task(store.volume.rename, "d", "e")
    wait_for(store.cache, "the calls of a file whose directory is renamed")
    assert not store.backend.seen("rename")
    renaming.result(opening=gate)
    saving.result()
    file.close()
    assert (store.backend.committed("d/file"), store.backend.committed("e/file")) == (None, b"dirty" + DATA[5:])


def test_a_foreign_version_is_taken_after_a_rename_of_its_directory(make: Make) -> None:
    """It was announced before, and has the new name now. [2.19, 2.20]"""
    backend = StoreOfPaths({"d/file": DATA}, by_name=True)
    store, file = make(backend=backend, retry=FAST, options={"on_conflict": "take_remote"}).written(
        b"mine", key="d/file"
    )
    gate = Gates()
    file._inode.settle(lambda: gate.enter(WAIT_LIMIT_S))
    gate.wait_entered()
    backend.change_remotely("d/file", OTHER)
    store.volume.invalidate_remote("d/file")
    renaming = Task(store.volume.rename, "d", "e")
    wait_for(store.cache, "the calls of a file whose directory is renamed")
    gate.release()
    renaming.result()
    raises(DataLossError, file.fsync)
    assert backend.written("e/file") == file.pread(len(OTHER), 0) == OTHER


@pytest.mark.parametrize("look", ["fails", "finds that the name changes"])
def test_a_foreign_version_is_taken_after_a_rename_that_begins_beside_its_look(
    make: Make, monkeypatch: Patch, look: str
) -> None:
    """The next try meets the rename: the version is to be taken still. [2.19, 2.20]"""
    backend = StoreOfPaths({"d/file": DATA}, by_name=True)
    store, file = make(backend=backend, retry=FAST, options={"on_conflict": "take_remote"}).written(
        b"mine", key="d/file"
    )
    renaming: list[Task[None]] = []

    def rename_beside() -> None:
        renaming.append(Task(store.volume.rename, "d", "e"))
        wait_for(store.cache, "the calls of a file whose directory is renamed")
        if look == "fails":
            raise OSError(errno.EIO, "for a moment")

    beside(monkeypatch, remote, "_new_base", rename_beside)
    backend.change_remotely("d/file", OTHER)
    store.volume.invalidate_remote("d/file")
    eventually(lambda: renaming)
    renaming[0].result()
    raises(DataLossError, file.fsync)
    assert backend.written("e/file") == file.pread(len(OTHER), 0) == OTHER


def test_other_calls_beside_the_rename_of_a_directory_are_refused_as_transient(make: Make) -> None:
    """The retry policy makes them again; nothing is sent before. [2.20]"""
    store, file = opened(make, "a directory")
    gate, renaming = at_gate(store.backend.gate("rename answer"), store.volume.rename, "d", "e")
    assert raises(OSError, file.truncate, PAGE).errno == errno.EBUSY
    renaming.result(opening=gate)
    file.truncate(PAGE)
    file.fsync()
    file.close()
    assert store.backend.committed("e/file") == (b"dirty" + DATA[5:])[:PAGE]


def test_a_removed_file_that_fills_the_cache_makes_its_writer_fail(make: Make) -> None:
    """Its bytes can neither be saved nor evicted: the error says so, and nothing hangs. [2.23]"""
    store, file = make(backend=RecordingBackend({KEY: DATA}, by_name=True), capacity="1MiB", retry=FAST).opened("r+b")
    store.volume.remove(KEY)
    with pytest.raises(OSError) as raised:
        for position in range(0, 2 << 20, PAGE):
            file.pwrite(DATA[:PAGE], position)
    assert raised.value.errno == errno.ENOBUFS
    file.close()
    with store.volume.open("next", "xb") as other:
        other.pwrite(DATA, 0)
    assert store.synced("next") == DATA


@pytest.mark.parametrize("whole", [False, True])
def test_zeros_that_a_removed_file_was_extended_by_are_read(make: Make, whole: bool) -> None:
    """They were never stored: neither those of a truncate, nor those before a write, nor a hole. [2.20]"""
    store, file = make(
        backend=RecordingBackend({KEY: DATA}, by_name=True, punch=True, write_unit=512, commit_on_close=whole),
        retry=FAST,
    ).opened("r+b", read_ahead=0)
    store.volume.remove(KEY)
    file.truncate(PAGE)
    file.truncate(2 * PAGE)
    file.pwrite(b"new", 3 * PAGE + 512)
    file.flush()
    assert file.pread(3 * PAGE, PAGE) == bytes(2 * PAGE + 512) + b"new"
    gone(lambda: file.pread(PAGE, 0))
    file.punch_hole(0, PAGE)
    assert file.pread(PAGE, 0) == bytes(PAGE)
