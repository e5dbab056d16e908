"""An HTTP proxy in front of a real server, with delays, faults and counters.

    with FaultyProxy("http://127.0.0.1:9000", latency=0.05) as proxy:
        proxy.rules.append(ProxyRule("reset", nth=3))
        backend = S3Backend("bucket", endpoint_url=proxy.endpoint)

A rule selects requests (`matches`, `nth`, `times`) and a fault:

    status     the request does not reach the server; the reply has that status, with `body`
    reset      the connection is reset before the request reaches the server
    midway     the connection is reset when half of the request's body has come
    lost       the server carries it out, and the connection is reset instead of the reply
    cut        the reply ends after `bytes` of its body, and the connection is reset
    delay      the request takes `seconds` longer
    call       `action` is called before the request reaches the server: for a concurrent change

Each request is logged, with its bytes both ways. Connections stay open as both sides wish.
"""

from __future__ import annotations

import http.client
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

STEP = 1 << 18
HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"})
"""Headers of one connection."""
Fault = Literal["status", "reset", "midway", "lost", "cut", "delay", "call"]


@dataclass(frozen=True, slots=True)
class ProxyCall:
    """One request.

    Attributes:
        number: in the order of arrival, from 1.
        method, path: of the request; `path` without the query.
        query: its words.
        headers: of the request, names in lower case.
        status: of the reply; 0: none.
        up, down: bytes of the bodies, as far as they came.
        fault: the applied fault; "" for none.
    """

    number: int
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    status: int = 0
    up: int = 0
    down: int = 0
    fault: str = ""


@dataclass(slots=True)
class ProxyRule:
    """A fault for some requests.

    Attributes:
        fault: see the top of this module.
        matches: selects requests.
        nth: of those, the first that fails, from 1.
        times: number of consecutive failing requests.
        chance: probability of the fault for each of these, by `FaultyProxy.random`.
        status, body, headers: of the reply.
        bytes: of the reply that come through.
        seconds: of the delay.
        action: is called.
        seen: number of selected requests so far.
    """

    fault: Fault
    matches: Callable[[ProxyCall], bool] = lambda _: True
    nth: int = 1
    times: float = 1
    chance: float = 1.0
    status: int = 503
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    action: Callable[[], Any] | None = None
    seen: int = 0


class _Reset(Exception):
    """The client's connection ends here."""


