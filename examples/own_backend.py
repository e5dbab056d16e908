"""Your own backend: every object is a compressed file, which commit replaces as a whole."""

import os
import threading
import zlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pagecache import Backend, BackendFile, BackendLimits, ObjectStat, PageCache


class ZlibFile(BackendFile):
    def __init__(self, path: Path) -> None:
        self.path, self.data = path, bytearray(zlib.decompress(path.read_bytes()) if path.exists() else b"")

    def stat(self) -> ObjectStat:
        return ObjectStat(size=len(self.data), version=f"{zlib.crc32(bytes(self.data)):08x}")

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        done = 0
        for buffer in buffers:
            part = bytes(self.data[offset + done : offset + done + len(buffer)])
            buffer[: len(part)] = part
            done += len(part)
        return done

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        new = b"".join(buffers)
        self.data += bytes(max(0, offset - len(self.data)))  # a gap reads as zeros
        self.data[offset : offset + len(new)] = new
        return len(new)

    def truncate(self, size: int) -> None:
        self.data = self.data[:size] + bytes(max(0, size - len(self.data)))

    def commit(self) -> str | None:
        with open(f"{self.path}.new", "wb", buffering=0) as file:
            file.write(zlib.compress(self.data))
            os.fsync(file.fileno())
        os.replace(f"{self.path}.new", self.path)
        return self.stat().version


class ZlibBackend(Backend):
    limits = BackendLimits(ordered_writes=True)  # one write of an object at a time: no lock needed

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root, self.lock = Path(root), threading.Lock()
        self.files: dict[Hashable, ZlibFile] = {}

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> ZlibFile:
        path = self.root / f"{key}.z"
        with self.lock:  # one of several exclusive creators wins
            there = key in self.files or path.exists()
            if there and exclusive:
                raise FileExistsError(17, "object exists", key)
            if not there and not create:
                raise FileNotFoundError(2, "no such object", key)
            return self.files.setdefault(key, ZlibFile(path))  # each open returns the same file

    def stat(self, key: Hashable) -> ObjectStat:
        return self.open(key).stat()


if __name__ == "__main__":
    text = b"all work and no play makes jack a dull boy\n" * 10_000
    with TemporaryDirectory() as folder:
        with PageCache("4MiB") as cache, cache.attach(ZlibBackend(folder)).open("novel", "w") as file:
            file.write(text)
            file.fsync()
        stored = (Path(folder) / "novel.z").read_bytes()
    assert zlib.decompress(stored) == text
    print(f"{len(text)} bytes written, {len(stored)} bytes stored")
