"""A file system of the tests with a backend over it, seen from both sides."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pagecache.backends.fsspec import FsspecBackend
from tests.fsspec_below.stores import Elsewhere, Parts

LARGE = 3 << 20
OLD = random.Random(1).randbytes(LARGE)


def put(file: Any, offset: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += file.write_from(offset + done, [memoryview(data)[done : done + (1 << 20)]])


def get(file: Any, offset: int, length: int) -> bytes:
    room = bytearray(length)
    return bytes(room[: file.read_into(offset, [memoryview(room)])])


class Place:
    """A file system, and its content."""

    def __init__(self, fs: Any, root: str, **options: Any) -> None:
        self.fs, self.root = fs, root
        self.backend: Any = FsspecBackend(fs, root, **options)

    def names(self) -> list[str]:
        """The names of all objects, past the backend."""
        if isinstance(self.fs, Elsewhere):
            return sorted(str(path.relative_to(self.root)) for path in Path(self.root).rglob("*") if path.is_file())
        return sorted(self.fs.objects)

    def put(self, name: str, content: bytes) -> None:
        if isinstance(self.fs, Elsewhere):
            fresh = Path(self.root, f"{name}.new")
            fresh.write_bytes(content)
            fresh.rename(Path(self.root, name))
        else:
            self.fs.put(f"{self.root}/{name}", content)

    def take_away(self, name: str) -> None:
        """Remove as another client does."""
        if isinstance(self.fs, Elsewhere):
            Path(self.root, name).unlink()
        else:
            del self.fs.objects[f"{self.root}/{name}"]

    def content(self, name: str) -> bytes | None:
        if isinstance(self.fs, Elsewhere):
            path = Path(self.root, name)
            return path.read_bytes() if path.exists() else None
        found: bytes | None = self.fs.content(f"{self.root}/{name}")
        return found


def storing(place: Place, size: int) -> str:
    """The method that stores an object of this size."""
    if isinstance(place.fs, Parts):
        return "upload"
    return "pipe_file" if size <= 1 << 20 else "put_file"