def _ended(connection: socket.socket | None) -> bool:
    """Return whether the other side has closed an idle connection."""
    return connection is None or bool(select.select([connection], [], [], 0)[0])


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, in a separate thread."""

    protocol_version = "HTTP/1.1"
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: Any) -> None:
        return

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._carry
        raise AttributeError(name)

    def _carry(self) -> None:
        proxy = self.server.proxy
        call, faults = proxy.began(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        record = {"status": 0, "up": 0, "down": 0}
        try:
            self._carry_out(faults, record)
        except (_Reset, ConnectionError, TimeoutError, http.client.HTTPException):
            self._reset()
        finally:
            proxy.ended(call, record, faults)

    def _carry_out(self, faults: list[ProxyRule], record: dict[str, int]) -> None:
        proxy, by_name = self.server.proxy, {rule.fault: rule for rule in faults}
        proxy.wait(proxy.latency + sum(rule.seconds for rule in faults if rule.fault == "delay"))
        for rule in faults:
            if rule.action is not None:
                rule.action()
        if "reset" in by_name:
            raise _Reset
        length = int(self.headers.get("Content-Length") or 0)
        if "midway" in by_name:
            self._body(length // 2, record)
            raise _Reset
        if "status" in by_name:
            self._body(length, record)
            self._answer(by_name["status"], record)
            return
        answer = self._forwarded(length, record)
        if "lost" in by_name:
            answer.read()
            raise _Reset
        self._back(answer, record, by_name.get("cut"))

    def _body(self, length: int, record: dict[str, int]) -> None:
        for _ in self._pieces(length, record):
            pass

    def _pieces(self, length: int, record: dict[str, int]) -> Iterator[bytes]:
        while length:
            piece = self.rfile.read(min(length, STEP))
            if not piece:
                raise _Reset
            record["up"] += len(piece)
            length -= len(piece)
            yield piece

    def _forwarded(self, length: int, record: dict[str, int]) -> http.client.HTTPResponse:
        if self._upstream is not None and _ended(self._upstream.sock):
            self._upstream.close()  # the server does not keep it open
            self._upstream = None
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(self.server.proxy.host, self.server.proxy.port, timeout=600)
            self._upstream.connect()
            self._upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = self._upstream
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP and name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders()
            for piece in self._pieces(length, record):
                upstream.send(piece)
            return upstream.getresponse()
        except (OSError, http.client.HTTPException):
            upstream.close()
            self._upstream = None
            raise

    def _back(self, answer: http.client.HTTPResponse, record: dict[str, int], cut: ProxyRule | None) -> None:
        record["status"] = answer.status
        self.send_response_only(answer.status, answer.reason)
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        whole = None if bodiless or answer.getheader("Content-Length") else answer.read()
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        if whole is not None:
            self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        if bodiless:
            answer.read()
            return
        room = cut.bytes if cut is not None else None
        pieces = iter([whole] if whole else []) if whole is not None else iter(lambda: answer.read(STEP), b"")
        for piece in pieces:
            piece = piece if room is None else piece[:room]
            self.wfile.write(piece)
            record["down"] += len(piece)
            if room is not None:
                room -= len(piece)
                if not room:
                    self.wfile.flush()
                    raise _Reset
        if answer.will_close and self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def _answer(self, rule: ProxyRule, record: dict[str, int]) -> None:
        record["status"] = rule.status
        self.send_response_only(rule.status)
        for name, value in rule.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(rule.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(rule.body)
            record["down"] += len(rule.body)

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()
        if self._upstream is not None:
            self._upstream.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: FaultyProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnected."""


class FaultyProxy:
    """A faulty proxy; see the top of this module. A context manager.

    Args:
        target: the server's address, such as ``http://127.0.0.1:9000``.
        latency: extra seconds of every request.
        seed: of the chances of rules.

    Attributes:
        rules: active rules; may be changed at any time.
        calls: finished requests, in the order of their end.
    """

    def __init__(self, target: str, *, latency: float = 0.0, seed: int = 0) -> None:
        import random

        parts = urlsplit(target)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise ValueError(f"target: {target!r} is not of the form http://HOST:PORT")
        self.host, self.port = parts.hostname, parts.port
        self.latency = latency
        self.rules: list[ProxyRule] = []
        self.calls: list[ProxyCall] = []
        self.random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._lock = threading.Condition()  # guards the lists, the numbers and the counters of rules
        self._running = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Return the address for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def began(self, method: str, target: str, headers: dict[str, str]) -> tuple[ProxyCall, list[ProxyRule]]:
        """Register a request, and find its rule."""
        path, _, query = target.partition("?")
        words = dict(parse_qsl(query, keep_blank_values=True))
        with self._lock:
            call = ProxyCall(next(self._numbers), method, path, words, headers)
            self._running += 1
            faults = []
            for rule in self.rules:
                if rule.matches(call):
                    rule.seen += 1
                    if rule.nth <= rule.seen < rule.nth + rule.times and self.random.random() < rule.chance:
                        faults.append(rule)
            return call, faults

    def ended(self, call: ProxyCall, record: dict[str, int], faults: list[ProxyRule]) -> None:
        fault = "+".join(rule.fault for rule in faults)
        done = ProxyCall(call.number, call.method, call.path, call.query, call.headers, **record, fault=fault)
        with self._lock:
            self.calls.append(done)
            self._running -= 1
            self._lock.notify_all()

    def taken(self) -> list[ProxyCall]:
        """Return the requests since the last call; wait for running ones."""
        with self._lock:
            self._lock.wait_for(lambda: not self._running)
            calls, self.calls = self.calls, []
            return calls

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
