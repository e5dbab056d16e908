"""A store written in Python, as small as the protocol allows: objects are bytearrays in a dict."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from pagecache import Backend, BackendLimits, ObjectStat


class DictFile:
    """One object."""

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.content = bytearray()
        self.changes = 0

    def stat(self) -> ObjectStat:
        return ObjectStat(size=len(self.content), version=f"{self.serial}.{self.changes}")

    def read_into(self, offset: int, buffers: Any) -> int:
        done = 0
        for buffer in buffers:
            part = memoryview(self.content)[offset + done : offset + done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done

    def write_from(self, offset: int, buffers: Any) -> int:
        done = 0
        if offset > len(self.content):
            self.content.extend(bytes(offset - len(self.content)))
        for buffer in buffers:
            self.content[offset + done : offset + done + len(buffer)] = buffer
            done += len(buffer)
        self.changes += 1
        return done

    def truncate(self, size: int) -> None:
        self.content[size:] = bytes(max(0, size - len(self.content)))
        self.changes += 1

    def commit(self) -> str:
        return f"{self.serial}.{self.changes}"

    def close(self) -> None:
        pass


class DictBackend(Backend):
    """A dict of objects."""

    def __init__(self, *, prompt: bool) -> None:
        self.limits = BackendLimits(prompt=prompt)
        self._files: dict[str, DictFile] = {}
        self._serials = itertools.count(1)

    def open(self, key: str, *, create: bool = False, exclusive: bool = False) -> DictFile:
        file = self._files.get(key)
        if file is None:
            if not create:
                raise FileNotFoundError(2, "no such object", key)
            return self._files.setdefault(key, DictFile(next(self._serials)))
        if exclusive:
            raise FileExistsError(17, "the object exists", key)
        return file

    def stat(self, key: str) -> ObjectStat:
        try:
            return self._files[key].stat()
        except KeyError:
            raise FileNotFoundError(2, "no such object", key) from None

    def remove(self, key: str) -> None:
        if self._files.pop(key, None) is None:
            raise FileNotFoundError(2, "no such object", key)

    def rename(self, src: str, dst: str, *, replace: bool = True) -> None:
        if src not in self._files:
            raise FileNotFoundError(2, "no such object", src)
        if not replace and dst in self._files:
            raise FileExistsError(17, "the object exists", dst)
        self._files[dst] = self._files.pop(src)

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        for key in sorted(self._files):
            if key.startswith(prefix):
                yield dataclasses.replace(self._files[key].stat(), key=key)
