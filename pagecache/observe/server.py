"""The server of one cache: one daemon thread, sockets that never block, a selector.

    client ─► Requests ─► answer(cache, ...) ─► bytes ─► client, at its own pace
                          └─ under `_building`, a moment

A document is built completely and then sent from memory: a slow client holds a buffer and no lock of the cache. While
an answer is being sent, nothing is read from its client, so a client holds at most one answer and one buffer of
requests. A client is dropped if it takes no bytes for `send` seconds, needs `request` seconds for one request, or is
silent for `idle` seconds. Clients beyond CLIENTS_MOST get 503 and are disconnected.

The thread does not keep its cache alive. Closing takes `_building` once, so that the thread reads no closed cache, and
waits for no client. A forked child has the sockets and not the thread: it closes them without an answer, and leaves the
names alone (address.py closes the listening ones).

The parser is http.py: `http.server` needs a thread for each client, and accepts 27 of the 31 malformed requests that
http.py refuses. h11 refuses all but two of them, but would replace some 90 lines by a dependency.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from .address import Listener
from .documents import SCHEMA
from .http import Refused, Request, Requests, Response, error
from .routes import answer, gone
from .syncs import Syncs

if TYPE_CHECKING:
    from ..cache import PageCache

__all__ = ["CLIENTS_MOST", "Server", "Timeouts"]

log = logging.getLogger("pagecache")

CLIENTS_MOST = 64
LEAVING_MOST = 64
"""Clients that got their last answer and have not disconnected."""
RECEIVE = 16 << 10
SEND = 256 << 10
BREATH = 0.05
"""Seconds of pause if an immediate retry would fail again."""
SYNC_CHECK_S = 1.0
"""Seconds between checks of running syncs."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _forsake() -> None:
    for server in list(_servers):
        server.forsake()


os.register_at_fork(after_in_child=_forsake)


class Timeouts:
    """Limits of a client in seconds."""

    def __init__(self, *, idle: float = 60.0, request: float = 10.0, send: float = 30.0, leave: float = 2.0) -> None:
        self.idle = idle
        self.request = request
        self.send = send
        self.leave = leave


