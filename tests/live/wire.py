"""The client of the package, which keeps its connection and also sends wrong requests."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from pagecache.observe import client

TIMEOUT = 20.0


class Connection(client._Connection):
    """A client that keeps its connection."""

    def __init__(self, path: str) -> None:
        super().__init__(path, TIMEOUT)

    def ask(self, target: str, method: str = "GET", **more: Any) -> tuple[int, Any, http.client.HTTPMessage]:
        """Status, document and headers of one request."""
        self.request(method, target, **more)
        response = self.getresponse()
        body = response.read()
        as_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(body) if as_json and body else body.decode(), response.headers


def connect(path: str) -> socket.socket:
    """A connection to the socket, whatever the length of its path."""
    connection = Connection(path)
    connection.connect()
    return connection.sock


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
