"""A backend of one's own: objects in an SQLite database, a row for each 64 KiB. commit is the commit of the database."""

import sqlite3
import threading

import pagecache
from pagecache import Backend, BackendFile, BackendLimits, ObjectStat

CHUNK = 65536


class SqliteFile(BackendFile):
    def __init__(self, backend, key):
        self.ask, self.key, self.lock = backend.ask, key, backend.lock

    def _chunk(self, offset):
        row = self.ask("SELECT data FROM chunk WHERE key = ? AND nr = ?", self.key, offset // CHUNK)
        return bytearray(row[0]) if row else bytearray(CHUNK)

    def _store(self, offset, chunk, size):
        self.ask("REPLACE INTO chunk VALUES (?, ?, ?)", self.key, offset // CHUNK, bytes(chunk))
        self.ask("UPDATE object SET size = ?, changes = changes + 1 WHERE key = ?", size, self.key)

    def stat(self):
        size, changes = self.ask("SELECT size, changes FROM object WHERE key = ?", self.key)
        return ObjectStat(size=size, version=str(changes))

    def read_into(self, offset, buffers):  # never crosses a boundary: one row a call
        with self.lock:
            there = memoryview(self._chunk(offset))[offset % CHUNK :][: max(0, self.stat().size - offset)]
        for buffer in buffers:
            n = min(len(buffer), len(there))
            buffer[:n], there = there[:n], there[n:]
        return min(sum(map(len, buffers)), max(0, self.stat().size - offset))

    def write_from(self, offset, buffers):
        data = b"".join(buffers)
        with self.lock:
            chunk, at = self._chunk(offset), offset % CHUNK
            chunk[at : at + len(data)] = data
            self._store(offset, chunk, max(self.stat().size, offset + len(data)))
        return len(data)

    def truncate(self, size):
        with self.lock:
            self.ask("DELETE FROM chunk WHERE key = ? AND nr > ?", self.key, size // CHUNK)
            self._store(size, self._chunk(size)[: size % CHUNK].ljust(CHUNK, b"\0"), size)

    def commit(self):
        with self.lock:
            self.ask("COMMIT")
            self.ask("BEGIN")
        return self.stat().version
