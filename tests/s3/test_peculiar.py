"""Servers as they are: each peculiarity of one is found by the trial, and loses nothing.

The servers are moto and ministack, with one peculiarity of Ceph RGW or another server at a time (`imitation.py`).
"""

from __future__ import annotations

import errno
import math
import queue
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache import ConflictError, Event, PageCache, Volume, loglines
from pagecache.backends.s3 import S3Backend, backend_from_s3_url
from pagecache.backends.s3.conditions import TEXTS, Conditions
from pagecache.cli import main
from pagecache.cli.check_backend import checking
from pagecache.options import OpenMode

from ..file.rig import Patch, raises, stored
from . import imitation
from .imitation import Imitation, Peculiarity, ignores
from .requests import is_for, refusal
from .servers import Bucket, Server, new_bucket

SERVERS = ("ministack",)
MOTO = pytest.mark.parametrize("server", ["moto"], indirect=True)
PART = 5 << 20
BACKEND = {"part_size": PART}
WRITES = ("if-match", "if-none-match")
RGW: tuple[Peculiarity, ...] = (
    imitation.answers_completions_without_etag,
    imitation.refuses_each_if_match_of_put,
    imitation.decodes_sources_twice,
    imitation.ignores_tags_of_uploads,
    imitation.keeps_plus_in_tags,
    imitation.refuses_omitted_parts(),
    ignores("x-amz-copy-source-if-match"),
    ignores(*WRITES, of=lambda request: request.is_completion),
)

FOUND: dict[str, tuple[Peculiarity, Conditions]] = {
    "completions without an ETag": (imitation.answers_completions_without_etag, Conditions(etags=False)),
    "If-Match of PUT always refused": (imitation.refuses_each_if_match_of_put, Conditions(put=False)),
    "sources decoded twice": (imitation.decodes_sources_twice, Conditions(escapes=False)),
    "copy conditions ignored": (ignores("x-amz-copy-source-if-match"), Conditions(copy=False)),
    "omitted parts refused": (imitation.refuses_omitted_parts(), Conditions()),
    "no conditional writes": (ignores(*WRITES), Conditions(create=False, put=False, complete=False)),
}


Attach = Callable[..., tuple[Volume, Bucket]]


@pytest.fixture
def attach(server: Server) -> Iterator[Attach]:
    """Volumes on ministack, which has no peculiarity but those given, or on moto, which keeps all properties."""
    with ExitStack() as stack:

        def attached(*peculiarities: Peculiarity, **options: object) -> tuple[Volume, Bucket]:
            bucket = stack.enter_context(new_bucket(server))
            proxy = stack.enter_context(Imitation(server.endpoint, *peculiarities))
            cache = stack.enter_context(PageCache("64MiB"))
            known = {"endpoint_url": proxy.endpoint, "part_size": PART, **options}
            return cache.attach(S3Backend(bucket.name, "p", **known)), bucket  # type: ignore[arg-type]

        yield attached


@pytest.mark.parametrize("name", [*FOUND, "all of RGW"])
def test_a_peculiarity_is_found_and_small_and_large_objects_are_created_and_edited(attach: Attach, name: str) -> None:
    volume, bucket = attach(*(FOUND[name][:1] if name in FOUND else RGW))
    if name in FOUND:
        backend: S3Backend = volume.backend  # type: ignore[assignment]
        backend.honours(of="put")
        assert backend.honours() == FOUND[name][1]
        assert bucket.keys() == []
    check_edits(volume, bucket)