class _Client:
    """One connection. `until`: the time at which it is dropped."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.requests = Requests()
        self.answer = memoryview(b"")
        self.last = False  # the answer being sent is the last
        self.leaving = False  # the last answer was sent; the client should disconnect
        self.until = 0.0
        self.events = 0


class Server:
    """The server of one cache, at all its sockets."""

    def __init__(self, cache: PageCache, timeouts: Timeouts | None = None) -> None:
        self._cache = weakref.ref(cache, lambda _: self._wake())
        self._name = cache.name
        self._timeouts = timeouts or Timeouts()
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listeners: list[Listener] = []
        self._arrived: deque[Listener] = deque()
        self._clients: dict[int, _Client] = {}
        self._leaving = 0
        self._ready: deque[_Client] = deque()
        self._syncs = Syncs()
        self._building = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"pagecache-{self._name}-live", daemon=True)
        _servers.add(self)
        self._thread.start()

    # -- for the cache; any thread

    def add(self, listener: Listener) -> None:
        """Serve one more listener."""
        with self._building:
            self._listeners.append(listener)
            self._arrived.append(listener)
        self._wake()

    def stop(self) -> None:
        """Stop before the cache ends: the cache is not read after this returns, and the names are free."""
        with self._building:
            self._ended = True
        for listener in self._listeners:
            listener.remove()
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(SYNC_CHECK_S)

    def forsake(self) -> None:
        """Close all inherited sockets in a forked child; names and clients belong to the parent."""
        self._ended = True
        for client in list(self._clients.values()):
            client.socket.close()
        with contextlib.suppress(OSError):
            self._selector.close()
            self._woken.close()
            self._waker.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # the thread has ended, or the pipe is full of wake-ups
            self._waker.send(b"\0")

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._ended and self._cache() is not None:
                try:
                    self._turn()
                except Exception:
                    log.exception("%s: the live server met an error that should not get here; it goes on", self._name)
                    time.sleep(BREATH)
        finally:
            self._close()

    def _turn(self) -> None:
        for key, events in self._selector.select(self._select_timeout()):
            if key.fileobj is self._woken:
                self._arrivals()
            elif isinstance(key.data, Listener):
                self._accept(key.data)
            else:
                self._serve(key.data, events)
        for _ in range(len(self._ready)):
            client = self._ready.popleft()
            if client.socket.fileno() >= 0:
                self._advance(client)
        self._drop_late()
        if self._syncs.running():
            with self._building:
                if not self._ended:
                    self._syncs.update()

    def _select_timeout(self) -> float | None:
        if self._ready:
            return 0.0
        until = min((client.until for client in self._clients.values()), default=None)
        left = None if until is None else max(0.0, until - time.monotonic())
        if self._syncs.running():
            return SYNC_CHECK_S if left is None else min(left, SYNC_CHECK_S)
        return left

    def _arrivals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(RECEIVE)
        while self._arrived:
            listener = self._arrived.popleft()
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)

    def _drop_late(self) -> None:
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.until <= now]:
            self._drop(client)

    def _close(self) -> None:
        """Close every connection."""
        with self._building:
            self._ended = True
        for listener in self._listeners:
            listener.remove()
            listener.socket.close()
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        self._woken.close()
        self._waker.close()

    # -- clients

    def _accept(self, listener: Listener) -> None:
        try:
            connection, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # the client has disconnected
        except OSError as problem:  # out of descriptors: the client stays in the queue
            log.warning("%s: a client could not be accepted: %s", self._name, problem)
            time.sleep(BREATH)
            return
        connection.setblocking(False)
        client = _Client(connection)
        staying = len(self._clients) - self._leaving
        if staying >= CLIENTS_MOST and self._leaving >= LEAVING_MOST:
            connection.close()
            return
        self._clients[connection.fileno()] = client
        client.until = time.monotonic() + self._timeouts.idle
        if staying >= CLIENTS_MOST:
            self._leaving += 1
            client.leaving = True
            refusal = error(SCHEMA, 503, f"{CLIENTS_MOST} clients are connected; try again later")
            self._send(client, refusal.encode(last=True), last=True)
        else:
            self._expect(client, selectors.EVENT_READ)

    def _expect(self, client: _Client, events: int) -> None:
        if client.events == events:
            return
        if client.events:
            self._selector.modify(client.socket, events, client)
        else:
            self._selector.register(client.socket, events, client)
        client.events = events

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.socket.fileno(), None) is None:
            return
        self._leaving -= client.leaving
        if client.events:
            self._selector.unregister(client.socket)
        client.socket.close()
        client.answer = memoryview(b"")

    def _serve(self, client: _Client, events: int) -> None:
        if client.socket.fileno() < 0:
            return  # dropped in this turn
        if events & selectors.EVENT_WRITE:
            self._go_on(client)
        elif events & selectors.EVENT_READ:
            self._receive(client)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.socket.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
        elif not client.leaving:  # requests of a leaving client are ignored
            if client.requests.idle():
                client.until = time.monotonic() + self._timeouts.request
            client.requests.feed(data)
            self._advance(client)

    def _advance(self, client: _Client) -> None:
        """Answer the next request if it is complete and no answer is being sent."""
        if client.answer or client.leaving:
            return
        try:
            request = client.requests.next()
        except Refused as refused:
            self._send(client, error(SCHEMA, refused.status, str(refused)).encode(last=True), last=True)
            return
        if request is not None:
            response = self._built(request)
            head = request.method == "HEAD"
            self._send(client, response.encode(head=head, last=request.last), last=request.last)
        elif client.requests.waits_for_continue():
            self._send(client, CONTINUE, last=False)
        elif client.requests.idle():
            client.until = time.monotonic() + self._timeouts.idle

    def _built(self, request: Request) -> Response:
        cache = self._cache()
        if cache is None:
            return gone()
        try:
            with self._building:
                return gone() if self._ended else answer(cache, self._syncs, request)
        except Exception:
            log.exception("%s: %s %s could not be answered", self._name, request.method, request.path)
            return error(SCHEMA, 500, "the answer could not be made; the program's log says why")

    def _send(self, client: _Client, answer: bytes, *, last: bool) -> None:
        client.answer, client.last = memoryview(answer), last
        client.until = time.monotonic() + self._timeouts.send
        self._go_on(client)

    def _go_on(self, client: _Client) -> None:
        """Send as many bytes as the client takes now."""
        try:
            sent = client.socket.send(client.answer[:SEND])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._drop(client)
            return
        client.answer = client.answer[sent:]
        if sent:
            client.until = time.monotonic() + self._timeouts.send
        if client.answer:
            self._expect(client, selectors.EVENT_WRITE)
        elif client.last:
            self._leave(client)
        else:
            client.until = time.monotonic() + self._timeouts.request
            self._expect(client, selectors.EVENT_READ)
            self._ready.append(client)  # the next request may have arrived together with this one

    def _leave(self, client: _Client) -> None:
        """Read on until the client disconnects: closing a socket with unread bytes would cut off the answer."""
        if not client.leaving:
            self._leaving += 1
            client.leaving = True
        if self._leaving > LEAVING_MOST:
            self._drop(client)
            return
        try:
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(client)
            return
        client.until = time.monotonic() + self._timeouts.leave
        self._expect(client, selectors.EVENT_READ)
