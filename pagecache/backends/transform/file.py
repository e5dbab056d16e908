"""One object of a `TransformBackend`.

All work is done in whole *groups*: the fewest units whose slots are whole write units of the backend below, which is
one unit if that has no write unit. Changes of a group wait for each other, and reads that overlap a change are
repeated: a unit that is half old and half new would not decode.

Three operations must store units that the cache did not send: a cut in the middle of a unit, the edges of a hole, and
completing the short last unit when bytes are written after it. Two maps keep the units that the backend below may lose:

    _own     units stored by these operations since the last commit. A failed commit may forget bytes, but the cut, the
             hole and the size that they belong to must stay.
    _owed    units that are not, or not certainly, stored as they should be: after a call that failed half way, or a
             failed commit. They are read from here, and stored before the next commit, or with the unit.

Both map the number of a unit to its content, which ends at the current end of the object.

Units that are short, or were, are kept in `_own` as well: after a failed commit these are zeros, or have other lengths
than were encoded. A backend with `commit_on_close` may even return the last committed bytes, cut and extended to the
current size, and then reads use `_own`. If such a backend cannot read back a unit that an operation must change
(`_sent` decides), the next commit fails once, so that the cache sends everything again.
"""

from __future__ import annotations

import errno
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from ...errors import BackendError, Key
from ..protocol import OPTIONAL_MEMBERS, Backend, BackendFile, BackendLimits, ObjectStat
from ..spool import dealt
from ..transfers import Transfers
from .changes import EVERYTHING, Changes
from .units import Units, up

SUPPORTED = OPTIONAL_MEMBERS - {"next_data"}  # encoded zeros are data
UNCHANGED = {"unanswered", "recognises"}
"""Members of the inner file."""


