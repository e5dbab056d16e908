"""A commit survives the failure of any of its requests, publishes all or nothing, and leaves nothing behind.

tests/fsspec_below has what every store of whole objects keeps in a rename and a reconnect.
"""

from __future__ import annotations

import contextlib
import errno
import random
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import pytest
from botocore.exceptions import ClientError

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache import (
    BackendError,
    CachedFile,
    ConflictError,
    DataLossError,
    PageCache,
    RetryPolicy,
    ShutdownError,
    Volume,
    WritebackError,
)
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.calls import QUESTIONS
from pagecache.backends.s3.conditions import Conditions
from pagecache.backends.s3.errors import SendAgain
from pagecache.engine.retryer import is_refusal
from pagecache.testing import Gate

from ..file.rig import Task, content_of, eventually, overlay, raises, stored
from .requests import counted, is_for, name_of, refusal
from .servers import PART, SMALL_PARTS, Bucket

SERVERS = tuple(SMALL_PARTS)
MINISTACK = pytest.mark.parametrize("server", ["ministack"], indirect=True)
OLD = b"".join(bytes([i]) * PART for i in range(12))
CACHE = {"capacity": "1MiB", "retry": RetryPolicy(attempts=8, first_delay=0.001, max_delay=0.01)}
SPEC: dict[str, dict[str, Any]] = {
    "reset": {"fault": "reset"},
    "lost": {"fault": "lost"},
    "midway": {"fault": "midway"},
    "slow down": {"fault": "status", "status": 503, "body": refusal("SlowDown"), "headers": {"Retry-After": "0"}},
    "cut answer": {"fault": "cut", "bytes": 30},
    "error in a good answer": {"fault": "status", "status": 200, "body": refusal("InternalError")},
}


def changed(volume: Volume, key: str) -> bytes:
    """Overwrite a little in two parts of an object, and extend it; return its expected content."""
    with volume.open(key, "r+") as file:
        return change(file)


def change(file: CachedFile) -> bytes:
    content = bytearray(OLD)
    for offset, data in ((PART + 100, b"one"), (7 * PART - 2, b"over two parts"), (len(OLD), b"tail" * 1000)):
        file.pwrite(data, offset)
        content[offset : offset + len(data)] = data
    file.fsync()
    return bytes(content)


SWEEPS = [
    pytest.param(kind, spec, marks=[pytest.mark.slow] if kind == "moto_small" and spec not in ("reset", "lost") else [])
    for kind in SMALL_PARTS
    for spec in SPEC
]


@pytest.mark.parametrize(("server", "spec"), SWEEPS, indirect=["server"])
def test_a_fault_at_each_request_of_a_commit(bucket: Bucket, proxy: FaultyProxy, volume: Volume, spec: str) -> None:
    bucket.put("clean", OLD)
    assert changed(volume, "clean") == bucket.get("clean")
    concerned = ("PUT", "POST", "DELETE") if spec == "error in a good answer" else ("PUT", "POST", "DELETE", "GET")
    requests = [call for call in proxy.taken() if call.method in concerned]
    assert len(requests) >= 8
    for nth in range(1, len(requests) + 1):
        key = f"k{nth}"
        bucket.put(key, OLD)
        seen: list[str] = []  # they go side by side, in any order

        def noted(call: ProxyCall, seen: list[str] = seen) -> bool:
            if call.method in concerned:
                seen.append(name_of(call))
            return call.method in concerned

        proxy.rules = [ProxyRule(matches=noted, nth=nth, **SPEC[spec])]
        expected = changed(volume, key)
        assert len(seen) >= nth
        assert bucket.get(key) == expected, f"request {nth}: {seen[nth - 1]}"
        volume.backend.uploads.settle()  # type: ignore[union-attr]
        if bucket.uploads():  # begun, though the answer does not say so: moto reports no times by which to find it
            assert bucket.server.kind == "moto_small"
            assert seen[nth - 1] == "CreateMultipartUpload"
            assert spec in ("lost", "cut answer")
            assert len(bucket.uploads()) == 1
            bucket.end_uploads()
    proxy.rules.clear()


