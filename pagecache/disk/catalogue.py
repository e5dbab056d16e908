"""The catalogue of a disk tier: which copies there are, of what, and their chunks. A SQLite database.

It may be older than the segments, but never mixes two states of a copy: what a copy has changed since its last save is
saved at once. A database that cannot be opened or read is removed, with the segments: all of it is in the stores.

Locks: one for each connection, held over its statements. The writer's thread saves; others read beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from ..native.names import status
from .copies import Chunk, Copy, below
from .device import OS
from .segments import FULL, NUMBERS

NAME = "catalogue.db"
TABLES = """
CREATE TABLE IF NOT EXISTS copies (
    number INTEGER PRIMARY KEY, volume BLOB, key BLOB, version BLOB, high INTEGER, UNIQUE (volume, key));
CREATE TABLE IF NOT EXISTS chunks (copy INTEGER, chunk INTEGER, high INTEGER, ranges BLOB, UNIQUE (copy, chunk));
CREATE INDEX IF NOT EXISTS copies_by_age ON copies (high);
CREATE INDEX IF NOT EXISTS chunks_by_age ON chunks (high);
"""
FIND_COPY = "SELECT number, version, high FROM copies WHERE volume = ? AND key = ?"
FIND_CHUNK = "SELECT ranges FROM chunks WHERE copy = ? AND chunk = ?"
DROP_COPY = "DELETE FROM copies WHERE volume = ? AND key = ?"
DROP_BELOW = "DELETE FROM copies WHERE volume = ? AND key > ? AND key < ?"
DROP_OBJECT = "DELETE FROM copies WHERE volume = ?1 AND substr(version, -4 - length(?2), length(?2)) = ?2"
"""By the end of the version, before the checksum."""
SAVE_COPY = "INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?, ?)"
SAVE_CHUNK = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)"
PLACE_AT = 60
"""Where the header of the database has `user_version`, of 4 bytes: which file it was when it was opened last."""
CACHED_KIB = 4096
DESCRIPTORS = 8
"""More than SQLite opens."""
ROOM = 1 << 17
"""Free bytes below which the disk is full: SQLite maps an index, and dies of SIGBUS if a store to it finds no block."""
LOG = "wal_autocheckpoint = 64"  # of 4 KiB: it is a part of the size of a small tier


def place_of(path: str) -> int:
    """Return a number that no other file has, nor a copy of it. Without the device, whose number a reboot may change.
    The file is not opened: a close of it would end SQLite's locks.
    """
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        identity: Any = status(folder, os.path.basename(path)).identity
    finally:
        os.close(folder)
    return zlib.crc32(repr(identity[1:]).encode("ascii")) & 0x7FFFFFFF  # inode number and birth time


def _check_descriptors(folder: str) -> None:
    """Raise OSError (EMFILE, ENFILE) if SQLite could not open its files: its own error says damage as well."""
    with contextlib.ExitStack() as opened:
        for _ in range(DESCRIPTORS):
            opened.callback(os.close, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _check_room(path: str) -> None:
    """Raise OSError (ENOSPC, EDQUOT) if the disk is full, by a try: `statvfs` has no quota, nor what root may use."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, ROOM)
    finally:
        os.close(fd)
        os.unlink(path)


def _sealed(content: bytes, *parts: bytes | int) -> bytes:
    """Return the content of a row with a checksum over it and the names of the row: SQLite has none."""
    crc = zlib.crc32(content)
    for part in parts:
        known = part if isinstance(part, bytes) else struct.pack("<Q", part)
        crc = zlib.crc32(known, zlib.crc32(struct.pack("<Q", len(known)), crc))
    return content + struct.pack("<I", crc)


def _opened(sealed: object, *parts: bytes | int) -> bytes | None:
    """Return the content of a row; None: it is damaged."""
    content = sealed[:-4] if isinstance(sealed, bytes) else b""
    return content if sealed == _sealed(content, *parts) else None


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _row(number: int, volume: str, key: bytes, version: str, high: int) -> tuple[int, bytes, bytes, bytes, int]:
    return number, _text(volume), key, _sealed(_text(version), _text(volume), key, number), high