def check_edits(volume: Volume, bucket: Bucket) -> None:
    """Make objects and edit them below `p/`; each version is what was written, and no commit raises."""
    randoms = random.Random(1)
    for key, size in (("small", 1000), ("large", 3 * PART + 5), ("a%20b+c", 2 * PART + 1)):
        data = bytearray(randoms.randbytes(size))
        stored(volume, key, bytes(data), "x")
        assert bucket.get(f"p/{key}") == data
        for at in (0, size // 2, size - 3):
            with volume.open(key, "r+") as file:
                file.pwrite(b"new", at)
            data[at : at + 3] = b"new"
            assert bucket.get(f"p/{key}") == data
        volume.rename(key, f"{key}2")
        assert bucket.get(f"p/{key}2") == data


def test_a_completion_without_an_etag_is_looked_up_though_others_have_one(attach: Attach) -> None:
    """A repeated completion has none on some servers: the trial cannot find that."""
    check_edits(*attach(imitation.answers_completions_without_etag, conditions="all"))


@pytest.mark.parametrize("etag", [None, f'"{0:032}"'], ids=["no ETag", "that of other bytes"])
def test_a_version_stored_with_a_doubtful_answer_is_ours_and_is_replaced_if_its_bytes_are_in_doubt(
    attach: Attach, etag: str | None
) -> None:
    volume, bucket = attach(imitation.answers_one_put_with_etag(etag, "k"))
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    data = bytearray(random.Random(3).randbytes(1000))
    stored(volume, "k", data, "x")
    volume.cache.subscribe(events.put)
    with volume.open("k", "r+") as file, volume.open("k") as reader:
        for at in (10, 990):
            file.pwrite(b"new", at)
            data[at : at + 3] = b"new"
            file.fsync()
            assert bucket.get("p/k") == data
            assert reader.pread(1000, 0) == data
    kinds = [events.get(timeout=30).kind for _ in range(events.qsize())]
    assert kinds.count("failed") == (etag is not None)
    assert "conflict" not in kinds


@pytest.mark.parametrize("condition", ["honoured", "ignored"])
def test_a_key_with_an_escape_is_never_copied_from_another_key(attach: Attach, condition: str) -> None:
    """A server that decodes the name of the source twice copies from `a b` what belongs to `a%20b`."""
    ignored = [ignores("x-amz-copy-source-if-match")] if condition == "ignored" else []
    volume, bucket = attach(imitation.decodes_sources_twice, *ignored)
    ours, theirs = bytes(4 * PART), b"t" * (4 * PART)
    bucket.put("p/a b", theirs)
    bucket.put("p/a%20b", ours)
    with volume.open("a%20b", "r+") as file:
        file.pwrite(b"new", 5)
    assert bucket.get("p/a%20b") == b"\0\0\0\0\0new" + ours[8:]
    assert bucket.get("p/a b") == theirs


def test_parts_that_a_truncate_leaves_out_do_not_stop_the_commit(attach: Attach) -> None:
    volume, bucket = attach(imitation.refuses_omitted_parts())
    data = random.Random(2).randbytes(4 * PART)
    with volume.open("k", "w") as file:
        file.write(data)
        file.flush()
        file.truncate(PART + 100)
    assert bucket.get("p/k") == data[: PART + 100]


@pytest.mark.parametrize("put_back", [False, True])
def test_a_version_that_was_stored_while_parts_were_copied_is_noticed(attach: Attach, put_back: bool) -> None:
    """Without a condition the parts may be of the other version, also if the opened one is back at the end."""
    acted: list[int] = []
    old, other = bytes(3 * PART), b"o" * (3 * PART)

    def act(request: imitation.Request) -> None:
        request.headers.pop("x-amz-copy-source-if-match", None)
        if "x-amz-copy-source" in request.headers and ".pagecache" not in request.target and not acted:
            acted.append(1)
            bucket.put("p/k", other)

    def back(request: imitation.Request) -> Callable[[imitation.Answer], None] | None:
        if acted != [1] or "x-amz-copy-source" not in request.headers:
            return None

        def put(answer: imitation.Answer) -> None:
            acted.append(2)
            bucket.put("p/k", old, Metadata={"back": "yes"})

        return put

    volume, bucket = attach(act, *([back] if put_back else []))
    bucket.put("p/k", old)
    file = volume.open("k", "r+")
    file.pwrite(b"new", 0)
    if put_back:
        file.close()
        assert bucket.get("p/k") == b"new" + old[3:]
        return
    raises(OSError, file.fsync, match="version")
    file.abandon()
    assert bucket.get("p/k") == other


def in_parts(volume: Volume) -> S3Backend:
    """Rename in parts, as an object above the largest size of one copy."""
    backend: S3Backend = volume.backend  # type: ignore[assignment]
    backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=2 * PART, copied=PART)
    return backend


@pytest.mark.parametrize("condition", ["honoured", "ignored"])
def test_a_rename_in_parts_copies_no_other_key(attach: Attach, condition: str) -> None:
    """Its source would be removed. The server is that of a key with an escape, above. [2.20]"""
    ignored = [ignores("x-amz-copy-source-if-match")] if condition == "ignored" else []
    volume, bucket = attach(imitation.decodes_sources_twice, *ignored)
    ours, theirs = b"o" * (4 * PART), b"t" * (4 * PART)
    bucket.put("p/a b", theirs)
    bucket.put("p/a%20b", ours)
    assert raises(OSError, in_parts(volume).rename, "a%20b", "moved").errno == errno.ENOTSUP
    assert (bucket.get("p/a%20b"), bucket.get("p/a b")) == (ours, theirs)
    volume.rename("a b", "moved")
    assert (bucket.get("p/moved"), bucket.keys()) == (theirs, ["p/a%20b", "p/moved"])