def test_a_commit_tried_again_goes_on_from_where_it_was(bucket: Bucket, proxy: FaultyProxy, volume: Volume) -> None:
    """Otherwise one of a few thousand requests would fail each time, forever."""
    content = bytearray(b"o" * 40 * PART)
    bucket.put("k", content)
    with volume.open("k", "r+") as file:
        proxy.taken()
        proxy.rules = [ProxyRule("reset", is_for("UploadPartCopy"), nth=3, times=5)]
        for unit in range(0, 40, 2):
            file.pwrite(b"new", unit * PART)
            content[unit * PART : unit * PART + 3] = b"new"
        file.fsync()
        requests = counted(proxy.taken())
        remembered = bucket.server.kind == "ministack"  # others ignore the condition of copies, and make them again
        assert requests["UploadPart"] == 20
        assert (requests["UploadPartCopy"] == 20 + 5) == remembered
        assert bucket.get("k") == content
        file.pwrite(b"more", PART)
        proxy.rules = [ProxyRule("reset", is_for("CompleteMultipartUpload"))]
        file.fsync()
        assert counted(proxy.taken())["UploadPartCopy"] == (2 if remembered else 4)
    content[PART : PART + 4] = b"more"
    assert bucket.get("k") == content


def test_a_part_that_is_written_again_between_two_tries_is_not_what_was_copied_before(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume
) -> None:
    """The content is zeros, bytes, and zeros again: the server no longer has the first zeros."""
    bucket.put("k", OLD)
    with volume.open("k", "r+") as file:
        file.truncate(16 * PART)
        for data in (b"a", b"b" * PART):
            proxy.rules = [ProxyRule("reset", lambda call: call.query.get("partNumber") == "1", times=100)]
            file.pwrite(data, len(OLD) - len(data) + len(data) // PART * 2 * PART)
            raises(WritebackError, file.fsync)
        proxy.rules.clear()
        file.truncate(len(OLD))
        file.truncate(16 * PART)
        proxy.taken()
        file.fsync()
        assert counted(proxy.taken())["AbortMultipartUpload"] == 0, "the upload was good"
    assert bucket.get("k") == OLD[:-1] + b"a" + bytes(4 * PART)


@pytest.mark.parametrize("direct", [6000, 2])
def test_bytes_that_are_written_again_between_two_tries_are_sent_again(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, direct: int
) -> None:
    """An earlier try has sent their part. Units behind the `direct` ones have a number for each try."""
    backend: Any = volume.backend
    backend.sizes = replace(backend.sizes, direct=direct)
    content = bytearray(OLD + b"end")
    bucket.put("k", content)
    with volume.open("k", "r+") as file:
        for data in (b"one", b"two"):
            proxy.rules = [ProxyRule("reset", is_for("UploadPartCopy"), times=100)]
            file.pwrite(data, len(OLD))
            content[len(OLD) :] = data
            raises(WritebackError, file.fsync)
        proxy.rules.clear()
        file.fsync()
    assert bucket.get("k") == content


@pytest.mark.parametrize("length", [0, 10, PART, 3 * PART + 5])
def test_a_commit_whose_answer_was_lost_is_no_conflict(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, length: int
) -> None:
    """One PUT, or the completion of an upload, publishes. Neither is carried out a second time."""
    publishing = is_for("PutObject" if length < PART else "CompleteMultipartUpload")
    proxy.rules = [ProxyRule("lost", lambda call: publishing(call) and ".pagecache" not in call.path)]
    stored(volume, "k", bytes(length), "w")
    assert [call.fault for call in proxy.taken() if publishing(call) and ".pagecache" not in call.path] == ["lost"]
    assert bucket.get("k") == bytes(length)
    with volume.open("k", "r+") as file:
        file.pwrite(b"more", length)
    assert bucket.get("k") == bytes(length) + b"more"


def test_a_commit_that_was_lost_and_cannot_be_looked_for_is_found_later(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """Its error is none of those that say that it has not landed. What was written since replaces it. [2.14]"""
    bucket.put("k", OLD)
    with closing(backend.open("k")) as file:
        file.write_from(0, [memoryview(b"first")])
        proxy.rules = [
            ProxyRule("lost", is_for("CompleteMultipartUpload")),
            ProxyRule("reset", is_for("HeadObject"), times=100),
        ]
        raised = raises(BackendError, file.commit)
        assert (raised.retry, is_refusal(raised)) == (True, False)
        file.write_from(2 * PART, [memoryview(b"second")])
        proxy.rules.clear()
        file.commit()
    assert bucket.get("k") == b"first" + OLD[5 : 2 * PART] + b"second" + OLD[2 * PART + 6 :]


@pytest.mark.parametrize("body", [refusal("NoSuchBucket"), b""], ids=["said", "unsaid"])
@pytest.mark.parametrize("policy", ["fail", "take_remote"])
def test_a_bucket_that_is_missing_for_a_while_is_no_other_version(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, policy: Literal["fail", "take_remote"], body: bytes
) -> None:
    """Whether the answer to the publishing request says so, or only that to the look after it. [2.14, 2.19]"""
    bucket.put("k", b"old")
    backend.honours(of="put")
    with PageCache("1MiB", retry=RetryPolicy(attempts=1)) as cache, contextlib.ExitStack() as stack:
        volume = cache.attach(backend, on_conflict=policy)
        file = volume.open("k", "r+")
        stack.callback(file.abandon)
        file.pwrite(b"new", 0)
        proxy.rules = [ProxyRule("status", status=404, body=body, times=float("inf"))]
        raised = raises(WritebackError, file.fsync)
        proxy.rules = []
        assert raised.errno == (errno.ENXIO if body else errno.EIO)
        volume.retry_failed()
        file.fsync()
    assert bucket.get("k") == b"new"


@MINISTACK
@pytest.mark.parametrize("body", [refusal("NoSuchBucket"), b""], ids=["said", "unsaid"])
@pytest.mark.parametrize("policy", ["fail", "take_remote"])
@pytest.mark.parametrize("call", ["open", "open by name", "stat", "rename", "remove"])
def test_a_call_beside_a_missing_bucket_takes_it_for_no_removal(
    bucket: Bucket,
    proxy: FaultyProxy,
    backend: S3Backend,
    call: str,
    policy: Literal["fail", "take_remote"],
    body: bytes,
) -> None:
    """As a commit does. [2.19, 2.20]"""
    bucket.put("k", b"old")
    backend.honours(of="put")
    with PageCache("1MiB", retry=RetryPolicy(attempts=1)) as cache, contextlib.ExitStack() as stack:
        volume = cache.attach(backend, on_conflict=policy)
        file = volume.open("k", "r+")
        stack.callback(file.abandon)
        file.pwrite(b"new", 0)
        proxy.rules = [ProxyRule("status", status=404, body=body, times=float("inf"))]
        made = {
            "open": lambda: volume.open("k"),
            "open by name": lambda: backend.open("k", read=True),
            "stat": lambda: backend.stat("k"),
            "rename": lambda: volume.rename("k", "other"),
            "remove": lambda: volume.remove("k"),
        }[call]
        assert raises(OSError, made).errno == errno.ENXIO
        proxy.rules = []
        assert file.pread(3, 0) == b"new"
        file.fsync()
    assert bucket.get("k") == b"new"


@MINISTACK
@pytest.mark.parametrize("status", [401, 403, 405])
def test_a_removal_is_a_conflict_though_the_bucket_may_not_be_looked_at(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, status: int
) -> None:
    """The credentials may only touch objects. [2.14]"""
    bucket.put("k", b"old")
    backend.honours(of="put")
    with closing(backend.open("k")) as file:
        file.write_from(0, [memoryview(b"new")])
        backend.bucket.delete("k")
        proxy.rules = [ProxyRule("status", is_for("HeadBucket"), status=status, times=float("inf"))]
        assert raises(OSError, file.commit, match="no object is stored").errno == errno.ESTALE
    assert bucket.keys() == []


def test_the_server_forgets_an_upload(bucket: Bucket, proxy: FaultyProxy, volume: Volume) -> None:
    """Its parts are sent again; nothing is lost or left half done."""
    bucket.put("k", OLD)

    for at in ("UploadPart", "UploadPartCopy", "CompleteMultipartUpload"):
        proxy.rules = [ProxyRule("call", is_for(at), action=bucket.end_uploads)]
        expected = changed(volume, "k")
        assert proxy.rules[0].seen
        assert bucket.get("k") == expected
        bucket.put("k", OLD)


@pytest.mark.parametrize("way", ["replaced", "removed"])
def test_another_client_changes_the_object_at_each_request(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, way: str
) -> None:
    """Either our whole version is stored, over theirs only if that came later, or theirs stands and ours is kept.

    If the completion of an upload has no condition, there is one moment in which theirs is replaced unnoticed.
    """
    window = bucket.server.kind == "moto_small"
    bucket.put("clean", OLD)
    changed(volume, "clean")
    total = len([call for call in proxy.taken() if call.method != "HEAD"])
    for nth in range(2, total + 1):  # the first is the open
        key = f"k{nth}."
        bucket.put(key, OLD)

        def act(key: str = key) -> None:
            if way == "replaced":
                bucket.put(key, b"theirs")
            else:
                bucket.remove(key)

        proxy.rules = [ProxyRule("call", lambda call: call.method != "HEAD", nth=nth, action=act)]
        refused: OSError | None = None
        file = volume.open(key, "r+")
        try:
            change(file)
        except (ConflictError, WritebackError) as error:
            refused = error
        found = bucket.keys(key)
        [last] = [name_of(call) for call in proxy.taken() if call.method != "HEAD" and "call" in call.fault]
        if window and last == "CompleteMultipartUpload":
            assert refused is None
            assert bucket.get(key)[PART + 100 : PART + 103] == b"one"
        else:
            assert found == ([key] if way == "replaced" else []), refused
            assert not found or bucket.get(key) == b"theirs"
            assert refused or last == "DeleteObject", "only after it was published may it be replaced unseen"
        assert bool(volume.dirty_ranges(key)) == (refused is not None)
        volume.discard(key)
        with suppress(DataLossError):
            file.close()
        volume.backend.uploads.settle()  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["force", "rebase"])
def test_a_version_that_is_stored_while_a_settled_one_is_published(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, how: Literal["force", "rebase"]
) -> None:
    """A server that checks the condition refuses; if versions are compared it is replaced unnoticed."""
    checked, old, mine = bucket.server.kind == "ministack", OLD[: 4 * PART], b"mine" * 1000
    theirs, later = b"theirs" * PART, b"later" * PART
    bucket.put("k", old)
    with volume.open("k", "r+") as file:
        file.read()  # so that it can be forced
        file.pwrite(mine, 5)
        bucket.put("k", theirs)
        raises(ConflictError, file.fsync)
        volume.resolve("k", how)
        proxy.rules = [ProxyRule("call", is_for("CompleteMultipartUpload"), action=partial(bucket.put, "k", later))]
        if checked:
            raises(ConflictError, file.fsync)
            assert bucket.get("k") == later
            volume.resolve("k", how)
        file.fsync()
    below = old if how == "force" else later if checked else theirs
    assert bucket.get("k") == overlay(below, 5, mine)


@pytest.mark.parametrize("way", ["replaced", "removed", "replaced for a while"])
def test_a_read_beside_a_change_is_of_one_version(bucket: Bucket, proxy: FaultyProxy, volume: Volume, way: str) -> None:
    """Another client acts at each request of a read. If the version comes back, equal bytes belong to another one."""
    nth, changed = 0, True
    most = PART if way == "replaced for a while" else 2 * PART  # one request: none meets the other version
    while changed:
        nth += 1
        key, done, refused = f"k{nth}", b"", False
        bucket.put(key, OLD)

        def act(key: str = key) -> None:
            bucket.remove(key) if way == "removed" else bucket.put(key, OLD[::-1])
            if way == "replaced for a while":
                bucket.put(key, OLD)

        with volume.open(key, read_ahead=0) as file:
            rule = ProxyRule("call", is_for("GetObject"), nth, action=act)
            proxy.rules = [rule]
            with suppress(ConflictError):
                refused = True
                while piece := file.read(most):
                    done += piece
                refused = False
        changed = rule.seen >= nth
        proxy.rules = []
        assert OLD.startswith(done)
        assert refused or done == OLD
        assert refused == (changed and way != "replaced for a while"), "the same bytes under the same ETag are the same"
        if changed and way == "removed":
            raises(FileNotFoundError, volume.open, key)
        elif changed:
            assert content_of(volume, key) == (OLD[::-1] if way == "replaced" else OLD)
    assert nth > 4


# ---------------------------------------------------------------- renames: tags, and requests of S3


@pytest.mark.parametrize("large", [False, True], ids=["one copy", "in parts"])
def test_a_renamed_object_keeps_its_tags_and_its_commits_do_too(bucket: Bucket, volume: Volume, large: bool) -> None:
    """Also while another object has the old name. [2.20]"""
    client, tags, backend = bucket.client, [{"Key": "of", "Value": "a"}], cast(S3Backend, volume.backend)
    client.put_object(Bucket=bucket.name, Key="a", Body=OLD, Tagging="of=a")
    if large and bucket.server.kind == "ministack":
        pytest.skip("it ignores the tags of an upload")
    if large:  # as an object above the largest size of one copy
        backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=4 * PART, copied=PART)

    def stored_tags() -> object:
        return client.get_object_tagging(Bucket=bucket.name, Key="b")["TagSet"]

    with volume.open("a", "r+b") as file:
        file.pwrite(b"W" * PART, 0)
        file.flush()
        volume.rename("a", "b")
        assert stored_tags() == tags
        client.put_object(Bucket=bucket.name, Key="a", Body=b"another", Tagging="of=another")
        with suppress(OSError):  # what was uploaded for the old name has to be sent again
            file.fsync()
        volume.retry_failed()
    assert (stored_tags(), bucket.get("b")) == (tags, b"W" * PART + OLD[PART:])


