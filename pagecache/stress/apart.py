"""What of an object is apart, in memory, and not in the store beneath: it as a whole, and its changes in order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from pagecache.backends.protocol import BackendLimits

__all__ = ["Apart", "Change", "read_all"]


@dataclass(slots=True)
class Change:
    """What one call did to an object: bytes at an offset, or a size, or a hole."""

    kind: Literal["write", "truncate", "punch"]
    offset: int
    data: bytes = b""
    length: int = 0

    def on(self, content: bytearray) -> None:
        """Do it to bytes in memory."""
        end = self.offset + (len(self.data) if self.kind == "write" else self.length)
        if self.kind == "write":
            content.extend(bytes(max(0, end - len(content))))
            content[self.offset : end] = self.data
        elif self.kind == "truncate":
            content.extend(bytes(max(0, self.offset - len(content))))
            del content[self.offset :]
        else:
            end = min(end, len(content))
            content[self.offset : end] = bytes(max(0, end - self.offset))

    def to(self, file: Any) -> None:
        """Do it to an object of the inner backend."""
        if self.kind == "truncate":
            file.truncate(self.offset)
        elif self.kind == "punch":
            file.punch_hole(self.offset, self.length)
        else:
            done = 0
            while done < len(self.data):
                done += file.write_from(self.offset + done, [memoryview(self.data)[done:].toreadonly()])


VERSIONS = itertools.count(1)


@dataclass(slots=True, eq=False)
class Apart:
    """One object: what it is (`content`), and what of that the inner backend does not have yet (`changes`)."""

    inner: Any = None  # its object there; None: it was only created here
    version: str | None = None  # it changes with the content alone, not when that is carried over
    content: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)
    visible: bool = True

    def changed(self) -> None:
        """Its content is another."""
        self.version = f"apart {next(VERSIONS)}"


def read_all(file: Any, limits: BackendLimits) -> bytearray:
    """The whole content of an object."""
    unit, most = int(limits.read_unit), int(limits.max_read)
    content = bytearray()
    while True:
        room = bytearray(max(unit, most))
        count = file.read_into(len(content), [memoryview(room)])
        content += room[:count]
        if not count or len(content) % unit:
            return content
