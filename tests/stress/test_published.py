"""Objects that are replaced as a whole, whose calls fail, and an upload that is given up."""

from __future__ import annotations

import errno
import math
import random
from typing import Any

import pytest

from pagecache.errors import BackendError
from pagecache.native import NativeInode
from pagecache.stress import Plan, run

from ..planted.settings import Factory, object_store
from ..stores import ObjectFile

FIELDS: dict[str, Any] = {"seed": 1, "duration": 60.0, "threads": 4, "files": 1, "size": "64KiB", "capacity": "128KiB"}
FIELDS |= {"profile": "saving", "mix": "buffered,append,truncate"}


def failing_store() -> Factory:
    """An object store whose uploads may lose their answers, and whose commits may forget the bytes; a retry helps."""
    make, chance = object_store(), random.Random(1).random
    store: Any = make()

    def upload() -> None:
        if chance() < 0.02:
            raise BackendError(errno.EIO, "made up: the answer is lost", retry=True)

    def commit(file: ObjectFile) -> str:
        if chance() < 0.5:
            file.parts = [(offset + len(data), b"") for offset, data in file.parts]  # the size stays
            raise BackendError(errno.EIO, "made up: the upload is gone", retry=True)
        return file.make_durable()

    store.fault("write_from answer", upload, times=math.inf)
    store.fault("commit", commit, times=math.inf)
    return make


@pytest.mark.parametrize("store", [object_store, failing_store])
def test_whole_objects_lose_nothing_and_publish_nothing_that_was_given_up(store: Any) -> None:
    """Also if uploads lose their answers and commits fail. [2.14, 2.15, 2.18]"""
    report = run(Plan(**FIELDS, tasks=2, operations=40, rounds=2), store())
    assert report.ok, report.story
    assert report.counters["uploads given up"] == 2


def test_an_upload_that_is_published_after_it_was_given_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache never makes the store forget the discarded bytes. [2.18]"""
    monkeypatch.setattr(NativeInode, "acknowledged", lambda *_args: False)
    report = run(Plan(**FIELDS, tasks=0, operations=5), object_store())
    assert (report.ok, report.kind) == (False, "data")