def test_a_rename_without_replacing_goes_on_after_the_lost_reply_of_its_copy(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume
) -> None:
    """The copy is not taken for an object of another program. [2.14]"""
    bucket.put("a", OLD)
    proxy.rules = [ProxyRule("lost", lambda call: is_for("CopyObject")(call) and call.path.endswith("/b"))]
    volume.rename("a", "b", replace=False)
    assert (bucket.keys(), bucket.get("b")) == (["b"], OLD)


@pytest.mark.parametrize("delete", ["answered", "lost"])
@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("large", [False, True], ids=["one copy", "in parts"])
def test_a_version_that_is_stored_over_the_copy_of_a_rename_is_mixed_with_nothing(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, dirty: bool, large: bool, delete: str
) -> None:
    """It is as long as the copy. The open file keeps its own version, which is gone. [2.19, 2.20]"""
    backend = cast(S3Backend, volume.backend)
    if large:  # as an object above the largest size of one copy
        backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=4 * PART, copied=PART)
    for key, theirs in (("a", False), ("c", True)):
        bucket.put(key, OLD)
        with contextlib.ExitStack() as stack:
            file = volume.open(key, "r+b", read_ahead=0)
            stack.callback(file.abandon)
            file.pread(4, 0)
            if dirty:
                file.pwrite(b"W", 0)
            nth = 3 if large and not backend.honours().complete else 2  # after the copy
            store = ProxyRule("call", lambda call: name_of(call) == "HeadObject" and call.path.endswith("/b"), nth=nth)
            store.action = partial(bucket.put, "b", OLD[::-1]) if theirs else lambda: None
            proxy.rules = [store, ProxyRule("lost", is_for("DeleteObject"))] if delete == "lost" else [store]
            volume.rename(key, "b")
            assert store.seen >= nth
            proxy.rules = []
            if theirs:
                raises(ConflictError, file.pread, 4, len(OLD) - 4)
            else:
                assert file.pread(4, len(OLD) - 4) == OLD[-4:]
            if dirty and theirs:
                raises(ConflictError, file.fsync)
            elif dirty:
                file.fsync()
            assert bucket.get("b") == (OLD[::-1] if theirs else b"W" * dirty + OLD[dirty:])


