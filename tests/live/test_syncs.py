"""Syncs that a client began: their tickets as documents."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import PageCache
from pagecache.observe import documents
from pagecache.observe.syncs import RUNNING_MOST, Busy, Syncs
from tests.file.conftest import make as make
from tests.file.rig import KEY, ONCE, PAGE, QUIET, Rig, eventually
from tests.stores import RecordingBackend

Make = Callable[..., Rig]


def test_a_sync_of_all_volumes_is_reported_as_one(make: Make) -> None:
    first, second = RecordingBackend({KEY: b""}), RecordingBackend({KEY: b""})
    with PageCache("8MiB", **QUIET) as cache:
        volumes = [cache.attach(b, name=n) for b, n in ((first, "A"), (second, "B"))]
        files = [volume.open(KEY, "r+") for volume in volumes]
        for f in files:
            f.pwrite(b"x" * 4 * PAGE, 0)
        gate = second.gate("write_from", times=4)
        syncs = Syncs()
        begun = syncs.begin(list(cache.volumes()))
        assert (begun["total"], begun["done"]) == (8 * PAGE, False)
        number = begun["ticket"]
        eventually(lambda: syncs.document(number)["remaining"] == 4 * PAGE)
        half = syncs.document(number)
        assert half["rate"] >= 0.0
        assert half["expected"] is None or half["expected"] >= 0.0  # the ticket decides how they are measured
        gate.open()
        eventually(lambda: syncs.document(number)["done"])
        over = syncs.document(number)
        assert (over["remaining"], over["expected"], over["errors"]) == (0, 0.0, [])
        assert syncs.running() == 0
        assert syncs.document(number) == over
        for f in files:
            f.close()


def test_a_sync_that_fails_says_of_which_volume_and_which_bytes(make: Make) -> None:
    rig = make({KEY: b""}, retry=ONCE)
    rig.open().pwrite(b"x" * PAGE, PAGE)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"))
    syncs = Syncs()
    number = syncs.begin([rig.volume])["ticket"]
    eventually(lambda: syncs.document(number)["done"])
    (error,) = syncs.document(number)["errors"]
    assert error["volume"] == "volume"
    assert "full" in error["message"]
    assert [(r["key"], r["offset"], r["length"], r["errno"]) for r in error["ranges"]] == [
        (KEY, PAGE, PAGE, errno.ENOSPC)
    ]
    assert syncs.document(number)["expected"] is None


def test_a_volume_that_was_aborted_is_an_error_of_the_sync(make: Make) -> None:
    rig = make({KEY: b""})
    rig.volume.abort(OSError(errno.EIO, "unplugged"))
    document = Syncs().begin([rig.volume])
    assert document["done"]
    assert "unplugged" in document["errors"][0]["message"]


def test_syncs_are_bounded_and_the_last_ones_are_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make({KEY: b""})
    f = rig.open()
    f.pwrite(b"x", 0)
    gate = rig.backend.gate("write_from")
    syncs = Syncs()
    first, *_, last = [syncs.begin([rig.volume])["ticket"] for _ in range(RUNNING_MOST)]
    assert last == first + RUNNING_MOST - 1
    with pytest.raises(Busy):
        syncs.begin([rig.volume])
    gate.open()
    eventually(lambda: syncs.running() == 0)
    monkeypatch.setattr("pagecache.observe.syncs.KEPT_MOST", RUNNING_MOST)
    assert syncs.begin([rig.volume])["ticket"] == last + 1
    assert syncs.document(last)["done"]
    with pytest.raises(documents.NotThere):
        syncs.document(first)


def test_a_number_of_one_cache_is_none_of_the_next_at_its_path() -> None:
    """A restarted program must not report another sync to a client that polls on: it would count as saved."""
    assert len({Syncs().begin([])["ticket"] for _ in range(3)}) == 3
