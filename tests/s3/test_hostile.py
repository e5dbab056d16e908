"""Servers and names that mean harm: texts are escaped, no list is endless, or reaches outside the prefix."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import PageCache, WritebackError
from pagecache.backends.s3 import S3Backend, calls
from pagecache.cli import main

from ..file.rig import Patch, raises
from .requests import counted, is_for
from .servers import Bucket

ALWAYS = float("inf")
BACKEND = {"prefix": "p"}
FORGED = "no\n2026-11-24 CRITICAL root: forged\x9b31m \u202egnp.exe\x85"
REFUSED = f"<Error><Code>Access\nDenied</Code><Message>{FORGED}</Message></Error>".encode()


def test_the_text_of_a_server_cannot_forge_a_line_of_a_log(
    proxy: FaultyProxy, backend: S3Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """A message, a code and a name may hold line ends, controls of a terminal, and letters that reverse the text."""
    caplog.set_level(logging.DEBUG, "pagecache")
    with PageCache("64MiB") as cache:
        volume = cache.attach(backend)
        file = volume.open("k\u202e\r", "w")
        file.write(b"ours")
        proxy.rules = [ProxyRule("status", is_for("PutObject"), times=ALWAYS, status=403, body=REFUSED)]
        raised = raises(WritebackError, file.fsync)
        proxy.rules.clear()
        assert str(raised).isprintable()
        assert "forged\\x9b31m \\u202egnp" in str(raised)
        file.abandon()
    assert caplog.records
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_errors_of_each_request_are_one_printable_line(proxy: FaultyProxy, backend: S3Backend) -> None:
    name, piece, bucket = "p/k\x1b]0;x\x07", [memoryview(bytearray(1))], backend.bucket
    requests: list[Callable[[], object]] = [
        lambda: bucket.get(name, 0, piece, None),
        lambda: bucket.head(name),
        lambda: bucket.put(name, piece, {}),
        lambda: bucket.create(name, {}),
        lambda: bucket.copy(name, "u", 1, name, 0, 1, None),
        lambda: bucket.complete(name, "u", [(1, "e")], {}),
        lambda: bucket.delete(name),
        lambda: list(bucket.names(name)),
        lambda: list(bucket.uploads(name)),
    ]
    for body in (REFUSED, b"\x1b[31m no document"):
        proxy.rules = [ProxyRule("status", times=ALWAYS, status=400, body=body)]
        for request in requests:
            assert str(raises(OSError, request, match=r"s3://")).isprintable()


def listed(name: str, token: str = "") -> bytes:
    entry = f"<Contents><Key>{name}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult>{entry}{more}</ListBucketResult>".encode()


MARKED = "<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
ENDLESS: dict[str, tuple[str, bytes]] = {
    "the same page": ("ListObjectsV2", listed("p/k", "again")),
    "no token": ("ListObjectsV2", b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
    "uploads": ("ListMultipartUploads", f"<Result><IsTruncated>true</IsTruncated>{MARKED}</Result>".encode()),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_list_ends_with_an_error(proxy: FaultyProxy, backend: S3Backend, what: str) -> None:
    request, body = ENDLESS[what]
    proxy.rules = [ProxyRule("status", is_for(request), times=ALWAYS, status=200, body=body)]
    call = (lambda: backend.remove_leftovers(0.0)) if what == "uploads" else lambda: [*backend.list()]
    raises(OSError, call, match=r"ist.* of s3://.*: the list has no end")
    assert counted(proxy.taken())[request] <= 2


def test_a_list_of_new_tokens_without_a_name_ends(proxy: FaultyProxy, backend: S3Backend, monkeypatch: Patch) -> None:
    monkeypatch.setattr(calls, "IDLE_PAGES_MAX", 5)
    proxy.rules = [
        ProxyRule("status", is_for("ListObjectsV2"), nth=n, status=200, body=listed("p/k", f"t{n}"))
        for n in range(1, 20)
    ]
    raises(OSError, list, backend.list(), match="the list has no end")
    assert counted(proxy.taken()) == {"ListObjectsV2": 7}


def test_a_clean_up_follows_no_list_outside_its_prefix(bucket: Bucket, proxy: FaultyProxy, backend: S3Backend) -> None:
    bucket.put("other/k", b"theirs")
    body = listed("other/k")
    proxy.rules = [ProxyRule("status", is_for("ListObjectsV2"), times=ALWAYS, status=200, body=body)]
    raises(OSError, backend.remove_leftovers, 0.0, match="'other/k', which is not below this prefix")
    assert bucket.keys() == ["other/k"]


def test_names_that_are_cleaned_up_cannot_move_the_cursor(bucket: Bucket) -> None:
    bucket.put("p/.pagecache/1-bb/\x1b]0;PWNED\x07", b"")
    result = CliRunner().invoke(main, ["s3-clean", bucket.url("p"), "--older-than", "0s"])
    assert result.exit_code == 0
    assert result.output == "p/.pagecache/1-bb/\\x1b]0;PWNED\\x07\nremoved 1\n"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("region", ["", "eu-west-1"])
def test_redirects_end_after_two_requests(proxy: FaultyProxy, backend: S3Backend, status: int, region: str) -> None:
    """One with a region is followed once, by a request that is signed for it."""
    where = {"Location": f"{proxy.endpoint}/elsewhere"} | ({"x-amz-bucket-region": region} if region else {})
    piece = [memoryview(b"x")]
    for request in (
        lambda: backend.stat("k"),
        lambda: list(backend.list()),
        lambda: backend.bucket.put("p/k", piece, {}),
    ):
        proxy.rules = [ProxyRule("status", times=ALWAYS, status=status, headers=where)]
        assert not getattr(raises(OSError, request, match="the server redirects"), "retry", True)
        assert len(proxy.taken()) <= 2
