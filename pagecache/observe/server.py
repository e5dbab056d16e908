"""The server of one cache: HTTP by `http.server` over Unix sockets, one thread for each connection.

    Listener ─► _accept ─► _Handler ─► _document(...) ─► bytes ─► client, at its own pace
                                       └─ under `_building`, a moment

A document is built completely and then sent from memory: a slow client holds its thread, its answer and no lock of the
cache. A client is disconnected if it sends or takes nothing for SILENCE_S. All clients are programs of the user who
owns the cache, because the socket has mode 0600, so their number has no limit.

The threads do not keep their cache alive. Closing takes `_building` once, so that no thread reads a closed cache, but
waits only a moment for it: the document may need a lock that a signal handler's own thread has, below a close. It waits
for no client. A forked child has the sockets and not the threads: it closes them, and leaves the names alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ..distribution import VERSION
from ..engine.park import start_thread
from ..errors import ShutdownError
from . import documents
from .address import Listener
from .documents import SCHEMA, Refused
from .syncs import Syncs

if TYPE_CHECKING:
    from ..cache import PageCache

log = logging.getLogger("pagecache")

SILENCE_S = 60.0
BREATH_S = 0.05
"""Seconds of pause if an immediate retry would fail again."""
JOIN_S = 1.0
CLOSED = "the cache is closed"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NUMBER_MOST = 2**63 - 1

Query = Mapping[str, str]

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _forsake() -> None:
    for server in list(_servers):
        server.forsake()


os.register_at_fork(after_in_child=_forsake)


class Server:
    """The server of one cache, at all its sockets."""

    def __init__(self, cache: PageCache) -> None:
        self._cache = weakref.ref(cache)
        self._name = cache.name
        self._syncs = Syncs()
        self._building = threading.Lock()  # guards `_syncs`
        self._ended = False
        self._listeners: list[tuple[Listener, threading.Thread]] = []
        self._clients: set[socket.socket] = set()
        _servers.add(self)

    def add(self, listener: Listener) -> None:
        """Serve one more listener.

        Raises:
            BlockingIOError: no thread can start. ShutdownError: the server has ended.
        """
        name = f"pagecache-{self._name}-live"
        thread = threading.Thread(target=self._accept, args=(listener,), name=name, daemon=True)
        start_thread(thread, "of the socket")
        self._listeners.append((listener, thread))
        if self._ended:  # in this order: otherwise `stop` finds the listener
            _shut(listener.socket)
            raise ShutdownError(CLOSED)

    def stop(self) -> None:
        """Stop before the cache ends: no document is begun after this returns, and the names are free."""
        self._ended = True
        if self._building.acquire(timeout=JOIN_S):
            self._building.release()
        for listener, _ in self._listeners:
            listener.remove()
            _shut(listener.socket)  # ends `accept`
        for _, thread in self._listeners:
            thread.join(JOIN_S)
        for client in list(self._clients):
            _shut(client)

    def forsake(self) -> None:
        """Close all inherited sockets in a forked child; names and clients belong to the parent."""
        self._ended = True
        for inherited in [*(listener.socket for listener, _ in self._listeners), *self._clients]:
            with contextlib.suppress(OSError):
                os.close(inherited.detach())  # `close` would wait for the files of a handler that does not run here

    def document(self, method: str, target: str) -> Any:
        """Return the document of a request: bytes of metrics, otherwise an object for JSON. Any thread.

        Raises:
            Refused: There is none.
        """
        cache = self._cache()
        try:
            with self._building:
                if cache is None or self._ended:
                    raise Refused(503, CLOSED)
                return _document(cache, self._syncs, method, target)
        except Refused:
            raise
        except ValueError as wrong:
            raise Refused(400, str(wrong)) from None
        except ShutdownError:
            raise Refused(503, CLOSED) from None
        except Exception:
            log.exception("%s: %s %s could not be answered", self._name, method, target)
            raise Refused(500, "the answer could not be made; the program's log says why") from None

    # -- threads

    def _accept(self, listener: Listener) -> None:
        while not self._ended:
            try:
                client, _ = listener.socket.accept()
            except OSError as problem:  # the end, or out of descriptors: then the client stays in the queue
                if not self._ended:
                    log.warning("%s: a client could not be accepted: %s", self._name, problem)
                    time.sleep(BREATH_S)
                continue
            self._clients.add(client)
            try:
                threading.Thread(target=self._serve, args=(client,), name=f"{self._name}-live", daemon=True).start()
            except RuntimeError:  # too many threads of the program
                self._drop(client)
        listener.socket.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            _Handler(client, self)
        except OSError:
            pass  # the client has disconnected, or was silent
        except Exception:
            log.exception("%s: a client could not be served", self._name)
        finally:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        self._clients.discard(client)
        client.close()


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = default_request_version = "HTTP/1.1"
    server_version, sys_version = f"pagecache/{VERSION}", ""
    timeout = SILENCE_S

    def __init__(self, client: socket.socket, served: Server) -> None:
        self.served = served
        super().__init__(client, "", None)  # type: ignore[arg-type]  # no server of `socketserver` accepted it

    def do_GET(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.send_error(413, "a request has no body")
            return
        try:
            self.reply(200, self.served.document(self.command, self.path))
        except Refused as refused:
            self.reply(refused.status, {"schema": SCHEMA, "error": str(refused)})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def reply(self, status: int, document: Any) -> None:
        is_text = isinstance(document, bytes)
        body = document if is_text else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", METRICS_TYPE if is_text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is malformed, and disconnect: the next bytes cannot be parsed."""
        self.close_connection = True
        self.reply(code, {"schema": SCHEMA, "error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


# -- the paths and parameters of docs/live.md


class Route(NamedTuple):
    """A path: the function that makes its document, its parameters and its methods."""

    make: Callable[[PageCache, Syncs, Query], Any]
    parameters: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "HEAD")


def _document(cache: PageCache, syncs: Syncs, method: str, target: str) -> Any:
    """Return the document of a request; ValueError: the client made a mistake."""
    try:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, True, strict_parsing=bool(parts.query), errors="strict"))
        path = unquote(parts.path, errors="strict")
    except ValueError as wrong:
        raise ValueError(f"{target[:80]!r} is not a path with parameters: {wrong}") from None
    known, slash, number = path.rpartition("/")
    if known + slash == "/v1/sync/":
        path, query = TICKET, {**query, "NUMBER": number}
    if path not in ROUTES:
        raise Refused(404, f"no document {path[:80]!r}; there are: {', '.join(ROUTES)}")
    route = ROUTES[path]
    if method not in route.methods:
        raise Refused(405, f"{method[:20]} {path}: only {', '.join(route.methods)}")
    for name in query:
        if name not in route.parameters:
            raise ValueError(f"parameter {name[:40]!r}: {path} takes {', '.join(route.parameters) or 'none'}")
    return route.make(cache, syncs, query)


