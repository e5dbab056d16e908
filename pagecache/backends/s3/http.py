"""Signed HTTP requests to one bucket, and their answers.

botocore finds the credentials and the address of the bucket, signs each request, and sends it by its connections. The
rest of it, which builds requests and reads answers by a description of the service, costs as much again for a small
object as everything else here, and is left out. The request that is looked at for the address is prepared by all of
botocore, and never sent.
"""

from __future__ import annotations

import errno
import io
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import responses
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from ...distribution import needs

try:
    import boto3
    import botocore.session
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse, HeadersDict
    from botocore.config import Config
    from botocore.exceptions import NoCredentialsError
    from botocore.httpsession import URLLib3Session
    from botocore.loaders import create_loader
    from botocore.response import StreamingBody
    from botocore.utils import get_environ_proxies
    from urllib3 import HTTPResponse
    from urllib3.connection import HTTPConnection
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(needs("boto3 is not installed", "s3"), name=error.name) from error

from ...errors import BackendError
from ..url import without_user
from .errors import REDIRECTS, Refused, Unreadable

LONG_TIMEOUT = 600.0
"""Minimum seconds for copies and completions, which take minutes for large objects."""
LOADER = create_loader()
"""The descriptions of the service are read once."""
SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")
OF_AWS = re.compile(r"https?://s3(-fips)?(\.dualstack)?([.-](?!us-gov)[a-z]+-[a-z]+-\d+)?\.amazonaws\.com/?")
"""A bucket has one name in all of these regions. Those of China and of governments have buckets of their own."""
UNRESERVED = "-_.~"
EMPTY: Mapping[str, str] = {}
UNSIGNED_BODY = SimpleNamespace(s3={"payload_signing_enabled": False})
"""The part of a client's settings that the signer reads: it does not read a body; the MD5 of that is signed."""


@dataclass(frozen=True, slots=True)
class _Address:
    """Where a bucket is: the URL that names of objects are appended to, and region and service of its signatures."""

    url: str
    region: str
    service: str


@dataclass(slots=True)
class Answer:
    """An answer without an error."""

    headers: Mapping[str, str]  # the case of a name is of no interest
    body: Any  # not read yet, if it was asked for
    content: bytes = b""  # otherwise

    def xml(self) -> ElementTree.Element:
        """Return the content, without the namespaces of its names. An empty one is an element of nothing: some servers
        report no more than that a request is done. White space comes first while a server is at work.

        Raises:
            Unreadable: it is no XML: it was cut off.
        """
        content = self.content.strip()
        if not content:
            return ElementTree.Element("nothing")
        try:
            root = ElementTree.fromstring(content)
        except ElementTree.ParseError as error:
            raise Unreadable(f"the answer is not readable: {error}") from error
        for one in root.iter():
            one.tag = one.tag.rpartition("}")[2]
        return root


def text_of(parent: ElementTree.Element, tag: str) -> str:
    """Return the text of an element below another; "": there is none."""
    return parent.findtext(tag) or ""


