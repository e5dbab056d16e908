"""One journal: its records and files, room, damage, bad input."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from pagecache.disk import records
from pagecache.disk.device import OS
from pagecache.disk.journal import Journal, JournalFull
from pagecache.disk.recovery import recover
from pagecache.testing.disk import PowerCut, SimulatedDisk
from tests.file.rig import beside, raises

from .world import disks


def opened(journal: Journal, key: str | bytes = "key", base: str | None = "v1", size: int = 0) -> int:
    number = journal.number()
    journal.append(records.file(number, "store:", key, base, created=base is None, size=size))
    return number


def begun(base: str | None = "v1", size: int = 0, **settings: Any) -> tuple[SimulatedDisk, Journal, int]:
    """Return a disk, a journal on it, and the number of a file of that."""
    disk = SimulatedDisk()
    journal = Journal("j", device=disk, **{"segment": 8192, **settings})
    return disk, journal, opened(journal, base=base, size=size)


def fails(disk: SimulatedDisk, journal: Journal, lsn: int) -> None:
    """Confirm a record while no sync succeeds."""
    disk.fault = lambda name, count: errno.EIO if name == "fdatasync" else 0
    raises(OSError, journal.confirm, lsn, match="cannot be synced")
    disk.fault = None


def test_the_files_are_private_and_no_key_is_a_name(tmp_path: Path) -> None:
    """D12."""
    folder = tmp_path / "journal"
    journal = Journal(str(folder), segment=1 << 20)
    number = opened(journal, key="../secret")
    journal.confirm(journal.append(records.data(number, 0, 3), [b"abc"]))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["00000001.journal"]
    assert stat.S_IMODE((folder / "00000001.journal").stat().st_mode) == 0o600
    found = recover(str(folder)).files
    assert [(file.state.key, file.ranges, file.read(0, 3)) for file in found] == [("../secret", [(0, 3)], b"abc")]
    journal.close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """D11."""
    journal = Journal(str(tmp_path), segment=1 << 20)
    opened(journal, base=None)
    journal.close()
    path = tmp_path / "00000001.journal"
    head = bytearray(path.read_bytes()[: records.HEAD])
    head[4] = records.FORMAT + 1
    head[60:64] = records.checksum(head[:60], 0).to_bytes(4, "little")
    path.write_bytes(bytes(head) + path.read_bytes()[records.HEAD :])
    for read in (recover, Journal):
        raises(OSError, read, str(tmp_path), match=r"has format 3; this version of pagecache reads formats up to 2")


def test_keys_of_all_kinds_and_states_are_kept() -> None:
    disk = SimulatedDisk()
    journal = Journal("j", segment=8192, device=disk)
    numbers = [opened(journal, key=key, base=None) for key in ("ä/\udc80", b"\xff\0", "")]
    journal.append(records.renaming(numbers[0], "new"))
    journal.append(records.removing(numbers[1]))
    journal.append(records.saving(numbers[2], 3, b"mark"))
    states = [file.state for file in recover("j", disk).files]
    assert [state.key for state in states] == ["ä/\udc80", b"\xff\0", ""]
    assert all(state.created for state in states)
    assert (states[0].renaming, states[1].removing, states[2].saving) == ("new", True, [(3, b"mark")])


def test_bad_input_is_refused() -> None:
    disk = SimulatedDisk()
    raises(ValueError, Journal, "j", segment=100, device=disk, match="segment=100: at least 4096 bytes")
    with pytest.raises(ValueError, match="limit=4096: at least one segment, 8192 bytes"):
        Journal("j", segment=8192, limit=4096, device=disk)
    journal = Journal("j", segment=8192, device=disk)
    with pytest.raises(TypeError, match=r"key \(1, 2\) is a tuple: a journal keeps str and bytes"):
        records.file(1, "store:", (1, 2), None, created=True, size=0)
    raises(ValueError, journal.append, records.size(7, 0), match="file 7 of the journal in 'j' has no FILE record")
    number = opened(journal)
    raises(ValueError, journal.append, records.data(number, 0, 2), [b"abc"], match="2 bytes have another length")
    raises(ValueError, records.data, number, 0, 0, match="0 bytes: a record has 1 to 1048576")
    with pytest.raises(ValueError, match="does not fit into a segment of 8192"):
        journal.append(records.data(number, 0, 9000), [bytes(9000)])


def test_a_full_journal_names_the_files_to_save() -> None:
    disk = SimulatedDisk()
    journal = Journal("j", segment=8192, limit=3 * 8192, device=disk)
    first, second = opened(journal, "a"), opened(journal, "b")
    last = 0
    with pytest.raises(JournalFull, match="has 24576 bytes; its limit is 24576: save the oldest files") as full:
        while True:
            last = journal.append(records.data(first, 0, 4000), [bytes(4000)])
            journal.append(records.data(second, 0, 100), [bytes(100)])
    assert full.value.errno == errno.ENOSPC
    assert journal.oldest() == [first, second]
    with pytest.raises(JournalFull):
        while True:
            journal.append(records.hole(second, 0, 100))
    assert journal.append(records.dropped(second, 0, 100)) > last  # what was given up must not come back
    journal.append(records.saved(first, last, "v2"))
    assert journal.oldest() == [second]
    with pytest.raises(JournalFull):
        for _ in range(3):
            journal.append(records.data(second, 0, 4000), [bytes(4000)])
    journal.append(records.saved(second, 1 << 30, "v2"))
    assert journal.append(records.data(first, 0, 4000), [bytes(4000)])  # makes room by itself
    assert journal.bytes <= 3 * 8192
    journal.close()


def test_later_records_lie_over_the_size_that_was_saved() -> None:
    """The saved object may be larger than the records before it say."""
    disk, journal, number = begun(size=4096, limit=3 * 8192)
    first = journal.append(records.data(number, 0, 10), [bytes(10)])
    second = journal.append(records.hole(number, 0, 4))
    journal.append(records.hole(number, 4, 4))
    journal.append(records.saved(number, first, "v2", 20000))
    journal.confirm(journal.last)
    (found,) = recover("j", disk).files
    assert (found.base_size, found.state.size, found.state.base) == (20000, 20000, "v2")
    journal.append(records.saved(number, second, "v2"))
    journal.append(records.data(number, 30000, 5), [bytes(5)])
    journal.confirm(journal.last)
    (found,) = recover("j", disk).files
    assert (found.base_size, found.state.size) == (20000, 30005)
    journal.close()


def test_a_power_cut_takes_nothing_that_a_start_after_a_kill_has_recovered() -> None:
    """The killed process had left it to the kernel."""
    disk = SimulatedDisk()
    journal = Journal("j", segment=8192, device=disk)
    journal.append(records.data(opened(journal), 0, 3), [b"abc"])
    assert [file.read(0, 3) for file in Journal("j", segment=8192, device=disk).recovered.files] == [b"abc"]
    cut = PowerCut()
    for call in disk.calls:
        cut.after(call)
    assert [file.read(0, 3) for file in recover("j", cut.disk(lambda _: 0)).files] == [b"abc"]


def test_a_forgotten_file_is_not_recovered_again() -> None:
    disk = SimulatedDisk()
    journal = Journal("j", segment=8192, device=disk)
    numbers = [opened(journal, key) for key in "ab"]
    for number in numbers:
        journal.append(records.data(number, 0, 3), [b"abc"])
    journal.confirm(journal.append(records.size(numbers[0], 2)))
    again = Journal("j", segment=8192, device=disk)
    assert [file.number for file in again.recovered.files] == numbers
    assert again.number() not in numbers
    for _ in range(2):
        again.forget(numbers[0])
    assert [file.number for file in recover("j", disk).files] == numbers[1:]
    again.forget(numbers[1])
    again.close()
    assert disk.listdir("j") == []


def damaged_world() -> tuple[SimulatedDisk, dict[int, tuple[int, int]], int]:
    """Return a disk, the range of each LSN, and the end of the records."""
    disk, journal, number = begun(size=0, segment=1 << 16)
    ranges = {}
    for at, length in enumerate([4096, 100, 9000, 600, 5000, 30, 2000]):
        ranges[journal.append(records.data(number, at * 10000, length), [bytes([at + 1]) * length])] = (
            at * 10000,
            length,
        )
    journal.confirm(max(ranges))
    journal.append(records.size(number, 70000))  # its head says that all others are confirmed
    end = max(i for i, byte in enumerate(disk.content("j/00000001.journal")) if byte) + 1
    return disk, ranges, end


def test_damage_of_any_sector_is_a_loss_of_exactly_its_bytes() -> None:
    """D2: bad bytes are never delivered, good ones are; a lost head is read from its echo."""
    disk, ranges, end = damaged_world()
    whole = bytes(disk.content("j/00000001.journal"))
    for sector in range(2, -(-end // 512)):
        content = disk.content("j/00000001.journal")
        content[:] = whole
        content[sector * 512 : sector * 512 + 512] = random.Random(sector).randbytes(512)
        found = recover("j", disk)
        lost = {lsn for loss in found.lost for lsn in range(loss.first, loss.last + 1)}
        if not found.files:
            assert sector == 2  # the only copy of the state of the file
            assert lost
            continue
        (file,) = found.files
        delivered = 0
        for lsn, (offset, length) in ranges.items():
            damaged = [(o, n) for o, n in file.damaged if offset <= o < offset + length]
            assert sum(n for _, n in damaged) <= 2 * 4096
            if lsn in lost:
                assert file.suspect
                continue
            for o, n in file.ranges:
                begin, stop = max(o, offset), min(o + n, offset + length)
                if begin < stop:
                    assert file.read(begin, stop - begin) == bytes([offset // 10000 + 1]) * (stop - begin)
                    delivered += stop - begin
        whole_bytes = sum(length for _, length in ranges.values())
        missing = sum(ranges[lsn][1] for lsn in lost if lsn in ranges)
        at_end = sector >= end // 512 - 1
        assert delivered + sum(n for _, n in file.damaged) + missing == whole_bytes or at_end


def test_a_sector_that_cannot_be_read_is_damage() -> None:
    disk, _, _ = damaged_world()
    disk.bad_sectors.add(("j/00000001.journal", 20))
    (file,) = recover("j", disk).files
    assert sum(length for _, length in file.damaged) in (4096, 100, 9000 - 2 * 4096)


def test_a_damaged_head_of_a_large_record_costs_no_byte() -> None:
    disk, _, _ = damaged_world()
    content = disk.content("j/00000001.journal")
    at = content.find(records.MAGIC, content.find(bytes([1]) * 100) + 4000)
    content[at : at + 64] = random.Random(1).randbytes(64)
    assert not recover("j", disk).lost


def test_a_segment_that_is_gone_is_a_loss() -> None:
    disk, journal, number = begun()
    for _ in range(5):
        journal.confirm(journal.append(records.data(number, 0, 4000), [bytes(4000)]))
    disk.unlink("j/00000002.journal")
    later = opened(journal, "later")
    journal.confirm(journal.append(records.data(later, 0, 10), [bytes(10)]))
    found = recover("j", disk)
    assert found.lost
    assert [file.doubtful for file in found.files] == [[], []]  # a later record has all of its bytes
    assert [bool(file.suspect) for file in found.files] == [True, False]


def test_an_oldest_segment_that_is_gone_is_a_loss_of_the_files_that_go_on() -> None:
    disk, journal, number = begun()
    for at in range(3):
        journal.confirm(journal.append(records.data(number, at * 4000, 3000), [bytes(3000)]))
    assert not recover("j", disk).lost
    disk.unlink("j/00000001.journal")
    later = opened(journal, "later")
    last = journal.append(records.data(later, 0, 10), [bytes(10)])
    journal.confirm(last)
    found = recover("j", disk)
    assert [file.doubtful for file in found.files] == [[(0, 8000)], []]
    journal.append(records.saved(number, last, "v2"))
    assert [file.number for file in recover("j", disk).files] == [later]


def test_small_records_go_to_places_that_were_written_before() -> None:
    """A sync of blocks that were never written changes the metadata of the file system."""
    disk, journal, number = begun(segment=1 << 20)
    for place in range(100):
        journal.confirm(journal.append(records.data(number, place, 1), [b"x"]))
    ends = [call[2] + len(call[3]) for call in disk.calls if call[0] == "write"]
    assert sum(end > max(ends[:place], default=0) for place, end in enumerate(ends)) < 10
    assert recover("j", disk).files[0].ranges == [(0, 100)]


def test_foreign_files_in_the_folder_are_not_touched(tmp_path: Path) -> None:
    for name in ("notes", "1.journal", "00000001.journal.bak"):
        (tmp_path / name).write_text("mine")
    journal = Journal(str(tmp_path), segment=1 << 20)
    number = opened(journal)
    journal.append(records.saved(number, 1, "v"))
    journal.close()
    assert sorted(os.listdir(tmp_path)) == ["00000001.journal.bak", "1.journal", "notes"]


def test_a_segment_without_its_start_is_a_loss_if_it_has_records() -> None:
    disk, _, _ = damaged_world()
    content = disk.content("j/00000001.journal")
    content[:512] = bytes(512)
    assert recover("j", disk).files  # from the second start
    content[:1024] = bytes(1024)
    found = recover("j", disk)
    assert [(loss.first, loss.segment) for loss in found.lost] == [(0, 1)]
    content[:] = bytes(len(content))  # a segment that was about to begin
    assert not recover("j", disk).lost
    journal = Journal("j", segment=8192, device=disk)
    number = opened(journal, base=None)
    journal.confirm(journal.append(records.size(number, 1)))
    assert [file.number for file in recover("j", disk).files] == [number]
    assert disk.listdir("j") == ["00000002.journal"]


def test_a_segment_that_could_not_begin_and_not_be_removed_goes_in_its_turn() -> None:
    """Left alone, it would be the oldest, and all records since then would seem lost."""
    disk, journal, number = begun()

    def write() -> int:
        return journal.append(records.data(number, 0, 3000), [bytes(3000)])

    write()
    write()
    disk.fault = lambda name, count: errno.EIO if name in ("sync_folder", "unlink") else 0
    raises(OSError, write, match="the journal cannot begin a segment in 'j'")
    disk.fault = None
    assert "00000002.journal" in disk.listdir("j")
    for _ in range(2):
        last = [write() for _ in range(6)][-1]
        journal.append(records.saved(number, last, "v"))
        journal.confirm(write())
        found = recover("j", disk)
        assert not found.lost
        assert len(found.files) == 1
    assert not {"00000001.journal", "00000002.journal"} & set(disk.listdir("j"))


def test_unsaved_records_keep_the_base_that_they_were_written_over() -> None:
    """A save whose SAVED record could not be appended may have stored newer bytes than the journal has."""
    disk, journal, number = begun(size=10)
    last = journal.append(records.data(number, 0, 3), [b"old"])
    again = records.file(number, "store:", "key", "v2", created=False, size=20)
    journal.append(again)
    (file,) = recover("j", disk).files
    assert (file.state.base, file.state.size) == ("v1", 10)
    journal.append(records.saved(number, last, "v2"))
    journal.append(again)
    journal.append(records.data(number, 0, 3), [b"new"])
    (file,) = recover("j", disk).files
    assert (file.state.base, file.state.size, file.read(0, 3)) == ("v2", 20, b"new")


def test_a_removal_before_a_kill_stays_after_a_power_cut_in_the_next_one() -> None:
    """Else the segment that says that its bytes are saved may be gone, and it is not."""
    disk, journal, number = begun(segment=4096, limit=1 << 16)
    last = 0
    while len(journal._segments) < 2:
        last = journal.append(records.data(number, 0, 1000), [b"o" * 1000])
    disk.fault = lambda name, count: errno.EIO if name == "unlink" else 0
    journal.confirm(journal.append(records.saved(number, last, "v2")))
    disk.fault = lambda name, count: errno.EIO if name == "sync_folder" else 0
    journal._remove()  # the kill comes before its sync
    disk.fault = None
    fresh = Journal("j", segment=4096, limit=1 << 16, device=disk)
    start = len(disk.calls)
    fresh.close()
    assert ("unlink", "j/00000002.journal") in disk.calls[start:]
    cut = PowerCut()
    for place, call in enumerate(disk.calls):
        cut.after(call)
        if place >= start:
            for left in disks(cut, 64, random.Random(place)):
                assert recover("j", left).files == []


def test_records_that_do_not_count_leave_no_size() -> None:
    disk, journal, number = begun(size=100)
    last = journal.append(records.data(number, 0, 1), [b"a"])
    journal.confirm(last)
    fails(disk, journal, journal.append(records.data(number, 1000, 1), [b"b"]))
    journal.append(records.saved(number, last, "v2"))
    journal.confirm(journal.append(records.data(number, 10, 1), [b"c"]))
    (file,) = recover("j", disk).files
    assert (file.base_size, file.state.size, file.ranges) == (100, 100, [(10, 1)])


@pytest.mark.parametrize("saved", [False, True])
def test_a_file_of_which_no_unsaved_record_counts_gets_a_new_base(*, saved: bool) -> None:
    """Its segment has records that count: of another file, or its own that are saved."""
    disk, journal, other = begun()
    journal.confirm(journal.append(records.data(other, 0, 1), [b"o"]))
    number = opened(journal, "b", base="v1" if saved else None)
    if saved:
        journal.append(records.saved(number, journal.append(records.data(number, 0, 1), [b"a"]), "v2"))
        journal.confirm(journal.last)
    fails(disk, journal, journal.append(records.data(number, 0, 1), [b"b"]))
    journal.append(records.file(number, "store:", "b", "v3", created=False, size=70))
    journal.confirm(journal.append(records.data(number, 10, 1), [b"c"]))
    _, file = recover("j", disk).files
    assert (file.state.base, file.state.created, file.base_size, file.ranges) == ("v3", False, 70, [(10, 1)])
    assert file.state.size == journal.unsaved_size(number) == 70


@pytest.mark.parametrize("by", ["an append", "a call, beyond the limit"])
def test_what_a_failed_sync_was_about_is_stated_anew_in_as_many_segments_as_that_takes(by: str) -> None:
    disk = SimulatedDisk()
    journal = Journal("j", segment=4096, limit=1 << 20 if by == "an append" else 8 * 4096, device=disk)
    last = {}
    for place in range(40):
        number = opened(journal, f"key{place}")
        last[number] = journal.append(records.data(number, 0, 3), [b"old"])
    journal.confirm(journal.last)
    for number, lsn in last.items():
        journal.append(records.saved(number, lsn, "v2"))
        journal.release(number)
    fails(disk, journal, journal.last)
    assert journal.lacks()
    if by == "an append":
        number = opened(journal)
        journal.append(records.data(number, 0, 1500), [bytes(1500)])
    else:
        journal.restate()
    assert not journal.lacks()
    journal.confirm(journal.last)
    assert not journal.owes()
    found = recover("j", disk)
    assert not found.lost
    assert [file.number for file in found.files] == [number] * (by == "an append")


def test_a_creation_that_is_stated_anew_is_saved_by_what_was_appended_before() -> None:
    disk, journal, number = begun(base=None)
    lost = journal.append(records.data(number, 0, 1), [b"a"])
    fails(disk, journal, lost)
    journal.append(records.saving(number, lost))
    assert journal.has_unsaved()
    assert [file.state.created for file in recover("j", disk).files] == [True]
    journal.append(records.saved(number, lost, "v2"))
    assert not journal.has_unsaved()
    assert recover("j", disk).files == []


@pytest.mark.parametrize(("call", "taken"), [("fdatasync", 1), ("pwritev", 2)])
def test_tries_to_state_files_anew_that_fail_take_one_segment(call: str, taken: int) -> None:
    """The disk takes the start of each segment, and no record. The oldest segment has unsaved bytes."""
    disk, journal, number = begun()
    journal.confirm(journal.append(records.data(number, 0, 3), [b"abc"]))
    calls = taken

    def fault(name: str, count: int) -> int:
        nonlocal calls
        calls = 0 if name == "fallocate" else calls + (name == call)
        return errno.EIO if name == call and calls > taken else 0

    def stated() -> None:
        journal.restate()
        journal.confirm(journal.last)

    disk.fault = fault
    raises(OSError, lambda: journal.confirm(journal.append(records.renamed(number, "other", "v1"))))
    for _ in range(10):
        raises(OSError, stated)
    assert len(journal._segments) == 2
    disk.fault = None
    stated()
    (file,) = recover("j", disk).files
    assert (file.state.key, file.ranges) == ("other", [(0, 3)])


def test_a_failed_sync_leaves_nothing_of_a_released_file_without_confirmed_bytes() -> None:
    disk, journal, number = begun()
    lost = journal.append(records.data(number, 0, 3), [b"abc"])
    journal.release(number)
    fails(disk, journal, lost)
    assert journal._files == {}


def test_the_size_that_was_saved_is_stated_anew_after_a_failed_sync() -> None:
    disk, journal, number = begun(size=4096)
    first = journal.append(records.data(number, 0, 10), [bytes(10)])
    journal.confirm(journal.append(records.hole(number, 0, 4)))
    journal.append(records.saved(number, first, "v2", 20000))
    fails(disk, journal, journal.last)
    journal.restate()
    journal.confirm(journal.last)
    (file,) = recover("j", disk).files
    assert (file.state.base, file.base_size, file.state.size) == ("v2", 20000, 20000)


@pytest.mark.parametrize("by", ["an error", "a large state"])
def test_a_description_says_the_size_that_was_saved_if_its_segment_could_not(by: str) -> None:
    """The disk refuses the state of the file, or the state of another one fills the segment."""
    disk, journal, other = begun(segment=4096)
    others = [other, opened(journal)] if by == "a large state" else []
    number = opened(journal, "a", size=600)
    for each in (*others, number):
        journal.append(records.data(each, 0, 10), [bytes(10)])
    journal.confirm(journal.last)
    for each in others:
        journal.append(records.renamed(each, "n" * 1400))
    journal.append(records.saved(number, journal.last, "v2", 1200))
    fails(disk, journal, journal.last)
    again = records.file(number, "store:", "a", "v2", created=False, size=1200)
    if by == "an error":
        writes = iter([0, 0, errno.EIO])  # behind a start
        disk.fault = lambda name, _: next(writes, 0) if name == "pwritev" else 0
        raises(OSError, journal.append, again, match="cannot write")
        disk.fault = None
    journal.append(again)
    journal.confirm(journal.append(records.data(number, 1190, 20), [bytes(20)]))
    file = recover("j", disk).files[-1]
    assert (file.number, file.state.base, file.base_size, file.ranges) == (number, "v2", 1200, [(1190, 20)])


def test_a_reading_after_a_failed_sync_has_what_has_happened_and_no_lost_bytes() -> None:
    disk, journal, number = begun()
    journal.confirm(journal.append(records.data(number, 0, 3), [b"abc"]))
    journal.append(records.renamed(number, "other"))
    journal.append(records.data(number, 3, 4), [b"lost"])
    fails(disk, journal, journal.last)
    (file,) = journal.read().files
    assert (file.state.key, file.ranges) == ("other", [(0, 3)])


def test_a_closed_journal_takes_nothing_more(tmp_path: Path) -> None:
    """Another process may have it."""
    journal = Journal(str(tmp_path), segment=8192)
    number = opened(journal)
    journal.confirm(journal.append(records.data(number, 0, 3), [b"abc"]))
    journal.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for record in (records.saved(number, 2, "v2"), records.file(9, "store:", "k", None, created=True, size=0)):
        raises(OSError, journal.append, record, match="is closed")
    raises(OSError, journal.restate, match="is closed")
    raises(OSError, journal.confirm, journal.last + 1, match="is closed")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_names_of_its_folders_are_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(OS, "sync_folder", synced.append)
    Journal(str(tmp_path / "tier" / "journal"), segment=8192).close()
    assert synced[:2] == [str(tmp_path / "tier"), str(tmp_path)]


def test_segments_are_read_beside_saves_and_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second volume attaches while the files of the first one are saved."""
    disk = SimulatedDisk()
    journal = Journal("j", segment=4096, limit=1 << 16, device=disk)
    first, second = opened(journal, key="first"), opened(journal, key="second")
    journal.append(records.data(second, 0, 3), [b"two"])
    last = 0
    while len(journal._segments) < 3:
        last = journal.append(records.data(first, 0, 1000), [b"1" * 1000])

    def save() -> None:
        journal.append(records.saved(second, last, "v2"))
        journal.append(records.saved(first, last, "v2"))
        while len(journal._segments) < 5:
            journal.append(records.data(first, 0, 1000), [b"2" * 1000])
        journal.confirm(journal.last)
        assert len(journal._segments) == 5

    beside(monkeypatch, disk, "open", save)
    found = journal.read()
    assert found.lost == []
    assert {file.state.key: file.ranges for file in found.files} == {"first": [(0, 1000)], "second": [(0, 3)]}
    assert len(journal._segments) < 5
    assert journal.read().lost == []


def test_files_of_the_first_format_have_no_identity() -> None:
    state = records.FileState(1)
    state.restore(10, ("store:", "k", "v", 0, 0, None, 5, b"mark"), live=False)
    assert (state.identity, state.saving, state.size) == (None, [(5, b"mark")], 10)
    again = records.FileState(1)
    state.identity = "7:1"
    again.restore(10, state.record(0).values, live=False)
    assert (again.identity, again.saving) == ("7:1", [(5, b"mark")])
