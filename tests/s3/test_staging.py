"""Objects larger than the cache: bytes that leave memory before a commit are in the upload and in the spool."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from typing import Any, Literal

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import CachedFile, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend

from ..file.rig import Task, without_collector
from .requests import is_for
from .servers import PART, Bucket

SERVERS = ("ministack",)
SIZE = 4 << 20
CAPACITY = "1MiB"
CACHE: dict[str, Any] = {"capacity": CAPACITY, "retry": RetryPolicy(attempts=60, first_delay=0.05, max_delay=0.2)}


def rewritten(file: CachedFile, content: bytearray, seed: int, count: int = 60) -> None:
    """Overwrite pieces of all sizes anywhere, and keep `content` equal; reads in between see the written bytes."""
    choose = random.Random(seed)
    for _ in range(count):
        offset, length = choose.randrange(len(content)), choose.choice([1, 100, 5000, 100_000])
        data = choose.randbytes(min(length, len(content) - offset))
        file.pwrite(data, offset)
        content[offset : offset + len(data)] = data
        start = choose.randrange(len(content))
        assert file.pread(5000, start) == content[start : start + 5000]


@pytest.mark.smoke("S3")
def test_an_abandoned_object_leaves_nothing(bucket: Bucket, volume: Volume) -> None:
    bucket.put("k", b"old" * SIZE)
    file = volume.open("k", "r+")
    content = bytearray(b"old" * SIZE)
    rewritten(file, content, 4, count=100)
    assert bucket.left_behind()
    file.abandon()
    volume.sync()
    with volume.open("k") as again:
        assert again.read(9) == b"old" * 3
    assert bucket.left_behind() == []
    assert bucket.get("k") == b"old" * SIZE


@pytest.mark.parametrize("fault", ["reset", "midway", "lost", "status"])
def test_errors_of_the_client_keep_no_memory_of_the_cache(
    proxy: FaultyProxy, volume: Volume, fault: Literal["reset", "midway", "lost", "status"]
) -> None:
    """They are parts of cycles, with the variables of all calls they went through, and with the sent or read bytes."""
    held = volume.cache.native.held
    content = random.Random(9).randbytes(6 * PART)
    with volume.open("k", "w+") as file:
        file.write(bytes(PART))
        file.fsync()
        with without_collector():
            proxy.rules.append(ProxyRule(fault, is_for("PutObject", "UploadPart"), times=30))
            file.pwrite(content, PART)
            file.fsync()
            assert proxy.rules[0].seen > 30
            assert held() == 0
            volume.drop_clean()
            answer = "cut" if fault == "midway" else fault
            proxy.rules[:] = [ProxyRule(answer, is_for("GetObject"), times=10, bytes=PART // 2)]
            with suppress(OSError):
                file.pread(len(content), PART)
            proxy.rules.clear()
            assert file.pread(len(content), PART) == content
            assert held() == 0


@pytest.mark.parametrize("verb", ["PUT", "GET"])
def test_errors_that_are_kept_keep_nothing_of_a_body(verb: str) -> None:
    """The client fails in the middle of the body. Its errors are also in cycles."""
    head = "HTTP/1.1 206 Partial Content\r\nContent-Length: 4096\r\nContent-Range: bytes 0-4095/4096\r\n\r\n"
    body, errors = bytearray(32 << 20), []
    size = len(body) if verb == "PUT" else 4096
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as connections:

        def answer() -> None:
            with suppress(OSError):  # it is closed
                while True:
                    connection = connections.enter_context(listener.accept()[0])
                    connection.recv(4096)
                    connection.sendall(head.encode() if verb == "GET" else b"")

        Task(answer)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # urllib3 uses the connection's timeout for sending
        backend = S3Backend("bucket", endpoint_url=endpoint, connect_timeout=0.5, read_timeout=0.5)
        with without_collector(), memoryview(body) as view:
            for _ in range(2):
                with pytest.raises(OSError, match=f"{verb} of s3://bucket/object: ") as caught, view[:size] as part:
                    if verb == "PUT":
                        backend.bucket.put("object", [part], {})
                    else:
                        backend.bucket.get("object", 0, [part], None)
                errors.append(caught.value)
            view.release()
            body.clear()  # this is a BufferError while any part of it is exported
        listener.shutdown(socket.SHUT_RDWR)
        backend.close()
