"""Defective file systems below the cache."""

from __future__ import annotations

import threading
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import register_implementation

from tests.fsspec_below.stores import Whole


class OwnMemory(MemoryFileSystem):
    """Memory that no other instance sees, and that counts requests."""

    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.reads: list[tuple[str, int, int]] = []
        self.fail_reads_after: int | None = None
        self.full = False
        self._lock = threading.Lock()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if self.full and mode[0] in "wax":
            raise OSError(28, "No space left on device", path)
        return super()._open(path, mode, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        with self._lock:
            self.reads.append((path, start or 0, -1 if end is None else end))
            if self.fail_reads_after is not None and len(self.reads) > self.fail_reads_after:
                raise OSError(5, "the target broke", path)
        data: bytes = super().cat_file(path, start, end, **options)
        return data


class Copies(OwnMemory):
    """Memory that returns many files at once, past the layers above it, as fsspec's own caches do."""

    def open_many(self, files: Any) -> Any:
        return [self.open(file.path, file.mode) for file in files]

    def commit_many(self, files: Any) -> None:
        for file in files:
            file.close()


class Listed(OwnMemory):
    """Memory that remembers its listings, and answers `info` from them."""

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
        found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **options: Any) -> Any:
        path = self._strip_protocol(path)
        for entry in self.dircache.get(self._parent(path), []) if self._parent(path) in self.dircache else []:
            if entry["name"] == path:
                return entry
        return super().info(path, **options)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


class Store(LocalFileSystem):
    """Objects that outlive the process, for several processes: files, which the cache treats as objects."""

    protocol = "store"
    root_marker = "/"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the path: nothing is relative to a working directory."""
        return super()._strip_protocol(path if "://" in path else "/" + path.lstrip("/"))


class Threaded(Whole):
    """Objects of an asynchronous class: a blocking instance has a thread, which a fork does not copy."""

    protocol = "threaded"
    cachable = True


register_implementation("store", Store, clobber=True)
