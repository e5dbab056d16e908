"""A rename of an object of a bucket is a copy and a removal: the objects that it may delete, and open files. [2.20]"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, PageCache, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.testing.proxy import FaultyProxy, ProxyCall, ProxyRule

from .requests import is_for, name_of
from .servers import Bucket, Server

PART = 64 << 10
SOURCE, PRECIOUS, OTHER = b"1" * (2 * PART + 100), b"precious", b"2" * (2 * PART + 100)
ONCE = RetryPolicy(attempts=1, failed_retry=None)
OFTEN = RetryPolicy(attempts=5, first_delay=0.001, max_delay=0.005)
Store = Callable[[str, bytes], object]


@pytest.fixture(params=["moto_small", "ministack"])
def server(request: pytest.FixtureRequest, started: Callable[[str], Server]) -> Server:
    return started(request.param)


@pytest.fixture
def backend(bucket: Bucket, proxy: FaultyProxy) -> S3Backend:
    return S3Backend(bucket.name, endpoint_url=proxy.endpoint, part_size=PART, least_part=1)


@pytest.fixture
def volume(backend: S3Backend) -> Iterator[Volume]:
    with PageCache("4MiB", retry=ONCE) as cache:
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
            with contextlib.suppress(OSError):  # unless they came with the open
                assert file.pread(4, len(SOURCE) - 4) == SOURCE[-4:]


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
        volume.rename("a", "b")
        assert content(bucket, "b") == SOURCE
        assert file.pread(4, len(SOURCE) - 4) == SOURCE[-4:]


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


def test_an_object_whose_commit_was_not_carried_out_replaces_another_at_its_next_commit(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, put: Store
) -> None:
    """Its first commit has an unknown result; nothing is deleted for the second. [2.20]"""
    put("b", PRECIOUS)
    with volume.open("a", "wb") as file:
        file.write(b"new")
        lost = ProxyRule("reset", of_object("a", "PutObject"))
        proxy.rules = [ProxyRule("reset", lambda call: lost.seen > 0, times=1000), lost]
        with pytest.raises(OSError):
            file.fsync()
        proxy.rules.clear()
        volume.rename("a", "b")
        assert content(bucket, "b") == PRECIOUS
        volume.retry_failed()
        file.fsync()
    assert (bucket.keys(), content(bucket, "b")) == (["b"], b"new")


@pytest.mark.parametrize("size", [3, PART + 3], ids=["put", "upload"])
def test_an_object_that_is_not_committed_yet_replaces_no_version_that_was_stored_after_its_rename(
    bucket: Bucket, volume: Volume, put: Store, size: int
) -> None:
    """Its commit replaces the object that its new name had then. [2.19, 2.20]"""
    put("b", PRECIOUS)
    file = volume.open("a", "wb")
    file.write(bytes(size))
    volume.rename("a", "b")
    put("b", OTHER)
    with contextlib.suppress(OSError):  # a unit that was uploaded for the old name has to be sent again
        file.fsync()
    with pytest.raises(ConflictError):
        file.fsync()
    file.abandon()
    assert content(bucket, "b") == OTHER


def test_an_object_that_is_not_committed_yet_is_given_up_and_the_destination_stays(
    bucket: Bucket, volume: Volume, put: Store
) -> None:
    """Nothing is deleted for an object that is not stored. [2.20]"""
    put("b", PRECIOUS)
    file = volume.open("a", "wb")
    file.write(b"new")
    volume.rename("a", "b")
    with volume.open("b", "rb") as again:
        assert again.read() == b"new"
    file.abandon()
    with volume.open("b", "rb") as again:
        assert again.read() == PRECIOUS


@pytest.mark.parametrize("use", [uploaded, read])
def test_a_version_of_another_program_is_renamed_and_mixed_with_nothing(
    bucket: Bucket, volume: Volume, put: Store, use: Callable[[CachedFile], None]
) -> None:
    """An open file keeps its own version, which is gone. [2.19, 2.20]"""
    put("a", SOURCE)
    file = volume.open("a", "r+b", read_ahead=0)
    use(file)
    put("a", OTHER)
    volume.rename("a", "b")
    with contextlib.suppress(ConflictError):  # unless they came with the open
        assert file.pread(4, len(SOURCE) - 4) == SOURCE[-4:]
    if use is uploaded:
        with pytest.raises(ConflictError):
            file.fsync()
    file.abandon()
    assert (bucket.keys(), content(bucket, "b")) == (["b"], OTHER)


def test_a_version_that_is_stored_while_its_object_is_renamed_is_not_deleted(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, put: Store
) -> None:
    """It is not the version that was copied; the rename has succeeded. [2.20]"""
    put("a", SOURCE)
    action: Any = partial(put, "a", OTHER)
    proxy.rules = [ProxyRule("call", of_object("a", "HeadObject"), nth=2, action=action)]
    backend.rename("a", "b")
    assert (content(bucket, "a"), content(bucket, "b")) == (OTHER, SOURCE)
    backend.close()


@pytest.mark.parametrize("large", [False, True], ids=["one copy", "in parts"])
def test_a_renamed_object_keeps_its_tags_and_its_commits_do_too(
    bucket: Bucket, backend: S3Backend, put: Store, large: bool
) -> None:
    """Also while another object has the old name. [2.20]"""
    client, tags = bucket.client, [{"Key": "of", "Value": "a"}]
    client.put_object(Bucket=bucket.name, Key="a", Body=SOURCE, Tagging="of=a")
    if large and bucket.server.kind == "ministack":
        pytest.skip("it ignores the tags of an upload")
    if large:  # as an object above the largest size of one copy
        backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=2 * PART, copied=PART)

    def stored_tags() -> object:
        return client.get_object_tagging(Bucket=bucket.name, Key="b")["TagSet"]

    with PageCache("4MiB", retry=ONCE) as cache:
        volume = cache.attach(backend)
        with volume.open("a", "r+b") as file:
            uploaded(file)
            volume.rename("a", "b")
            assert stored_tags() == tags
            client.put_object(Bucket=bucket.name, Key="a", Body=b"another", Tagging="of=another")
            with contextlib.suppress(OSError):  # what was uploaded for the old name has to be sent again
                file.fsync()
            volume.retry_failed()
    assert (stored_tags(), content(bucket, "b")) == (tags, b"W" * PART + SOURCE[PART:])


# ---------------------------------------------------------------------------------------------------- lost replies


@pytest.fixture
def patient(backend: S3Backend) -> Iterator[Volume]:
    """A volume that repeats calls."""
    with PageCache("4MiB", retry=OFTEN) as cache:
        yield cache.attach(backend)
        cache.close(timeout=20, on_failed="discard")


def lose(proxy: FaultyProxy, matches: Callable[[ProxyCall], bool], then: int) -> None:
    """Lose one reply, and then so many requests."""
    lost = ProxyRule("lost", matches)
    proxy.rules = [ProxyRule("reset", lambda call: lost.seen > 0, times=then), lost] if then else [lost]


def written(file: CachedFile) -> None:
    file.pwrite(b"W" * PART, 0)


LOOKS = pytest.mark.parametrize("failed_looks", [0, 2])


@LOOKS
@pytest.mark.parametrize("use", [read, written, uploaded])
def test_a_rename_whose_reply_is_lost_takes_open_files_along(
    bucket: Bucket,
    proxy: FaultyProxy,
    patient: Volume,
    put: Store,
    use: Callable[[CachedFile], None],
    failed_looks: int,
) -> None:
    """Whether the backend's own look-up or that of the next try finds it done. [2.14, 2.20]"""
    put("a", SOURCE)
    expected = SOURCE if use is read else b"W" * PART + SOURCE[PART:]
    with patient.open("a", "r+b", read_ahead=0) as file:
        use(file)
        lose(proxy, of_object("a", "DeleteObject"), failed_looks)
        patient.rename("a", "b")
        assert file.pread(4, len(SOURCE) - 4) == SOURCE[-4:]
        file.fsync()
        with patient.open("b", "rb") as again:
            assert again.read() == expected
    assert (bucket.keys(), content(bucket, "b")) == (["b"], expected)


