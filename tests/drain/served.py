"""A server with the protocol of docs/live.md and the answers of a test: no cache is behind it."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote_plus, urlsplit

GIB = 1 << 30

Answer = tuple[int, Any]


def ticket(**changes: Any) -> dict[str, Any]:
    """A ticket that is half way."""
    plain: dict[str, Any] = {
        "schema": 1,
        "ticket": 7,
        "total": 2 * GIB,
        "remaining": GIB,
        "rate": 1e6,
        "expected": 1074.0,
    }
    return plain | {"done": False, "seconds": 2.5, "errors": []} | changes


DIED = (0, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
"""An answer in the middle of which the owner ends."""
DONE: dict[str, Any] = {"remaining": 0, "expected": 0.0, "done": True}


def failed_range(**changes: Any) -> dict[str, Any]:
    plain = {"key": "a/b", "offset": 4096, "length": 8192, "errno": 28, "message": "no room left"}
    return plain | changes


def stats(volumes: Sequence[str]) -> dict[str, Any]:
    cache = {"name": "cache-1", "capacity": GIB, "page_size": 4096, "dirty_background": None, "dirty_limit": None}
    return {
        "schema": 1,
        "pagecache": "0.1.0",
        "pid": 4711,
        "uptime": 1.0,
        "cache": cache | {"counters": {}},
        "volumes": [{"name": name, "state": "attached", "counters": {}} for name in volumes],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        served: Served = self.server.served  # type: ignore[attr-defined]
        split = urlsplit(self.path)
        served.requests.append(f"{self.command} {split.path}{'?' + unquote_plus(split.query) if split.query else ''}")
        status, document = served.answer(self.command, split.path)
        if status == 0:  # exactly these bytes, and the end
            self.close_connection = True
            self.wfile.write(document)
            return
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(path, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        self.connections.append(request)
        return request, ("local", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has gone


class Served:
    """One socket. `sync` answers for tickets, `failed` for failed ranges; both may be changed while it is served.

    Attributes:
        requests: every request, in its order.
    """

    def __init__(self, path: Path, **sync: Any) -> None:
        self.path = str(path)
        self.requests: list[str] = []
        self.sync: Callable[[int], Answer] = lambda _: (200, ticket(**sync))
        self.failed: list[dict[str, Any]] = []
        self.volumes = ["files"]
        self.stats: Answer | None = None
        self.polls = 0
        self.polled = threading.Condition()
        self._server = _Server(self.path)
        self._server.served = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def answer(self, method: str, path: str) -> Answer:
        if path == "/v1/stats":
            return self.stats or (200, stats(self.volumes))
        if path == "/v1/failed":
            return 200, {"schema": 1, "failed": self.failed}
        if (method, path) in (("POST", "/v1/sync"), ("GET", "/v1/sync/7")):
            with self.polled:
                self.polls += 1
                self.polled.notify_all()
            return self.sync(self.polls)
        return 404, {"schema": 1, "error": f"{path}: no such path"}

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return len(self._server.connections)

    def wait_polled(self, times: int) -> None:
        with self.polled:
            assert self.polled.wait_for(lambda: self.polls >= times, 20)

    def stop(self) -> None:
        """End all listening and answering; the file stays, as after a kill."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        for connection in self._server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
