"""Concurrent calls on one object: write-backs, the beginning of their upload, its end, reads and a commit.

Each order is forced by an action of the proxy right before a request, or by a call right after one.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from examples.proxy import FaultyProxy, ProxyRule
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.object import Draft, S3Object
from pagecache.errors import BackendError

from ..file.rig import Patch, Task, beside, raises
from .requests import counted, is_for
from .servers import PART, Bucket

SERVERS = ("ministack",)
OLD, NEW = b"o" * PART, b"n" * PART


def opened(backend: S3Backend, bucket: Bucket, units: int) -> S3Object:
    bucket.put("k", OLD * units)
    return backend.open("k")


def read(file: S3Object, offset: int, length: int) -> bytes:
    room = bytearray(length)
    done = file.read_into(offset, [memoryview(room)])
    return bytes(room[:done])


def test_a_part_that_is_answered_after_its_upload_was_given_up_does_not_count(
    backend: S3Backend, bucket: Bucket, monkeypatch: Patch
) -> None:
    """Another write-back has found in between that the server no longer has the upload."""
    file = opened(backend, bucket, 4)

    def forget() -> None:
        bucket.end_uploads()
        raises(BackendError, file.write_from, PART, [memoryview(NEW)], match="sent again")

    beside(monkeypatch, backend.bucket, "send", forget, after=True)
    raises(BackendError, file.write_from, 0, [memoryview(NEW)], match="given up")
    for offset in (0, PART):
        file.write_from(offset, [memoryview(NEW)])
    file.commit()
    assert bucket.get("k") == NEW * 2 + OLD * 2


def test_hand_overs_side_by_side_begin_one_upload(backend: S3Backend, bucket: Bucket, proxy: FaultyProxy) -> None:
    """The second one waits for the first: otherwise both would meet at the server."""
    file = opened(backend, bucket, 4)
    meeting = threading.Barrier(2)
    both = threading.Barrier(2, timeout=60)

    def meet() -> None:
        try:
            meeting.wait(0.3)
        except threading.BrokenBarrierError:
            pass

    proxy.rules = [ProxyRule("call", is_for("CreateMultipartUpload"), times=2, action=meet)]

    def hand_over(offset: int) -> None:
        both.wait()
        file.write_from(offset, [memoryview(NEW)])

    for task in [Task(hand_over, offset) for offset in (0, PART)]:
        task.result()
    assert counted(proxy.taken())["CreateMultipartUpload"] == 1
    file.commit()
    assert bucket.get("k") == NEW * 2 + OLD * 2


def test_a_read_that_is_refused_while_a_commit_of_ours_is_answered_reads_what_it_made(
    backend: S3Backend, bucket: Bucket, monkeypatch: Patch
) -> None:
    """The server has published, and the file has not noticed yet: that is no version of another client."""
    file = opened(backend, bucket, 4)
    file.write_from(PART, [memoryview(NEW)])
    refused, get = threading.Event(), backend.bucket.get

    def seen(*arguments: Any) -> int:
        try:
            return get(*arguments)
        except OSError:
            refused.set()
            raise

    reads: list[Task[bytes]] = []

    def published() -> None:
        reads.append(Task(read, file, 0, 3 * PART))
        assert refused.wait(60)

    monkeypatch.setattr(backend.bucket, "get", seen)
    beside(monkeypatch, backend.bucket, "complete", published, after=True)
    file.commit()
    assert reads[0].result() == OLD + NEW + OLD


def test_a_read_beside_a_cut_is_made_again(backend: S3Backend, bucket: Bucket, proxy: FaultyProxy) -> None:
    """A range that was cut and grown again during the read is zeros, whatever bytes were in flight."""
    file = opened(backend, bucket, 4)

    def cut() -> None:
        file.truncate(PART)
        file.punch_hole(0, 10)
        file.truncate(3 * PART)

    proxy.rules = [ProxyRule("call", is_for("GetObject"), action=cut)]
    assert read(file, 0, 4 * PART) == bytes(10) + OLD[10:] + bytes(2 * PART)
    file.commit()
    assert bucket.get("k") == bytes(10) + OLD[10:] + bytes(2 * PART)


def test_two_threads_that_collect_uploads_of_dropped_files_meet_at_the_last_one(backend: S3Backend) -> None:
    """Commits of different files do. The other thread takes it between the look and the taking of this one."""

    class Shared(deque[Draft]):
        def popleft(self) -> Draft:
            self.clear()
            return super().popleft()

    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(b"data")])
    backend.uploads.left = Shared([Draft(backend.requests, None)])
    file.commit()
    assert backend.stat("k").size == 4
