"""What is in the directory of a disk tier that no process uses: `pagecache disk`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO
from urllib.parse import quote

from ..backends.spool import Ranges
from ..native import checked
from .catalogue import Catalogue
from .copies import CHUNK, Chunk
from .device import OS, make_folders
from .records import BLOCK
from .recovery import Unsaved, recover
from .segments import Segments
from .tier import JOURNAL, leave, occupy

PIECE = 1 << 20
"""Bytes that are verified at a time."""
NO_PATH = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


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
class UnsavedFile:
    """An object with bytes that its store does not have.

    Attributes:
        volume, key: the store, and the object in it.
        size: of the object.
        bytes: of `ranges`, but for zeros that take no space.
        ranges: (offset, length) of the bytes that can be read.
        damaged: (offset, length) of those that cannot.
        path: where they were exported to; None: they were not.
    """

    volume: str
    key: str
    size: int
    bytes: int
    ranges: list[tuple[int, int]]
    damaged: list[tuple[int, int]]
    path: str | None = None


@dataclass(slots=True)
class Contents:
    """What a tier has.

    Attributes:
        size: bytes of its files.
        volumes: by the name of the store.
        unsaved: bytes that no store has.
        files: the objects that have them.
        troubles: sentences about damage that is not of a known object, and about what could not be exported.
    """

    size: int = 0
    volumes: dict[str, Held] = field(default_factory=dict)
    unsaved: int = 0
    files: list[UnsavedFile] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def contents(
    path: str, *, check: bool = False, export: str | None = None, progress: Callable[[int], None] = lambda _: None
) -> Contents:
    """Return what a tier has; nothing is changed.

    Args:
        path: its directory.
        check: verify every checksum.
        export: a new directory for the unsaved files: each has its size, its unsaved bytes, and holes elsewhere. One
            that cannot be written is a trouble.
        progress: called with the number of bytes verified so far.

    Raises:
        OSError: no such directory, or it cannot be read; EBUSY: a process uses it.
        ValueError: it is no tier, or of another format.
    """
    if not os.path.isdir(path):
        if os.path.lexists(path):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        raise FileNotFoundError(errno.ENOENT, "no such directory", path)
    mark = occupy(path, make=False)
    try:
        folder = os.path.join(path, JOURNAL)
        left = recover(folder) if os.path.isdir(folder) else None
        files, troubles = _unsaved([] if left is None else left.files, export)
        catalogue = Catalogue(path, reads=True)
        found = Contents(_size(path), {}, sum(file.bytes for file in files), files, troubles)
        why = catalogue.why
        try:
            if not catalogue.damaged:
                _add_held(found, path, catalogue, progress if check else None)
        except OSError as error:
            why = str(error.__cause__ or error.strerror)
        finally:
            catalogue.close()
        if left is not None and left.lost:
            found.troubles.append("records of the journal are lost, perhaps of files that are not listed")
        if why:
            found.troubles.append(f"the catalogue is of no use ({why}): clean data may be read from the stores again")
        return found
    finally:
        leave(mark)


def _add_held(found: Contents, path: str, catalogue: Catalogue, progress: Callable[[int], None] | None) -> None:
    """Add the copies of objects. `progress`: verify every checksum."""
    segments = Segments(path, 0, 0, aligned=False, others=lambda: 0, report=lambda _: None)
    segments.begin_behind(catalogue.last)
    room, seen, damaged = memoryview(bytearray(PIECE)), 0, 0
    for volume, number, chunk, ranges in catalogue.all():
        held = found.volumes.setdefault(volume, Held())
        if ranges is None:
            damaged += 1
            continue
        held.objects += chunk is None
        for begin, length, skip, extent, address in Chunk(ranges, segments.is_live).entries():
            held.bytes += length
            if progress is not None:
                offset = (chunk or 0) * CHUNK + begin - skip
                held.damaged += _damaged(segments, number, offset, skip, length, extent, address, room)
                seen += length
                progress(seen)
    if damaged:
        found.troubles.append(f"{damaged} rows of the catalogue are damaged: their data is read from the stores again")


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


def _unsaved(left: list[Unsaved], export: str | None) -> tuple[list[UnsavedFile], list[str]]:
    """Return the unsaved files of the journal, and export them; and what could not be exported."""
    several = len({unsaved.state.volume for unsaved in left}) > 1
    found, troubles = [], []
    if export is not None:
        make_folders(export, 0o700)
    for unsaved in left:
        state, path, lost = unsaved.state, None, Ranges()
        key = state.key if isinstance(state.key, str) else os.fsdecode(state.key)
        if export is not None:
            try:
                path, lost = _export(export, unsaved, key, within=state.volume if several else None)
            except OSError as error:
                troubles.append(f"{key!r} of {state.volume!r} could not be exported: {error.strerror or error}")
        parts = [part for begin, length in unsaved.ranges for part in lost.pieces(begin, begin + length)]
        ranges = [(begin, end - begin) for begin, end, damaged in parts if not damaged]
        damaged = [*unsaved.damaged, *((begin, end - begin) for begin, end, damaged in parts if damaged)]
        total = sum(length for _, length in ranges) - sum(length for _, length in unsaved.zeros)
        found.append(UnsavedFile(state.volume, key, state.size, total, ranges, sorted(damaged), path))
    try:
        for made, _, _ in () if export is None else os.walk(export):
            OS.sync_folder(made)
    except OSError as error:
        troubles.append(f"a power cut may take what was exported: {error.strerror or error}")
    return found, troubles


def _export(folder: str, unsaved: Unsaved, key: str, *, within: str | None) -> tuple[str, Ranges]:
    """Write an unsaved file below a directory, under its key if that is a path inside. Return its path, and what
    could not be read.
    """
    if within is not None:
        folder = os.path.join(folder, _quoted(within))
    path = os.path.join(folder, key)
    inside = not os.path.isabs(key) and not {"", ".", ".."} & {*key.split("/")}
    try:
        lost, target = Ranges(), _new(path) if inside else None
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        if isinstance(error, OSError) and error.errno not in NO_PATH:
            raise
        lost, target = Ranges(), None
    if target is None:
        path = os.path.join(folder, f"{unsaved.number}-{_quoted(key)}")
        target = _new(path)
    try:
        with target:
            target.truncate(unsaved.state.size)
            for piece in unsaved.pieces:
                begin = piece.begin if piece.head is not None and not piece.is_damaged else piece.end  # else a hole
                for at, end, data in _pieces(unsaved, begin, piece.end):
                    if data is None:
                        lost.add(at, end)
                    else:
                        target.seek(at)
                        target.write(data)
            target.flush()
            os.fsync(target.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return path, lost


def _pieces(unsaved: Unsaved, begin: int, end: int, step: int = PIECE) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield begin, end and bytes of the pieces of [begin, end); None: of a block that cannot be read."""
    for at in range(begin, end, step):
        stop, data = min(at + step, end), None
        with contextlib.suppress(OSError):
            data = unsaved.read(at, stop - at)
        if data is None and step > BLOCK:
            yield from _pieces(unsaved, at, stop, BLOCK)
        else:
            yield at, stop, data


def _quoted(name: str) -> str:
    quoted = quote(name, safe="", errors="surrogatepass")[-200:]
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted  # else another directory


def _new(path: str) -> BinaryIO:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return open(path, "xb", opener=partial(os.open, mode=0o600))


def _size(path: str) -> int:
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
