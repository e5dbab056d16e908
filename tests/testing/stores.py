"""A faulty backend with one object."""

from __future__ import annotations

from typing import Any

from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, Rule

DATA = memoryview(bytes(range(100)))


class Store:
    """An object "a" of 100 bytes, with faults."""

    def __init__(self, *rules: Rule) -> None:
        self.memory = MemoryBackend()
        self.memory.put("a", bytes(DATA))
        self.faulty = self.backend = FaultyBackend(self.memory)
        self.file: Any = self.backend.open("a")
        self.faulty.calls.clear()
        self.faulty.use(rules)

    def content(self) -> bytes:
        return self.memory.snapshot("a")

    def write(self, data: bytes = b"new", offset: int = 0) -> int:
        return int(self.file.write_from(offset, [memoryview(data)]))
