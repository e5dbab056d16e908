"""A proxy in front of a server that gives it one peculiarity of another kind of server.

    with Imitation(moto.endpoint, ignores_tags_of_uploads) as proxy:
        backend = S3Backend("bucket", endpoint_url=proxy.endpoint)

A peculiarity is a function of a request, which it may change. It may also return an answer in place of the server's:
`None` sends the request on; a function changes the answer of the server.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from examples import proxy
from examples.proxy import FaultyProxy

from .requests import refusal

HOP = proxy.HOP | {"expect"}


@dataclass(slots=True)
class Request:
    """A request; names of headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def is_completion(self) -> bool:
        return self.method == "POST" and "uploadId" in self.query

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber" in self.query


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] | None = None


Peculiarity = Callable[[Request], Answer | Callable[[Answer], None] | None]


class Imitation(FaultyProxy):
    """The proxy. A context manager."""

    def __init__(self, target: str, *peculiarities: Peculiarity) -> None:
        super().__init__(target)
        self._server.RequestHandlerClass = type("Handler", (_Handler,), {"peculiarities": peculiarities})


class _Handler(proxy._Handler):
    peculiarities: tuple[Peculiarity, ...]

    def _carry(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in HOP}
        request = Request(self.command, self.path, headers, body)
        found = [peculiarity(request) for peculiarity in self.peculiarities]
        answer = next((one for one in found if isinstance(one, Answer)), None) or self._answered(request)
        for change in found:
            if change is not None and not isinstance(change, Answer):
                change(answer)
        self.send_response_only(answer.status)
        length = str(len(answer.body))
        for name, value in (answer.headers or {}).items():
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in (*HOP, "content-length"):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _answered(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self.server.proxy.host, self.server.proxy.port, timeout=600)
        try:
            request.headers.pop("content-length", None)
            connection.request(request.method, request.target, request.body, request.headers)
            with connection.getresponse() as answer:
                return Answer(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            connection.close()


# ---------------------------------------------------------------- of Ceph RGW 16


def answers_completions_without_etag(request: Request) -> Callable[[Answer], None] | None:
    def change(answer: Answer) -> None:
        answer.body = re.sub(rb"<ETag>.*?</ETag>", b"<ETag></ETag>", answer.body)

    return change if request.is_completion else None


def refuses_each_if_match_of_put(request: Request) -> Answer | None:
    """It compares with the quotes."""
    whole = request.method == "PUT" and not request.is_part
    quoted = request.headers.get("if-match", "").startswith('"')
    return Answer(412, refusal("PreconditionFailed")) if whole and quoted else None


def decodes_sources_twice(request: Request) -> None:
    source = request.headers.get("x-amz-copy-source")
    if request.is_part and source is not None:
        request.headers["x-amz-copy-source"] = unquote(source)


def ignores_tags_of_uploads(request: Request) -> None:
    if request.method == "POST" and "uploads" in request.query:
        request.headers.pop("x-amz-tagging", None)


def keeps_plus_in_tags(request: Request) -> None:
    if "x-amz-tagging" in request.headers:
        request.headers["x-amz-tagging"] = request.headers["x-amz-tagging"].replace("+", "%2B")


def answers_one_put_with_etag(etag: str | None, name: str) -> Peculiarity:
    """The answer to the first PUT of an object that replaces another version has another ETag; None: it has none."""
    changed: list[str] = []

    def change(request: Request) -> Callable[[Answer], None] | None:
        if request.method != "PUT" or changed or "if-match" not in request.headers or not request.target.endswith(name):
            return None
        changed.append(request.target)

        def replace(answer: Answer) -> None:
            answer.headers = {name: value for name, value in (answer.headers or {}).items() if name.lower() != "etag"}
            if etag is not None:
                answer.headers["ETag"] = etag

        return replace

    return change


def refuses_omitted_parts() -> Peculiarity:
    """A completion that leaves out a part that was uploaded is refused, and the upload stays."""
    sent: dict[str, set[int]] = {}

    def refuse(request: Request) -> Answer | None:
        upload = request.query.get("uploadId", "")
        if request.is_part:
            sent.setdefault(upload, set()).add(int(request.query["partNumber"]))
        if not request.is_completion:
            return None
        listed = {int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)}
        return Answer(400, refusal("InvalidPart")) if sent.get(upload, set()) - listed else None

    return refuse


def ignores(*headers: str, of: Callable[[Request], bool] = lambda request: True) -> Peculiarity:
    """The server takes no notice of these headers."""

    def drop(request: Request) -> None:
        if of(request):
            for header in headers:
                request.headers.pop(header, None)

    return drop