class TransformFile(BackendFile):
    """One open object. An optional method exists exactly if the inner file has it."""

    def __init__(self, inner: BackendFile, backend: Backend, units: Units, key: Key) -> None:
        self.inner = inner
        self._slots = Transfers(inner, backend, key)
        self._units = units
        self._key = key
        self._changes = Changes()
        self._sizing = threading.Lock()  # guards _end; held across a stat of the inner file
        self._end: int | None = None  # size of the content; None: ask the inner file
        # Only the change that covers these units writes the maps. Lookups need no lock.
        self._own: dict[int, bytes] = {}
        self._owed: dict[int, bytes] = {}
        self._sent: dict[int, int] = {}  # commit_on_close: units since the last commit, with a checksum of their slot
        self._resend = False

    def __getattr__(self, name: str) -> Any:
        if name not in SUPPORTED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        plain = getattr(self.inner, name)
        return plain if name in UNCHANGED else getattr(self, f"_{name}")

    # ---------------------------------------------------------------------------------------- what the cache calls

    def stat(self) -> ObjectStat:
        stat = self.inner.stat()
        return replace(stat, size=self._units.content_size(stat.size))

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        span = self._units.span(self._slots.limits().read_unit)
        begin, end = offset - offset % span, up(offset + sum(map(len, buffers)), span)
        while True:
            since = self._changes.quiet(begin, end)
            try:
                content = self._load(begin, end)
            except OSError:
                if self._changes.unchanged(begin, end, since):
                    raise
            if self._changes.unchanged(begin, end, since):
                break
        return dealt(memoryview(content)[offset - begin :], buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        content, span = b"".join(buffers), self._span()
        begin, end = offset - offset % span, offset + len(content)
        with self._changing(begin, up(end, span)) as size:
            if size < begin and size % self._units.unit:
                self._lengthen(size)
            if begin < offset or (end % span and end < size):
                # Not whole units: keep the stored bytes around.
                around = self._load(begin, up(end, span))
                content = bytes(around[: offset - begin].ljust(offset - begin, b"\0") + content + around[end - begin :])
            done = self._store(begin, content, size)
            self._grown(begin + done)
        return min(begin + done, end) - offset

    def truncate(self, size: int) -> None:
        going = threading.Lock()
        with going:
            self._changes.begin(0, EVERYTHING, going)
            old = self._size()
            try:
                self._cut(size, old) if size < old else self._extend(size, old)
            finally:
                self._know_size(None)
            self._forget(-(-size // self._units.unit), EVERYTHING)

    def commit(self) -> str | None:
        self._settle()
        if self._resend:
            self._sent.clear()
            self._resend = False
            raise BackendError(
                errno.EAGAIN, "sent bytes that cannot be read back are needed again", retry=True, retry_after=0.0
            )
        self._owed |= self._own  # a failed commit may forget them during a read
        try:
            version = self.inner.commit()
        except BaseException as error:
            self._know_size(None)
            if getattr(error, "kept", False):
                self._owed.clear()
            else:
                self._sent.clear()
            raise
        going = threading.Lock()
        with going:
            self._changes.begin(0, EVERYTHING, going)  # makes overlapping reads repeat
            self._know_size(None)
            self._forget(0, EVERYTHING)
        return version

    @property
    def _limits(self) -> BackendLimits:
        return self._units.limits(self._slots.limits())

    def _punch_hole(self, offset: int, length: int) -> None:
        going = threading.Lock()
        with going:
            self._changes.begin(0, EVERYTHING, going)
            size = self._size()
            end = min(offset + length, size)
            if offset < end:
                self._punch(offset, end, size)

    def _rollback(self) -> None:
        going = threading.Lock()
        with going:
            self._changes.begin(0, EVERYTHING, going)
            self._optional("rollback")()
            self._forget(0, EVERYTHING)
            self._resend = False
            self._know_size(None)

    def _close(self) -> None:
        try:
            if not self._slots.limits().commit_on_close:
                self._settle()
        finally:
            self._optional("close")()

    def _optional(self, name: str) -> Any:
        return getattr(self.inner, name)

    # ---------------------------------------------------------------------------------------- sizes

    def _span(self) -> int:
        """Return the bytes of content in a group."""
        limits = self._slots.limits()
        return self._units.span(limits.read_unit, limits.write_unit)

    def _size(self) -> int:
        """Return the size of the content. It is known until something may have changed it."""
        with self._sizing:
            if self._end is None:
                self._end = self._units.content_size(self.inner.stat().size)
            return self._end

    def _stored_end(self) -> int:
        """Return the end of the last unit with any stored bytes."""
        try:
            return -(-self.inner.stat().size // self._units.slot) * self._units.unit
        except OSError:
            return EVERYTHING

    def _know_size(self, size: int | None) -> None:
        with self._sizing:
            self._end = size

    def _grown(self, size: int) -> None:
        with self._sizing:
            if self._end is not None:
                self._end = max(self._end, size)

    # ---------------------------------------------------------------------------------------- reads

    def _load(self, begin: int, end: int) -> bytearray:
        """Return the content of whole units, up to the end of the object."""
        units, first = self._units, begin // self._units.unit
        slots = self._slots.fetch(first * units.slot, (end // units.unit - first) * units.slot)
        content = bytearray()
        for index in range(first, end // units.unit):
            at = (index - first) * units.slot
            slot = bytes(slots[at : at + units.slot])
            known = self._known(index)
            if known is not None:
                content += known
            elif len(slot) > units.overhead:
                content += units.decode(self._key, index, slot)
            if len(content) < (index + 1) * units.unit - begin:
                break
        return content

    def _known(self, index: int) -> bytes | None:
        """Return the content of a unit that cannot be read from the backend below, up to the end of the object."""
        known = self._owed.get(index)
        if known is None and self._own and self._slots.limits().commit_on_close:
            known = self._own.get(index)
        if known is None:
            return None
        length = max(0, min(self._units.unit, self._size() - index * self._units.unit))
        return known[:length].ljust(length, b"\0")

    # ---------------------------------------------------------------------------------------- writes

    @contextmanager
    def _changing(self, begin: int, end: int) -> Iterator[int]:
        """Context of a change of [begin, end) and of a short last unit before it; gives the size."""
        while True:
            low, going = self._lowest(begin), threading.Lock()
            with going:
                self._changes.begin(low, end, going)
                if self._lowest(begin) >= low:  # a concurrent write may have left a short last unit
                    yield self._size()
                    return

    def _lowest(self, begin: int) -> int:
        size = self._size()
        return min(begin, size - size % self._span()) if size % self._units.unit else begin

    def _lengthen(self, size: int) -> None:
        """Complete the short last unit: bytes are about to be stored after it."""
        span = self._span()
        begin = size - size % span
        before = self._editable(begin)
        self._replace({begin: before}, {begin: before.ljust(span, b"\0")}, size)

    def _editable(self, begin: int) -> bytes:
        """Return the content of a group that will be stored again."""
        units, first = self._units, begin // self._units.unit
        group = range(first, first + self._span() // units.unit)
        if any(index in self._sent for index in group):
            slots = self._slots.fetch(group.start * units.slot, len(group) * units.slot)
            for index in group:
                slot = slots[(index - group.start) * units.slot : (index - group.start + 1) * units.slot]
                if index in self._sent and self._known(index) is None:
                    self._resend |= zlib.crc32(slot) != self._sent[index]
        return bytes(self._load(begin, begin + self._span()))

    def _replace(
        self,
        before: dict[int, bytes],
        after: dict[int, bytes],
        size: int,
        *,
        pad: int = 0,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Store groups for an operation of this file. Their old content is owed until all of it is done, also after an
        error.

        Args:
            before: start of a group -> its content.
            after: start of a group -> its new content.
            size: of the object before.
            pad: zeros to store after a group, for the write unit of the inner file.
            then: the call of the inner file that goes with it.
        """
        units = self._units
        slots = {begin: bytes(units.encode(self._key, begin // units.unit, after[begin])) for begin in after}
        self._know_size(None)
        for begin, content in before.items():
            self._keep(self._owed, begin, content)
        for begin in after:
            _sent, error = self._slots.send(begin // units.unit * units.slot, slots[begin] + bytes(pad))
            if error is not None:
                raise error
        if then is not None:
            then()
        for begin, content in after.items():
            self._keep(self._own, begin, content)
            self._stored(begin, content, slots[begin], size)

    def _keep(self, known: dict[int, bytes], begin: int, content: bytes) -> None:
        unit = self._units.unit
        if known is self._own and self._slots.limits().durable_writes:
            return
        for at in range(0, len(content), unit):
            known[(begin + at) // unit] = content[at : at + unit]

    def _store(self, begin: int, content: bytes, size: int) -> int:
        """Encode and store whole groups; return the bytes of content that are acknowledged, fewer after an error.

        Args:
            begin: of the content; the start of a group.
            content: ends with a group, or with the object.
            size: of the object before.
        """
        units = self._units
        first = begin // units.unit
        slots = bytes(units.encode(self._key, first, content))
        sent, error = self._slots.send(first * units.slot, slots)
        done = len(content)
        if sent < len(slots):
            done = min(done, sent // units.slot * units.unit)
            done -= done % self._span()
        self._stored(begin, content[:done], slots, size)
        if error is not None:
            self._know_size(None)
            # Neither lose earlier bytes of the object with the failed store, nor treat a partly stored unit as its end.
            end = max(up(size, units.unit), self._stored_end())
            self._keep(self._owed, begin + done, content[done : max(done, end - begin)])
            if not done or not isinstance(error, Exception):
                raise error
        return done

    def _stored(self, begin: int, content: bytes, slots: bytes, size: int) -> None:
        """Record acknowledged units."""
        units, limits = self._units, self._slots.limits()
        for at in range(0, len(content), units.unit):
            index, data = (begin + at) // units.unit, content[at : at + units.unit]
            self._owed.pop(index, None)
            # Units of changed length: the stored state decodes only with all of their bytes, or none.
            short = len(data) < units.unit or begin + at < size < begin + at + units.unit
            if index in self._own or (short and not limits.durable_writes):
                self._own[index] = data
            if limits.commit_on_close:
                start = at // units.unit * units.slot
                self._sent[index] = zlib.crc32(slots[start : start + len(data) + units.overhead])

    # ---------------------------------------------------------------------------------------- size and space

    def _cut(self, size: int, old: int) -> None:
        units, span = self._units, self._span()
        begin = size - size % span
        if size % units.unit == 0:
            self.inner.truncate(units.stored_size(size))
            return
        before = self._editable(begin)
        # Stored before the object is cut, so that a refusal of either call changes nothing. The inner backend may need
        # whole write units until then.
        begins, ends = units.stored_size(begin), units.stored_size(size)
        padded = min(up(ends - begins, int(self._slots.limits().write_unit)), units.stored_size(old) - begins)
        self._replace(
            {begin: before},
            {begin: before[: size - begin]},
            old,
            pad=padded - (ends - begins),
            then=lambda: self.inner.truncate(ends),
        )

    def _extend(self, size: int, old: int) -> None:
        units, span = self._units, self._span()
        groups: dict[int, bytes] = {}
        for end in (old, size):
            if old < size and end % units.unit:
                begin = end - end % span
                content = self._editable(begin) if begin < old else b""
                groups[begin] = content.ljust(min(span, size - begin), b"\0")
        for begin, content in groups.items():
            self._keep(self._owed, begin, content)  # up to the end of the object, extended or not
        self.inner.truncate(units.stored_size(size))
        try:
            self._replace({}, groups, size)
        except BaseException:
            with suppress(OSError):
                self.inner.truncate(units.stored_size(old))
            raise

    def _punch(self, offset: int, end: int, size: int) -> None:
        units, span = self._units, self._span()
        first, last = -(-offset // units.unit), end // units.unit
        before = {at - at % span: b"" for at in (offset, end) if at % units.unit}
        after = {}
        for begin in before:
            content = before[begin] = self._editable(begin)
            low, high = max(offset - begin, 0), min(end - begin, len(content))
            after[begin] = content[:low] + bytes(high - low) + content[high:]

        def punch() -> None:
            if first < last:
                self._optional("punch_hole")(first * units.slot, (last - first) * units.slot)

        self._replace(before, after, size, then=punch)
        self._forget(first, last)

    def _forget(self, first: int, last: int) -> None:
        """Drop the records of units [first, last)."""
        for known in (self._own, self._owed, self._sent):
            for index in [index for index in known if first <= index < last]:
                del known[index]

    def _settle(self) -> None:
        """Store the owed units."""
        while self._owed:
            unit, span = self._units.unit, self._span()
            begin = min(self._owed) * unit // span * span
            going = threading.Lock()
            with going:
                self._changes.begin(begin, begin + span, going)
                content = bytes(self._load(begin, begin + span))
                self._store(begin, content, self._size())
                for index in range(begin // unit, (begin + span) // unit):
                    self._owed.pop(index, None)  # past the end
