"""Bytes with checksums, as a disk tier keeps them: see `_native/memory/checked.c`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .extension import ffi, lib

BLOCK = 4096
"""Bytes that have one checksum."""
checked_size = lib.pc_checked_size
"""checked_size(length): return the bytes that an extent of this length takes in a file."""


@contextmanager
def _parts(buffers: Sequence[memoryview]) -> Iterator[Any]:
    """Context of a C array of pieces of memory. At its end nothing holds that memory, whoever keeps an error."""
    holders: list[Any] = []
    try:
        parts = ffi.new("struct pc_part[]", len(buffers))
        for place, buffer in enumerate(buffers):
            holders.append(ffi.from_buffer(buffer))
            parts[place].memory, parts[place].len = ffi.cast("uint8_t *", holders[-1]), len(buffer)
        yield parts
    finally:
        for holder in holders:
            ffi.release(holder)


def pack(copy: int, offset: int, buffers: Sequence[memoryview], length: int) -> bytearray:
    """Return the first `length` bytes of the buffers with checksums. `copy`: its number; `offset`: in the object."""
    room = bytearray(checked_size(length))
    with _parts(buffers) as parts, ffi.from_buffer(room) as out:
        lib.pc_checked_pack(out, parts, len(buffers), length, copy, offset)
    return room


def read(
    fd: int, pos: int, length: int, copy: int, offset: int, skip: int, buffers: Sequence[memoryview], *, aligned: bool
) -> int:
    """Fill the buffers with bytes of an extent, from its byte `skip` on; return their number.

    Args:
        fd: the file.
        pos: position of the extent there.
        length: of the extent in bytes.
        copy: number that it was packed with.
        offset: that it was packed with.
        skip: bytes of the extent before the wanted ones.
        buffers: where the bytes go.
        aligned: the file is open with O_DIRECT.

    Raises:
        OSError: of the file; EILSEQ: the bytes are not those that were packed. The buffers are undefined then.
    """
    with _parts(buffers) as parts:
        done = int(lib.pc_checked_read(fd, pos, length, copy, offset, skip, parts, len(buffers), aligned))
    if done < 0:
        what = "the bytes on disk are not those that were written" if -done == errno.EILSEQ else os.strerror(-done)
        raise OSError(-done, what)
    return done
