"""A tier that is as large as wanted and takes no space: its segments are sparse, its catalogue is complete."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

from pagecache.disk.catalogue import SAVE_CHUNK, SAVE_COPY, Catalogue, _row, _sealed
from pagecache.disk.copies import CHUNK, COLUMNS
from pagecache.native.checked import checked_size

EXTENT = 64 << 10
PER_CHUNK = CHUNK // EXTENT


def stand_in(folder: Path, chunks: int, *, volume: str = "memory:") -> None:
    """Make a tier that lists so many chunks of 64 MiB, each of another object and of extents of 64 KiB."""
    folder.mkdir(mode=0o700)
    taken = int(checked_size(EXTENT))
    catalogue = Catalogue(str(folder))
    numbers = range(PER_CHUNK)
    ranges = [[each * EXTENT for each in numbers], *([value] * PER_CHUNK for value in (EXTENT, 0, EXTENT))]
    before = b"".join(array(code, values).tobytes() for code, values in zip(COLUMNS, ranges, strict=False))
    with catalogue._transaction():
        for number in range(1, chunks + 1):
            addresses = array(COLUMNS[4], [number << 32 | each * taken for each in numbers])
            packed, high = before + addresses.tobytes(), addresses[-1]
            catalogue._saver.execute(SAVE_COPY, _row(number, volume, b"s%d" % number, "1", high))
            catalogue._saver.execute(SAVE_CHUNK, (number, 0, high, _sealed(packed, number, 0)))
            fd = os.open(folder / f"{number:016x}.clean", os.O_WRONLY | os.O_CREAT, 0o600)
            os.ftruncate(fd, PER_CHUNK * taken)
            os.close(fd)
    catalogue.close()