@pytest.mark.parametrize("put_back", [False, True])
@pytest.mark.parametrize("nth", [0, 1, 3])
def test_a_rename_in_parts_mixes_no_versions(attach: Attach, nth: int, *, put_back: bool) -> None:
    """The other version is stored before the first look (0), or before a copy. [2.20]"""
    old, other, copies = b"1" * (4 * PART), b"2" * (4 * PART), list[int]()

    def act(request: imitation.Request) -> Callable[[imitation.Answer], None] | None:
        request.headers.pop("x-amz-copy-source-if-match", None)
        if "x-amz-copy-source" not in request.headers or ".pagecache" in request.target:
            return None
        copies.append(1)
        if len(copies) == nth:
            bucket.put("p/k", other)
            return back if put_back else None
        return None

    def back(_answer: imitation.Answer) -> None:
        bucket.put("p/k", old, Metadata={"back": "yes"})

    volume, bucket = attach(act, max_inflight=1)
    bucket.put("p/k", old)
    backend = in_parts(volume)
    found = backend.requests.head("p/k")
    assert found is not None
    if not nth:
        bucket.put("p/k", other)
    assert raises(OSError, backend.requests.copy, "p/k", "p/moved", found, None).errno == errno.ESTALE
    assert (bucket.keys(), bucket.get("p/k")) == (["p/k"], old if put_back and nth else other)
    volume.rename("k", "moved")
    assert (bucket.keys(), bucket.get("p/moved")) == (["p/moved"], old if put_back and nth else other)


def test_a_rename_in_parts_replaces_no_version_unseen(attach: Attach) -> None:
    """Where completions have no conditions, the version under the new name is compared just before. [2.20]"""
    volume, bucket = attach(ignores(*WRITES, of=lambda request: request.is_completion))
    backend = in_parts(volume)
    copy = backend.bucket.copy
    bucket.put("p/k", b"1" * (4 * PART))
    backend.honours()

    def copied(*arguments: Any) -> str:
        backend.bucket.copy = copy  # type: ignore[method-assign]
        bucket.put("p/moved", b"theirs")
        return str(copy(*arguments))

    backend.bucket.copy = copied  # type: ignore[method-assign, assignment]
    assert raises(OSError, backend.rename, "k", "moved").errno == errno.EAGAIN
    assert bucket.get("p/moved") == b"theirs"
    backend.rename("k", "moved")  # over the one that it has found now
    assert (bucket.keys(), bucket.get("p/moved")) == (["p/moved"], b"1" * (4 * PART))


# ---------------------------------------------------------------- the trial of a server

HONOURS = {
    "moto": Conditions(complete=False, copy=False),
    "ministack": Conditions(),
    "rclone": Conditions(create=False, put=False, complete=False, copy=False, copies=False, escapes=False, etags=False),
}


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


ERRORS = {"InternalError": 500, "RequestTimeout": 400, "BadDigest": 400, "ExpiredToken": 400, "NoSuchBucket": 404,
          "QuotaExceeded": 507, "SlowDown": 200}  # fmt: skip


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_that_passes_says_nothing_of_what_the_server_honours(
    proxy: FaultyProxy, backend: S3Backend, code: str
) -> None:
    """At each request of the trial. An error in a good answer is told from one by copies and completions alone."""
    nth, rule = 0, ProxyRule("status")
    while rule.seen >= nth:
        nth += 1
        names = (
            ("UploadPartCopy", "CompleteMultipartUpload") if ERRORS[code] == 200 else ("PutObject", "UploadPartCopy")
        )
        rule = ProxyRule("status", is_for(*names), nth=nth, status=ERRORS[code], body=refusal(code))
        backend._honoured._found.clear()
        proxy.rules = [rule]
        with suppress(OSError):
            backend.honours(of="put")
        with suppress(OSError):
            backend.honours()
        proxy.rules = []
        assert backend.honours(of="put") == backend.honours() == Conditions(), nth
    assert nth > 3


