"""The tests' backend that publishes whole objects keeps the promises, and finds breaches of the protocol."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

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


@pytest.fixture
def file(backend: PublishingBackend) -> PublishingFile:
    """An object with `old content`."""
    file = backend.open("key", create=True)
    assert isinstance(file, PublishingFile)
    put(file, 0, b"old content")
    file.commit()
    return file


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
