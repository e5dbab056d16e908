"""A server with the protocol of docs/live.md and the answers of a test: no cache is behind it."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

GIB = 1 << 30
DONE: dict[str, Any] = {"remaining": 0, "expected": 0.0, "done": True}

Answer = tuple[int, Any]


def ticket(**changes: Any) -> dict[str, Any]:
    """A ticket that is half way."""
    plain = {"schema": 1, "ticket": 7, "total": 2 * GIB, "remaining": GIB, "rate": 1e6, "expected": 1074.0}
    return plain | {"done": False, "seconds": 2.5, "errors": []} | changes


def failed_range(**changes: Any) -> dict[str, Any]:
    return {"key": "a/b", "offset": 4096, "length": 8192, "errno": 28, "message": "no room left"} | changes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fake: Fake = self.server.fake  # type: ignore[attr-defined]
        split = urlsplit(self.path)
        fake.requests.append(f"{self.command} {split.path}{'?' + unquote_plus(split.query) if split.query else ''}")
        status, document = fake.answer(self.command, split.path)
        self.close_connection = True
        if status == 0:  # exactly these bytes, and the end
            self.wfile.write(document)
            return
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def get_request(self) -> tuple[Any, Any]:
        return super().get_request()[0], ("local", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has gone


class Fake:
    """One socket. `sync` answers for tickets, by the number of the question.

    Attributes:
        stats: The answer of `/v1/stats`.
        failed: The ranges of `/v1/failed`.
        requests: every request, in its order.
    """

    def __init__(self, path: Path, **sync: Any) -> None:
        self.path = str(path)
        self.requests: list[str] = []
        self.sync: Callable[[int], Answer] = lambda _: (200, ticket(**sync))
        self.failed: list[dict[str, Any]] = []
        volumes = [{"name": name} for name in ("files", "odd & name")]
        self.stats: Answer = 200, {"schema": 1, "pid": 4711, "cache": {"name": "cache-1"}, "volumes": volumes}
        self.polls = 0
        self._server = _Server(self.path, _Handler)
        self._server.fake = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def answer(self, method: str, path: str) -> Answer:
        if path == "/v1/stats":
            return self.stats
        if path == "/v1/failed":
            return 200, {"schema": 1, "failed": self.failed}
        self.polls += 1
        return self.sync(self.polls)

    def stop(self) -> None:
        """End all listening; the file stays, as after a kill."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextlib.contextmanager
def hanging(path: Path) -> Any:
    """A socket whose owner never takes a connection."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield path
