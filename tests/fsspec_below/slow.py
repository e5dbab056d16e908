"""A far store: objects in a directory of this machine. Each call takes a set time and is counted.

It is like an object store below fsspec: ranges are read, objects are stored as a whole, each object has an ETag. Calls
sleep side by side, as requests do; their bytes cost no more than copying a local file.
"""

import os
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


@dataclass(slots=True)
class Traffic:
    """The traffic of a store: calls by name, and bytes in both directions."""

    by_name: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def calls(self) -> int:
        """The number of all calls."""
        return self.by_name.total()

    @property
    def bytes_moved(self) -> int:
        """Bytes in both directions."""
        return self.bytes_read + self.bytes_written


class SlowFileSystem(AbstractFileSystem):
    """Objects of a local directory, by their absolute path.

    Args:
        latency: Seconds that each call takes, whatever it does.
    """

    protocol = "slow"
    root_marker = "/"
    cachable = False  # each instance has separate traffic

    def __init__(self, latency: float = 0.020, **options: Any) -> None:
        super().__init__(**options)
        self.latency = latency
        self._lock = threading.Lock()  # guards the traffic
        self._traffic = Traffic()

    def reset(self) -> Traffic:
        """Restart the counts; return the old ones."""
        with self._lock:
            counted, self._traffic = self._traffic, Traffic()
        return counted

    def _call(self, name: str, read: int = 0, written: int = 0) -> None:
        with self._lock:
            self._traffic.by_name[name] += 1
            self._traffic.bytes_read += read
            self._traffic.bytes_written += written
        time.sleep(self.latency)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self._call("info")
        return self._entry(self._strip_protocol(path))

    def _entry(self, path: str) -> dict[str, Any]:
        found = os.stat(path)
        if os.path.isdir(path):
            return {"name": path, "size": 0, "type": "directory"}
        tag = f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"
        return {"name": path, "size": found.st_size, "type": "file", "ETag": tag}

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        self._call("ls")
        path = self._strip_protocol(path)
        names = sorted(one.path for one in os.scandir(path)) if os.path.isdir(path) else [path]
        return [self._entry(name) for name in names] if detail else names

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        path = self._strip_protocol(path)
        size = os.stat(path).st_size
        first, last, _ = slice(start, end).indices(size)
        with open(path, "rb") as file:
            data = os.pread(file.fileno(), max(0, last - first), first)
        self._call("cat_file", read=len(data))
        return data

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **options: Any) -> None:
        rpath = self._strip_protocol(rpath)
        shutil.copyfile(rpath, lpath)
        self._call("get_file", read=os.stat(lpath).st_size)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        path = self._strip_protocol(path)
        self._call("pipe_file", written=len(value))
        with open(f"{path}.new", "wb") as file:
            file.write(value)
        os.replace(f"{path}.new", path)

    def put_file(self, lpath: Any, rpath: str, callback: Any = None, mode: str = "overwrite", **options: Any) -> None:
        rpath = self._strip_protocol(rpath)
        self._call("put_file", written=os.stat(lpath).st_size)
        shutil.copyfile(lpath, f"{rpath}.new")
        os.replace(f"{rpath}.new", rpath)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        self._call("mv")
        os.replace(self._strip_protocol(path1), self._strip_protocol(path2))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self._call("cp_file")
        shutil.copyfile(self._strip_protocol(path1), self._strip_protocol(path2))

    def rm_file(self, path: str) -> None:
        self._call("rm_file")
        os.remove(self._strip_protocol(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._call("makedirs")
        os.makedirs(self._strip_protocol(path), exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        self._call("rmdir")
        os.rmdir(self._strip_protocol(path))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> "SlowFile":
        if mode != "rb":
            raise ValueError(f"mode {mode!r} is not 'rb': objects are stored by pipe_file and put_file")
        options.pop("autocommit", None)
        return SlowFile(self, path, mode, block_size or "default", **options)


class SlowFile(AbstractBufferedFile):
    """An object that is read through one of fsspec's caches."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = self.fs.cat_file(self.path, start, end)
        return found