def _metrics(cache: PageCache, syncs: Syncs, query: Query) -> bytes:
    from . import metrics  # the library takes 50 ms to import, and most caches are never scraped

    return metrics.text(documents.stats(cache))


def _files(cache: PageCache, syncs: Syncs, query: Query) -> dict[str, Any]:
    sort = query.get("sort", documents.SORTS[0])
    if sort not in documents.SORTS:
        raise ValueError(f"sort: {sort[:40]!r} is not one of {', '.join(documents.SORTS)}")
    limit = _number(query.get("limit", str(documents.LIMIT)), "limit", documents.LIMIT_MOST)
    return documents.files(cache, query.get("volume"), sort, limit, query.get("match", ""))


def _sync(cache: PageCache, syncs: Syncs, query: Query) -> dict[str, Any]:
    return syncs.begin(documents.volumes_named(cache, query.get("volume")))


def _number(text: str, name: str, most: int = NUMBER_MOST) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise ValueError(f"{name}: {text[:40]!r} is not a number from 0 to {most}")
    return int(text)


TICKET = "/v1/sync/NUMBER"
ROUTES = {
    "/metrics": Route(_metrics),
    "/v1/stats": Route(lambda cache, syncs, query: documents.stats(cache)),
    "/v1/files": Route(_files, ("volume", "sort", "limit", "match")),
    "/v1/waits": Route(lambda cache, syncs, query: documents.waits(cache)),
    "/v1/failed": Route(lambda cache, syncs, query: documents.failed(cache, query.get("volume")), ("volume",)),
    "/v1/sync": Route(_sync, ("volume",), ("POST",)),
    TICKET: Route(lambda cache, syncs, query: syncs.document(_number(query["NUMBER"], "ticket")), ("NUMBER",)),
}