@pytest.mark.parametrize("status", [200, 500])
def test_a_condition_that_always_makes_a_server_fail_is_not_honoured(
    proxy: FaultyProxy, backend: S3Backend, status: int
) -> None:
    def conditional(call: ProxyCall) -> bool:
        return is_for("CompleteMultipartUpload")(call) and "if-match" in {word.lower() for word in call.headers}

    proxy.rules = [ProxyRule("status", conditional, times=math.inf, status=status, body=refusal("InternalError"))]
    assert backend.honours() == Conditions(complete=False)


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


# ---------------------------------------------------------------- what a user is told, and may require


def test_a_server_without_conditional_writes_gives_one_warning_and_one_event(
    attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    volume, _ = attach(ignores(*WRITES))
    cache: PageCache = volume.cache
    cache.subscribe(events.put)
    assert not list(volume.list())
    for n in range(3):
        stored(volume, f"k{n}", b"x", "w")
    (warning,) = [event for event in (events.get(timeout=30) for _ in range(4)) if event.kind == "warning"]
    assert "ignores If-None-Match of PUT and If-Match of PUT" in warning.message
    loglines.outlast(20.0)
    lines = [record.getMessage() for record in caplog.records if "ignores" in record.getMessage()]
    assert len(lines) == 1
    stored(volume, "large", bytes(PART + 1), "w")
    assert "and If-Match of CompleteMultipartUpload" in [events.get(timeout=30) for _ in range(2)][1].message


def test_a_server_that_honours_everything_gives_no_warning(attach: Attach, caplog: pytest.LogCaptureFixture) -> None:
    volume, _ = attach()
    for size in (1, PART + 1):
        stored(volume, f"k{size}", bytes(size), "w")
    loglines.outlast(20.0)
    assert caplog.records == []


@pytest.mark.parametrize("size", [1, PART + 1])
def test_required_conditions_that_the_server_ignores_refuse_to_write(attach: Attach, size: int) -> None:
    volume, bucket = attach(ignores(*WRITES), require_conditions=True)
    bucket.put("p/k", b"old")
    with volume.open("k") as file:
        assert file.read() == b"old"  # reads need none
    file = volume.open("k", "w")
    file.write(bytes(size))
    raised = raises(OSError, file.fsync, match=r"require_conditions: the server of s3://.* ignores If-")
    assert raised.errno == errno.ENOTSUP
    file.abandon()
    assert bucket.get("p/k") == b"old"


def test_required_conditions_do_not_copy_where_the_version_of_a_source_is_not_checked(attach: Attach) -> None:
    copied: list[str] = []

    def count(request: imitation.Request) -> None:
        request.headers.pop("x-amz-copy-source-if-match", None)
        if "x-amz-copy-source" in request.headers and ".pagecache" not in request.target:
            copied.append(request.target)

    volume, bucket = attach(count, require_conditions="yes")
    bucket.put("p/k", bytes(3 * PART))
    stored(volume, "k", b"new", "r+")
    assert bucket.get("p/k") == b"new" + bytes(3 * PART - 3)
    assert copied == []


def test_conditions_can_be_given_in_a_url(ministack: Server) -> None:
    with new_bucket(ministack) as bucket, FaultyProxy(ministack.endpoint) as proxy:
        url = bucket.url("p", proxy.endpoint, conditions="no-put, copies,no-copy", require_conditions="no")
        backend = backend_from_s3_url(url)
        assert backend.honours() == Conditions(put=False, copy=False)
        backend.close()
        proxy.taken()
        backend = backend_from_s3_url(bucket.url("p", proxy.endpoint, conditions="all"))
        assert backend.honours() == backend.honours(of="put") == Conditions()
        assert proxy.taken() == []
        backend.close()


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("conditions", "put,nothing", "'nothing' is not 'all', or one of create, put"),
        ("conditions", "", "'' is not 'all'"),
        ("conditions", 5, "5 is neither Conditions nor words"),
        ("require_conditions", "perhaps", "'perhaps' is not yes or no"),
    ],
)
def test_wrong_conditions_are_refused_by_name(option: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: {rule}"):
        S3Backend("bucket", **{option: value})  # type: ignore[arg-type]


# ---------------------------------------------------------------- properties that an edit carries over

TAGS = {"a b": "c d", "plus+": "e+f", "odd=": "-_.:/@", "empty": "", "é": "ü ö"}
METADATA = {"spaced": "d  e", "percent": "100%25 +", "quoted": "\"'<&>;,=", "empty": ""}
HEADERS = {
    "ContentType": "text/plain; charset=utf-8",
    "CacheControl": "no-cache, max-age=0",
    "ContentDisposition": 'attachment; filename="a b+%20.txt"',
    "ContentEncoding": "identity",
    "ContentLanguage": "en, de",
}


@MOTO
@pytest.mark.parametrize("peculiarity", ["none", "tags of uploads ignored", "plus kept in tags"])
@pytest.mark.parametrize("size", [1000, 2 * PART + 1])
def test_odd_properties_of_an_object_stay_when_it_is_edited(attach: Attach, peculiarity: str, size: int) -> None:
    found = {"tags of uploads ignored": [imitation.ignores_tags_of_uploads],
             "plus kept in tags": [imitation.keeps_plus_in_tags]}.get(peculiarity, [])  # fmt: skip
    later: list[str] = []

    def count(request: imitation.Request) -> None:
        if request.method == "PUT" and "tagging" in request.query:
            later.append(request.target)

    volume, bucket = attach(count, *found)
    client, where = bucket.client, {"Bucket": bucket.name, "Key": "p/k"}
    bucket.put("p/k", bytes(size), Metadata=METADATA, **HEADERS)
    client.put_object_tagging(**where, Tagging={"TagSet": [{"Key": k, "Value": v} for k, v in TAGS.items()]})
    for n in range(2):
        with volume.open("k", "r+") as file:
            file.pwrite(b"new", n)
        found = client.head_object(**where)
        assert {name: found.get(name) for name in HEADERS} == HEADERS
        kept = {name: value for name, value in found["Metadata"].items() if name != "pagecache-id"}
        assert kept == METADATA
        tags = client.get_object_tagging(**where)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == TAGS
    assert bool(later) == (peculiarity == "tags of uploads ignored" and size > PART)


@MOTO
def test_tags_that_a_server_does_not_keep_are_reported(attach: Attach, caplog: pytest.LogCaptureFixture) -> None:
    def forgets(request: imitation.Request) -> imitation.Answer | None:
        request.headers.pop("x-amz-tagging", None)
        return imitation.Answer(200, b"") if request.method == "PUT" and "tagging" in request.query else None

    volume, bucket = attach(forgets)
    bucket.put("p/k", b"old", Tagging="a=b")
    stored(volume, "k", b"new", "r+")
    assert bucket.get("p/k") == b"new"
    loglines.outlast(20.0)
    assert "'k' is stored without its tags a=b" in caplog.text


@MOTO
@pytest.mark.parametrize("size", [1000, 2 * PART + 1])
def test_the_storage_class_stays_and_acl_and_checksums_of_an_object_do_not(attach: Attach, size: int) -> None:
    """docs/how-to/object-store.md lists them. A rename keeps the storage class, too."""
    volume, bucket = attach()
    client, where = bucket.client, {"Bucket": bucket.name, "Key": "p/k"}
    data = bytes(size)
    bucket.put("p/k", data, ACL="public-read", StorageClass="STANDARD_IA", ChecksumAlgorithm="SHA256")
    assert len(client.get_object_acl(**where)["Grants"]) == 2
    assert "ChecksumSHA256" in client.head_object(**where, ChecksumMode="ENABLED")
    stored(volume, "k", b"new", "r+")
    volume.rename("k", "other")
    where["Key"] = "p/other"
    found = client.head_object(**where, ChecksumMode="ENABLED")
    assert found["StorageClass"] == "STANDARD_IA"
    assert "ChecksumSHA256" not in found
    assert len(client.get_object_acl(**where)["Grants"]) == 1


# ---------------------------------------------------------------- for people


def test_the_documented_table_of_properties_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/s3-consistency.md").read_text()
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in page.splitlines() if line[:3] == "| `"]
    assert [row for row in rows if row[0].strip("`") in TEXTS] == [(f"`{name}`", *TEXTS[name]) for name in TEXTS]


def test_check_backend_prints_what_the_server_honours_and_its_cost(ministack: Server, monkeypatch: Patch) -> None:
    monkeypatch.setattr(checking, "CHECKS", [])
    with new_bucket(ministack) as bucket, Imitation(ministack.endpoint, *RGW) as proxy:
        command = ["check-backend", bucket.url("p", proxy.endpoint)]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(main, command)
        rows = [line.split()[:2] for line in result.output.splitlines()]
        answers = {"create": "yes", "put": "no", "put_etags": "yes", "complete": "no"}
        answers |= {"copy": "no", "copies": "yes", "escapes": "no", "etags": "no"}
        assert [row for row in rows if row and row[0] in answers] == [list(one) for one in answers.items()]
        assert "a HEAD before and one after the copies" in result.output
