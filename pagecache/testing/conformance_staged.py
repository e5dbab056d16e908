"""The part of the conformance suite about bytes that the backend itself keeps until a commit: `stage` and related
calls.

Skipped if files have no `stage`. The backend under test must provide a commit that fails: see `fail_commit`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backends.protocol import Backend, BackendFile
from .checks import each, raises, same, skip
from .conformance_base import ConformanceBase, content, limits_of, read, transfer, write

__all__ = ["StagedPromises"]

Opened = Callable[..., BackendFile]


def stage(backend: Backend, file: BackendFile, offset: int, data: bytes) -> None:
    """Stage all bytes, repeating the call after short results."""
    if not hasattr(file, "stage"):
        skip("no stage")
    with memoryview(data) as view:
        transfer(backend, file, "stage", offset, view)


def read_staged(backend: Backend, file: BackendFile, offset: int, length: int) -> bytes:
    """Read all staged bytes of a range."""
    buffer = bytearray(length)
    with memoryview(buffer) as view:
        transfer(backend, file, "read_staged", offset, view)
    return bytes(buffer)


class StagedPromises(ConformanceBase):
    """Promises about staged bytes."""

    def fail_commit(self, backend: Backend) -> None:
        """Make the next commit fail, and nothing else. Define it in the subclass if the backend can do that."""
        skip("no fail_commit(self, backend) is defined: a commit that fails cannot be had")

    def test_staged_bytes_are_readable_at_once(self, backend: Backend, opened: Opened, unit: int) -> None:
        """The staging handle sees them; others do not if only a commit makes bytes visible."""
        file, data = opened(0, b"old"), content(3 * unit, 15)
        stage(backend, file, 0, data)
        same(read_staged(backend, file, 0, 3 * unit), data)
        same(read_staged(backend, file, unit + 7, unit), data[unit + 7 : 2 * unit + 7])
        same(file.stat().size, 3 * unit)
        if backend.limits.commit_on_close:
            same(backend.stat(self.make_key(0)).size, 3)
            same(read(backend, opened(0), 0, unit), b"old")

    def test_staged_bytes_appear_with_the_commit(self, backend: Backend, opened: Opened, unit: int) -> None:
        file, data = opened(0, b""), content(2 * unit, 15)
        stage(backend, file, 0, data)
        write(backend, file, 2 * unit, b"tail")
        file.commit()
        for reader in (file, opened(0)):
            same(read(backend, reader, 0, 3 * unit), data + b"tail")
        same(backend.stat(self.make_key(0)).size, 2 * unit + 4)

    def test_staged_bytes_change_their_range_only(self, backend: Backend, opened: Opened, unit: int) -> None:
        data = content(4 * unit, 16)
        file = opened(0, data)
        stage(backend, file, unit, content(unit, 17))
        file.commit()
        same(read(backend, file, 0, 5 * unit), data[:unit] + content(unit, 17) + data[2 * unit :])

    def test_bytes_staged_beyond_the_end_leave_zeros(self, backend: Backend, opened: Opened, unit: int) -> None:
        file = opened(0, b"head")
        stage(backend, file, 3 * unit, b"tail")
        same(file.stat().size, 3 * unit + 4)
        same(read_staged(backend, file, 3 * unit, 4), b"tail")
        file.commit()
        same(read(backend, file, 0, 4 * unit), b"head" + bytes(3 * unit - 4) + b"tail")

    def test_nothing_is_staged_behind_the_end(self, backend: Backend, opened: Opened, unit: int) -> None:
        """A read that crosses the end is short; one behind it is answered with 0 or FileNotFoundError."""
        file, data = opened(0, b""), content(unit + 5, 21)
        stage(backend, file, 0, data)
        same(read_staged(backend, file, unit, 5), data[unit:])
        assert file.read_staged(unit, [memoryview(bytearray(unit))]) <= 5  # type: ignore[attr-defined]
        try:
            found = file.read_staged(unit + 5, [memoryview(bytearray(unit))])  # type: ignore[attr-defined]
        except FileNotFoundError:
            found = 0
        assert found == 0, "bytes are staged behind the end of the object"

    def test_staging_may_be_answered_short(self, backend: Backend, opened: Opened, unit: int) -> None:
        """Acknowledged bytes are kept even if the remainder is not; several buffers are taken in order."""
        file = opened(0, b"")
        if not hasattr(file, "stage"):
            skip("no stage")
        limits = limits_of(backend, file)
        room = min(2 * unit, int(limits.max_write), int(limits.boundary) or 2 * unit)
        data = memoryview(content(room, 18))
        parts = [data[: room // 2], data[room // 2 :]] if limits.max_vectors > 1 else [data]
        taken = file.stage(0, parts)
        assert isinstance(taken, int), f"stage answered {taken!r}, which is no count"
        assert 0 < taken <= room, f"stage answered {taken} for {room} bytes"
        same(read_staged(backend, file, 0, taken), data[:taken])
        rest = taken - taken % int(limits.write_unit)
        stage(backend, file, rest, bytes(data[rest:]))
        file.commit()
        same(read(backend, file, 0, room + unit), data)

    def test_buffers_of_stage_are_not_kept(self, backend: Backend, opened: Opened, unit: int) -> None:
        file, data = opened(0, b""), bytearray(content(unit, 19))
        if not hasattr(file, "stage"):
            skip("no stage")
        view = memoryview(data).toreadonly()
        transfer(backend, file, "stage", 0, view)
        view.release()
        data[:] = b"!" * unit
        data.clear()  # BufferError: the backend still holds the buffer
        same(read_staged(backend, file, 0, unit), content(unit, 19))

    @each("first", ["stage", "write"])
    def test_what_is_staged_last_counts(self, backend: Backend, opened: Opened, unit: int, first: str) -> None:
        """Staged bytes replace written or earlier staged ones where they overlap."""
        file = opened(0, b"")
        (stage if first == "stage" else write)(backend, file, 0, content(3 * unit, 20))
        stage(backend, file, unit, content(unit, 21))
        same(read_staged(backend, file, unit, unit), content(unit, 21))
        file.commit()
        data = content(3 * unit, 20)
        same(read(backend, file, 0, 4 * unit), data[:unit] + content(unit, 21) + data[2 * unit :])

    def test_what_is_written_after_staging_counts(self, backend: Backend, opened: Opened, unit: int) -> None:
        file = opened(0, b"")
        stage(backend, file, 0, content(3 * unit, 22))
        write(backend, file, unit, content(unit, 23))
        file.commit()
        data = content(3 * unit, 22)
        same(read(backend, file, 0, 4 * unit), data[:unit] + content(unit, 23) + data[2 * unit :])

    def test_staged_bytes_survive_a_failed_commit(self, backend: Backend, opened: Opened, unit: int) -> None:
        file, data = opened(0, b"old"), content(2 * unit, 24)
        stage(backend, file, 0, data)
        self.fail_commit(backend)
        with raises(OSError):
            file.commit()
        same(read_staged(backend, file, 0, 2 * unit), data)
        file.commit()
        same(read(backend, opened(0), 0, 3 * unit), data)

    def test_rollback_forgets_staged_bytes(self, backend: Backend, opened: Opened, unit: int) -> None:
        file = opened(0, b"old")
        if not hasattr(file, "rollback"):
            skip("no rollback")
        stage(backend, file, 0, content(2 * unit, 25))
        file.rollback()
        same(file.stat().size, 3)
        try:
            left = file.read_staged(0, [memoryview(bytearray(unit))])  # type: ignore[attr-defined]
        except FileNotFoundError:
            left = 0
        assert left == 0, "bytes are staged after a rollback"
        file.commit()
        same(read(backend, opened(0), 0, unit), b"old")
        stage(backend, file, 0, content(unit, 26))
        file.commit()
        same(read(backend, opened(0), 0, 2 * unit), content(unit, 26))

    def test_truncate_cuts_staged_bytes(self, backend: Backend, opened: Opened, unit: int) -> None:
        """Truncated bytes do not return when the file grows again."""
        file, data = opened(0, b""), content(3 * unit, 27)
        stage(backend, file, 0, data)
        file.truncate(unit + 5)
        same(file.stat().size, unit + 5)
        same(read_staged(backend, file, 0, unit + 5), data[: unit + 5])
        file.truncate(2 * unit)
        file.commit()
        same(read(backend, file, 0, 3 * unit), data[: unit + 5] + bytes(unit - 5))

    def test_holes_cut_staged_bytes(self, backend: Backend, opened: Opened, unit: int) -> None:
        file, data = opened(0, b""), content(3 * unit, 28)
        if not hasattr(file, "punch_hole"):
            skip("no punch_hole")
        stage(backend, file, 0, data)
        file.punch_hole(unit, unit)
        same(read_staged(backend, file, 0, unit), data[:unit])
        file.commit()
        same(read(backend, file, 0, 4 * unit), data[:unit] + bytes(unit) + data[2 * unit :])

    def test_holes_in_what_is_staged_leave_the_size(self, backend: Backend, opened: Opened, unit: int) -> None:
        """Punching a hole keeps the size, also if the bytes were staged past the end."""
        file = opened(0, b"head")
        if not hasattr(file, "punch_hole"):
            skip("no punch_hole")
        stage(backend, file, unit, content(2 * unit, 31))
        file.punch_hole(unit, 2 * unit)
        same(file.stat().size, 3 * unit)
        same(read(backend, file, unit, 3 * unit), bytes(2 * unit))
        file.commit()
        same(read(backend, file, 0, 4 * unit), b"head" + bytes(3 * unit - 4))

    def test_what_is_staged_can_be_laid_over_another_version(self, backend: Backend, opened: Opened, unit: int) -> None:
        """In the requested ranges; no other acknowledged bytes are kept."""
        file = opened(0, content(4 * unit, 32))
        if not hasattr(file, "rebase"):
            skip("no rebase")
        stage(backend, file, unit, content(3 * unit, 33))
        write(backend, file, 0, content(unit, 34))
        file.truncate(5 * unit)
        other, theirs = opened(0), content(3 * unit, 35)
        other.truncate(3 * unit)
        write(backend, other, 0, theirs)
        other.commit()
        file.rebase([(unit + 3, unit + 9), (3 * unit, 4 * unit)])
        same(file.stat().size, 4 * unit)
        same(read_staged(backend, file, unit + 3, 6), content(3 * unit, 33)[3:9])
        expected = bytearray(theirs + content(3 * unit, 33)[2 * unit :])
        expected[unit + 3 : unit + 9] = content(3 * unit, 33)[3:9]
        file.commit()
        same(read(backend, opened(0), 0, 6 * unit), bytes(expected))

    def test_a_gap_before_what_is_laid_over_a_shorter_version_is_zeros(
        self, backend: Backend, opened: Opened, unit: int
    ) -> None:
        """Staged bytes outside of the requested ranges are forgotten, also behind the end of that version."""
        file = opened(0, content(4 * unit, 36))
        if not hasattr(file, "rebase"):
            skip("no rebase")
        stage(backend, file, 0, content(4 * unit, 37))
        other = opened(0)
        other.truncate(unit)
        other.commit()
        file.rebase([(3 * unit, 3 * unit + 7)])
        same(file.stat().size, 3 * unit + 7)
        file.truncate(4 * unit)
        expected = content(4 * unit, 36)[:unit] + bytes(2 * unit) + content(4 * unit, 37)[3 * unit : 3 * unit + 7]
        same(read(backend, file, 0, 4 * unit), expected + bytes(unit - 7))
        file.commit()
        same(read(backend, opened(0), 0, 4 * unit), expected + bytes(unit - 7))

    def test_kept_says_that_what_was_acknowledged_is_there(self, backend: Backend, opened: Opened, unit: int) -> None:
        file = opened(0, b"old")
        if not hasattr(file, "kept"):
            skip("no kept")
        write(backend, file, 0, content(unit, 29))
        if hasattr(file, "stage"):
            stage(backend, file, unit, content(unit, 30))
        kept = file.kept()
        assert isinstance(kept, bool), f"kept answered {kept!r}"
        file.commit()
        if kept:
            expected = content(unit, 29) + (content(unit, 30) if hasattr(file, "stage") else b"")
            same(read(backend, opened(0), 0, 3 * unit), expected)
