"""A reader of the live documents of a cache (docs/live.md): `http.client` over a Unix socket, a connection per request.

Every failure is a `LiveError` that names the socket, the problem and, if there is one, the remedy.
"""

import errno
import glob
import http.client
import json
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

SCHEMA = 1
# Some thousand files are 1 MB. A larger answer is not a document, and must not fill the reader's memory.
ANSWER_MAX = 64 << 20


class LiveError(Exception):
    """The documents of a cache could not be read.

    Attributes:
        kind: One of KINDS; NotPagecache: the answer is not a document of a cache; NewerSchema: the cache is newer than
            this program; Refused: the cache refused the request, with its sentence.
        message: The problem, without the socket.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, message: str) -> None:
        super().__init__(f"{os.fspath(path)}: {message}")
        self.kind, self.message = kind, message


def find_sockets(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the sockets to read if none is named: `$PAGECACHE_SOCKET`, then those of `$XDG_RUNTIME_DIR/pagecache`.

    The variable has paths separated by ':', and they are returned whether they exist or not, because the user named
    them. Of the directory, every `*.sock` is returned, by name.
    """
    named = [Path(path) for path in environment.get("PAGECACHE_SOCKET", "").split(":") if path]
    folder = environment.get("XDG_RUNTIME_DIR")
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "pagecache", "*.sock"))) if folder else []
    return list(dict.fromkeys([*named, *map(Path, found)]))


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, whose path may be too long for an address."""

    def __init__(self, path: str | os.PathLike[str], timeout: float) -> None:
        super().__init__("cache", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        descriptor = os.open(self._path, os.O_PATH)
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                raise OSError(errno.ENOTSOCK, "not a socket")
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def ask(
    path: str | os.PathLike[str], target: str, *, method: str = "GET", timeout: float = 5.0, **query: str | int | None
) -> dict[str, Any]:
    """Return one document of a cache. Its schema is checked; a reader ignores unknown fields.

    Args:
        path: The socket that `PageCache.serve_stats` was called with.
        target: `/v1/stats` and the like.
        method: `POST` begins a sync.
        timeout: Seconds to wait for the owner of the socket.
        query: Parameters; None: not sent.

    Raises:
        LiveError: There is no such document.
    """
    wanted = {name: value for name, value in query.items() if value is not None}
    connection = _Connection(path, timeout)
    try:
        connection.request(method, f"{target}?{urlencode(wanted, errors='surrogatepass')}" if wanted else target)
        response = connection.getresponse()
        body = response.read(ANSWER_MAX + 1)
        if response.length:
            raise http.client.IncompleteRead(body)
        document = json.loads(body)
        schema = document["schema"]
        if schema < 1:
            raise ValueError(f"schema {schema}")
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        raise live_error(path, error, timeout) from None
    finally:
        connection.close()
    if schema > SCHEMA:
        known = f"the cache speaks schema {schema}, this program knows {SCHEMA}: update pagecache here"
        raise LiveError(path, "NewerSchema", known)
    if response.status != 200:
        raise LiveError(path, "Refused", str(document.get("error", f"status {response.status}")))
    return dict(document)


def live_error(path: str | os.PathLike[str], error: Exception, timeout: float = 0.0) -> LiveError:
    """Return the LiveError for an error of a request, or of a document that has not the fields of its schema."""
    for kinds, kind, message in KINDS:
        if isinstance(error, kinds):
            return LiveError(path, kind, message.format(timeout=timeout))
    if isinstance(error, OSError):
        return LiveError(path, "NoSocket", str(error.strerror))
    return LiveError(path, "NotPagecache", f"not a pagecache socket: {type(error).__name__}: {str(error)[:100]}")


KINDS: list[tuple[type[Exception] | tuple[type[Exception], ...], str, str]] = [
    # BlockingIOError: the queue of connections is full.
    ((TimeoutError, BlockingIOError), "TooSlow", "no answer within {timeout:g} s: its owner hangs, or is stopped"),
    ((FileNotFoundError, NotADirectoryError), "NoSocket", "no such socket: not served, or the cache is closed"),
    (PermissionError, "NotAllowed", "permission denied: only the owner of the cache may read its socket"),
    (ConnectionRefusedError, "NotListening", "nobody listens: its owner died, or closed the cache"),
    (ConnectionError, "NotListening", "the connection broke: its owner died, or closed the cache"),
    (http.client.IncompleteRead, "NotListening", "the answer ended early: its owner died, or closed the cache"),
]
"""Of an error of a request: the kind and the message."""
