"""Content and pending changes of an object that the store below does not have yet, in memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from pagecache.backends.protocol import BackendLimits

__all__ = ["Change", "Uncommitted", "read_all"]


@dataclass(slots=True)
class Change:
    """One change of an object by one call: bytes at an offset, a size, or a hole."""

    kind: Literal["write", "truncate", "punch"]
    offset: int
    data: bytes = b""
    length: int = 0

    def on(self, content: bytearray) -> None:
        """Apply the change to bytes in memory."""
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
        """Apply the change to an object of the inner backend."""
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
class Uncommitted:
    """One object: its current `content`, and the `changes` that the inner backend does not have yet."""

    inner: Any = None  # the object in the inner backend; None: created only here
    version: str | None = None  # changes with the content only, not when pending changes are carried over
    content: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)
    visible: bool = True

    def changed(self) -> None:
        """Give the object a new version, after a change of its content."""
        self.version = f"apart {next(VERSIONS)}"


def read_all(file: Any, limits: BackendLimits) -> bytearray:
    """Read the whole content of an object."""
    unit, most = int(limits.read_unit), int(limits.max_read)
    content = bytearray()
    while True:
        room = bytearray(max(unit, most))
        count = file.read_into(len(content), [memoryview(room)])
        content += room[:count]
        if not count or len(content) % unit:
            return content
