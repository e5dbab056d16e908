"""Answers that are no answers, buckets in other regions, and certificates of a company (`s3/http.py`). [2.14, 2.20]"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from urllib3.connection import HTTPConnection
from werkzeug.serving import make_ssl_devcert

from pagecache import PageCache, RetryPolicy
from pagecache.backends.s3 import S3Backend

from ..file.rig import Patch, attached, raises, stored
from .imitation import Answer, Imitation, Request
from .servers import Bucket, Server, new_bucket

ONCE = RetryPolicy(attempts=1)
SMALL, LARGE = b"small" * 100, bytes(20 << 20)


def test_a_bucket_in_another_region_is_found_by_one_redirect(ministack: Server) -> None:
    """The request is signed for that region and made again with its whole body, as are all later ones."""
    requests: list[Request] = []
    with new_bucket(ministack) as bucket, Imitation(ministack.endpoint, requests.append) as proxy:
        backend = S3Backend(bucket.name, endpoint_url=proxy.endpoint, region_name="eu-west-1")
        backend.bucket.put("k", [memoryview(SMALL), memoryview(b"end")], {})
        assert ["/eu-west-1/s3/" in request.headers["authorization"] for request in requests] == [True, False]
        assert backend.stat("k").size == len(SMALL) + 3
        assert "/eu-west-1/s3/" not in requests[-1].headers["authorization"]
        backend.close()
        assert bucket.get("k") == SMALL + b"end"
        bucket.clear()


def empty(matches: Callable[[Request], bool]) -> Callable[[Request], Answer | None]:
    """Answer some requests with nothing, and do nothing."""
    return lambda request: Answer(200, b"", {}) if matches(request) else None


def test_a_copy_with_an_empty_answer_keeps_its_source(bucket: Bucket) -> None:
    """It may not have been carried out, and a rename removes the source."""
    bucket.put("k", SMALL)
    copies = empty(lambda request: "x-amz-copy-source" in request.headers)
    with Imitation(bucket.server.endpoint, copies) as proxy, PageCache("64MiB") as cache:
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=proxy.endpoint), retry=ONCE)
        raises(OSError, volume.rename, "k", "new", match="the answer has no ETag")
    assert bucket.get("k") == SMALL
    assert bucket.keys() == ["k"]


def test_an_upload_without_an_id_sends_no_part(bucket: Bucket) -> None:
    """Some servers store a part of no upload as the object."""
    with (
        Imitation(bucket.server.endpoint, empty(lambda request: "uploads" in request.query)) as proxy,
        PageCache("64MiB") as cache,
    ):
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=proxy.endpoint, conditions="all"), retry=ONCE)
        file = volume.open("k", "xb")
        file.write(LARGE)
        raises(OSError, file.fsync, match="the answer has no UploadId")
        assert bucket.keys() == []
        cache.close(on_failed="discard")


def test_an_answer_that_begins_with_white_space_is_read(bucket: Bucket) -> None:
    """Servers send it while they complete a large object, so that the connection does not time out."""

    def wait(request: Request) -> Callable[[Answer], None] | None:
        def space(answer: Answer) -> None:
            answer.body = b"\n \n" + answer.body

        return space if request.is_completion else None

    requests: list[Request] = []
    with Imitation(bucket.server.endpoint, requests.append, wait) as proxy, PageCache("64MiB") as cache:
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=proxy.endpoint, conditions="all"), retry=ONCE)
        stored(volume, "k", LARGE, "xb")
        assert requests[-1].is_completion  # nothing is asked after it
    assert bucket.client.head_object(Bucket=bucket.name, Key="k")["ContentLength"] == len(LARGE)


def test_the_body_of_a_request_does_not_wait_until_its_headers_arrive(bucket: Bucket, monkeypatch: Patch) -> None:
    """Without TCP_NODELAY it waits for the server's delayed acknowledgement: 40 ms for each small object on Linux."""
    made: list[int] = []
    connect = HTTPConnection._new_conn

    def connected(self: HTTPConnection) -> socket.socket:
        sock = connect(self)
        made.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return sock

    monkeypatch.setattr(HTTPConnection, "_new_conn", connected)
    with attached(bucket.backend()) as volume:
        stored(volume, "new", b"bytes", "xb")
    assert made
    assert all(made)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", ""])
def test_the_certificates_of_the_environment_are_used(variable: str, tmp_path: Path, monkeypatch: Patch) -> None:
    """As by boto3. The server has a file in place of a bucket, and nothing below it."""
    (tmp_path / "bucket").touch()
    path, key = make_ssl_devcert(str(tmp_path / "server"), cn="localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    for each in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(each, raising=False)
    if variable:
        monkeypatch.setenv(variable, path)
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            backend = S3Backend("bucket", endpoint_url=f"https://localhost:{server.server_port}", region_name="a")
            raises(FileNotFoundError if variable else OSError, backend.stat, "k", match="k" if variable else "SSL")
            backend.close()
        finally:
            server.shutdown()
            thread.join()
