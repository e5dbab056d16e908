"""The additions of a TransformBackend to a backend, and the errors of the transform and of the backend below."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecache.backends import (
    Backend,
    BackendFile,
    BackendLimits,
    DirectoryBackend,
    MemoryBackend,
    NamespaceBackend,
    TransformBackend,
)
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.transform.changes import RECENT, Changes
from pagecache.backends.transform.units import Units
from pagecache.errors import BackendError
from pagecache.testing import FaultyBackend, Gate, Rule

from ..file.rig import Task, raises
from ..stores import PublishingBackend, RecordingBackend, failing_commit
from .transforms import Checksums, Sealed, XorStream

UNIT = 64


def put(file: BackendFile, offset: int, data: bytes) -> None:
    assert file.write_from(offset, [memoryview(data)]) == len(data)


def get(file: BackendFile, offset: int = 0, length: int = 4096) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: file.read_into(offset, [memoryview(buffer)])])


def content(length: int) -> bytes:
    return bytes(1 + i % 251 for i in range(length))


def opened(inner: Backend, transform: Any = None, data: bytes = b"") -> BackendFile:
    file = TransformBackend(inner, transform or Sealed(UNIT)).open("key", create=True)
    if data:
        put(file, 0, data)
        file.commit()
    return file


def faulty(size: int, *rules: Rule) -> tuple[FaultyBackend, BackendFile]:
    """A backend below that has an object of this size, and then these faults; and the file over it."""
    inner = FaultyBackend(MemoryBackend())
    file = opened(inner, Sealed(UNIT), content(size))
    inner.use(rules)
    return inner, file


# -------------------------------------------------------------------- layout


@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(0, 40))
def test_sizes_follow_from_each_other(size: int, unit: int, overhead: int) -> None:
    transform = Checksums(unit)
    transform.overhead = overhead
    units = Units(transform)
    assert units.content_size(units.stored_size(size)) == size
    assert units.stored_size(size) < units.stored_size(size + 1)


def test_limits_are_counted_in_units_of_content() -> None:
    inner = BackendLimits(
        max_write=10_000, max_read=500, boundary=4096, max_vectors=2, parallel_direct_writes=True, durable_writes=True
    )
    limits = TransformBackend(MemoryBackend(inner), Checksums(1000)).limits
    assert (limits.read_unit, limits.write_unit, limits.max_write, limits.max_read) == (1000, 1000, 9000, 1000)
    assert (limits.boundary, limits.parallel_direct_writes, limits.durable_writes) == (0, False, True)


def test_slots_that_do_not_fit_the_units_below_are_stored_together() -> None:
    inner = MemoryBackend(write_unit=4096, read_unit=512)
    limits = TransformBackend(inner, Checksums(1020)).limits
    assert (limits.write_unit, limits.read_unit) == (4 * 1020, 1020)


def test_limits_are_the_same_object_while_those_below_are() -> None:
    """The cache compares them before each pass."""
    backend = TransformBackend(MemoryBackend(), XorStream())
    assert backend.limits is backend.limits


def test_stored_bytes_lie_at_multiples_of_the_slot() -> None:
    store = MemoryBackend()
    opened(store, Checksums(UNIT), content(2 * UNIT + 3))
    stored, transform = store.snapshot("key"), Checksums(UNIT)
    assert len(stored) == 2 * (UNIT + 4) + 3 + 4
    assert transform.decode(1, stored[UNIT + 4 : 2 * UNIT + 8]) == content(2 * UNIT)[UNIT:]
    assert transform.decode(2, stored[2 * UNIT + 8 :]) == content(2 * UNIT + 3)[2 * UNIT :]


def test_gap_is_a_hole_below_and_reads_as_zeros() -> None:
    store = MemoryBackend()
    file = opened(store)
    put(file, 10 * UNIT, b"end")
    assert store.snapshot("key")[: 10 * (UNIT + 24)] == bytes(10 * (UNIT + 24))
    assert get(file) == bytes(10 * UNIT) + b"end"


@pytest.mark.parametrize("size", [1, 5, UNIT, UNIT + 1, 3 * UNIT])
def test_short_unit_is_no_hole_whatever_it_is_encoded_to(size: int) -> None:
    """With one byte, every 256th key stream makes zero of a different byte."""
    for value in range(0, 256, 5):
        file = opened(MemoryBackend(), XorStream(UNIT))
        put(file, 0, bytes([value]) * size)
        assert get(file) == bytes([value]) * size
        file.truncate(size + 1)
        assert get(file) == bytes([value]) * size + b"\0"


# -------------------------------------------------------------------- names


def test_sizes_of_names_are_those_of_the_content(tmp_path: Path) -> None:
    inner = DirectoryBackend(tmp_path)
    (tmp_path / "dir").mkdir()
    backend = TransformBackend(inner, Sealed(UNIT))
    file = backend.open("dir/key", create=True)
    put(file, 0, content(100))
    version = file.commit()
    assert (tmp_path / "dir" / "key").stat().st_size == 100 + 2 * 24
    assert [(stat.key, stat.size) for stat in backend.list()] == [("dir/key", 100)]
    assert [stat.size for stat in backend.readdir("dir")] == [100]
    assert backend.setattr("dir/key", mode=0o600).size == 100
    assert (backend.stat("dir/key").size, backend.stat("dir/key").version) == (100, inner.stat("dir/key").version)
    assert file.stat().version == version is not None
    assert backend.stat("dir").size == inner.stat("dir").size
    assert backend.lstat("dir/key").size == 100
    (tmp_path / "link").symlink_to("dir/key")
    assert [(found.kind, found.size) for found in (backend.lstat("link"), backend.stat("link"))] == [
        ("symlink", len("dir/key")),
        ("file", 100),
    ]
    assert backend.lasting_identity((1, 2, 3)) == inner.lasting_identity((1, 2, 3)) == "2:3"
    backend.rename("dir/key", "moved")
    assert get(backend.open("moved")) == content(100)
    backend.close()


def test_directories_of_whole_objects_are_listed_with_the_sizes_of_the_content() -> None:
    fs = fsspec.filesystem("memory", skip_instance_cache=True)
    backend = TransformBackend(FsspecBackend(fs, "/transformed"), Sealed(UNIT))
    put(file := backend.open("dir/key", create=True), 0, content(100))
    file.commit()
    try:
        assert [(found.key, found.size) for found in backend.entries("dir")] == [("dir/key", 100)]
    finally:
        fs.rm("/transformed", recursive=True)


def test_methods_are_there_where_the_inner_backend_has_them(tmp_path: Path) -> None:
    # hasattr, not isinstance: since Python 3.12 isinstance ignores attributes that __getattr__ provides.
    names = {name for name in vars(NamespaceBackend) if not name.startswith("_")}
    transformed = TransformBackend(DirectoryBackend(tmp_path), XorStream())
    assert {name for name in names if not hasattr(transformed, name)} == set()
    plain = TransformBackend(MemoryBackend(), XorStream())
    assert {"mkdir", "readdir", "setattr"} <= {name for name in names if not hasattr(plain, name)}
    assert not hasattr(plain, "snapshot")  # would show encoded bytes
    assert hasattr(plain.open("key", create=True), "punch_hole")
    for method in ("rollback", "close", "limits"):
        assert not hasattr(plain.open("key"), method)
    publishing = TransformBackend(PublishingBackend(), XorStream()).open("key", create=True)
    for method in ("rollback", "close"):
        assert hasattr(publishing, method)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"unit": 0}, ValueError),
        ({"unit": "many"}, ValueError),
        ({"overhead": -1}, ValueError),
        ({"encode": None}, TypeError),
        ({"decode": 1}, TypeError),
    ],
)
def test_an_object_that_is_no_transform_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    transform = Checksums()
    for name, value in changes.items():
        setattr(transform, name, value)
    raises(error, TransformBackend, MemoryBackend(), transform, match=next(iter(changes)))


def test_an_object_that_is_no_backend_is_refused() -> None:
    class Asynchronous(MemoryBackend):
        async def open(self, key: Any, **how: Any) -> Any: ...  # type: ignore[override]

    for inner in (object(), Asynchronous()):
        with pytest.raises(TypeError, match="inner"):
            TransformBackend(inner, XorStream())  # type: ignore[arg-type]


# -------------------------------------------------------------------- errors of the transform


def test_changed_bytes_are_an_error_that_names_unit_and_key() -> None:
    store = MemoryBackend()
    file = opened(store, Checksums(UNIT), content(3 * UNIT))
    store.open("key").write_from(UNIT + 4 + 10, [memoryview(b"!")])
    raised = raises(BackendError, get, file, match=r"unit 1 \(from byte 64 on\): decode raised ValueError: wrong check")
    assert (raised.errno, raised.retry, raised.filename) == (errno.EIO, False, "key")
    assert get(file, 0, UNIT) == content(UNIT)
    assert get(file, 2 * UNIT) == content(3 * UNIT)[2 * UNIT :]


class Answering(XorStream):
    def __init__(self, method: str, answer: Callable[[bytes], Any]) -> None:
        super().__init__(UNIT)
        setattr(self, method, lambda index, data: answer(data))


def refuse(_data: bytes) -> bytes:
    raise KeyError("no key")


def later(_data: bytes) -> bytes:
    raise BackendError(errno.EAGAIN, "the keys are not there yet", retry=True)


@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize(
    ("answer", "text", "retry"),
    [
        (refuse, "unit 0 .*raised KeyError: 'no key'", False),
        (lambda data: data[1:], "answered 63 bytes for 64, not 64", False),
        (lambda data: None, "answered NoneType, not bytes", False),
        (later, "not there yet", True),
    ],
)
def test_bad_transform_gives_a_clear_error(method: str, answer: Callable[[bytes], Any], text: str, retry: bool) -> None:
    store = MemoryBackend()
    opened(store, XorStream(UNIT), content(UNIT))
    file = opened(store, Answering(method, answer))
    with pytest.raises(BackendError, match=text) as raised:
        get(file) if method == "decode" else put(file, 0, content(UNIT))
    assert raised.value.retry is retry
    assert get(opened(store, XorStream(UNIT))) == content(UNIT)


def test_zeros_for_other_content_are_refused_as_they_would_be_a_hole() -> None:
    file = opened(MemoryBackend(), Answering("encode", lambda data: bytes(len(data))))
    raises(BackendError, put, file, 0, content(UNIT), match="zeros, which stand for a hole")
    put(file, 0, bytes(UNIT))


# -------------------------------------------------------------------- errors of the backend below


CHANGES: dict[str, tuple[int, Callable[[Any], object]]] = {
    "cut": (3 * UNIT, lambda file: file.truncate(UNIT + 5)),
    "extension of a unit": (UNIT + 5, lambda file: file.truncate(2 * UNIT - 1)),
    "extension to a whole unit": (UNIT + 5, lambda file: file.truncate(2 * UNIT)),
    "extension by units": (UNIT + 5, lambda file: file.truncate(5 * UNIT + 1)),
    "hole": (5 * UNIT, lambda file: file.punch_hole(5, 4 * UNIT)),
}
"""The size of an object, and a change of it."""


@pytest.mark.parametrize("change", CHANGES)
def test_refused_change_changes_nothing(change: str) -> None:
    """Whichever call below is refused. Then the same change can be made."""
    size, make = CHANGES[change]
    refused = 0
    for nth in range(1, 10):
        inner, file = faulty(size, Rule(("write", "truncate", "punch"), nth=nth, error=errno.EROFS))
        try:
            make(file)
        except OSError:
            refused += 1
        else:
            break
        assert (get(file), file.stat().size) == (content(size), size)
        file.commit()
        assert get(opened(inner)) == content(size)
    assert refused >= 2


def test_lost_answer_of_a_cut_leaves_a_unit_that_decodes() -> None:
    inner, file = faulty(3 * UNIT, Rule("truncate", error=errno.EIO, done=True, times=1))
    raises(OSError, file.truncate, UNIT + 5)
    assert get(file) == content(UNIT + 5)
    file.commit()
    assert get(opened(inner)) == content(UNIT + 5)


def test_half_stored_unit_is_still_known_and_stored_before_the_next_commit() -> None:
    """Its neighbours in the unit exist nowhere else. A new unit has nothing to lose."""
    inner, file = faulty(2 * UNIT, Rule("write", short=30, nth=1), Rule("write", error=errno.EIO))
    new = content(4 * UNIT)[UNIT:]
    raises(OSError, file.write_from, UNIT, [memoryview(new)])
    raises(BackendError, get, opened(inner.inner), match="wrong tag")
    assert get(file, 0, 2 * UNIT) == content(2 * UNIT)
    raises(OSError, file.commit)
    inner.use([])
    file.commit()
    assert get(opened(inner.inner))[: 2 * UNIT] == content(2 * UNIT)


def test_error_after_some_units_says_how_many_were_stored() -> None:
    _inner, file = faulty(0, Rule("write", short=2 * (UNIT + 24) + 1, nth=1), Rule("write", error=errno.ENOSPC))
    assert file.write_from(0, [memoryview(content(5 * UNIT))]) == 2 * UNIT
    assert get(file, 0, 2 * UNIT) == content(2 * UNIT)


def test_calls_below_are_cut_as_the_inner_object_asks() -> None:
    inner = FaultyBackend(MemoryBackend(max_read=100, boundary=256))
    error = BackendError(errno.EMSGSIZE, "at most 50", retry=True, max_write=50)
    inner.use([Rule("write", error=error, times=1)])
    file = opened(inner)
    put(file, 0, content(10 * UNIT))
    assert get(file) == content(10 * UNIT)
    calls = inner.calls_of("write", "read")[1:]
    for call in calls:
        assert call.length is not None
        assert call.offset is not None
        assert call.length <= (50 if call.op == "write" else 100)
        assert call.offset // 256 == (call.offset + call.length - 1) // 256


@pytest.mark.parametrize("answer", [None, -1, "17", 10**6])
def test_answers_that_are_no_counts_are_reported(answer: Any) -> None:
    _inner, file = faulty(UNIT, Rule(("read", "write"), answer=answer))
    for call in (lambda: get(file), lambda: put(file, 0, content(UNIT))):
        assert raises(OSError, call, match=r"(read_into|write_from) answered").errno == errno.EPROTO


def test_write_without_progress_ends() -> None:
    _inner, file = faulty(0, Rule("write", short=0))
    raises(OSError, put, file, 0, content(UNIT), match="no progress")


# -------------------------------------------------------------------- failed commits, objects published as a whole


def change_edges(file: Any) -> bytes:
    """Make every change for which the wrapper stores units by itself; return the content then."""
    file.truncate(4 * UNIT + 5)
    file.punch_hole(10, UNIT)
    file.truncate(6 * UNIT + 7)
    return bytes(content(10)) + bytes(UNIT) + content(4 * UNIT + 5)[UNIT + 10 :] + bytes(2 * UNIT + 2)


WHOLE = itertools.product((True, False), (1, 2 * (UNIT + 24)))
STORES: dict[str, Callable[[], RecordingBackend]] = {
    "in place": partial(RecordingBackend, punch=True),
    **{f"whole {back} {unit}": partial(PublishingBackend, read_back=back, write_unit=unit) for back, unit in WHOLE},
}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
@pytest.mark.parametrize("fails", [False, True])
def test_a_commit_stores_cuts_and_holes_also_after_one_that_failed(make: Callable[[], Any], fails: bool) -> None:
    store = make()
    file = opened(store, Sealed(UNIT), content(5 * UNIT))
    expected = change_edges(file)
    assert get(file) == expected
    if fails:
        store.fault("commit", failing_commit(BackendError(errno.EIO, "made up", retry=True)))
        raises(BackendError, file.commit)
        assert get(file) == expected
    file.commit()
    assert get(opened(store)) == expected
    assert store.violations == []


def test_rollback_forgets_cuts_and_holes() -> None:
    store = PublishingBackend()
    file: Any = opened(store, Sealed(UNIT), content(5 * UNIT))
    change_edges(file)
    file.rollback()
    assert get(file) == content(5 * UNIT)


def test_bytes_that_cannot_be_read_back_are_asked_for_again() -> None:
    """The cut is in the middle of a unit that was sent and is not committed: only the cache has it."""
    store = PublishingBackend(read_back=False)
    file = opened(store, Sealed(UNIT), bytes(5 * UNIT))
    put(file, 0, content(5 * UNIT))
    file.truncate(UNIT + 5)
    raised = raises(BackendError, file.commit)
    assert (raised.retry, raised.kept) == (True, False)
    put(file, 0, content(UNIT + 5))
    file.commit()
    assert get(opened(store)) == content(UNIT + 5)


def test_unit_forgotten_by_a_failed_commit_can_be_read_again() -> None:
    """Only zeros are left of a short unit, and they do not decode."""
    recording = RecordingBackend()
    file = opened(recording)
    put(file, 0, content(UNIT + 5))
    recording.fault("commit", failing_commit(OSError(errno.EIO, "made up")))
    raises(OSError, file.commit, match="made up")
    assert len(get(file)) == UNIT + 5
    file.commit()
    assert len(get(opened(recording))) == UNIT + 5


def test_unit_stored_in_part_is_not_taken_for_the_end_of_the_object() -> None:
    inner, file = faulty(0, Rule("write", short=40, nth=1), Rule("write", error=errno.EIO, nth=2))
    raises(OSError, put, file, 0, content(UNIT))
    put(file, 2 * UNIT, content(3))
    put(file, 0, content(UNIT))
    file.commit()
    assert get(opened(inner)) == content(UNIT) + bytes(UNIT) + content(3)


@pytest.mark.parametrize("size", [2 * UNIT - 1, 2 * UNIT, 5 * UNIT + 1])
def test_extension_that_fails_half_way_reads_as_zeros(size: int) -> None:
    """The object is longer, the end of its last units is not stored, and it cannot be made shorter again."""
    inner, file = faulty(UNIT + 5, Rule("write", error=errno.EIO, times=1), Rule("truncate", nth=2, error=errno.EIO))
    raises(OSError, file.truncate, size)
    assert get(file) == content(UNIT + 5) + bytes(size - UNIT - 5)
    file.commit()
    assert get(opened(inner)) == content(UNIT + 5) + bytes(size - UNIT - 5)


def test_write_of_the_last_unit_waits_while_it_is_made_a_whole_one() -> None:
    gate = Gate()
    _inner, file = faulty(5, Rule("write", nth=1, gate=gate))
    with gate:
        behind = Task(put, file, 2 * UNIT, b"behind")
        gate.wait_entered()  # it has read the last unit and is about to store it
        newer = Task(put, file, 0, content(UNIT))
        assert newer.waits()
    behind.result()
    newer.result()
    assert get(file) == content(UNIT) + bytes(UNIT) + b"behind"


# -------------------------------------------------------------------- changes of ranges: which waits for which


def test_read_that_more_changes_overtook_than_are_remembered_is_done_again() -> None:
    changes = Changes()
    since = changes.quiet(0, 10)
    for _ in range(RECENT + 1):
        changes.begin(50, 60, threading.Lock())
    assert not changes.unchanged(0, 10, since)
    assert changes.unchanged(0, 10, since + 1)


def test_change_that_was_interrupted_before_it_let_go_is_over() -> None:
    """Only its lock shows that it goes on, and `with` unlocks that one."""
    changes, going = Changes(), threading.Lock()
    try:
        with going:
            changes.begin(0, 10, going)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert changes.quiet(0, 10) == 1
