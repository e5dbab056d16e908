"""The objects below a path of an fsspec file system: keys, and leftovers of dead processes.

`object.py` reads and publishes single objects, `..objects` removes and renames them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...errors import Key, os_error
from ..objects.buckets import ObjectsBackend
from ..objects.names import Names
from ..protocol import BackendLimits, ObjectStat
from .calls import Calls, Unranged, lacks, stat_of
from .object import FsspecObject

STAGE = ".pagecache-stage"
FLAT = frozenset({"memory:", "s3:", "gs:", "abfs:"})
"""Protocols of file systems that are known to have no directories: `a//b` is another object than `a/b`."""
STEP = 4 << 20
"""Largest read of a commit, several of which are in memory."""
LEFT_AFTER = 86400.0
"""Seconds after which an upload has certainly ended."""


class Objects(ObjectsBackend[ObjectStat]):
    """The objects below a path of a file system, accessed through `calls`."""

    def __init__(self, calls: Calls, root: str, limits: BackendLimits, publish: str, options: dict[str, Any]) -> None:
        self.requests = self.calls = calls
        self.fs, self.where = calls.fs, calls.name
        self.root = root.rstrip("/")
        self.publish = publish
        self.spool: str | None = options["spool"]
        self.check_reads: bool = options["check_reads"]
        why = lacks(calls.fs, moves=publish == "move")
        self.why_read_only = "" if why is None else f"{calls.name} objects can only be read: {why}"
        self.limits = replace(limits, read_only=limits.read_only or why is not None)
        self.step = min(int(limits.max_read), STEP)
        self.names: Names[ObjectStat] = Names(calls)
        self._lock = threading.Lock()  # guards the next
        self._prepared: set[str] = set()  # stage directories that were cleaned, and made where that is possible
        self._reads_ranges = False  # a ranged read was tried
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    # ---------------------------------------------------------------- keys

    def canonical(self, key: Key) -> Key:
        path = os.fspath(key) if isinstance(key, str | os.PathLike) else None
        if not isinstance(path, str):
            raise ValueError(f"{key!r} is not a key of a file system: it must be a str or an os.PathLike of str")
        if "\0" in path:
            raise ValueError(f"{key!r} is not a key of a file system: it has a NUL character")
        if "://" in path and not self.root:
            return path
        if path.startswith("/"):
            raise ValueError(f"{key!r} is not a key of a file system: it is absolute")
        spelled = path.split("/")
        parts = [part for part in spelled if part not in ("", ".")]
        if ".." in parts:
            raise ValueError(f"{key!r} is not a key of a file system: it has a '..'")
        if not parts:
            raise ValueError(f"{key!r} is not a key of a file system: it names no object")
        if STAGE in parts:
            raise ValueError(f"{key!r} is not a key of a file system: {STAGE} is the backend's own")
        if parts != spelled and self.calls.name in FLAT:
            raise ValueError(f"{key!r} is not a key of {self.calls.name}//: it has an empty part, or '.'")
        return "/".join(parts)

    def _is_key(self, name: str) -> bool:
        """Return whether a listed name is the key of its object: one with an empty part or "." leads to another."""
        with contextlib.suppress(ValueError):
            return self.canonical(name) == name
        return False

    def _name(self, key: Key) -> str:
        """Return the path in the file system."""
        name = str(self.canonical(key))
        path: str = self.fs._strip_protocol(name if "://" in name and not self.root else self._whole(name))
        return path

    def _whole(self, name: str) -> str:
        """Return an absolute path: without the root marker it may be relative to a login directory."""
        return f"{self.root}/{name}" if self.root else f"{self.fs.root_marker}{name}"

    # ---------------------------------------------------------------- objects by name

    def open(
        self, key: Key, *, create: bool = False, exclusive: bool = False, seen: ObjectStat | None = None
    ) -> FsspecObject:
        """Open an object. `seen`: a version that is believed to be stored still."""
        path, base = self._name(key), self._base(key, create, exclusive, seen)
        if base is not None and base.size > 1:
            with self.calls.about(key):
                self._try_ranges(path)
        file = FsspecObject(self, key, path, base)
        self.names.add(file)
        return file

    def _try_ranges(self, path: str) -> None:
        """Try to read one byte of an object, once; UnsupportedOperation: ranges cannot be read."""
        if self._reads_ranges:
            return
        reader = self.calls.reader(path)
        try:
            done = reader.read(1, [memoryview(bytearray(1))])
        except (ValueError, TypeError, NotImplementedError, io.UnsupportedOperation) as error:
            if isinstance(error, Unranged):
                raise
            raise Unranged(f"{self.calls.name} cannot read ranges: {error}") from error
        finally:
            reader.close()
        self._reads_ranges = done == 1

    def stat(self, key: Key) -> ObjectStat:
        path = self._name(key)
        with self.calls.about(key):
            self.names.settle(path)
            found = self.calls.found(path)
            if found is None:
                raise os_error(errno.ENOENT, key)
            return found

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Yield the objects whose key starts with `prefix`, sorted by key."""
        if "\0" in prefix or prefix.startswith("/") or ".." in prefix.split("/"):
            return
        where, below = self._folder(prefix.rpartition("/")[0])
        with self.calls.about(prefix):
            try:
                infos = self.calls.find(where)
            except FileNotFoundError:
                return
        for path in sorted(infos):
            key = path[below:]
            if key.startswith(prefix) and infos[path].get("type") != "directory" and self._is_key(key):
                yield stat_of(infos[path], key)

    def entries(self, directory: str) -> Sequence[ObjectStat]:
        """Return the objects and directories right below a directory, by one listing; empty if there is none."""
        where, below = self._folder(directory)
        with self.calls.about(directory):
            try:
                infos = self.calls.entries(where)
            except (FileNotFoundError, NotADirectoryError):
                return []
        found = {}
        for info in infos:
            name = str(info["name"])
            found[(name.rstrip("/") if info.get("type") == "directory" else name)[below:]] = info
        start = f"{directory}/" if directory else ""
        return [stat_of(found[key], key) for key in sorted(found) if key.startswith(start) and self._is_key(key)]

    def _folder(self, name: str) -> tuple[str, int]:
        """Return the path of a folder, and where keys begin in the paths below it."""
        top: str = self.fs._strip_protocol(self.root) if self.root else self.fs.root_marker
        where = self.fs._strip_protocol(self._whole(name)) if name else top
        return where, len(top.rstrip("/") + "/") if top.strip("/") else len(self.fs.root_marker)

    def close(self) -> None:
        """Remove the directories made for temporary objects, if they are real directories."""
        with self._lock:
            prepared, self._prepared = self._prepared, set()
        for path in prepared if self.calls.renames else ():
            with contextlib.suppress(Exception):
                self.calls.call("rmdir", path)

    # ---------------------------------------------------------------- temporary objects

    def temporary(self, path: str) -> str:
        """Return a name for the next version of an object, in an existing directory."""
        stage = self._stage(path)
        with self._lock:
            new = stage not in self._prepared
            self._prepared.add(stage)
        if new:
            self._clear(stage, LEFT_AFTER)
            if self.calls.renames:
                self.calls.make_directories(stage)
        return f"{stage}/{int(time.time())}-{self._token}-{os.getpid()}-{next(self._numbers)}"

    def _stage(self, path: str) -> str:
        parent = self.fs._parent(path).rstrip("/")
        return f"{parent}/{STAGE}" if parent else f"{self.fs.root_marker}{STAGE}"

    def _clear(self, stage: str, older_than: float) -> int:
        removed = 0
        with contextlib.suppress(Exception):  # it does not exist, or cannot be listed: removal is optional
            for path in (str(info["name"]) for info in self.calls.entries(stage)):
                begun, _, rest = path.rpartition("/")[2].partition("-")
                if begun.isdecimal() and rest and time.time() - int(begun) >= older_than:
                    self.calls.delete(path)
                    removed += 1
        return removed

    def remove_leftovers(self, directory: str = "", older_than: float = LEFT_AFTER) -> int:
        """Remove temporary objects of dead processes from one directory; return their number."""
        name = f"{directory}/x" if directory else "x"
        with self.calls.about(directory):
            return self._clear(self._stage(self._name(name)), older_than)
