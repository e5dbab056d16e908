"""The standard library's HTTP client over the socket of a cache."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any

TIMEOUT = 20.0


def connect(path: str) -> socket.socket:
    """A connection to the socket, whatever the length of its path."""
    found = os.open(path, os.O_PATH)
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(TIMEOUT)
    try:
        made.connect(f"/proc/self/fd/{found}")
    except BaseException:
        made.close()
        raise
    finally:
        os.close(found)
    return made


class Connection(http.client.HTTPConnection):
    """A client that keeps its connection."""

    def __init__(self, path: str) -> None:
        super().__init__("cache", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path)

    def ask(self, target: str, method: str = "GET", **more: Any) -> tuple[int, Any, http.client.HTTPMessage]:
        """Status, document and headers of one request."""
        self.request(method, target, **more)
        response = self.getresponse()
        body = response.read()
        as_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(body) if as_json and body else body.decode(), response.headers


def request(path: str, target: str, method: str = "GET", **more: Any) -> tuple[int, Any]:
    """Status and document of one request on its own connection."""
    connection = Connection(path)
    try:
        return connection.ask(target, method, **more)[:2]
    finally:
        connection.close()


def get(path: str, target: str) -> Any:
    """The document of a successful request."""
    status, document = request(path, target)
    assert status == 200, document
    return document


def ended(connection: socket.socket) -> bool:
    """Wait until the server has ended a connection; return whether it sent nothing before."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