@MINISTACK
@pytest.mark.parametrize("there", [False, True])
def test_the_completion_of_a_copy_replaces_only_what_was_there_before(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, volume: Volume, there: bool
) -> None:
    """Another program stores an object right before it. Without `replace` it stays, otherwise it is replaced. [2.20]"""
    backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=4 * PART, copied=PART)
    bucket.put("a", OLD)
    if there:
        bucket.put("b", b"earlier")
    store = partial(bucket.put, "b", b"theirs")
    completes = is_for("CompleteMultipartUpload")
    proxy.rules = [ProxyRule("call", lambda call: completes(call) and ".pagecache" not in call.path, action=store)]
    if there:
        volume.rename("a", "b")
        assert counted(proxy.taken())["CopyObject"] == 0
        assert (bucket.keys(), bucket.get("b")) == (["b"], OLD)
    else:
        raises(FileExistsError, volume.rename, "a", "b", replace=False)
        assert (bucket.get("b"), bucket.get("a")) == (b"theirs", OLD)


@MINISTACK
def test_a_renamed_object_is_completed_over_one_that_is_removed_meanwhile(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, volume: Volume
) -> None:
    """AWS answers If-Match of a missing key with 404 NoSuchKey, not 412. [2.20]"""
    backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=4 * PART, copied=PART)
    bucket.put("a", OLD)
    bucket.put("b", b"earlier")
    backend.honours()
    completes = is_for("CompleteMultipartUpload")
    proxy.rules = [
        ProxyRule("call", completes, action=partial(backend.bucket.delete, "b"), times=1),
        ProxyRule("status", completes, status=404, body=refusal("NoSuchKey"), times=1),
    ]
    volume.rename("a", "b")
    assert (bucket.keys(), bucket.get("b")) == (["b"], OLD)


