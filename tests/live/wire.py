"""Clients of a live server: a correct HTTP client, and one that sends any bytes that a test wants."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any, Self

TIMEOUT = 20.0


def connect(path: str) -> socket.socket:
    """A connection to the socket, whatever the length of its path."""
    found = os.open(path, os.O_PATH)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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
    """The standard library's client, over the socket."""

    def __init__(self, path: str) -> None:
        super().__init__("cache", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path)


def request(path: str, target: str, method: str = "GET") -> tuple[int, Any]:
    """Status and document of one request."""
    connection = Connection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read()
        json_ = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(body) if json_ and body else body.decode()
    finally:
        connection.close()


def get(path: str, target: str) -> Any:
    """The document of a successful request."""
    status, document = request(path, target)
    assert status == 200, document
    return document


class Raw:
    """Bytes there and back."""

    def __init__(self, path: str) -> None:
        self.socket = connect(path)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of the next answer."""
        line = self._file.readline()
        assert line, "the connection has ended"
        fields = {}
        while (field := self._file.readline().decode().strip()) != "":
            name, _, value = field.partition(": ")
            fields[name] = value
        body = b"" if head else self._file.read(int(fields.get("Content-Length", "0")))
        return int(line.split()[1]), fields, body

    def ended(self) -> bool:
        """Wait and return whether the connection has ended."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True
