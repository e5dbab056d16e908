"""Mounts of a bucket on a real S3 server: programs change objects there, and boto3 checks the stored ones."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3.servers import Bucket, Server, new_bucket

from ..file.rig import raises
from .mounts import KINDS, Mounted, code, names, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]


@pytest.fixture(scope="module", params=KINDS)
def bucket_mount(
    request: pytest.FixtureRequest, service: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mounted, Bucket]]:
    """A bucket, and its mount, shared by the tests of this file."""
    with new_bucket(service) as bucket:
        options = ("--capacity", "64MiB", request.param)
        with Mounted(tmp_path_factory.mktemp("bucket"), bucket.url(), *options, longest=600) as mounted:
            yield mounted, bucket
            assert mounted.unmount() == 0, mounted.said()


@pytest.fixture
def bucket(bucket_mount: tuple[Mounted, Bucket]) -> Bucket:
    return bucket_mount[1]


@pytest.fixture
def place(bucket_mount: tuple[Mounted, Bucket], request: pytest.FixtureRequest) -> Path:
    """A folder of the mounted bucket."""
    path: Path = bucket_mount[0].path / request.node.originalname
    path.mkdir()
    return path


def object_of(bucket: Bucket, place: Path, name: str) -> bytes | None:
    """The object as boto3 reads it."""
    try:
        answer = bucket.client.get_object(Bucket=bucket.name, Key=f"{place.name}/{name}")
    except bucket.client.exceptions.NoSuchKey:
        return None
    body: bytes = answer["Body"].read()
    return body


def put(bucket: Bucket, place: Path, name: str, data: bytes) -> None:
    bucket.put(f"{place.name}/{name}", data)


def test_programs_work_on_a_bucket(place: Path, bucket: Bucket, tmp_path: Path) -> None:
    """cp, tar, sort, sqlite and diff run; afterwards every object has their content."""
    tree = tmp_path / "tree"
    shutil.copytree(Path(shutil.__file__).parent / "json", tree, ignore=shutil.ignore_patterns("__pycache__"))
    run("cp", "-r", tree, place / "tree")
    run("diff", "-r", tree, place / "tree")
    run("tar", "-C", place, "-cf", place / "a.tar", "tree")
    run("tar", "-C", place, "-df", place / "a.tar")
    (place / "numbers").write_text("".join(f"{n * 7919 % 10_007}\n" for n in range(5000)))
    run("sort", "-n", "-o", place / "sorted", place / "numbers")
    base = sqlite3.connect(place / "base", isolation_level=None)
    base.execute("create table t (n integer primary key, text)")
    base.execute("begin")
    base.executemany("insert into t values (?, ?)", [(n, "x" * n) for n in range(300)])
    base.execute("commit")
    base.close()
    assert bucket.keys(f"{place.name}/tree") == [f"{place.name}/tree/{path.name}" for path in sorted(tree.iterdir())]
    for path in tree.iterdir():
        assert object_of(bucket, place, f"tree/{path.name}") == path.read_bytes()
    numbers = sorted(n * 7919 % 10_007 for n in range(5000))
    assert object_of(bucket, place, "sorted") == "".join(f"{n}\n" for n in numbers).encode()
    copy = tmp_path / "base"
    copy.write_bytes(object_of(bucket, place, "base") or b"")
    assert sqlite3.connect(copy).execute("pragma integrity_check").fetchone() == ("ok",)
    assert object_of(bucket, place, "base-journal") is None
    run("rm", "-r", place / "tree")
    assert bucket.keys(f"{place.name}/tree") == []


def test_git_clones_onto_a_bucket(place: Path, tmp_path: Path) -> None:
    """Its lock files and probes are closed asynchronously and removed at once: none of them comes back. [2.20]"""
    source = tmp_path / "source"
    run("git", "init", "-q", source)
    (source / "file").write_text("content")
    run("git", "add", ".", cwd=source)
    run("git", "-c", "user.name=n", "-c", "user.email=e@e", "commit", "-q", "-m", "one", cwd=source)
    for number in range(3):
        run("git", "clone", "-q", f"file://{source}", place / f"clone{number}")
        run("git", "config", "some.name", "value", cwd=place / f"clone{number}")
        run("git", "config", "--unset", "some.name", cwd=place / f"clone{number}")
    run("git", "fsck", cwd=place / "clone0")
    run("git", "clone", "-q", "--no-local", source, place / "clone3")
    assert "Operation not supported" in run("git", "clone", "-q", source, place / "clone4", status=128)
    left = [path.name for path in (place / "clone0" / ".git").iterdir()]
    assert [name for name in left if name.endswith(".lock") or name.startswith("t")] == []


def test_a_conflict_is_reported_at_close(place: Path, bucket: Bucket) -> None:
    """The other client's version stays; its writer gets the error once, and fsync always reports it."""
    path = place / "a"
    path.write_bytes(b"first" * 1000)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"ours", 0)
    put(bucket, place, "a", b"theirs")
    assert [code(os.fsync, fd) for _ in range(2)] == [errno.ESTALE] * 2
    assert code(os.close, fd) == errno.ESTALE
    assert object_of(bucket, place, "a") == b"theirs"
    assert code(path.read_bytes) == errno.ESTALE  # until it is settled
    path.unlink()
    assert object_of(bucket, place, "a") is None
    path.write_bytes(b"anew")
    assert object_of(bucket, place, "a") == b"anew"


def test_a_conflict_of_a_cut_is_reported_at_close(place: Path, bucket: Bucket) -> None:
    path = place / "a"
    path.write_bytes(b"first" * 1000)
    fd = os.open(path, os.O_RDWR)
    put(bucket, place, "a", b"theirs")
    os.ftruncate(fd, 10)
    assert code(os.close, fd) == errno.ESTALE
    assert object_of(bucket, place, "a") == b"theirs"
    path.unlink()


def test_names_of_a_bucket(place: Path, bucket: Bucket) -> None:
    """Directories are prefixes, or marks of other programs."""
    put(bucket, place, "a/b/c", b"c")
    put(bucket, place, "a/d", b"dd")
    put(bucket, place, "marked/", b"")
    assert names(place / "a") == ["b", "d"]
    assert (place / "a" / "b" / "c").read_bytes() == b"c"
    assert names(place) == ["a", "marked"]
    assert names(place / "marked") == []
    (place / "marked").rmdir()
    assert names(place) == ["a"]


def test_unclosed_objects_are_not_published_by_the_end(service: Server, tmp_path: Path) -> None:
    """It is listed, and the exit status says so; closed objects are there."""
    with new_bucket(service) as bucket, Mounted(tmp_path, bucket.url()) as mounted:
        (mounted.path / "closed").write_bytes(b"closed")
        fd = os.open(mounted.path / "open", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"open" * 5000)
        assert mounted.terminate() == 1
        assert raises(OSError, os.close, fd).errno == errno.ENOTCONN
        assert bucket.keys() == ["closed"]
        assert "not saved: 'open' [0, 20000): its writer had not closed it" in mounted.said()
