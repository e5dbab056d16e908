"""HTTP/1.1 without I/O: bytes of requests in, requests out; answers as bytes.

    feed(bytes) ─► Requests ─► next() ─► Request, or None: more bytes are needed
                                  └────► Refused: the error; the connection is of no use afterwards

The parser is strict about the length of a request, so that no part of one is taken for another. Bodies are read and
dropped: no request needs one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["BODY_MOST", "HEAD_MOST", "Refused", "Request", "Requests", "Response", "error"]

HEAD_MOST = 16 << 10
BODY_MOST = 16 << 10
PARAMETERS_MOST = 16

END = re.compile(rb"\n\r?\n")
REQUEST = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/(\d)\.(\d)")
FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[\t -~]*)?")


class Refused(Exception):
    """A request is malformed or too large."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `last`: no other request follows on this connection."""

    method: str
    path: str
    query: Mapping[str, str]
    last: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, head: bool = False, last: bool = False) -> bytes:
        """Return the bytes to send. `head`: without the body; `last`: the connection ends with this answer."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            *(["Connection: close"] if last else []),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (b"" if head else self.body)


def error(schema: int, status: int, message: str, **headers: str) -> Response:
    """Return an error as JSON."""
    return Response(status, json.dumps({"schema": schema, "error": message}).encode(), headers=headers)


class Requests:
    """The requests of one connection."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._request: Request | None = None
        self._left = 0  # bytes of its body, or of the current chunk
        self._chunked = False
        self._body = 0  # bytes of a chunked body so far, with their framing
        self._step: Literal["size", "end", "trailer"] = "size"  # the next line of a chunked body
        self._expected = False

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def idle(self) -> bool:
        """Return whether no byte of a request has arrived yet."""
        return not self._bytes and self._request is None

    def waits_for_continue(self) -> bool:
        """Return, once, whether the client waits for `100 Continue` before it sends the body."""
        expected, self._expected = self._expected, False
        return expected

    def next(self) -> Request | None:
        """Return the next complete request; None: more bytes are needed.

        Raises:
            Refused: It is malformed; the following bytes cannot be parsed.
        """
        if self._request is None:
            self._request = self._head()
        if self._request is None or not (self._chunks() if self._chunked else self._skipped()):
            return None
        request, self._request = self._request, None
        self._chunked, self._body, self._step, self._expected = False, 0, "size", False
        return request

    # -- the head

    def _head(self) -> Request | None:
        while self._bytes.startswith((b"\r", b"\n")):
            del self._bytes[:1]  # an empty line between requests
        end = END.search(self._bytes, 0, HEAD_MOST)
        if end is None:
            if len(self._bytes) >= HEAD_MOST:
                raise Refused(431, f"the head of a request has at most {HEAD_MOST} bytes")
            return None
        lines = self._bytes[: end.start()].decode("latin-1").split("\n")
        del self._bytes[: end.end()]
        return self._parsed([line.removesuffix("\r") for line in lines])

    def _parsed(self, lines: list[str]) -> Request:
        first = REQUEST.fullmatch(lines[0])
        if first is None:
            raise Refused(400, f"{lines[0][:80]!r} is not METHOD PATH HTTP/1.1")
        method, target, major, minor = first.groups()
        if major != "1":
            raise Refused(505, f"HTTP/{major}.{minor} is not spoken here; HTTP/1.1 is")
        fields = _fields(lines[1:])
        tokens = {token.strip().lower() for value in fields.get("connection", []) for token in value.split(",")}
        self._frame(fields, old=minor == "0")
        path, query = _target(target)
        last = "close" in tokens or (minor == "0" and "keep-alive" not in tokens)
        return Request(method, path, query, last)

    def _frame(self, fields: Mapping[str, list[str]], *, old: bool) -> None:
        """Find the length of the body."""
        lengths, codings = set(fields.get("content-length", [])), fields.get("transfer-encoding", [])
        expect = fields.get("expect", [])
        if expect and [value.lower() for value in expect] != ["100-continue"]:
            raise Refused(417, f"Expect: {expect[0][:80]!r} is not 100-continue")
        if codings and (lengths or old):
            raise Refused(400, "Transfer-Encoding goes neither with Content-Length nor with HTTP/1.0")
        if codings and [coding.lower() for coding in codings] != ["chunked"]:
            raise Refused(501, f"Transfer-Encoding: {codings[0][:80]!r} is not chunked")
        if len(lengths) > 1 or any(re.fullmatch("[0-9]{1,15}", length) is None for length in lengths):
            raise Refused(400, f"Content-Length: {sorted(lengths)[0][:80]!r} is not one number of bytes")
        self._left = int(next(iter(lengths), "0"))
        if self._left > BODY_MOST:
            raise _too_long()
        self._chunked = bool(codings)
        self._expected = bool(expect) and (self._chunked or self._left > 0)

    # -- the body

    def _skipped(self) -> bool:
        taken = min(self._left, len(self._bytes))
        del self._bytes[:taken]
        self._left -= taken
        return self._left == 0

    def _chunks(self) -> bool:
        """Skip chunks; return whether the last chunk and the trailer are complete."""
        while self._skipped() and (line := self._line()) is not None:
            self._body += len(line) + 1
            if self._step == "trailer":
                if not line:
                    return True
            elif self._step == "end":
                if line:
                    raise Refused(400, "a chunk is longer than it says")
                self._step = "size"
            else:
                self._left = _chunk_size(line)
                self._body += self._left
                self._step = "end" if self._left else "trailer"
            if self._body > BODY_MOST:
                raise _too_long()
        return False

    def _line(self) -> bytes | None:
        end = self._bytes.find(b"\n", 0, HEAD_MOST)
        if end < 0:
            if len(self._bytes) >= HEAD_MOST:
                raise _too_long()
            return None
        line = bytes(self._bytes[:end])
        del self._bytes[: end + 1]
        return line.removesuffix(b"\r")


def _chunk_size(line: bytes) -> int:
    size = CHUNK.fullmatch(line)
    if size is None:
        raise Refused(400, f"{line[:40]!r} is not the size of a chunk")
    return int(size[1], 16)


def _too_long() -> Refused:
    return Refused(413, f"a body has at most {BODY_MOST} bytes, and none is needed")


def _fields(lines: list[str]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise Refused(400, f"{line[:80]!r} is not a header field")
        fields.setdefault(match[1].lower(), []).append(match[2])
    return fields


def _target(target: str) -> tuple[str, dict[str, str]]:
    try:
        parts = urlsplit(target)
        path = unquote(parts.path, errors="strict")
        pairs = parse_qsl(
            parts.query,
            keep_blank_values=True,
            strict_parsing=bool(parts.query),
            errors="strict",
            max_num_fields=PARAMETERS_MOST,
        )
    except ValueError as error:
        raise Refused(400, f"{target[:80]!r} is not a path with parameters: {error}") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise Refused(400, f"{target[:80]!r} has a parameter twice")
    return path, query
