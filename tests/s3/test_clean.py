"""What dead programs left below the prefix is removed if it is old enough, and nothing else."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from click.testing import CliRunner, Result

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import PageCache, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend, uploads
from pagecache.backends.s3.calls import Stored
from pagecache.backends.s3.object import S3Object
from pagecache.cli import main

from ..file.clock import HandClock
from ..file.rig import Log, Patch, raises
from .requests import counted, is_for, refusal
from .servers import Bucket, Server, new_bucket

BACKEND = {"part_size": "5MiB"}


def clean(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["s3-clean", *arguments])


@pytest.fixture
def left(bucket: Bucket) -> list[str]:
    """An upload that a program has begun."""
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="below/k")
    return bucket.left_behind()


def test_uploads_below_the_prefix_are_ended_and_nothing_else(bucket: Bucket, left: list[str]) -> None:
    others = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="elsewhere/k")["UploadId"]
    for key in ("below/k2", "below/.pagecached/x", "elsewhere/k2"):
        bucket.put(key, b"theirs")
    before = sorted(bucket.keys())
    result = clean(bucket.url("below"), "--older-than", "0s", "--dry-run")
    assert result.output.splitlines() == ["upload of below/k", "would remove 1"]
    assert len(bucket.uploads()) == 2
    result = clean(bucket.url("below"), "--older-than", "0s", "--json")
    assert json.loads(result.output)["removed"] == ["upload of below/k"]
    assert sorted(bucket.keys()) == before
    assert bucket.uploads() == [("elsewhere/k", others)]
    bucket.client.abort_multipart_upload(Bucket=bucket.name, Key="elsewhere/k", UploadId=others)


DIES_IN_THE_TRIAL = """
import sys
from pagecache.backends.s3 import S3Backend
S3Backend(sys.argv[1], "below", endpoint_url=sys.argv[2]).honours()
"""


@pytest.mark.parametrize("request_", ["UploadPartCopy", "UploadPart", "CompleteMultipartUpload"])
def test_what_a_trial_left_is_removed(bucket: Bucket, proxy: FaultyProxy, request_: str) -> None:
    """The process dies in the middle of it: there are a key, which no list shows, and an upload to it."""
    child = subprocess.Popen(
        [sys.executable, "-c", DIES_IN_THE_TRIAL, bucket.name, proxy.endpoint], cwd=Path(__file__).parents[2]
    )
    proxy.rules = [ProxyRule("call", is_for(request_), action=child.kill), ProxyRule("reset", is_for(request_))]
    assert child.wait() == -signal.SIGKILL
    proxy.taken()
    ((key, _),) = bucket.uploads()
    assert key.startswith("below/.pagecache/try-")
    left = [f"upload of {key}", *bucket.keys()]
    result = clean(bucket.url("below"), "--older-than", "0s")
    assert result.output.splitlines() == [*left, f"removed {len(left)}"]
    assert bucket.left_behind() == []


def test_private_objects_go_at_their_age(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are keys of trials; one of them may be in use."""
    folder = "below/.pagecache/"
    ages = {f"{folder}try-1": 90.0, f"{folder}try-2": 10.0, "below/k": 90.0}
    for key in ages:
        bucket.put(key, b"x")
    backend = S3Backend(bucket.name, "below", endpoint_url=bucket.server.endpoint)
    names = backend.bucket.names

    def aged(prefix: str) -> Iterator[tuple[str, Stored]]:
        return ((name, replace(stored, mtime=1000.0 - ages[name])) for name, stored in names(prefix))

    monkeypatch.setattr(backend.bucket, "names", aged)
    monkeypatch.setattr(backend.bucket, "check_bucket", lambda: 1000.0)
    assert backend.remove_leftovers(60.0) == [f"{folder}try-1"]
    assert sorted(bucket.keys()) == [f"{folder}try-2", "below/k"]
    assert backend.remove_leftovers(10.0) == [f"{folder}try-2"]
    assert bucket.keys() == ["below/k"]
    backend.close()


def few_at_once(ask: Any) -> Any:
    """Make requests for lists of uploads ask for pages of two."""

    def asked(method: str, name: str = "", **more: Any) -> Any:
        pairs = list(more.pop("query", ()))
        return ask(method, name, query=[*pairs, ("max-uploads", "2")] if ("uploads", "") in pairs else pairs, **more)

    return asked


