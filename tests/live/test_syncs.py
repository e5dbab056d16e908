"""Syncs that a client began: their tickets as documents."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import PageCache
from pagecache.observe import documents, syncs
from pagecache.observe.syncs import RUNNING_MOST, Syncs
from tests.file.conftest import make as make
from tests.file.rig import KEY, ONCE, PAGE, QUIET, Rig, eventually
from tests.stores import RecordingBackend

Make = Callable[..., Rig]


def test_a_sync_of_all_volumes_is_reported_as_one() -> None:
    first, second = RecordingBackend({KEY: b""}), RecordingBackend({KEY: b""})
    with PageCache("8MiB", **QUIET) as cache:
        files = [cache.attach(b, name=n).open(KEY, "r+") for b, n in ((first, "A"), (second, "B"))]
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
        assert syncs.document(number) is over
        for f in files:
            f.close()


def test_a_sync_that_fails_says_of_which_volume_and_which_bytes(make: Make) -> None:
    """A volume that was aborted before is an error as a whole."""
    rig = make({KEY: b""}, retry=ONCE)
    rig.open().pwrite(b"x" * PAGE, PAGE)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"))
    syncs = Syncs()
    number = syncs.begin([rig.volume])["ticket"]
    eventually(lambda: syncs.document(number)["done"])
    (error,) = syncs.document(number)["errors"]
    assert (error["volume"], "full" in error["message"]) == ("volume", True)
    found = [(r["key"], r["offset"], r["length"], r["errno"]) for r in error["ranges"]]
    assert found == [(KEY, PAGE, PAGE, errno.ENOSPC)]
    assert syncs.document(number)["expected"] is None
    rig.volume.abort(OSError(errno.EIO, "unplugged"))
    document = syncs.begin([rig.volume])
    assert (document["done"], "unplugged" in document["errors"][0]["message"]) == (True, True)


def test_syncs_are_bounded_and_the_last_ones_are_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of one cache are none of the next at its path: a client that polls on would read "saved"."""
    rig = make({KEY: b""})
    rig.open().pwrite(b"x", 0)
    gate = rig.backend.gate("write_from")
    monkeypatch.setattr(syncs, "KEPT_MOST", RUNNING_MOST)
    known = Syncs()
    first, *_, last = [known.begin([rig.volume])["ticket"] for _ in range(RUNNING_MOST)]
    assert last == first + RUNNING_MOST - 1
    with pytest.raises(documents.Refused, match="under way"):
        known.begin([rig.volume])
    gate.open()
    eventually(lambda: all(known.document(number)["done"] for number in range(first, last + 1)))
    assert known.begin([rig.volume])["ticket"] == last + 1
    eventually(lambda: known.document(last + 1)["done"])
    assert known.document(last)["done"]
    with pytest.raises(documents.Refused, match="not known"):
        known.document(first)
    assert len({Syncs().begin([])["ticket"] for _ in range(3)}) == 3