class Catalogue:
    """The database in a directory, which only this process opens. OSError of EMFILE, ENFILE: the process has too many
    open files. Any other error is damage. `reads`: nothing is changed, as the disk is perhaps read-only.
    """

    def __init__(self, folder: str, *, reads: bool = False) -> None:
        self._path = os.path.join(folder, NAME)
        self._saving, self._reading = threading.Lock(), threading.Lock()
        self._size, self._ended = 0, False
        self.next, self.last = int.from_bytes(os.urandom(7), "little"), 0  # also if it is older than the segments
        self.damaged, self.full, self.why = False, False, ""
        """What it says cannot be read, until `begin_anew`; because the disk is full."""
        _check_descriptors(folder)
        try:
            with self._errors():
                self._check_place()
                (self._open_to_read if reads else self._open)()
        except OSError as error:  # the disk may be full, or read-only after an error
            self.damaged, self.full = True, error.errno in FULL
            self.why = str(error.__cause__ or error.strerror)

    def begin_anew(self) -> None:
        """Replace a damaged catalogue by an empty one."""
        self.damaged = True  # also if this fails
        with self._saving, self._reading, self._errors():
            self._close()
            self._remove()
            self._open()
            self.damaged = False

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + suffix)

    def _check_place(self) -> None:
        """Raise ValueError if it was copied while a process used it, or after a kill: database and log may be of two
        times, and have a row of a later version beside rows of earlier bytes. SQLite sees no difference.
        """
        if os.path.exists(f"{self._path}-wal"):  # a close removes it
            with open(self._path, "rb") as file:
                file.seek(PLACE_AT)
                if int.from_bytes(file.read(4), "big") != place_of(self._path):
                    raise ValueError("it was copied while a process used it")

    def _open(self) -> None:
        """The locks are held."""
        _check_room(f"{self._path}-room")
        self._saver = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        os.chmod(self._path, 0o600)
        for text in ("journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHED_KIB}", LOG):
            self._saver.execute(f"PRAGMA {text}")
        self._saver.executescript(TABLES)
        (known,), place = self._saver.execute("PRAGMA user_version").fetchone(), place_of(self._path)
        self._saver.execute(f"PRAGMA user_version = {place}")  # always: a write takes the index's blocks
        if known != place:
            self._saver.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # into its header
        self.last = max(self._last(table) for table in ("copies", "chunks"))
        self._reader = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._reader.execute(f"PRAGMA cache_size = -{CACHED_KIB}")
        self._size = self._measured()

    def _open_to_read(self) -> None:
        how = "mode=ro&readonly_shm=1" if os.path.exists(f"{self._path}-wal") else "immutable=1"  # a log needs an index
        name = f"file:{quote(os.fsencode(self._path))}?{how}" if os.path.exists(self._path) else "file::memory:"
        self._saver = self._reader = sqlite3.connect(name, uri=True)
        self._reader.executescript(TABLES)
        self.last = max(self._last(table) for table in ("copies", "chunks"))

    def _last(self, table: str) -> int:
        """Return the highest number of a segment that a table leads to."""
        found = self._saver.execute(f"SELECT max(high) FROM {table} WHERE high < ?", (NUMBERS << 32,)).fetchone()
        return (found[0] or 0) >> 32

    def size_now(self) -> int:
        """Return the bytes of its files, as of the last save."""
        return self._size

    def _measured(self) -> int:
        total = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                total += os.stat(self._path + suffix).st_size
        return total

    def find(self, volume: str, key: bytes) -> tuple[int, str, int] | None:
        """Return number, version and highest address of the copy of an object; None: there is none."""
        with self._reading, self._errors():
            found = self._connection("_reader").execute(FIND_COPY, (_text(volume), key)).fetchone()
            if found is None:
                return None
            number, sealed, high = found
            version = _opened(sealed, _text(volume), key, number)
            if version is None:
                raise OSError(errno.EILSEQ, "a row of the catalogue is damaged", self._path)
            return number, version.decode("utf-8", "surrogatepass"), int(high)

    def chunk(self, copy: int, number: int, is_live: Callable[[int], bool]) -> Chunk:
        """Return a chunk, without the extents that are gone; an empty one: there is none."""
        with self._reading, self._errors():
            found = self._connection("_reader").execute(FIND_CHUNK, (copy, number)).fetchone()
            packed = b"" if found is None else _opened(found[0], copy, number)
        if packed is None:
            raise OSError(errno.EILSEQ, "a row of the catalogue is damaged", self._path)
        return Chunk(packed, is_live)

    def all(self) -> Iterator[tuple[str, int, int | None, bytes | None]]:
        """Yield volume, number, chunk and ranges of every chunk; before those of a copy, one without a chunk. Ranges
        None: the row is damaged.
        """
        with self._errors():
            for number, name, key, version in self._saver.execute(
                "SELECT number, volume, key, version FROM copies ORDER BY number"
            ):
                volume, sound = bytes(name).decode("utf-8", "replace"), _opened(version, name, key, number) is not None
                yield volume, number, None, b"" if sound else None
                if not sound:
                    continue
                for chunk, ranges in self._reader.execute(
                    "SELECT chunk, ranges FROM chunks WHERE copy = ? ORDER BY chunk", (number,)
                ):
                    yield volume, number, chunk, _opened(ranges, number, chunk)

    def save(self, copies: Sequence[Copy], oldest: int) -> None:
        """Save what copies have changed, and drop what leads only to segments below `oldest`. OSError: nothing was."""
        taken = []
        with self._saving:
            try:
                with self._errors(), self._transaction():
                    for copy in copies:
                        with copy.lock:
                            if copy.version is None or copy.replaced:  # dropped since
                                continue
                            cut, changed = copy.changes()
                            taken.append((copy, cut, tuple(changed)))
                            rows = [
                                (copy.number, number, chunk.highest(), _sealed(chunk.packed(), copy.number, number))
                                for number, chunk in changed.items()
                            ]
                            row = _row(copy.number, copy.volume, copy.key, copy.version, copy.high)
                        self._saver.execute(SAVE_COPY, row)
                        if cut is not None:
                            self._saver.execute("DELETE FROM chunks WHERE copy = ? AND chunk >= ?", (copy.number, cut))
                        self._saver.executemany(SAVE_CHUNK, rows)
                    for table in ("chunks", "copies"):
                        self._saver.execute(f"DELETE FROM {table} WHERE high < ?", (oldest << 32,))
            except BaseException:
                for copy, cut, numbers in taken:
                    copy.not_saved(cut, numbers)
                raise
        for copy, _, _ in taken:
            copy.saved()
        self._size = self._measured()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection("_saver").execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._saver.execute("ROLLBACK")
            raise
        self._saver.execute("COMMIT")

    def drop(self, volume: str, key: bytes, tree: bool = False) -> None:
        """Forget the copy of an object; its chunks go with their segments. `tree`: and those below its name."""
        with self._saving, self._errors(), self._synced(), self._transaction():
            self._saver.execute(DROP_COPY, (_text(volume), key))
            if tree:
                self._saver.execute(DROP_BELOW, (_text(volume), *below(key)))

    def drop_all(self, names: Sequence[tuple[str, bytes]]) -> None:
        """Forget the copies of many objects, by volume and key, with one sync."""
        with self._saving, self._errors(), self._synced(), self._transaction():
            self._saver.executemany(DROP_COPY, [(_text(volume), key) for volume, key in names])

    def drop_object(self, volume: str, identity: str) -> None:
        """Forget the copies of an object under all names, by a walk of all copies."""
        with self._saving, self._errors(), self._synced():
            self._connection("_saver").execute(DROP_OBJECT, (_text(volume), _text(f" {identity}")))

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """Sync what is changed: after a power cut, a next start would find others' bytes by what had been forgotten."""
        saver = self._connection("_saver")
        saver.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            saver.execute("PRAGMA synchronous = NORMAL")

    def remove(self) -> None:
        """Remove it until `begin_anew`; a full disk allows that. Not after `close`: another one may be there."""
        self.damaged = True  # from now on; and again, as `begin_anew` may end beside this
        with self._saving, self._reading, contextlib.suppress(OSError):
            self.damaged = True
            if not self._ended:
                self._close()
                self._remove()
                OS.sync_folder(os.path.dirname(self._path))

    def close(self) -> None:
        with self._saving, self._reading:
            self._ended = True
            self._close()

    def _connection(self, name: str) -> sqlite3.Connection:
        found: sqlite3.Connection | None = self.__dict__.get(name)
        if found is None:  # `begin_anew` has failed
            raise sqlite3.DatabaseError("it could not be made anew")
        return found

    def _close(self) -> None:
        for name in ("_reader", "_saver"):
            connection: sqlite3.Connection | None = self.__dict__.pop(name, None)
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of the database as OSError, and remember that it is damaged: its messages may be no text, its
        values of any type.
        """
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, OverflowError, struct.error) as error:
            if not isinstance(error, sqlite3.OperationalError):
                self.damaged = True
            code = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise OSError(code, f"the catalogue of the disk tier: {error}", self._path) from error
