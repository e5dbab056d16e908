"""A model of `resolve(key, "rebase")`: of each byte, whether this program has written it since the last commit.

content    |abcdefghijklmn|        what the file shows
written    |..####....##..|        laid over the other version; every other byte is that version's
"""

from __future__ import annotations

import random
from typing import Any

__all__ = ["Written"]

END = 40_000
LENGTHS = (1, 7, 100, 3000, 4096, 4097, 9000)


class Written:
    """A file of a cache, changed at random, and what is known of it."""

    def __init__(self, file: Any, base: bytes, seed: int, *, holes: bool = False) -> None:
        """`holes`: the store has holes, which are no writes; none is made then."""
        self.file = file
        zeros = self.read if holes else self.punch
        self.steps = (self.write,) * 6 + (self.append, self.read, self.cut, zeros, self.flush)
        self.random = random.Random(seed)
        self.content = bytearray(base)
        self.written = bytearray(len(base))

    def change(self, steps: int) -> None:
        for _ in range(steps):
            self.random.choice(self.steps)()
            assert self.file.size == len(self.content)
        if self.random.random() < 0.5:
            self.file.fsync()
            self.written = bytearray(len(self.content))
            for _ in range(steps // 4):
                self.random.choice((self.write, self.write, self.append, self.flush))()

    def write(self) -> None:
        pos, length = self.random.randrange(END), self.random.choice(LENGTHS)
        self.put(pos - pos % 4096 if self.random.random() < 0.3 else pos, length)

    def append(self) -> None:
        self.put(len(self.content), self.random.choice(LENGTHS))

    def put(self, pos: int, length: int) -> None:
        """Write and remember: a gap is not written."""
        data = self.random.randbytes(length)
        self.file.pwrite(data, pos)
        for known, new in ((self.content, data), (self.written, b"\1" * length)):
            known.extend(bytes(max(0, pos + length - len(known))))
            known[pos : pos + length] = new

    def read(self) -> None:
        pos, length = self.random.randrange(END), self.random.choice(LENGTHS)
        assert self.file.pread(length, pos) == self.content[pos : pos + length]

    def cut(self) -> None:
        size = max(0, len(self.content) + self.random.choice((-5000, -100, 100, 5000)))
        self.file.truncate(size)
        for known in (self.content, self.written):
            del known[size:]
            known.extend(bytes(size - len(known)))

    def punch(self) -> None:
        """Write zeros, as in every store without holes."""
        pos, length = self.random.randrange(END), self.random.choice(LENGTHS)
        end = min(pos + length, len(self.content))
        if pos < end:
            self.file.punch_hole(pos, end - pos)
            self.content[pos:end] = bytes(end - pos)
            self.written[pos:end] = b"\1" * (end - pos)

    def flush(self) -> None:
        self.file.flush()

    def over(self, theirs: bytes) -> bytes:
        """Return what the rebase has to store."""
        end = self.written.rfind(1) + 1
        found = bytearray(theirs.ljust(end, b"\0"))
        for pos in range(end):
            if self.written[pos]:
                found[pos] = self.content[pos]
        return bytes(found)

    def replaced(self, theirs: bytes) -> list[int]:
        """Return the bytes of the other version that differ from what was written there."""
        end = min(len(theirs), len(self.content))
        return [pos for pos in range(end) if self.written[pos] and self.content[pos] != theirs[pos]]
