"""A rename in a store of whole objects: the objects that it may remove, and open files. [2.20]"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecache import CachedFile, PageCache, RetryPolicy
from tests.fsspec_below.place import OLD, Place, get, put
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, once

PRECIOUS = b"precious"
OTHER = OLD[::-1]
ONCE = RetryPolicy(attempts=1, failed_retry=None)


def take_away(place: Place, name: str) -> None:
    """Remove as another client does."""
    if isinstance(place.fs, Elsewhere):
        Path(place.root, name).unlink()
    else:
        del place.fs.objects[f"{place.root}/{name}"]


def uploaded(file: CachedFile) -> None:
    file.pwrite(b"W" * (1 << 20), 0)
    file.flush()


def read(file: CachedFile) -> None:
    file.pread(4, 0)


@pytest.mark.parametrize("use", [None, read, uploaded], ids=["closed", "read", "uploaded"])
def test_rename_of_an_object_that_another_client_removed_leaves_the_destination(
    place: Place, use: Callable[[CachedFile], None] | None
) -> None:
    """No open file stands for an object that was stored once. [2.20, I-24]"""
    place.put("precious", PRECIOUS)
    with PageCache("16MiB") as cache, contextlib.ExitStack() as stack:
        volume = cache.attach(place.backend)
        file = volume.open("key", "r+b", read_ahead=0)
        file.pread(4, 0)
        if use is None:
            file.close()
        else:
            stack.callback(file.abandon)
            use(file)
        take_away(place, "key")
        with pytest.raises(FileNotFoundError):
            volume.rename("key", "precious")
        assert place.content("precious") == PRECIOUS
        if use is not None:
            with pytest.raises(OSError):
                file.pread(4, len(OLD) - 4)


def test_creation_that_was_abandoned_is_no_source_of_a_rename(place: Place) -> None:
    """Its file, which is closed later, does not stand for an object. [2.20]"""
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        file = volume.open("made", "wb")
        file.write(b"given up")
        file.abandon()
        with pytest.raises(FileNotFoundError):
            volume.rename("made", "key")
    assert place.content("key") == OLD


def test_file_that_was_closed_without_a_commit_stands_for_no_object(place: Place) -> None:
    """While some reference keeps it. [2.20]"""
    file = place.backend.open("made", create=True)
    file.close()
    with pytest.raises(FileNotFoundError):
        place.backend.rename("made", "key")
    with pytest.raises(FileNotFoundError):
        place.backend.remove("made")
    assert place.content("key") == OLD


def test_object_that_is_not_committed_yet_replaces_another(place: Place) -> None:
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("made", "wb") as file:
            file.write(b"new")
            volume.rename("made", "key")
    assert place.content("key") == b"new"


def test_object_that_may_be_stored_does_not_replace_another_before_its_commit(place: Place) -> None:
    """Its commit has an unknown result: nothing is removed for it. [2.20]"""
    if isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    file = place.backend.open("made", create=True)
    put(file, 0, b"new")
    place.fs.hooks.before["mv" if isinstance(place.fs, Elsewhere) else "cp_file"] = once(TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        file.commit()
    with pytest.raises(OSError, match="a commit of 'made' may have been carried out") as raised:
        place.backend.rename("made", "key")
    assert (raised.value.errno, place.content("key")) == (errno.EBUSY, OLD)
    file.commit()
    place.backend.rename("made", "key")
    assert place.content("key") == b"new"


def test_version_that_is_stored_while_its_object_is_copied_is_not_removed() -> None:
    """It is not the version that was copied. [2.20]"""
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    place.fs.hooks.after["cp_file"] = lambda path: place.put("key", OTHER)
    with pytest.raises(OSError, match="both names are left") as raised:
        place.backend.rename("key", "other")
    assert raised.value.errno == errno.ESTALE
    assert (place.content("key"), place.content("other")) == (OTHER, OLD)


def test_object_that_another_client_removes_while_it_is_copied_has_its_new_name() -> None:
    """[2.20]"""
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    file = place.backend.open("key")
    place.fs.hooks.after["cp_file"] = lambda path: take_away(place, "key")
    place.backend.rename("key", "other")
    assert (place.names(), get(file, 0, 4)) == (["bucket/other"], OLD[:4])
