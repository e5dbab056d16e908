"""A small owner of a socket that follows docs/live.md, and that can hang, die, come back and answer garbage.

It is not the server of the package: tests of a reader need an owner with faults that the real one never has.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from . import documents

# The time limit of all waits here.
LONG = 60.0

Answer = tuple[int, bytes]


def as_json(document: object, status: int = 200) -> Answer:
    return status, json.dumps(document).encode()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Listener

    def do_GET(self) -> None:
        self.server.owner.requests.append(self.path)
        self.server.owner.open_gate.wait(LONG)
        raw = self.server.owner.raw
        if raw is not None:
            self.wfile.write(raw)
            self.close_connection = True
            return
        status, body = self.server.owner.answer(self.command, self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for piece in self.server.owner.cut(body):
            self.wfile.write(piece)

    do_POST = do_GET

    def handle(self) -> None:
        # Some tests have a reader that disconnects in the middle.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The socket."""

    daemon_threads = True
    block_on_close = False
    owner: Owner

    def __init__(self, path: str) -> None:
        """Listen under another name first: a client that finds `path` meets a listener."""
        super().__init__(f"{path}~", Handler)
        os.rename(f"{path}~", path)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.connections.append(request)
        super().process_request(request, client_address)


class Owner:
    """The owner of a socket, in threads of this process.

    Attributes:
        tick: seconds since the documents began; a number, or a function that returns it.
        requests: requested targets, in order.
        changed: replacement answers, by path (without query).
        raw: bytes to send instead of any answer.
        open_gate: cleared: no request is answered.
        count: the number of files.
        size: of the file whose folios are requested.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tick: float | Callable[[], float] = 0.0
        self.requests: list[str] = []
        self.changed: dict[str, Answer] = {}
        self.raw: bytes | None = None
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.count = 0
        self.size = 40 * documents.MIB
        self.name, self.pid = "cache-1", 4711
        self.drip = 0.0
        self.connections: list[socket.socket] = []
        self.listener: Listener | None = None

    def start(self) -> Owner:
        """Serve."""
        self.listener = Listener(str(self.path))
        self.listener.owner = self
        threading.Thread(target=self.listener.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def die(self) -> None:
        """Leave the state of a killed process: the socket is there without a listener, connections are cut."""
        if self.listener is None:
            return
        self.listener.shutdown()
        self.listener.server_close()
        self.listener = None
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def close(self) -> None:
        """Close as a cache does: the socket is removed."""
        self.die()
        self.path.unlink(missing_ok=True)

    def come_back(self) -> None:
        """Serve again, as another process would."""
        self.path.unlink(missing_ok=True)
        self.start()

    def requested(self, path: str) -> list[str]:
        """The requested targets with this prefix."""
        return [target for target in self.requests if target.startswith(path)]

    def now(self) -> float:
        return self.tick() if callable(self.tick) else self.tick

    def cut(self, body: bytes) -> Iterator[bytes]:
        """The body at once, or byte by byte."""
        if not self.drip:
            yield body
            return
        for byte in body:
            time.sleep(self.drip)
            yield bytes([byte])

    def answer(self, method: str, target: str) -> Answer:
        """The answer of the schema to a request."""
        parts = urlsplit(target)
        if parts.path in self.changed:
            return self.changed[parts.path]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        now = self.now()
        match parts.path:
            case "/v1/stats":
                return as_json(documents.busy(now, name=self.name, pid=self.pid))
            case "/v1/files":
                volume, sort, limit = query.get("volume"), query.get("sort", "dirty"), int(query.get("limit", "200"))
                match = query.get("match", "")
                files = documents.files(now, volume=volume, sort=sort, limit=limit, match=match, count=self.count)
                return as_json(files)
            case "/v1/folios":
                length = int(query["length"]) if "length" in query else None
                offset = int(query.get("offset", "0"))
                return as_json(documents.folios(int(query["file"]), offset, length, size=self.size))
            case "/v1/waits":
                return as_json(documents.waits())
        return as_json({"schema": 1, "error": f"{parts.path}: no such path"}, 404)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets, however pytest names the test's own."""
    place = Path(tempfile.mkdtemp(prefix="pc-", dir="/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds.

    Raises:
        AssertionError: it has not held within LONG.
    """
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, f"waited {LONG:g} s for {what}"
        time.sleep(0.01)


def main(path: str) -> None:
    """Serve until killed, as a separate process with the real clock."""
    began = time.monotonic()
    owner = Owner(Path(path))
    owner.tick = lambda: time.monotonic() - began
    owner.pid = os.getpid()
    owner.come_back()
    threading.Event().wait()


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
