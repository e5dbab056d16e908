"""The sides of the comparison: one plan through the cache, straight on a backend, and by plain Python file operations.

Each method is a plain loop of the calls that a program would write; its arguments are computed before, so that the
clock around it covers only the calls. The plain side uses `open()` with its default buffer.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

from pagecache import PageCache
from pagecache.backends import Backend, BackendFile
from pagecache.cli.demo.plan import Edit, Piece

Batch = Sequence[tuple[str, Sequence[Piece]]]  # key and pieces of each file
Edits = Sequence[tuple[int, Edit]]  # number of the file in its batch, edit


class Side(Protocol):
    """One way to do the job."""

    name: str

    def copy(self, batch: Batch) -> None:
        """Copy files piece by piece."""
        ...

    def edit(self, keys: Sequence[str], edits: Edits) -> None:
        """Edit files that are open together."""
        ...

    def open(self, key: str) -> Any:
        """Open a copy for reading; the result goes to `read` and has a `close`."""
        ...

    def read(self, file: Any, pieces: Sequence[Piece]) -> list[bytes]:
        """Read pieces of an open copy."""
        ...

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        ...

    def close(self) -> None:
        """End the side; after `sync`, nothing is left to write."""
        ...


class CachedSide:
    """The cached side, through two volumes of one cache: the tree and its copy."""

    name = "cache"

    def __init__(self, cache: PageCache, source: Backend, target: Backend) -> None:
        self.cache = cache
        self.source = cache.attach(source, name="source", read_only=True)
        self.target = cache.attach(target, name="copy")

    def copy(self, batch: Batch) -> None:
        for key, pieces in batch:
            with self.source.open(key, "rb") as source, self.target.open(key, "wb") as target:
                for offset, length in pieces:
                    target.pwrite(source.pread(length, offset), offset)

    def edit(self, keys: Sequence[str], edits: Edits) -> None:
        files = [self.target.open(key, "r+b") for key in keys]
        try:
            for number, edit in edits:
                file = files[number]
                if edit.kind == "append":
                    file.append(edit.data)
                elif edit.kind == "truncate":
                    file.truncate(edit.offset)
                else:
                    file.pwrite(edit.data, edit.offset)
        finally:
            for file in files:
                file.close()

    def open(self, key: str) -> Any:
        return self.target.open(key, "rb")

    def read(self, file: Any, pieces: Sequence[Piece]) -> list[bytes]:
        return [file.pread(length, offset) for offset, length in pieces]

    def sync(self) -> None:
        self.target.sync()

    def close(self) -> None:
        self.cache.close()


class DirectSide:
    """The side without the cache: each read and write is a call of the backend."""

    name = "direct calls"

    def __init__(self, source: Backend, target: Backend) -> None:
        self.source = source
        self.target = target
        self.written: list[str] = []

    def copy(self, batch: Batch) -> None:
        for key, pieces in batch:
            self.written.append(key)
            with closing(found(self.source, key)) as source, closing(made(self.target, key)) as target:
                for offset, length in pieces:
                    target.write_from(offset, [memoryview(read_piece(source, offset, length))])

    def edit(self, keys: Sequence[str], edits: Edits) -> None:
        with ExitStack() as stack:
            files = [stack.enter_context(closing(found(self.target, key))) for key in keys]
            for number, edit in edits:
                if edit.kind == "truncate":
                    files[number].truncate(edit.offset)
                else:
                    files[number].write_from(edit.offset, [memoryview(edit.data)])

    def open(self, key: str) -> Any:
        return found(self.target, key)

    def read(self, file: Any, pieces: Sequence[Piece]) -> list[bytes]:
        return [read_piece(file, offset, length) for offset, length in pieces]

    def sync(self) -> None:
        for key in self.written:
            with closing(found(self.target, key)) as file:
                file.commit()

    def close(self) -> None:
        self.source.close()
        self.target.close()


def found(backend: Backend, key: str) -> Any:
    """Open an existing object, as `open()` does: it looks it up."""
    backend.stat(key)
    return backend.open(key)


def made(backend: Backend, key: str) -> Any:
    """Open a new object."""
    return backend.open(key, create=True)


def read_piece(file: BackendFile, offset: int, length: int) -> bytes:
    """Read one piece by one call of the backend."""
    data = bytearray(length)
    return bytes(data[: file.read_into(offset, [memoryview(data)])])


class PlainSide:
    """The plain side: `open`, `seek`, `read`, `write`, `truncate`, `os.fsync`."""

    name = "plain files"

    def __init__(self, source: Path, target: Path) -> None:
        self.source = source
        self.target = target
        self.written: list[str] = []

    def copy(self, batch: Batch) -> None:
        for key, pieces in batch:
            self.written.append(key)
            with open(self.source / key, "rb") as source, open(self.target / key, "wb") as target:
                for _, length in pieces:
                    target.write(source.read(length))

    def edit(self, keys: Sequence[str], edits: Edits) -> None:
        files = [open(self.target / key, "r+b") for key in keys]  # noqa: SIM115 - closed below, many at once
        try:
            for number, edit in edits:
                file = files[number]
                if edit.kind == "append":
                    file.seek(0, os.SEEK_END)
                    file.write(edit.data)
                elif edit.kind == "truncate":
                    file.truncate(edit.offset)
                else:
                    file.seek(edit.offset)
                    file.write(edit.data)
        finally:
            for file in files:
                file.close()

    def open(self, key: str) -> Any:
        return open(self.target / key, "rb")

    def read(self, file: Any, pieces: Sequence[Piece]) -> list[bytes]:
        found = []
        for offset, length in pieces:
            file.seek(offset)
            found.append(file.read(length))
        return found

    def sync(self) -> None:
        """Sync each file and each directory once, as the cache does."""
        for key in self.written:
            sync_path(self.target / key)
        for folder in {os.path.dirname(key) for key in self.written}:
            sync_path(self.target / folder)

    def close(self) -> None:
        pass


def sync_path(path: Path) -> None:
    """Fsync a file or a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