@MINISTACK
def test_a_copy_that_is_completed_late_replaces_no_later_commit(bucket: Bucket, backend: S3Backend) -> None:
    """The first completion has no answer, and is carried out after the second try and a commit. [2.20]"""
    backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=4 * PART, copied=PART)
    backend.uploads.give_up = lambda *upload: None  # type: ignore[method-assign] # the abort is lost, too
    bucket.put("a", OLD)
    backend.honours()
    complete, late = backend.bucket.complete, list[Callable[[], object]]()

    def first(*arguments: Any) -> Any:
        backend.bucket.complete = complete  # type: ignore[method-assign]
        late.append(partial(complete, *arguments))
        raise ConnectionResetError(104, "no answer")

    backend.bucket.complete = first  # type: ignore[method-assign, assignment]
    with closing(backend.open("a")) as file:
        raises(ConnectionResetError, backend.rename, "a", "b")
        backend.rename("a", "b")
        file.write_from(0, [memoryview(b"W")])
        file.commit()
        raises(OSError, late[0], match="PreconditionFailed")
        assert bucket.get("b") == b"W" + OLD[1:]
    bucket.end_uploads()


# ---------------------------------------------------------------- a volume that is aborted and reconnected in a commit

SHORT = OLD[: 4 * PART]
NEW = random.Random(2).randbytes(20 * PART)
PAGES, HOLE = 3 * 4096, 5 * PART  # start of the hole, and its length


