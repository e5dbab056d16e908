"""File systems of fsspec for the tests: an asynchronous one that stores whole objects, one that uploads in parts
through open files as many real ones do, and a local one of a class unknown to the backend.

`before` and `after` map names of methods to functions. They are called with the path before or after the method has
done its work, and may raise. `calls` has every method that was called, with its path.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

Hook = Callable[[str], None]


class Hooks:
    """The test's hooks."""

    def __init__(self) -> None:
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.calls: list[tuple[str, str]] = []
        self.threads: set[str] = set()

    def met(self, when: dict[str, Hook], method: str, path: str) -> None:
        if when is self.before:
            self.calls.append((method, path))
            self.threads.add(threading.current_thread().name)
        if method in when:
            when[method](path)


def once(error: BaseException) -> Hook:
    """A function that raises the first time."""
    left = [error]

    def hook(path: str) -> None:
        if left:
            raise left.pop()

    return hook


class Whole(AsyncFileSystem):
    """Objects in a dictionary; a blocking instance or an asynchronous one.

    `tells`: the infos in addition to the size: "ETag", "mtime" (whole seconds of `clock`), or nothing.
    """

    protocol = "whole"
    cachable = False

    def __init__(self, tells: str = "ETag", **options: Any) -> None:
        super().__init__(**options)
        self.tells = tells
        self.hooks = Hooks()
        self.objects: dict[str, tuple[bytes, int, int]] = {}  # content, number of the version, time
        self.serial = self.clock = 100
        self.listed: dict[str, dict[str, Any]] = {}
        self.ranges = self.sizes = True

    def put(self, path: str, content: bytes) -> None:
        """Store, as another client does."""
        self.serial += 1
        self.objects[path] = (content, self.serial, self.clock)

    def content(self, path: str) -> bytes | None:
        return self.objects[path][0] if path in self.objects else None

    def invalidate_cache(self, path: str | None = None) -> None:
        if path is None:
            self.listed.clear()
        self.listed.pop(path or "", None)

    def _entry(self, path: str) -> dict[str, Any]:
        content, serial, time = self.objects[path]
        extra = {"ETag": f'"{serial}"'} if self.tells == "ETag" else {"mtime": time} if self.tells == "mtime" else {}
        return {"name": path, "type": "file", "size": len(content) if self.sizes else None, **extra}

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        self.hooks.met(self.hooks.before, "info", path)
        if path in self.listed:
            return self.listed[path]
        if path in self.objects:
            return self._entry(path)
        if any(name.startswith(f"{path}/") for name in self.objects):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        self.hooks.met(self.hooks.before, "ls", path)
        start = f"{path}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(self.objects):
            if name.startswith(start):
                first, more, _ = name[len(start) :].partition("/")
                entry = {"name": start + first, "type": "directory", "size": 0} if more else self._entry(name)
                found.setdefault(start + first, entry)
                if not more:
                    self.listed[name] = entry
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.hooks.met(self.hooks.before, "cat_file", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        content = self.objects[path][0]
        self.hooks.met(self.hooks.after, "cat_file", path)
        if start and start >= len(content):
            raise OSError(errno.EINVAL, "The requested range is not satisfiable")  # as s3fs does
        return content[start:end] if self.ranges else content

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.put(path, value[: len(value) // 2])  # the state that others could see in between
        self.hooks.met(self.hooks.before, "pipe_file", path)
        self.put(path, value)
        self.hooks.met(self.hooks.after, "pipe_file", path)

    async def _put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **options: Any) -> None:
        with open(lpath, "rb") as file:
            content = file.read()
        self.put(rpath, content[: len(content) // 2])
        self.hooks.met(self.hooks.before, "put_file", rpath)
        self.put(rpath, content)

    async def _cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self.hooks.met(self.hooks.before, "cp_file", path2)
        self.put(path2, self.objects[path1][0])
        self.hooks.met(self.hooks.after, "cp_file", path2)

    async def _rm_file(self, path: str, **options: Any) -> None:
        self.hooks.met(self.hooks.before, "rm_file", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        del self.objects[path]
        self.listed.pop(path, None)
        self.hooks.met(self.hooks.after, "rm_file", path)


class Moves(Whole):
    """As gcsfs: `_mv_file` is one request, and `mv` is that of fsspec, which copies and removes by pattern."""

    async def _mv_file(self, path1: str, path2: str, **options: Any) -> None:
        self.hooks.met(self.hooks.before, "mv_file", path2)
        if path1 not in self.objects:
            raise FileNotFoundError(path1)
        self.objects[path2] = self.objects.pop(path1)


class Parts(fsspec.AbstractFileSystem):
    """Objects in a dictionary, read and written through open files: written bytes are there once these are closed."""

    protocol = "parts"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hooks = Hooks()
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.serial = 0
        self.open_files = 0
        self.lock = threading.Lock()

    def put(self, path: str, content: bytes) -> None:
        with self.lock:
            self.serial += 1
            self.objects[path] = (content, self.serial)

    def content(self, path: str) -> bytes | None:
        found = self.objects.get(path)
        return None if found is None else found[0]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        objects = dict(self.objects)
        if path in objects:
            content, serial = objects[path]
            return {"name": path, "type": "file", "size": len(content), "generation": serial}
        if any(name.startswith(f"{path}/") for name in objects):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        start = f"{path}/" if path else ""
        names = {start + name[len(start) :].partition("/")[0] for name in dict(self.objects) if name.startswith(start)}
        return [self.info(name) for name in sorted(names)] if detail else sorted(names)

    def _rm(self, path: str) -> None:
        if self.objects.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(path)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        content = self.content(path1)
        if content is None:
            raise FileNotFoundError(path1)
        self.put(path2, content)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> PartsFile:
        return PartsFile(self, path, mode, block_size=64 << 10)


class PartsFile(AbstractBufferedFile):
    def __init__(self, fs: Parts, path: str, mode: str, **options: Any) -> None:
        self.parts: list[bytes] = []
        super().__init__(fs, path, mode, **options)
        fs.open_files += mode == "rb"

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fs.hooks.met(self.fs.hooks.before, "fetch", f"{self.path}:{start}-{end}")
        content: bytes | None = self.fs.content(self.path)
        if content is None:
            raise FileNotFoundError(self.path)
        return content[start:end]

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs.hooks.met(self.fs.hooks.before, "upload", self.path)
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.put(self.path, b"".join(self.parts))
        return True

    def close(self) -> None:
        self.fs.open_files -= self.mode == "rb" and not self.closed
        super().close()


class Elsewhere(LocalFileSystem):
    """Local files, by a class that is not fsspec's own: so the backend does not write them in place.

    `moves`: "really", or "not": the call silently does nothing if the name is taken.
    """

    protocol = "elsewhere"
    cachable = False

    def __init__(self, moves: str = "really", **options: Any) -> None:
        super().__init__(**options)
        self.moves = moves
        self.hooks = Hooks()

    def put_file(self, path1: str, path2: str, callback: Any = None, **options: Any) -> None:
        with open(path1, "rb") as source, open(path2, "wb") as target:
            target.write(source.read(os.path.getsize(path1) // 2))
            target.flush()
            self.hooks.met(self.hooks.before, "put_file", path2)
            shutil.copyfileobj(source, target)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        with open(path, "wb") as target:
            target.write(value[: len(value) // 2])
            target.flush()
            self.hooks.met(self.hooks.before, "pipe_file", path)
            target.write(value[len(value) // 2 :])

    def mv(self, path1: str, path2: str, recursive: bool = True, **options: Any) -> None:
        self.hooks.met(self.hooks.before, "mv", path2)
        if self.moves == "really" or not os.path.exists(path2):
            os.rename(path1, path2)
        self.hooks.met(self.hooks.after, "mv", path2)


class Streams(fsspec.AbstractFileSystem):
    """Objects that can be read from the beginning only."""

    protocol = "streams"
    cachable = False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "type": "file", "size": 100, "mtime": 1.5}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError
        return Stream(bytes(100))


class Stream(io.BytesIO):
    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("seek")
