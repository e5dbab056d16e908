"""The server of one cache: HTTP by `http.server` over Unix sockets, one thread for each connection.

    Listener ─► _accept ─► _Handler ─► answer(cache, ...) ─► bytes ─► client, at its own pace
                                       └─ under `_building`, a moment

A document is built completely and then sent from memory: a slow client holds its thread, its answer and no lock of the
cache. A client is disconnected if it sends or takes nothing for SILENCE_S. Of more than CLIENTS_MOST clients, the
others wait. All clients are programs of the user who owns the cache, because the socket has mode 0600.

The threads do not keep their cache alive. Closing takes `_building` once, so that no thread reads a closed cache, and
waits for no client. A forked child has the sockets and not the threads: it closes them, and leaves the names alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from ..distribution import VERSION
from .address import Listener
from .routes import Response, answer, error, gone
from .syncs import Syncs

if TYPE_CHECKING:
    from ..cache import PageCache

__all__ = ["CLIENTS_MOST", "Server"]

log = logging.getLogger("pagecache")

CLIENTS_MOST = 64
BODY_MOST = 16 << 10
SILENCE_S = 60.0
BREATH_S = 0.05
"""Seconds of pause if an immediate retry would fail again."""
JOIN_S = 1.0

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
        self._building = threading.Lock()  # guards `_syncs` and the change of `_ended`
        self._ended = False
        self._listeners: list[tuple[Listener, threading.Thread]] = []
        self._clients: set[socket.socket] = set()
        self._places = threading.Semaphore(CLIENTS_MOST)
        _servers.add(self)

    def add(self, listener: Listener) -> None:
        """Serve one more listener."""
        name = f"pagecache-{self._name}-live"
        thread = threading.Thread(target=self._accept, args=(listener,), name=name, daemon=True)
        with self._building:
            self._listeners.append((listener, thread))
        thread.start()

    def stop(self) -> None:
        """Stop before the cache ends: the cache is not read after this returns, and the names are free."""
        with self._building:
            self._ended = True
        for listener, _ in self._listeners:
            listener.remove()
            _shut(listener.socket)  # ends `accept`
            self._places.release()
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

    def answer(self, method: str, target: str) -> Response:
        """Return the answer to a request. Any thread."""
        cache = self._cache()
        if cache is None:
            return gone()
        try:
            with self._building:
                return gone() if self._ended else answer(cache, self._syncs, method, target)
        except Exception:
            log.exception("%s: %s %s could not be answered", self._name, method, target)
            return error(500, "the answer could not be made; the program's log says why")

    # -- threads

    def _accept(self, listener: Listener) -> None:
        while not self._ended:
            self._places.acquire()
            try:
                client, _ = listener.socket.accept()
            except OSError as problem:  # the end, or out of descriptors: then the client stays in the queue
                self._places.release()
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
        self._places.release()


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
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit() and len(length) < 16):
            self.send_error(411, f"a body has a Content-Length, not {length[:40]!r} or a Transfer-Encoding")
        elif int(length) > BODY_MOST:
            self.send_error(413, f"a body has at most {BODY_MOST} bytes, and none is needed")
        else:
            self.rfile.read(int(length))
            self.reply(self.served.answer(self.command, self.path))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def reply(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        if response.allow:
            self.send_header("Allow", response.allow)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is malformed, and disconnect: the next bytes cannot be parsed."""
        self.close_connection = True
        self.reply(error(code, message or HTTPStatus(code).phrase))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""