class Http:
    """The requests to one bucket. Thread-safe.

    Args:
        options: of `boto3.session.Session.client`; those of the session itself are in `session`.
        timeouts: seconds for a connection, and seconds without a byte from the server.

    Attributes:
        service: URL of a service with buckets of its own, from the options, the environment or the profile; "": AWS.
    """

    def __init__(
        self,
        bucket: str,
        options: dict[str, Any],
        session: dict[str, Any],
        connections: int,
        addressing: str,
        timeouts: tuple[float, float],
    ) -> None:
        self._bucket, self._options, self._addressing = bucket, options, addressing
        inner = botocore.session.Session()
        inner.register_component("data_loader", LOADER)
        self._session = boto3.session.Session(botocore_session=inner, **session)
        client = self._client(None)  # an unknown region or profile is an error now
        address = client.meta.endpoint_url
        client.close()
        self.service = "" if OF_AWS.fullmatch(address) else without_user(address).partition("?")[0].rstrip("/")

        def sending(seconds: float) -> Any:
            return URLLib3Session(
                verify=inner.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True,
                proxies=get_environ_proxies(address),
                timeout=(timeouts[0], seconds),
                max_pool_connections=connections,
                socket_options=HTTPConnection.default_socket_options,  # TCP_NODELAY: a body follows its headers at once
            )

        self.connect_timeout, self.read_timeouts = timeouts[0], (timeouts[1], max(timeouts[1], LONG_TIMEOUT))
        self._quick, self._patient = map(sending, self.read_timeouts)
        self._lock = threading.Lock()  # held while the address is found
        self._address: _Address | None = None

    def close(self) -> None:
        self._quick.close()
        self._patient.close()

    def ask(
        self,
        method: str,
        name: str = "",
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] = EMPTY,
        sent: Sequence[bytes | memoryview] | None = None,
        body: bool = False,
        slow: bool = False,
    ) -> Answer:
        """Make a request, once; one more if the bucket turns out to be in another region.

        Args:
            method: of HTTP.
            name: of an object; "": the bucket.
            query: names and values.
            headers: names and values; they are signed.
            sent: the pieces of a body.
            body: leave the body of the answer to the caller, who closes it.
            slow: it may take minutes: a copy, or a completion. An error may come in the body of its answer.

        Raises:
            Refused: the answer is an error.
            BotoCoreError, Unreadable: there is none, or it is not understood. `errors.about` translates all of them.
        """
        target = quote(name, safe="/~") + ("?" if query else "")
        target += "&".join(f"{quote(word)}={quote(value, safe=UNRESERVED)}" for word, value in query)
        address = self._address or self._find(None)
        answer = self._send(address, method, target, headers, sent, slow=slow)
        if answer.status_code >= 300:
            region = answer.headers.get("x-amz-bucket-region")
            if region in (None, address.region) or answer.status_code not in (*REDIRECTS, 400):
                raise self._refusal(answer)
            _ = answer.content  # read to its end: its connection serves the next request
            answer = self._send(self._find(region), method, target, headers, sent, slow=slow)
            if answer.status_code >= 300:
                raise self._refusal(answer)
        if body:
            return Answer(answer.headers, StreamingBody(answer.raw, answer.headers.get("content-length")))
        found = Answer(answer.headers, None, answer.content)
        if slow and found.xml().tag == "Error":
            raise self._refusal(answer)
        return found

    def _send(
        self,
        address: _Address,
        method: str,
        target: str,
        headers: Mapping[str, str],
        sent: Sequence[bytes | memoryview] | None,
        *,
        slow: bool,
    ) -> Any:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        request = AWSRequest(method, address.url + target, headers)
        if sent is not None:
            request.headers["Content-Length"] = str(sum(map(len, sent)))
        request.headers["User-Agent"] = "pagecache"
        request.context["client_config"] = UNSIGNED_BODY
        S3SigV4Auth(credentials.get_frozen_credentials(), address.service, address.region).add_auth(request)
        prepared = AWSPreparedRequest(method, request.url, dict(request.headers.items()), sent, True)
        return (self._patient if slow else self._quick).send(prepared)

    def _refusal(self, answer: Any) -> Refused:
        try:
            found = Answer(answer.headers, None, answer.content).xml()
        except Unreadable:  # a page of a proxy
            found = ElementTree.Element("nothing")
        status = answer.status_code
        message = text_of(found, "Message") or responses.get(status, "")
        return Refused(status, text_of(found, "Code"), message, answer.headers)

    # ------------------------------------------------------------ the address

    def _client(self, region: str | None) -> Any:
        config = Config(s3={"addressing_style": self._addressing}, retries={"total_max_attempts": 1})
        given = self._options | ({"region_name": region} if region else {})
        return self._session.client("s3", config=config, **given)

    def _find(self, region: str | None) -> _Address:
        """Find the address of the bucket. `region`: where it is, according to the server."""
        with self._lock:
            if self._address is not None and region in (None, self._address.region):
                return self._address
            seen: list[Any] = []

            def keep(request: Any, **_: Any) -> Any:
                seen.append(request)
                return AWSResponse(request.url, 200, HeadersDict(), HTTPResponse(io.BytesIO(), preload_content=False))

            client = self._client(region)
            try:
                client.meta.events.register_first("before-send.s3.HeadBucket", keep)
                client.head_bucket(Bucket=self._bucket)
            finally:
                client.close()
            [request] = seen
            authorization = request.headers.get("Authorization", b"")
            scope = SCOPE.search(authorization.decode() if isinstance(authorization, bytes) else authorization)
            if scope is None:
                text = f"s3://{self._bucket}: its requests need another signature than AWS4-HMAC-SHA256"
                raise BackendError(errno.ENOTSUP, text, retry=False)
            self._address = _Address(f"{request.url.rstrip('/')}/", scope[1], scope[2])
            return self._address
