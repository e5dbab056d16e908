"""Every error is an OSError that carries its object and details, and keeps them when pickled."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from pagecache import errors
from pagecache.errors import (
    BackendError,
    BackendProtocolError,
    CommitError,
    ConflictError,
    DataLossError,
    DeadlockError,
    FailedRange,
    ForkedError,
    LostRange,
    PageCacheError,
    ShutdownError,
    UnsavedDataError,
    WritebackError,
    set_written,
)
from pagecache.objects import Event, FileStat, ObjectStat
from pagecache.stats import CacheStats, FileStats, VolumeStats

from .file.rig import accepted_before

FAILED = FailedRange("a", 4096, 8192, errno.ENOSPC, 3, None, "data", "no space", 1.5)
LOST = LostRange(("bucket", "key"), 0, 10, errno.EIO, "data")

EXAMPLES = [
    PageCacheError("went wrong"),
    PageCacheError("went wrong", "key", errno=errno.EPERM),
    WritebackError("not written", "key", errno=errno.ENOSPC, ranges=[FAILED], exceptions=[OSError(5, "inner")]),
    CommitError("not committed", Path("key"), ranges=[FAILED, FAILED]),
    UnsavedDataError("not saved", ranges=[FAILED]),
    ConflictError("changed", ("bucket", "key"), base="1", remote=None, ranges=[(0, 10)]),
    DataLossError("gone", 17, ranges=[LOST]),
    ShutdownError("aborted", "key"),
    DeadlockError("would wait for itself"),
    ForkedError("made before fork"),
    BackendProtocolError("answered None", "key"),
    BackendError(errno.EIO, "busy", retry=True, retry_after=0.5, max_write=4096, kept=True),
    BackendError(errno.EACCES, "never", retry=False),
]


@pytest.mark.contract("T-66")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_error_pickles_with_its_attributes(error: OSError, protocol: int) -> None:
    error.add_note("a note")
    set_written(error, 17)
    copied: list[Any] = [pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)]
    for again in copied:
        assert type(again) is type(error)
        assert (again.errno, again.strerror, again.filename) == (error.errno, error.strerror, error.filename)
        assert str(again) == str(error)
        for name, value in vars(error).items():
            found = getattr(again, name)
            assert repr(found) == repr(value)
        if isinstance(error, PageCacheError):
            assert accepted_before(again) == 17


@pytest.mark.contract("T-66")
def test_every_error_is_an_oserror_with_errno() -> None:
    classes = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BaseException)}
    assert classes == {type(error) for error in EXAMPLES}
    for error in EXAMPLES:
        assert isinstance(error, OSError)
        assert isinstance(error.errno, int)


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (WritebackError, errno.EIO),
        (ConflictError, errno.ESTALE),
        (DataLossError, errno.EIO),
        (ShutdownError, errno.ESHUTDOWN),
        (DeadlockError, errno.EDEADLK),
        (ForkedError, errno.EOWNERDEAD),
        (BackendProtocolError, errno.EPROTO),
    ],
)
def test_errno_of_each_class(cls: type[PageCacheError], code: int) -> None:
    assert cls("text").errno == code
    assert cls("text", errno=errno.ENOENT).errno == errno.ENOENT


def test_key_is_the_filename_and_in_the_text() -> None:
    error = WritebackError("no space left", "dir/file", errno=errno.ENOSPC)
    assert error.filename == "dir/file"
    assert str(error) == f"[Errno {errno.ENOSPC}] no space left: 'dir/file'"
    assert str(ShutdownError("closed")) == f"[Errno {errno.ESHUTDOWN}] closed"
    assert accepted_before(pickle.loads(pickle.dumps(error))) is None


def test_errors_of_lost_and_of_kept_data_are_apart() -> None:
    assert issubclass(CommitError, WritebackError)
    assert issubclass(UnsavedDataError, WritebackError)
    assert not issubclass(DataLossError, WritebackError)
    assert not issubclass(BackendError, PageCacheError)


@pytest.mark.contract("T-66")
@pytest.mark.parametrize(
    "value",
    [
        FAILED,
        LOST,
        ObjectStat(size=1, version="v", key=("a", 1)),
        FileStat(size=1, dirty=2, cached=3),
        Event(kind="failed", volume="v", key="k", ranges=((0, 1),)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_value_pickles(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("cls", [CacheStats, VolumeStats, FileStats])
def test_stats_give_every_counter(cls: type[CacheStats]) -> None:
    names = [name for name in inspect.signature(cls).parameters if name != "details"]
    stats = cls(**{name: i for i, name in enumerate(names)}, details={"metadata_bytes": 99})
    assert stats.to_dict() == {name: i for i, name in enumerate(names)} | {"metadata_bytes": 99}
    assert pickle.loads(pickle.dumps(stats)) == stats
