"""Random operations against a dict of bytearrays, above memory and local files."""

from __future__ import annotations

import io
import shutil
import tempfile
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from pagecache.fsspec import PageCacheFileSystem

from ..file.rig import raises

NAMES = st.sampled_from(["a", "b", "d/c"])
DATA = st.binary(min_size=1, max_size=40) | st.builds(
    lambda b, n: b * n, st.binary(min_size=1, max_size=3), st.just(3000)
)
PLACES = st.integers(0, 9000) | st.integers(0, 30)


class Opened:
    """A file and its expected content: an io.BytesIO would do, but other handles change the content as well."""

    def __init__(self, file: Any, name: str, content: bytearray, mode: str) -> None:
        self.file, self.name, self.content, self.mode = file, name, content, mode
        self.at = len(content) if mode[0] == "a" else 0


class Files(RuleBasedStateMachine):
    """Names, and open files; those of one name share their content."""

    protocol = "memory"
    opened = Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.folder: str | None = tempfile.mkdtemp() if self.protocol == "file" else None
        self.root = self.folder or "/model"
        self.below = fsspec.filesystem(self.protocol)
        self.below.makedirs(f"{self.root}/d", exist_ok=True)
        self.fs = PageCacheFileSystem(self.protocol, capacity="256KiB", flush_interval=3600, dirty_expire=3600)
        self.model: dict[str, bytearray] = {}
        self.files: list[Opened] = []

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def is_open(self, name: str) -> bool:
        return any(one.name == name for one in self.files)

    # -- files

    @rule(target=opened, name=NAMES, mode=st.sampled_from(["rb", "r+b", "wb", "w+b", "xb", "ab", "a+b"]))
    def open(self, name: str, mode: str) -> Any:
        there = name in self.model
        if (mode[0] == "r" and not there) or (mode[0] == "x" and there):
            raises(FileExistsError if there else FileNotFoundError, self.fs.open, self.path(name), mode)
            return multiple()
        file = self.fs.open(self.path(name), mode)
        content = self.model.setdefault(name, bytearray())
        if mode[0] == "w":
            del content[:]
        self.files.append(Opened(file, name, content, mode))
        return self.files[-1]

    @rule(one=opened, at=PLACES, whence=st.sampled_from([0, 2]))
    def seek(self, one: Opened, at: int, whence: int) -> None:
        target = at if whence == 0 else max(0, len(one.content) - at)
        assert one.file.seek(target - len(one.content) if whence else at, whence) == target
        one.at = target

    @rule(one=opened, data=DATA)
    def write(self, one: Opened, data: bytes) -> None:
        if one.mode == "rb":
            raises(io.UnsupportedOperation, one.file.write, data)
            return
        assert one.file.write(data) == len(data)
        at = len(one.content) if one.mode[0] == "a" else one.at
        one.content.extend(bytes(max(0, at - len(one.content))))
        one.content[at : at + len(data)] = data
        one.at = at + len(data)

    @rule(one=opened, size=PLACES)
    def read(self, one: Opened, size: int) -> None:
        if one.mode[0] != "r" and "+" not in one.mode:
            raises(io.UnsupportedOperation, one.file.read, size)
            return
        expected = bytes(one.content[one.at : one.at + size])
        assert one.file.read(size) == expected
        one.at += len(expected)

    @rule(one=opened, size=PLACES)
    def truncate(self, one: Opened, size: int) -> None:
        if one.mode == "rb":
            return
        assert one.file.truncate(size) == size
        one.content.extend(bytes(max(0, size - len(one.content))))
        del one.content[size:]

    @rule(one=opened)
    def sync(self, one: Opened) -> None:
        one.file.sync()
        assert self.below.cat_file(self.path(one.name)) == bytes(one.content)

    @rule(one=consumes(opened))
    def close(self, one: Opened) -> None:
        one.file.close()
        self.files.remove(one)
        if not any(other.name == one.name and other.mode != "rb" for other in self.files):
            assert self.below.cat_file(self.path(one.name)) == bytes(one.content)

    # -- names

    @rule(name=NAMES, data=DATA)
    def pipe(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(self.path(name), data)
        self.model.setdefault(name, bytearray())[:] = data

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if self.is_open(name):
            return
        if name not in self.model:
            raises(FileNotFoundError, self.fs.rm, self.path(name))
            return
        self.fs.rm(self.path(name))
        del self.model[name]

    @rule(source=NAMES, goal=NAMES)
    def move(self, source: str, goal: str) -> None:
        if self.is_open(goal) or source not in self.model or source == goal:
            return
        self.fs.mv(self.path(source), self.path(goal))
        self.model[goal] = self.model.pop(source)
        for one in self.files:
            if one.name == source:
                one.name = goal

    @rule(source=NAMES, goal=NAMES)
    def copy(self, source: str, goal: str) -> None:
        if self.is_open(goal) or source not in self.model or source == goal:
            return
        self.fs.cp_file(self.path(source), self.path(goal))
        self.model[goal] = bytearray(self.model[source])

    @rule(changes=st.dictionaries(NAMES, DATA), kept=st.booleans())
    def transaction(self, changes: dict[str, bytes], kept: bool) -> None:
        self.fs.start_transaction()
        for name, data in changes.items():
            if not self.is_open(name):
                self.fs.pipe_file(self.path(name), data)
        self.listed()
        self.fs.transaction.complete(commit=kept)
        if kept:
            self.model.update({n: bytearray(data) for n, data in changes.items() if not self.is_open(n)})

    @rule(name=NAMES, data=DATA)
    def somebody_else(self, name: str, data: bytes) -> None:
        if self.is_open(name):
            return
        self.below.pipe_file(self.path(name), data)
        self.model[name] = bytearray(data)

    @precondition(lambda self: not self.files)
    @rule()
    def begin_anew(self) -> None:
        assert self.fs.close() == []

    # -- what holds at any time

    @invariant()
    def listed(self) -> None:
        found = self.fs.find(self.root, detail=True)
        assert {path: entry["size"] for path, entry in found.items()} == {
            self.path(name): len(content) for name, content in self.model.items()
        }

    @rule(name=NAMES, start=st.none() | st.integers(-50, 50), end=st.none() | st.integers(-50, 50))
    def cat(self, name: str, start: int | None, end: int | None) -> None:
        if name in self.model:
            assert self.fs.cat_file(self.path(name), start, end) == bytes(self.model[name][start:end])

    def teardown(self) -> None:
        try:
            for one in self.files:
                one.file.close()
            assert self.fs.close(timeout=60.0) == []
            stored = {path: self.below.cat_file(path) for path in self.below.find(self.root)}
            assert stored == {self.path(name): bytes(content) for name, content in self.model.items()}
        finally:
            self.fs.close(timeout=60.0, on_failed="discard")
            MemoryFileSystem.store.clear()
            MemoryFileSystem.pseudo_dirs[:] = [""]
            if self.folder is not None:
                shutil.rmtree(self.folder)


class LocalFiles(Files):
    """Changed in place."""

    protocol = "file"


TestObjects = pytest.mark.timeout(300)(Files.TestCase)
TestObjects.settings = settings(max_examples=25, stateful_step_count=30)

TestLocalFiles = pytest.mark.timeout(300)(LocalFiles.TestCase)
TestLocalFiles.settings = settings(max_examples=25, stateful_step_count=30)
