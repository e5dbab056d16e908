"""The tests' backend that publishes whole objects keeps the promises, and its faults are those it claims."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecache.errors import BackendError
from tests.publishing import PublishingBackend, PublishingFile
from tests.suites import suite


class Checked(PublishingBackend):
    """A backend that checks at its end whether the suite has broken the protocol."""

    def close(self) -> None:
        assert self.violations == []


TestPublishing = suite(Checked)
TestPublishingOfUnits = suite(lambda folder: Checked(folder, write_unit="4KiB", read_back=False))
TestPublishingOfLargeUnits = suite(lambda folder: Checked(folder, write_unit="64KiB"))


@pytest.fixture
def backend(tmp_path: Path) -> PublishingBackend:
    return PublishingBackend(tmp_path)


def put(file: PublishingFile, offset: int, data: bytes) -> None:
    assert file.write_from(offset, [memoryview(data)]) == len(data)


def get(read: Callable[..., int], offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: read(offset, [memoryview(buffer)])])


@pytest.fixture
def file(backend: PublishingBackend) -> PublishingFile:
    """An object with `old content`."""
    file = backend.open("key", create=True)
    assert isinstance(file, PublishingFile)
    put(file, 0, b"old content")
    file.commit()
    return file


def test_failed_commit_forgets_bytes_and_keeps_sizes(backend: PublishingBackend, file: PublishingFile) -> None:
    file.truncate(5)
    put(file, 0, b"NEW")
    put(file, 8, b"!")
    backend.fail_commits()
    with pytest.raises(BackendError) as raised:
        file.commit()
    assert raised.value.kept is False
    assert get(file.read_into, 0, 20) == b"old c" + bytes(4)
    assert backend.visible("key") == b"old content"
    put(file, 0, b"NEW")
    put(file, 8, b"!")
    file.commit()
    assert backend.visible("key") == b"NEW c" + bytes(3) + b"!"


def test_failed_commit_that_kept_everything_needs_the_commit_only(
    backend: PublishingBackend, file: PublishingFile
) -> None:
    put(file, 0, b"NEW")
    backend.fail_commits(2, kept=True)
    for _ in range(2):
        with pytest.raises(BackendError) as raised:
            file.commit()
        assert raised.value.kept is True
    assert backend.visible("key") == b"old content"
    file.commit()
    assert backend.visible("key") == b"NEW content"


def test_lost_answer_of_a_commit(backend: PublishingBackend, file: PublishingFile) -> None:
    put(file, 0, b"NEW")
    backend.fail_commits(done=True)
    with pytest.raises(BackendError):
        file.commit()
    assert backend.visible("key") == b"NEW content"
    assert file.commit() == backend.stat("key").version


def test_crash_leaves_what_is_committed(backend: PublishingBackend, file: PublishingFile) -> None:
    put(file, 0, b"NEW")
    backend.open("made", create=True)
    backend.crash()
    with pytest.raises(OSError) as raised:
        file.commit()
    assert raised.value.errno == errno.ECONNRESET
    assert [stat.key for stat in backend.list()] == ["key"]
    assert get(backend.open("key").read_into, 0, 20) == b"old content"


def test_changes_side_by_side_are_violations(backend: PublishingBackend, file: PublishingFile) -> None:
    entered, go = threading.Event(), threading.Event()

    def wait(_file: PublishingFile) -> None:
        backend.in_transfer = lambda file: None
        entered.set()
        assert go.wait(30)

    backend.in_transfer = wait
    writer = threading.Thread(target=put, args=(file, 0, b"slow"), daemon=True)
    writer.start()
    assert entered.wait(30)
    put(file, 2, b"overlap")
    file.commit()
    file.truncate(3)
    go.set()
    writer.join(30)
    assert [violation.partition(" ")[2].split(" ")[0] for violation in backend.violations] == [
        "write_from",
        "commit",
        "truncate",
    ]