def test_uploads_are_listed_to_the_last_page(ministack: Server) -> None:
    """moto has neither pages of them nor their start times."""
    keys = [f"below/.pagecache/s/{n}" for n in (1, 1, 1, 1, 1, 2, 3)]  # more than a page of one key, too
    with new_bucket(ministack) as bucket:
        backend = S3Backend(bucket.name, "below", endpoint_url=ministack.endpoint)
        http: Any = backend.bucket.http
        http.ask = few_at_once(http.ask)
        client = bucket.client
        begun = [client.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"] for key in keys]
        assert sorted(one.upload for one in backend.bucket.uploads("below/.pagecache/")) == sorted(begun)
        assert all(backend.bucket.knows(key, upload) for key, upload in zip(keys, begun, strict=True))
        assert not backend.bucket.knows(keys[0], begun[-1])
        assert sorted(backend.bucket.begun_since(keys[0], 60.0)) == sorted(begun[:5])
        assert backend.remove_leftovers(0.0) == [f"upload of {key}" for key in keys]
        backend.close()


@pytest.mark.parametrize(("status", "error"), [(501, "NotImplemented"), (403, "AccessDenied")])
def test_where_uploads_are_not_listed_none_ends(bucket: Bucket, proxy: FaultyProxy, status: int, error: str) -> None:
    """The remains of an unanswered request are not found there; a lack of permission is reported."""
    asked, body = is_for("ListMultipartUploads"), refusal(error)
    unlisted = ProxyRule("status", asked, times=float("inf"), status=status, body=body)
    proxy.rules = [ProxyRule("lost", is_for("CreateMultipartUpload")), unlisted]
    backend = S3Backend(bucket.name, "below", endpoint_url=proxy.endpoint, part_size="5MiB")
    again = RetryPolicy(attempts=2, first_delay=0.01, max_delay=0.01)
    with PageCache("64MiB", retry=again) as cache, cache.attach(backend).open("k", "w") as file:
        file.write(bytes(12 << 20))
    assert unlisted.seen
    ((key, upload),) = bucket.uploads()  # the server's answer was lost
    assert bucket.keys() == ["below/k"]
    removed = clean(bucket.url("below", proxy.endpoint), "--older-than", "0s")
    if status == 501:
        assert (removed.exit_code, removed.output) == (0, "removed 0\n")
    else:
        assert removed.exit_code == 1
        assert error in removed.output
    backend.close()
    bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=key, UploadId=upload)


@pytest.mark.parametrize("server", ["ministack"], indirect=True)  # moto does not report when uploads were begun
@pytest.mark.parametrize("request_", ["AbortMultipartUpload", "ListMultipartUploads", "ListParts"])
def test_a_close_asks_again_where_a_request_fails(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, request_: str
) -> None:
    """No later call would remove the rest."""
    backend.honours()
    file = backend.open("k", create=True)
    failing = ProxyRule("reset", is_for(request_), times=float("inf"))
    proxy.rules = [ProxyRule("lost", is_for("CreateMultipartUpload")), failing]
    raises(OSError, file.write_from, 0, [memoryview(bytes(5 << 20))])
    file.write_from(0, [memoryview(bytes(5 << 20))])
    file.close()
    failing.times = failing.seen + 2
    backend.close()
    assert failing.seen > failing.times
    assert bucket.left_behind() == []


@pytest.mark.parametrize("server", ["ministack"], indirect=True)
def test_every_beginning_that_was_not_answered_is_ended(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, monkeypatch: Patch
) -> None:
    """There are two of one object, long apart, and nothing could be listed in between. One listing finds both."""
    clock = HandClock()
    monkeypatch.setattr(uploads, "time", SimpleNamespace(monotonic=clock.now))
    monkeypatch.setattr(uploads, "SKEW", -50.0)  # uploads begun within 50 seconds are ignored
    file = committed(backend)
    denied = refusal("AccessDenied")
    unlisted = ProxyRule("status", is_for("ListMultipartUploads"), times=float("inf"), status=403, body=denied)
    proxy.rules = [ProxyRule("lost", is_for("CreateMultipartUpload"), times=2), unlisted]
    for seconds in (0.0, 100.0):
        clock.advance(seconds)
        raises(OSError, file.write_from, 0, [memoryview(bytes(5 << 20))])
    assert len(bucket.uploads()) == 2
    file.close()
    unlisted.times = 0
    proxy.taken()
    backend.close()
    assert bucket.left_behind() == []
    assert counted(proxy.taken())["ListMultipartUploads"] == 1


