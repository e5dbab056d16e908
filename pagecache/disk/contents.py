"""What is in the directory of a disk tier that no process uses: `pagecache disk`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ..native import checked
from .catalogue import Catalogue
from .copies import CHUNK, Chunk
from .segments import Segments
from .tier import leave, occupy

__all__ = ["Contents", "Held", "contents"]

PIECE = 1 << 20
"""Bytes that are verified at a time."""


@dataclass(slots=True)
class Held:
    """What the tier has of one store.

    Attributes:
        objects: with a copy.
        bytes: that can be read.
        damaged: bytes whose checksum does not fit; only if everything was verified.
    """

    objects: int = 0
    bytes: int = 0
    damaged: int = 0


@dataclass(slots=True)
class Contents:
    """What a tier has.

    Attributes:
        size: bytes of its files.
        volumes: by the name of the store.
        unsaved: bytes that no store has.
    """

    size: int = 0
    volumes: dict[str, Held] = field(default_factory=dict)
    unsaved: int = 0


def contents(path: str, *, check: bool = False, progress: Callable[[int], None] = lambda _: None) -> Contents:
    """Return what a tier has; nothing is changed.

    Args:
        path: its directory.
        check: verify every checksum.
        progress: called with the number of bytes verified so far.

    Raises:
        OSError: no such directory, or it cannot be read; EBUSY: a process uses it.
        ValueError: it is no tier, or of another format.
    """
    if not os.path.isdir(path):
        raise FileNotFoundError(2, "no such directory", path)
    mark = occupy(path, make=False)
    try:
        catalogue = Catalogue(path)
        if catalogue.damaged:
            return Contents(size=_size(path))
        try:
            segments = Segments(path, 0, 0, aligned=False, others=lambda: 0, report=lambda _: None, last=catalogue.last)
            found = Contents(size=_size(path))
            room, seen = memoryview(bytearray(PIECE)), 0
            for volume, number, chunk, ranges in catalogue.all():
                held = found.volumes.setdefault(volume, Held())
                held.objects += chunk is None
                for begin, length, skip, extent, address in Chunk(ranges, segments.is_live).entries():
                    held.bytes += length
                    if check:
                        offset = (chunk or 0) * CHUNK + begin - skip
                        held.damaged += _damaged(segments, number, offset, skip, length, extent, address, room)
                        seen += length
                        progress(seen)
            return found
        finally:
            catalogue.close()
    finally:
        leave(mark)


def _damaged(
    segments: Segments, copy: int, offset: int, skip: int, length: int, extent: int, address: int, room: memoryview
) -> int:
    """Return how many of the visible bytes of an extent cannot be read, to blocks."""
    damaged = 0
    while length:
        piece = min(length, checked.BLOCK - skip % checked.BLOCK)
        try:
            done = segments.read(address, extent, copy, offset, skip, [room[:piece]])
        except OSError:
            done = None
        damaged += piece if done is None else 0
        skip, length = skip + piece, length - piece
    return damaged


def _size(path: str) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