@MINISTACK
@pytest.mark.parametrize("punched", [False, True], ids=["bytes", "holes"])
def test_an_abort_and_a_reconnect_at_each_request_of_a_commit_lose_nothing(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, punched: bool
) -> None:
    """More than memory holds is staged; the answer of the commit in flight is ignored. [2.22]"""
    met = set()
    for nth in range(1, 1000):
        if (name := interrupted(bucket, proxy, volume, f"k{nth}", punched, nth)) is None:
            break
        met.add(name)
    # The number of requests differs each time: the last ones may have been skipped.
    if (last := "CompleteMultipartUpload") not in met:
        assert interrupted(bucket, proxy, volume, last, punched, 1, last) is not None


def interrupted(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, key: str, punched: bool, nth: int, kind: str = ""
) -> str | None:
    """Abort and reconnect at the nth request whose name has this prefix. Return its name, if it came."""
    bucket.put(key, SHORT)
    met: list[str] = []
    begun, over = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        volume.abort()
        volume.reconnect(volume.backend)
        over.set()

    def noted(call: ProxyCall) -> bool:
        if counts := name_of(call).startswith(kind):
            met.append(name_of(call))
        return counts

    with volume.open(key, "r+") as file:
        file.pwrite(NEW, 0)
        if punched:
            file.punch_hole(PAGES, HOLE)
        proxy.rules = [ProxyRule("call", noted, nth=nth, action=act)]
        with suppress(ShutdownError):
            file.fsync()
        if begun.is_set():
            assert over.wait(60)
        proxy.rules = []
        file.fsync()
        found = bucket.get(key)
        assert found == (NEW[:PAGES] + bytes(HOLE) + NEW[PAGES + HOLE :] if punched else NEW), met[nth - 1 : nth]
    return met[nth - 1] if begun.is_set() else None


