"""The conditions that a server honours are detected; if it honours none, versions are compared before a commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import ConflictError, PageCache
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.conditions import Conditions
from pagecache.options import OpenMode

from ..file.rig import raises
from .requests import is_for
from .servers import Bucket, Server, new_bucket

HONOURS = {
    "moto": Conditions(complete=False, copy=False),
    "ministack": Conditions(),
    "rclone": Conditions(create=False, put=False, complete=False, copy=False, copies=False, escapes=False, etags=False),
}
PART = 5 << 20
SERVERS = ("ministack",)
BACKEND = {"part_size": PART}


@pytest.mark.parametrize("kind", HONOURS)
def test_the_conditions_of_a_server_are_tried_once(kind: str, started: Callable[[str], Server]) -> None:
    server = started(kind)
    with new_bucket(server) as bucket, FaultyProxy(server.endpoint) as proxy:
        backend = S3Backend(bucket.name, "p", endpoint_url=proxy.endpoint, part_size=PART)
        backend.honours(of="put")
        assert len(proxy.taken()) <= 6
        assert bucket.left_behind() == []
        backend.honours()
        assert len(proxy.taken()) <= 13
        assert bucket.left_behind() == []
        assert backend.honours() == backend.honours(of="put") == HONOURS[kind]
        assert proxy.taken() == []
        backend.close()


def test_a_trial_that_fails_is_made_again(proxy: FaultyProxy, backend: S3Backend) -> None:
    for verb in ("PutObject", "CreateMultipartUpload", "UploadPartCopy", "UploadPart", "CompleteMultipartUpload"):
        proxy.rules = [ProxyRule("reset", is_for(verb))]
        raises(ConnectionError, backend.honours)
    proxy.rules = []
    assert backend.honours() == Conditions()


def test_an_upload_of_a_trial_whose_beginning_was_not_answered_is_ended(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    for nth in (1, 2):
        proxy.rules = [ProxyRule("lost", is_for("CreateMultipartUpload"), nth=nth)]
        raises(ConnectionError, backend.honours)
        assert bucket.left_behind() == []


@pytest.mark.parametrize("request_", ["CompleteMultipartUpload", "DeleteObject"])
def test_a_trial_that_could_not_clean_up_does_so_at_the_close(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, request_: str
) -> None:
    """The server is unreachable from some request of the trial on."""

    def fail() -> None:
        proxy.rules = [ProxyRule("reset", times=float("inf"))]

    proxy.rules = [ProxyRule("call", is_for(request_), action=fail), ProxyRule("reset", is_for(request_))]
    raises(ConnectionError, backend.honours)
    assert bucket.left_behind() != []
    proxy.rules = []
    backend.close()
    assert bucket.left_behind() == []


@pytest.mark.parametrize("kind", HONOURS)
@pytest.mark.parametrize("size", [100, 2 * PART + 100])
def test_another_version_is_never_replaced_that_was_there_before_the_commit(
    kind: str, size: int, started: Callable[[str], Server]
) -> None:
    """This covers a version stored over the opened one, and one stored where there was none."""
    server = started(kind)
    with new_bucket(server) as bucket, PageCache("64MiB") as cache:
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=server.endpoint, part_size=PART))
        bucket.put("old", bytes(size))
        modes: dict[str, OpenMode] = {"old": "r+", "new": "w"}
        for key, mode in modes.items():
            file = volume.open(key, mode)
            file.pwrite(b"ours", size)
            bucket.put(key, b"theirs")
            raises(ConflictError, file.fsync)
            file.abandon()
            assert bucket.get(key) == b"theirs"
