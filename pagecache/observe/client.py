"""A client that reads the live documents of a cache (docs/live.md) over its socket.

One `Client` is one connection, kept for the next request; one thread uses it at a time. Every request as a whole ends
within `timeout`, so a server that answers byte by byte is as bounded as one that hangs. Every failure is a `LiveError`
that names the socket, the problem and, if there is one, the remedy:

    NoSocket        there is no such path, or it is not a socket
    NotListening    the socket exists, its owner does not
    NotAllowed      the socket belongs to another user
    NotPagecache    the answer is not a document of a cache
    TooSlow         no whole answer in time
    NewerSchema     the cache is newer than this program
    Refused         the cache refused the request: its status and sentence

`find_sockets` lists the sockets of caches.
"""

import errno
import glob
import http.client
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

from pagecache.observe.answers import SCHEMA, Failed, Files, Folios, Malformed, Stats, Sync, Waits, decode

__all__ = [
    "Client",
    "LiveError",
    "NewerSchema",
    "NoSocket",
    "NotAllowed",
    "NotListening",
    "NotPagecache",
    "Refused",
    "TooSlow",
    "find_sockets",
]

T = TypeVar("T")

# Some thousand files are 1 MB. A larger answer is not a document, and must not fill the reader's memory.
ANSWER_MAX = 64 << 20
# Bytes of a path in the address of a Unix socket.
ADDRESS_MAX = 107
# A file in this many answers has millions of runs: more than a person can read.
FOLIO_ANSWERS_MAX = 32


class LiveError(Exception):
    """The documents of a cache could not be read.

    Attributes:
        path: The socket.
        brief: The message in a few words, for a column of a table.
    """

    brief = "unreadable"

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{os.fspath(path)}: {message}")
        self.path = path
        self.message = message


class NoSocket(LiveError):
    """No such path, or it is not a socket: not served yet, or closed."""

    brief = "no such socket"


class NotListening(LiveError):
    """The socket exists and its owner does not: the process died, or the cache closed during the request."""

    brief = "nobody listens"


class NotAllowed(LiveError):
    """Only the owner of the socket may use it."""

    brief = "permission denied"


class NotPagecache(LiveError):
    """The answer is not a document of a cache."""

    brief = "not a pagecache socket"


class TooSlow(LiveError):
    """No whole answer within the time."""

    brief = "no answer"


class NewerSchema(LiveError):
    """The documents have a schema newer than this version."""

    brief = "newer schema"


class Refused(LiveError):
    """The cache answered with an error.

    Attributes:
        status: The status of HTTP; 503: the cache is closed, or has too many clients.
    """

    brief = "refused"

    def __init__(self, path: Path, message: str, status: int) -> None:
        super().__init__(path, message)
        self.status = status