@MINISTACK
@pytest.mark.parametrize(("to", "fenced"), [("the same", True), ("another", True), ("another", False)])
def test_a_commit_that_lands_after_a_reconnect_is_recognised(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, to: str, fenced: bool
) -> None:
    """Its request is in flight when the file is opened anew, even if a fence has promised the contrary. [2.22]"""
    backend = volume.backend if to == "the same" else bucket.backend(proxy.endpoint)
    bucket.put("k", SHORT)

    def act() -> None:
        volume.abort()
        volume.reconnect(backend, fenced=fenced)

    with volume.open("k", "r+") as file:
        file.pwrite(NEW[:PAGES], PART)
        proxy.rules = [ProxyRule("call", is_for("CompleteMultipartUpload"), action=act)]
        with suppress(ShutdownError):
            file.fsync()
        eventually(lambda: bucket.get("k") != SHORT)
        file.pwrite(NEW[PAGES : 2 * PAGES], 0)
        file.fsync()
    assert bucket.get("k") == NEW[PAGES : 2 * PAGES] + SHORT[PAGES:PART] + NEW[:PAGES] + SHORT[PART + PAGES :]


# ---------------------------------------------------------------- a commit whose result is unknown: which version it is

MOTO_SMALL = pytest.mark.parametrize("server", ["moto_small"], indirect=True)
"""It ignores the condition of a completion, so that a late one lands."""


def lose(proxy: FaultyProxy, fault: Any) -> None:
    """Fail a completion, and every later request."""
    failed = ProxyRule(fault, is_for("CompleteMultipartUpload"))
    proxy.rules = [ProxyRule("reset", lambda call: failed.seen > 0, times=1000), failed]


@MINISTACK
def test_a_second_commit_that_lands_after_a_reconnect_is_recognised(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume
) -> None:
    """The opened version is that of the first one, and the second is in flight. [2.19]"""
    bucket.put("k", b"........")

    def act() -> None:
        volume.abort()
        volume.reconnect(volume.backend, fenced=True)

    with volume.open("k", "r+") as file:
        file.pwrite(b"1", 0)
        file.fsync()
        file.pwrite(b"2", 1)
        proxy.rules = [ProxyRule("call", is_for("PutObject"), action=act)]
        with contextlib.suppress(ShutdownError):
            file.fsync()
        eventually(lambda: bucket.get("k") == b"12......")
        file.pwrite(b"3", 2)
        file.fsync()
    assert bucket.get("k") == b"123....."


