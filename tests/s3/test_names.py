"""Keys, versions and lists of S3 objects, and the metadata of an object."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from examples.proxy import FaultyProxy
from pagecache import PageCache, Volume, WritebackError
from pagecache.backends import backend_from_url
from pagecache.backends.s3 import S3Backend

from ..file.rig import attached, content_of, raises, stored
from .requests import counted
from .servers import Bucket

ODD = ["a b", "plus+plus", "per%20cent", "two//slashes", "ends/", "question?x=1&y", "hash#part", "😀/emoji", "é",
       "<&>'\"", "semi;colon=,", "~tilde", ".hidden", ".pagecache", "back\\slash", "[1]*", "$HOME",
       "x" * 1000]  # fmt: skip
BACKEND = {"prefix": "pre fix/é"}


def test_keys_with_odd_characters(bucket: Bucket, volume: Volume) -> None:
    for n, key in enumerate(ODD):
        stored(volume, key, f"content {n}".encode())
    assert sorted(bucket.keys()) == sorted(f"pre fix/é/{key}" for key in ODD)
    assert sorted(str(stat.key) for stat in volume.list()) == sorted(ODD)
    for n, key in enumerate(ODD):
        volume.rename(key, "other")
        volume.rename("other", key)
        volume.invalidate(key)
        assert content_of(volume, key) == f"content {n}".encode()
        volume.remove(key)
    assert bucket.keys() == []


def test_a_rename_that_replaces_nothing_finds_an_object_that_is_not_committed_yet(volume: Volume) -> None:
    """The store has nothing of it. [2.20]"""
    stored(volume, "a", b"another")
    with volume.open("b", "w") as file:
        file.write(b"mine")
        raises(FileExistsError, volume.rename, "a", "b", replace=False)
    assert (content_of(volume, "a"), content_of(volume, "b")) == (b"another", b"mine")
    with volume.open("c", "w") as file:
        file.write(b"given up")
        file.abandon()
    volume.rename("a", "c", replace=False)
    assert content_of(volume, "c") == b"another"


@pytest.mark.parametrize("key", ["", ".pagecache/x", "x" * 1025, "\ud800", b"bytes", 5, None])
def test_keys_that_no_object_can_have_are_refused(volume: Volume, key: object) -> None:
    raises((ValueError, TypeError), volume.open, key, "w", match="key")


def test_a_list_asks_for_a_page_at_a_time(bucket: Bucket, proxy: FaultyProxy, volume: Volume) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: bucket.put(f"pre fix/é/k{n:06}", b""), range(1_010)))
    proxy.taken()
    entries = iter(volume.list("k"))
    assert [entry.key for entry in islice(entries, 10)] == [f"k{n:06}" for n in range(10)]
    assert counted(proxy.taken()) == {"ListObjectsV2": 1}
    assert sum(1 for _ in entries) == 1_000
    assert counted(proxy.taken()) == {"ListObjectsV2": 1}


def test_a_bucket_that_is_not_there_is_said_and_data_stays(bucket: Bucket) -> None:
    backend = S3Backend("no-such-bucket", endpoint_url=bucket.server.endpoint)
    with attached(backend, "64MiB") as volume:
        for mode in ("r", "w"):
            raised = raises(FileNotFoundError, volume.open, "k", mode, match=r"no-such-bucket: .*NoSuchBucket")
            assert (raised.errno, raised.filename) == (errno.ENOENT, "k")
        for prefix in ("", "folder/"):
            match = r"list of s3://no-such-bucket: .*NoSuchBucket"
            raised = raises(FileNotFoundError, lambda at: [*volume.list(at)], prefix, match=match)
            assert "None" not in str(raised)


def test_a_volume_with_unsaved_data_does_not_go_on_with_a_bucket_that_is_missing(bucket: Bucket) -> None:
    """A typo in the name of the bucket must not make all objects look removed."""
    with attached(S3Backend(bucket.name, endpoint_url=bucket.server.endpoint), "64MiB") as volume:
        with volume.open("key", "w+") as file:
            file.write(b"content")
            volume.abort()
            other = S3Backend("no-such-bucket", endpoint_url=bucket.server.endpoint)
            raises(FileNotFoundError, volume.reconnect, other, match="NoSuchBucket")
            volume.reconnect(S3Backend(bucket.name, endpoint_url=bucket.server.endpoint))
            assert file.pread(10, 0) == b"content"
            file.fsync()
        assert bucket.keys() == ["key"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)  # another takes parts of any size
def test_parts_that_a_server_finds_too_small(bucket: Bucket) -> None:
    """The server reports it when they are published. The error has the server's message, and the data stays."""
    with attached(bucket.backend(conditions=None), "1MiB") as volume:
        file = volume.open("k", "w+")
        file.write(b"1" * 200_000)
        raises(WritebackError, file.fsync, match="EntityTooSmall")
        assert file.pread(5, 199_990) == b"11111"
        assert bucket.keys("k") == []
        file.abandon()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "s3://BUCKET"),
        ("s3:bucket", "s3://BUCKET"),
        ("s3://b/p?endpont=x", "'endpont' is not one of endpoint, region, profile"),
        ("s3://b/p#f", "s3://BUCKET"),
        ("s3://b?part_size=1MiB", "part_size: '1MiB' is not from 5242880 bytes"),
        ("s3://b?part_size=huge", "part_size"),
        ("s3://b?addressing=odd", "addressing: 'odd'"),
    ],
)
def test_urls_that_say_nothing_are_refused(url: str, words: str) -> None:
    raises(ValueError, backend_from_url, url, match=words.replace("?", r"\?"))


def test_a_url_says_what_the_arguments_say(bucket: Bucket) -> None:
    backend = backend_from_url(bucket.url("a/b", part_size="16MiB", max_inflight="4"))
    assert isinstance(backend, S3Backend)
    assert (backend.prefix, backend.sizes.part, backend.limits.max_inflight) == ("a/b/", 16 << 20, 4)
    with PageCache("128MiB") as cache, cache.attach(backend).open("k", "w") as file:
        file.write(b"x")
    assert bucket.keys() == ["a/b/k"]