def find_sockets(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the sockets to read if none is named: `$PAGECACHE_SOCKET`, then those of `$XDG_RUNTIME_DIR/pagecache`.

    The variable has paths separated by ':', and they are returned whether they exist or not, because the user named
    them. Of the directory, every `*.sock` is returned, by name.
    """
    named = [Path(path) for path in environment.get("PAGECACHE_SOCKET", "").split(":") if path]
    folder = environment.get("XDG_RUNTIME_DIR")
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "pagecache", "*.sock"))) if folder else []
    return list(dict.fromkeys([*named, *map(Path, found)]))


class DeadlineSocket(socket.socket):
    """A Unix socket whose sending and receiving end at one deadline, however many calls they take."""

    deadline = 0.0

    def left(self) -> float:
        """Return the seconds until the deadline.

        Raises:
            TimeoutError: It has passed.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time")
        return left

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        """Receive, until the deadline."""
        self.settimeout(self.left())
        return super().recv_into(*arguments, **options)

    def sendall(self, *arguments: Any) -> None:
        """Send everything, until the deadline."""
        self.settimeout(self.left())
        super().sendall(*arguments)


def connect_to(sock: socket.socket, path: str) -> None:
    """Connect, also to a path that is too long for the address of a socket."""
    if len(os.fsencode(path)) <= ADDRESS_MAX:
        sock.connect(path)
        return
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    sock: DeadlineSocket | None

    def __init__(self, path: Path) -> None:
        super().__init__("cache")
        self.path = os.fspath(path)
        self.deadline = 0.0

    def within(self, seconds: float) -> None:
        """Set the deadline of all following calls."""
        self.deadline = time.monotonic() + seconds
        if self.sock is not None:
            self.sock.deadline = self.deadline

    def connect(self) -> None:
        """Connect to the socket."""
        sock = DeadlineSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.deadline = self.deadline
            while True:
                sock.settimeout(sock.left())
                try:
                    connect_to(sock, self.path)
                    break
                except BlockingIOError:
                    # The queue of connections is full, and a Unix socket has no way to wait for a place in it.
                    time.sleep(min(0.01, sock.left()))
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class Client:
    """A reader of one cache's documents.

    Args:
        path: The socket that `PageCache.serve_stats` was called with.
        timeout: Seconds for each request as a whole.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 5.0) -> None:
        self.path = Path(path)
        self.timeout = timeout
        self._connection = Connection(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; the next request makes another."""
        self._connection.close()

    def stats(self) -> Stats:
        """Return the cache and its volumes."""
        return self._read(Stats, "/v1/stats")

    def files(
        self, *, volume: str | None = None, sort: str = "dirty", limit: int = 200, match: str | None = None
    ) -> Files:
        """Return the first `limit` files of a volume, or of all, that have `match` in their keys; greatest first."""
        return self._read(Files, "/v1/files", volume=volume, sort=sort, limit=limit, match=match)

    def folios(self, file: int, *, offset: int = 0, length: int | None = None) -> Folios:
        """Return the states of a file's bytes from `offset` on: one answer, which may cover less than `length`."""
        return self._read(Folios, "/v1/folios", file=file, offset=offset, length=length)

    def all_folios(self, file: int, *, offset: int = 0, length: int | None = None) -> Folios:
        """Return the states of a range from as many answers as necessary; each answer is consistent in itself.

        Bytes beyond FOLIO_ANSWERS_MAX answers are left out; `length` is the length that is covered.
        """
        found = self.folios(file, offset=offset, length=length)
        end = found.size if length is None else min(found.size, offset + length)
        for _ in range(FOLIO_ANSWERS_MAX - 1):
            reached = found.offset + found.length
            if reached >= end:
                break
            more = self.folios(file, offset=reached, length=end - reached)
            if more.offset != reached or more.length <= 0:
                break  # the file became shorter
            found = replace(
                found,
                size=more.size,
                length=found.length + more.length,
                folios=found.folios + more.folios,
                runs=found.runs + more.runs,
            )
        return found

    def waits(self) -> Waits:
        """Return the waits: waiters, conditions and holders."""
        return self._read(Waits, "/v1/waits")

    def failed(self, volume: str | None = None) -> Failed:
        """Return the ranges that could not be written back."""
        return self._read(Failed, "/v1/failed", volume=volume)

    def begin_sync(self, volume: str | None = None) -> Sync:
        """Begin to save everything written so far."""
        return self._read(Sync, "/v1/sync", method="POST", volume=volume)

    def sync(self, ticket: int) -> Sync:
        """Return the progress of a ticket."""
        return self._read(Sync, f"/v1/sync/{ticket}")

    def document(self, path: str, *, method: str = "GET", **query: str | int | None) -> dict[str, Any]:
        """Return any of the documents as plain JSON, with only its schema checked.

        Raises:
            LiveError: One of those that the head of this file lists.
        """
        wanted = {name: value for name, value in query.items() if value is not None}
        status, body = self._exchange(method, f"{path}?{urlencode(wanted, errors='surrogatepass')}" if wanted else path)
        try:
            document: object = json.loads(body)
        except (ValueError, RecursionError):
            raise self._not_pagecache("the answer is not JSON") from None
        schema = document.get("schema") if isinstance(document, dict) else None
        if not isinstance(document, dict) or type(schema) is not int or schema < 1:
            raise self._not_pagecache("the answer has no schema")
        if schema > SCHEMA:
            known = f"the cache speaks schema {schema}, this program knows {SCHEMA}"
            raise NewerSchema(self.path, f"{known}: update pagecache here")
        if status != 200:
            raise Refused(self.path, str(document.get("error", f"status {status}")), status)
        return document

    def _read(self, kind: type[T], path: str, *, method: str = "GET", **query: str | int | None) -> T:
        document = self.document(path, method=method, **query)
        try:
            return decode(kind, document)
        except Malformed as error:
            raise self._not_pagecache(f"{path}: {error}") from None

    def _not_pagecache(self, reason: str) -> NotPagecache:
        """Return the error, without waiting for the rest of the answer."""
        self.close()
        return NotPagecache(self.path, f"not a pagecache socket: {reason}")

    def _exchange(self, method: str, target: str) -> tuple[int, bytes]:
        """Send one request and return its answer; repeat it once if a kept connection turns out to be gone.

        If a POST was read before the connection broke, this makes a second ticket, which does no harm.
        """
        kept = self._connection.sock is not None
        self._connection.within(self.timeout)
        try:
            try:
                return self._exchange_once(method, target)
            except ConnectionError:
                if not kept:
                    raise
                return self._exchange_once(method, target)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._broken(error) from None

    def _exchange_once(self, method: str, target: str) -> tuple[int, bytes]:
        try:
            self._connection.request(method, target)
            response = self._connection.getresponse()
            body = response.read(ANSWER_MAX + 1)
            if len(body) > ANSWER_MAX:
                raise http.client.HTTPException(f"an answer of more than {ANSWER_MAX >> 20} MiB")
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
        except BaseException:
            # Also after an interrupt: the next request would read the rest of this answer.
            self.close()
            raise
        return response.status, body

    def _broken(self, error: Exception) -> LiveError:
        """Return the LiveError for the error of a request."""
        match error:
            case TimeoutError():
                return TooSlow(self.path, f"no answer within {self.timeout:g} s: its owner hangs, or is stopped")
            case FileNotFoundError() | NotADirectoryError():
                return NoSocket(self.path, "no such socket: not served, or the cache is closed")
            case PermissionError():
                return NotAllowed(self.path, "permission denied: only the owner of the cache may read its socket")
            case ConnectionRefusedError():
                if not self.path.is_socket():
                    return NoSocket(self.path, "not a socket")
                return NotListening(self.path, "nobody listens: its owner died, or closed the cache")
            case ConnectionError():
                # RemoteDisconnected is one.
                return NotListening(self.path, "the connection broke: its owner died, or closed the cache")
            case http.client.IncompleteRead():
                return NotListening(self.path, "the answer ended early: its owner died, or closed the cache")
            case http.client.HTTPException() | ValueError():
                return NotPagecache(self.path, f"not a pagecache socket: {type(error).__name__}: {str(error)[:100]}")
            case OSError(errno=errno.EPROTOTYPE):
                return NotPagecache(self.path, "not a pagecache socket: it takes datagrams")
        return NoSocket(self.path, str(getattr(error, "strerror", error)))