@MINISTACK
@pytest.mark.parametrize(
    ("shown", "looks"),
    [("the replaced version", 1), ("no length", QUESTIONS), ("an interrupt", 1), ("an interrupt", 2)],
)
@pytest.mark.parametrize("size", [PART // 2, 3 * PART], ids=["a PUT", "an upload"])
def test_a_look_that_does_not_show_a_published_version_is_no_conflict(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, shown: str, size: int, looks: int
) -> None:
    """So many looks after a commit whose answer has no version. [2.14, 2.19]"""
    backend = bucket.backend(conditions=Conditions(etags=False, put_etags=False))
    bucket.put("k", OLD[:size])
    part = PART if size > PART else 100
    with closing(backend), closing(backend.open("k")) as file:
        ask = backend.bucket.http.ask
        earlier, left = ask("HEAD", "k"), [looks]

        def asked(method: str, name: str = "", **how: Any) -> Any:
            if method != "HEAD" or not name or left[0] in (0, looks + 1):
                answer = ask(method, name, **how)
                if left[0] == looks + 1 and (
                    method == "PUT" if size < PART else ("uploadId", upload()) in how["query"]
                ):
                    left[0] -= 1
                return answer
            left[0] -= 1
            if shown == "an interrupt":
                raise KeyboardInterrupt
            return earlier if shown == "the replaced version" else replace(earlier, headers={"etag": '"1"'})

        def upload() -> str:
            return "" if file.draft.upload is None else file.draft.upload.upload

        write = partial(file.write_from, 0, [memoryview(b"n" * part)])
        write()
        left[0] += 1
        monkeypatch.setattr(backend.bucket.http, "ask", asked)
        for _ in range(looks + 2):
            try:
                file.commit()
                break
            except SendAgain:
                write()
            except KeyboardInterrupt:
                pass
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
        assert (left[0], file.draft.changed) == (0, False)
        assert file.draft.base == backend.bucket.head("k")
    assert bucket.get("k") == b"n" * part + OLD[part:size]


@MOTO_SMALL
def test_a_commit_that_lands_after_a_truncate_is_not_taken_for_the_truncated_one(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """The id in the metadata belongs to one image: bytes, size and cuts. [2.15, 2.19]"""
    bucket.put("k", SHORT)
    client, upload = bucket.client, {"Bucket": bucket.name, "Key": "k"}
    file = backend.open("k")
    file.write_from(3 * PART, [memoryview(b"W" * PART)])
    lose(proxy, "reset")
    raises(OSError, file.commit)
    proxy.rules.clear()
    [(_, id)] = bucket.uploads()
    parts = client.list_parts(**upload, UploadId=id)["Parts"]
    listed = [{name: part[name] for name in ("PartNumber", "ETag")} for part in parts]

    def land() -> None:
        with contextlib.suppress(ClientError):
            client.complete_multipart_upload(**upload, UploadId=id, MultipartUpload={"Parts": listed})

    file.truncate(3 * PART)
    proxy.rules = [ProxyRule("call", is_for("CompleteMultipartUpload"), action=land)]
    try:
        file.commit()
    except OSError:  # the upload was given up
        file.commit()
    assert bucket.get("k") == SHORT[: 3 * PART]


@MOTO_SMALL
def test_a_read_that_finds_a_commit_of_unknown_result_goes_on_while_the_next_commit_finds_it(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """Only the commit records it. [2.15]"""
    bucket.put("k", SHORT)
    file, room = backend.open("k"), bytearray(4)
    file.write_from(0, [memoryview(b"W" * PART)])
    lose(proxy, "lost")
    raises(OSError, file.commit)
    with Gate() as gate:
        proxy.rules = [ProxyRule("call", is_for("HeadObject"), action=gate.enter)]
        reading = Task(file.read_into, 3 * PART, [memoryview(room)])
        gate.wait_entered()
        file.commit()
        gate.release()
        assert (reading.result(), bytes(room)) == (4, SHORT[-4:])
    assert bucket.get("k") == b"W" * PART + SHORT[PART:]


@MOTO_SMALL
def test_a_read_sees_later_bytes_over_an_unknown_commit(bucket: Bucket, proxy: FaultyProxy, backend: S3Backend) -> None:
    bucket.put("k", SHORT)
    file, room = backend.open("k"), bytearray(2 * PART)
    file.write_from(0, [memoryview(b"W" * PART)])
    lose(proxy, "lost")
    raises(OSError, file.commit)
    proxy.rules.clear()
    file.truncate(PART + 10)
    assert file.read_into(0, [memoryview(room)]) == PART + 10
    assert bytes(room[: PART + 10]) == b"W" * PART + SHORT[PART : PART + 10]