@LOOKS
def test_a_remove_whose_reply_is_lost_takes_the_name_from_open_files(
    bucket: Bucket, proxy: FaultyProxy, patient: Volume, put: Store, failed_looks: int
) -> None:
    """They do not follow another object that has the name later. [2.14, I-24]"""
    put("a", SOURCE)
    with patient.open("a", "rb", read_ahead=0) as file:
        read(file)
        lose(proxy, of_object("a", "DeleteObject"), failed_looks)
        patient.remove("a")
        with patient.open("a", "wb") as other:
            other.write(OTHER)
        patient.rename("a", "c")
        with pytest.raises(FileNotFoundError):
            file.pread(4, len(SOURCE) - 4)
    assert (bucket.keys(), content(bucket, "c")) == (["c"], OTHER)


@LOOKS
def test_a_rename_over_an_object_whose_reply_is_lost_takes_the_name_from_its_files(
    bucket: Bucket, proxy: FaultyProxy, patient: Volume, put: Store, failed_looks: int
) -> None:
    """[2.14, I-24]"""
    put("a", OTHER)
    put("b", SOURCE)
    with patient.open("b", "rb", read_ahead=0) as file:
        read(file)
        lose(proxy, of_object("a", "DeleteObject"), failed_looks)
        patient.rename("a", "b")
        patient.rename("b", "c")
        with pytest.raises(FileNotFoundError):
            file.pread(4, len(SOURCE) - 4)
    assert (bucket.keys(), content(bucket, "c")) == (["c"], OTHER)


