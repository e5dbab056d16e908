"""Random direct, buffered and view operations of several handles on one object, against a bytearray."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecache import Backend, CachedFile, PageCache, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend

from .backends import RecordingBackend
from .forgetful import ForgetfulBackend
from .rig import KEY, PAGE, QUIET, pattern

SIZE = 6 * PAGE
MOST = 12 * PAGE

units = st.sampled_from([1, 512, PAGE])
numbers = st.one_of(st.integers(0, MOST - PAGE), st.sampled_from([k * PAGE for k in range(11)]))
lengths = st.one_of(st.integers(0, 3 * PAGE), st.sampled_from([0, 1, 512, PAGE, 2 * PAGE]))
verbs = st.sampled_from(
    [
        "pwrite",
        "pwrite",
        "pwritev",
        "append",
        "pread",
        "pread_into",
        "preadv",
        "truncate",
        "punch",
        "zero",
        "fsync",
        "flush",
        "sync",
        "drop",
        "view",
        "write",
        "read",
    ]
)
steps = st.tuples(st.sampled_from(["direct", "parallel", "buffered"]), verbs, numbers, lengths)


class World:
    """One object, three handles on it, and its expected content."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.content = bytearray(pattern(SIZE, 1))
        self.handles: dict[str, CachedFile] = {
            "buffered": volume.open(KEY, "r+b"),
            "direct": volume.open(KEY, "r+b", direct=True),
            "parallel": volume.open(KEY, "r+b", direct=True, parallel_direct_writes=True),
        }
        self.seed = 1

    def data(self, length: int) -> bytes:
        self.seed += 1
        return pattern(length, self.seed)

    def wrote(self, offset: int, data: bytes) -> None:
        if data:
            self.content.extend(bytes(max(0, offset + len(data) - len(self.content))))
            self.content[offset : offset + len(data)] = data

    def step(self, handle_name: str, verb: str, at: int, length: int) -> None:
        file, content = self.handles[handle_name], self.content
        wanted = bytes(content[at : at + length])
        match verb:
            case "pwrite":
                data = self.data(length)
                assert file.pwrite(data, at) == length
                self.wrote(at, data)
            case "pwritev":
                data = self.data(length)
                assert file.pwritev([data[:100], data[100:]], at) == length
                self.wrote(at, data)
            case "write":
                data = self.data(length)
                file.seek(at)
                assert file.write(data) == length
                assert file.tell() == at + length
                self.wrote(at, data)
            case "append":
                data = self.data(length % 1000)
                assert file.append(data) == len(content)
                self.wrote(len(content), data)
            case "pread":
                assert file.pread(length, at) == wanted
            case "pread_into":
                space = bytearray(b"?" * length)
                assert file.pread_into(space, at) == len(wanted)
                assert space == wanted + b"?" * (length - len(wanted))
            case "preadv":
                first, second = bytearray(min(length, 77)), bytearray(max(0, length - 77))
                assert file.preadv([first, second], at) == len(wanted)
                assert (bytes(first) + bytes(second))[: len(wanted)] == wanted
            case "read":
                file.seek(at)
                assert file.read(length) == wanted
            case "truncate":
                file.truncate(at)
                content.extend(bytes(max(0, at - len(content))))
                del content[at:]
            case "punch" | "zero":
                (file.punch_hole if verb == "punch" else file.zero_range)(at, length)
                content[at : at + length] = bytes(len(wanted))
            case "view":
                if wanted:
                    with file.view(at, len(wanted)) as view:
                        assert view.tobytes() == wanted
            case "fsync":
                file.fsync(timeout=20)
            case "flush":
                file.flush()
            case "sync":
                self.volume.sync(20)
            case "drop":
                self.volume.drop_clean(KEY, at, length)

    def all_readers_agree(self) -> None:
        for file in self.handles.values():
            assert file.size == len(self.content)
            assert file.pread(2 * MOST, 0) == bytes(self.content)


@contextmanager
def stored_in(kind: str, limits: dict[str, Any]) -> Iterator[Backend]:
    if kind == "dir":
        with tempfile.TemporaryDirectory() as folder:
            backend = DirectoryBackend(folder, **limits)
            with open(f"{folder}/{KEY}", "wb") as file:
                file.write(pattern(SIZE, 1))
            yield backend
            with open(f"{folder}/{KEY}", "rb") as file:
                assert file.read() == yielded.pop()
    elif kind == "memory":
        memory = MemoryBackend(**limits)
        memory.put(KEY, pattern(SIZE, 1))
        yield memory
        assert memory.snapshot(KEY) == yielded.pop()
    elif kind == "keeping":
        keeping = ForgetfulBackend({KEY: pattern(SIZE, 1)}, **limits)
        yield keeping
        assert keeping.committed(KEY) == yielded.pop()
        assert keeping.violations == []
    else:
        recording = RecordingBackend({KEY: pattern(SIZE, 1)}, punch=True, **limits)
        yield recording
        stored = recording.written(KEY) if limits["durable_writes"] else recording.committed(KEY)
        assert stored == yielded.pop()
        assert recording.violations == []


yielded: list[bytes] = []  # the expected content of the object in the end


@pytest.mark.parametrize("kind", ["recording", "memory", "dir", "keeping"])
@settings(max_examples=60)
@given(
    script=st.lists(steps, max_size=25),
    direct_unit=units,
    read_unit=units,
    write_unit=st.sampled_from([1, 1, 1, 512]),
    most=st.sampled_from([2 * PAGE, "1MiB"]),
    boundary=st.sampled_from([0, 0, 2 * PAGE]),
    ordered=st.booleans(),
    durable=st.booleans(),
    folio=st.sampled_from([PAGE, "64KiB"]),
)
def test_direct_and_buffered_operations_agree_on_every_byte(
    kind: str,
    script: list[tuple[str, str, int, int]],
    direct_unit: int,
    read_unit: int,
    write_unit: int,
    most: Any,
    boundary: int,
    ordered: bool,
    durable: bool,
    folio: Any,
) -> None:
    """All handles read the same bytes, whichever handle changed them, and so does storage in the end. [T-27,
    2.9, 2.10]
    """
    limits = {
        "direct_unit": direct_unit,
        "read_unit": read_unit,
        "write_unit": write_unit,
        "max_write": most,
        "max_read": most,
        "boundary": boundary,
        "ordered_writes": ordered,
        "durable_writes": durable and kind != "keeping",
        "commit_on_close": kind == "keeping",
        "parallel_direct_writes": True,
    }
    del yielded[:]
    with stored_in(kind, limits) as backend, PageCache("128KiB", max_folio=folio, **QUIET) as cache:
        world = World(cache.attach(backend, read_ahead=0))
        for step in script:
            world.step(*step)
        world.all_readers_agree()
        cache.check()
        for file in world.handles.values():
            file.close()
        world.volume.sync(20)
        cache.check()
        yielded.append(bytes(world.content))
        cache.close()