@pytest.mark.parametrize("server", ["ministack"], indirect=True)
def test_a_beginning_that_is_not_answered_while_an_earlier_one_is_looked_for_is_ended(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    file = committed(backend)

    def begins() -> None:
        raises(OSError, file.write_from, 0, [memoryview(bytes(5 << 20))])

    lost = ProxyRule("lost", is_for("CreateMultipartUpload"), times=2)
    listed = ProxyRule("call", is_for("ListParts"), action=begins)  # the uploads are listed by then
    proxy.rules = [lost, listed]
    begins()
    backend.uploads.settle()
    assert (lost.seen, listed.seen) == (2, 1)
    assert len(bucket.uploads()) == 1
    file.close()


def committed(backend: S3Backend) -> S3Object:
    """An object, committed so that the server's abilities are known from here on."""
    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(bytes(5 << 20))])
    file.commit()
    return file


def test_an_upload_that_was_not_needed_is_ended_though_the_answer_to_the_commit_is_lost(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """The only part is cut before the commit, so that one request stores all the bytes."""
    backend.honours(of="put")
    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(bytes(5 << 20))])
    file.truncate(0)
    file.write_from(0, [memoryview(b"short")])
    lost = ProxyRule("lost", is_for("PutObject"))
    proxy.rules = [lost]
    file.commit()
    assert lost.seen == 1
    assert bucket.get("k") == b"short"
    file.close()


def test_the_memory_of_uploads_does_not_grow_with_commits(backend: S3Backend, volume: Volume) -> None:
    with volume.open("k", "w") as file:
        file.write(bytes(6 << 20))
        file.fsync()
        before = remembered(backend)
        for n in range(3):
            file.pwrite(b"x", n)
            file.fsync()
        assert remembered(backend) == before


def remembered(backend: S3Backend) -> int:
    return sum(len(kept) for kept in vars(backend.uploads).values() if isinstance(kept, set | dict | WeakSet))


@pytest.mark.parametrize("server", ["ministack"], indirect=True)  # moto does not report when uploads were begun
def test_younger_uploads_stay(bucket: Bucket, left: list[str]) -> None:
    """Age is measured by the clock of the server."""
    assert clean(bucket.url("below"), "--older-than", "1h").output == "removed 0\n"
    assert bucket.left_behind() == left
    assert clean(bucket.url("below"), "--older-than", "0s").output.endswith("removed 1\n")


@pytest.mark.parametrize("time", ["0", "0s", "0m", "0.0h"])
def test_no_time_at_all_is_a_time(bucket: Bucket, time: str) -> None:
    result = clean(bucket.url("below"), "--older-than", time)
    assert (result.exit_code, result.output) == (0, "removed 0\n")


def test_a_backend_does_not_end_its_own_uploads(backend: S3Backend) -> None:
    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(bytes(5 << 20))])
    assert backend.remove_leftovers(0.0) == []
    file.commit()


def test_unclosed_files_leave_nothing(bucket: Bucket, backend: S3Backend) -> None:
    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(bytes(5 << 20))])
    file.write_from(5 << 20, [memoryview(b"mine")])
    assert len(bucket.left_behind()) == 1
    del file
    gc.collect()
    backend.open("another", create=True).commit()
    assert bucket.left_behind() == []


def test_uploads_kept_by_an_outage_are_logged_and_ended_later(own_server: Server, caplog: Log) -> None:
    with new_bucket(own_server) as bucket:
        backend = bucket.backend()
        cache = PageCache("512KiB", retry=RetryPolicy(attempts=1, first_delay=0.01, max_delay=0.01))
        bucket.put("other", b"keeps the bucket over a restart")
        file = cache.attach(backend).open("k", "w")
        file.write(bytes(2 << 20))  # more than memory holds
        own_server.stop()
        assert cache.close(timeout=1.0, on_failed="discard") != []
        (said,) = [record for record in caplog.records if "could not be aborted" in record.getMessage()]
        assert (said.name, said.levelname) == ("pagecache.volume", "WARNING")
        assert bucket.name in said.getMessage()
        own_server.start()
        backend.close()
        assert bucket.left_behind() == []
        raises(OSError, file.close)


RULE = "--older-than: '{}' is not 0 or above, and below 1e+09 seconds"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("memory:",), ""), (("s3:bucket",), ""), (("s3://bucket", "--older-than", "soon"), "")]
    + [(("s3://bucket", f"--older-than={time}"), RULE.format(time)) for time in ("-1s", "inf", "1e9")],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    result = clean(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_a_bucket_that_is_not_there_is_said(bucket: Bucket) -> None:
    result = clean(bucket.url().replace(bucket.name, "no-such-bucket"))
    assert result.exit_code == 1
    assert "NoSuchBucket" in result.output