def test_a_rename_without_replacing_goes_on_after_the_lost_reply_of_its_copy(
    bucket: Bucket, proxy: FaultyProxy, patient: Volume, put: Store
) -> None:
    """The copy is not taken for an object of another program. [2.14]"""
    put("a", SOURCE)
    lose(proxy, of_object("b", "CopyObject"), 0)
    patient.rename("a", "b", replace=False)
    assert (bucket.keys(), content(bucket, "b")) == (["b"], SOURCE)


def test_a_remove_that_is_repeated_after_a_lost_reply_succeeds(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, put: Store
) -> None:
    """The first one raises: its result is unknown. [2.14]"""
    put("a", SOURCE)
    with volume.open("a", "rb", read_ahead=0) as file:
        read(file)
        lose(proxy, of_object("a", "DeleteObject"), 1000)
        with pytest.raises(OSError):
            volume.remove("a")
        proxy.rules.clear()
        volume.remove("a")
        with pytest.raises(FileNotFoundError):
            volume.remove("a")
    assert bucket.keys() == []


@pytest.mark.parametrize("name", ["a", "b", None])
def test_bytes_written_after_a_rename_of_unknown_result_are_stored_or_reported(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, put: Store, name: str | None
) -> None:
    """Whichever name is looked up first, or none. [2.14, 2.20]"""
    put("a", SOURCE)
    put("b", PRECIOUS)
    with volume.open("a", "r+b", read_ahead=0) as file:
        read(file)
        lose(proxy, of_object("a", "DeleteObject"), 1000)
        with pytest.raises(OSError):
            volume.rename("a", "b")
        proxy.rules.clear()
        if name is not None:
            assert volume.exists(name) is (name == "b")
        file.pwrite(b"W" * PART, 0)
        with contextlib.suppress(OSError):  # what was uploaded for the old name has to be sent again
            file.fsync()
        volume.retry_failed()
        file.fsync()
        assert (bucket.keys(), content(bucket, "b")) == (["b"], b"W" * PART + SOURCE[PART:])


def test_an_open_file_reports_the_name_that_its_commit_stores(backend: S3Backend) -> None:
    """The lost answer of a remove or rename of an object that was never stored is settled by it. [2.14, 2.20]"""
    draft, replaced = backend.open("a", create=True), backend.open("b", create=True)
    with contextlib.closing(draft), contextlib.closing(replaced):
        backend.rename("a", "b")
        assert (draft.stat().key, draft.stat().nlink, replaced.stat().nlink) == ("b", None, 0)
        backend.remove("b")
        assert draft.stat().nlink == 0
