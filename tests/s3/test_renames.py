"""A rename of an object of a bucket is a copy and a removal: the objects that it may delete, and open files. [2.20]"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pagecache import CachedFile, PageCache, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.testing.proxy import FaultyProxy, ProxyCall, ProxyRule

from .requests import is_for, name_of
from .servers import Bucket

PART = 5 << 20
SOURCE, PRECIOUS, OTHER = b"1" * (2 * PART + 100), b"precious", b"2" * (2 * PART + 100)
ONCE = RetryPolicy(attempts=1, failed_retry=None)
Store = Callable[[str, bytes], object]


@pytest.fixture
def backend(bucket: Bucket, proxy: FaultyProxy) -> S3Backend:
    return S3Backend(bucket.name, endpoint_url=proxy.endpoint, part_size=PART)


@pytest.fixture
def volume(backend: S3Backend) -> Iterator[Volume]:
    with PageCache("64MiB", retry=ONCE) as cache:
        yield cache.attach(backend)
        cache.close(timeout=20, on_failed="discard")


@pytest.fixture
def put(bucket: Bucket) -> Store:
    """Store as another program does."""
    return lambda name, data: bucket.client.put_object(Bucket=bucket.name, Key=name, Body=data)


def take_away(bucket: Bucket, name: str) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key=name)


def content(bucket: Bucket, name: str) -> bytes | None:
    stored = bucket.keys(name)
    if name not in stored:
        return None
    body: bytes = bucket.client.get_object(Bucket=bucket.name, Key=name)["Body"].read()
    return body


def of_object(name: str, *requests: str) -> Callable[[ProxyCall], bool]:
    """A test whether a request is one of these, for this object."""
    return lambda call: name_of(call) in requests and call.path.endswith(f"/{name}")


def uploaded(file: CachedFile) -> None:
    """Write a whole unit, and have it uploaded."""
    file.pwrite(b"W" * PART, 0)
    file.flush()


def read(file: CachedFile) -> None:
    file.pread(4, 0)


@pytest.mark.parametrize("use", [None, read, uploaded], ids=["closed", "read", "uploaded"])
def test_a_rename_of_an_object_that_another_program_removed_leaves_the_destination(
    bucket: Bucket, volume: Volume, put: Store, use: Callable[[CachedFile], None] | None
) -> None:
    """No open file stands for an object that was stored once. [2.20, I-24]"""
    put("a", SOURCE)
    put("b", PRECIOUS)
    with contextlib.ExitStack() as stack:
        file = volume.open("a", "r+b", read_ahead=0)
        file.pread(4, 0)
        if use is None:
            file.close()
        else:
            stack.callback(file.abandon)
            use(file)
        take_away(bucket, "a")
        with pytest.raises(FileNotFoundError):
            volume.rename("a", "b")
        assert content(bucket, "b") == PRECIOUS
        if use is not None:
            with pytest.raises(OSError):
                file.pread(4, len(SOURCE) - 4)


def test_a_rename_that_is_repeated_leaves_the_object(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, put: Store
) -> None:
    """The first one removed the source, and its reply is lost with the network. [2.20]"""
    put("a", SOURCE)
    with volume.open("a", "rb") as file:
        read(file)
        lost = ProxyRule("lost", is_for("DeleteObject"))
        proxy.rules = [ProxyRule("reset", lambda call: lost.seen > 0, times=1000), lost]
        with pytest.raises(OSError):
            volume.rename("a", "b")
        proxy.rules.clear()
        assert bucket.keys() == ["b"]
        with contextlib.suppress(FileNotFoundError):
            volume.rename("a", "b")
        assert content(bucket, "b") == SOURCE


def test_a_creation_that_was_abandoned_is_no_source_of_a_rename(bucket: Bucket, volume: Volume, put: Store) -> None:
    """Its file, which is closed later, does not stand for an object. [2.20]"""
    put("b", PRECIOUS)
    file = volume.open("a", "wb")
    file.write(b"given up")
    file.abandon()
    with pytest.raises(FileNotFoundError):
        volume.rename("a", "b")
    assert content(bucket, "b") == PRECIOUS


def test_a_file_that_was_closed_without_a_commit_stands_for_no_object(
    bucket: Bucket, backend: S3Backend, put: Store
) -> None:
    """While some reference keeps it. [2.20]"""
    put("b", PRECIOUS)
    file = backend.open("a", create=True)
    file.close()
    with pytest.raises(FileNotFoundError):
        backend.rename("a", "b")
    with pytest.raises(FileNotFoundError):
        backend.remove("a")
    assert content(bucket, "b") == PRECIOUS
    backend.close()


def test_an_object_that_is_not_committed_yet_replaces_another(bucket: Bucket, volume: Volume, put: Store) -> None:
    put("b", PRECIOUS)
    with volume.open("a", "wb") as file:
        file.write(b"new")
        volume.rename("a", "b")
    assert content(bucket, "b") == b"new"


def test_an_object_that_may_be_stored_does_not_replace_another_before_its_commit(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, put: Store
) -> None:
    """Its commit has an unknown result: nothing is deleted for it. [2.20]"""
    put("b", PRECIOUS)
    with volume.open("a", "wb") as file:
        file.write(b"new")
        lost = ProxyRule("reset", of_object("a", "PutObject"))
        proxy.rules = [ProxyRule("reset", lambda call: lost.seen > 0, times=1000), lost]
        with pytest.raises(OSError):
            file.fsync()
        proxy.rules.clear()
        with pytest.raises(OSError, match="a commit of 'a' may have been carried out") as raised:
            volume.rename("a", "b")
        assert (raised.value.errno, content(bucket, "b")) == (errno.EBUSY, PRECIOUS)
        volume.retry_failed()
        file.fsync()
        volume.rename("a", "b")
    assert content(bucket, "b") == b"new"


def test_a_version_that_is_stored_while_its_object_is_renamed_is_not_deleted(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, put: Store
) -> None:
    """It is not the version that was copied. [2.20]"""
    put("a", SOURCE)
    action: Any = partial(put, "a", OTHER)
    proxy.rules = [ProxyRule("call", of_object("b", "HeadObject"), nth=2, action=action)]
    with pytest.raises(OSError, match="both names are left") as raised:
        backend.rename("a", "b")
    assert raised.value.errno == errno.ESTALE
    assert (content(bucket, "a"), content(bucket, "b")) == (OTHER, SOURCE)
    backend.close()
