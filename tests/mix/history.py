"""What each byte of a file may be: the values it had, or was being given, while somebody looked [I-17].

    Content     the bytes of a file as its finished changes left them, and the changes that run
    Change      one call that stores bytes or moves the end: begun before the call, finished after it
    Window      a look: the content when it began. What is seen until later is that, or of a change that ran meanwhile

Who changes bytes owns their range (ranges.py), so the changes of a byte follow one another and the content between them
is known. Appends share the end: where one of them goes is known when it has returned.
"""

from __future__ import annotations

import threading

import numpy

__all__ = ["Change", "Content", "Window"]


class Change:
    """`data` goes to `offset`; None: to the end, wherever that is, but not before `floor`."""

    __slots__ = ("cancelled", "data", "floor", "offset", "sizes", "what")

    def __init__(self, what: str, offset: int | None, data: bytes, floor: int = 0) -> None:
        self.what = what
        self.offset = offset
        self.data = data
        self.floor = floor
        self.sizes: tuple[int, ...] = ()
        self.cancelled = False

    def __repr__(self) -> str:
        where = f"at the end, from {self.floor}" if self.offset is None else f"[{self.offset}, {self.end})"
        return f"{self.what} {where} sizes {self.sizes}{' cancelled' if self.cancelled else ''}"

    @property
    def end(self) -> int:
        assert self.offset is not None
        return self.offset + len(self.data)


Known = tuple[Change, int | None, tuple[int, ...]]  # a change, where it goes, what sizes it knows


class Content:
    """One file. All of it under `lock`, which is held for a few instructions."""

    def __init__(self, most: int) -> None:
        """A file of at most so many bytes."""
        self.lock = threading.Lock()
        self.most = most
        self.bytes = bytearray(most)  # zeros behind the end
        self.size = 0
        self.running: set[Change] = set()
        self.log: list[Change] = []  # since the last rest
        self._appended: list[tuple[int, int]] = []  # while appends run side by side
        self._append_floor = 0

    def begin(self, what: str, offset: int, data: bytes, size: int | None = None) -> Change:
        """A change that leaves the file `size` bytes long; None: as long as it is, or as the data makes it."""
        with self.lock:
            change = Change(what, offset, data)
            end = max(self.size, offset + len(data)) if size is None else size
            if end != self.size:  # then the end is owned too
                change.sizes = (self.size, end)
            self._add(change)
        return change

    def begin_append(self, data: bytes) -> Change:
        with self.lock:
            if not any(change.offset is None for change in self.running):
                self._appended, self._append_floor = [], self.size
            change = Change("append", None, data, self.size)
            self._add(change)
        return change

    def _add(self, change: Change) -> None:
        self.running.add(change)
        self.log.append(change)

    def finish(self, change: Change) -> None:
        """Its call has returned."""
        assert change.offset is not None
        with self.lock:
            self.running.remove(change)
            self.bytes[change.offset : change.end] = change.data
            self.size = change.sizes[1] if change.sizes else self.size

    def finish_append(self, change: Change, offset: int) -> None:
        """It went to `offset`: not into another one, and when all have returned nothing is between them."""
        with self.lock:
            self.running.remove(change)
            end = offset + len(change.data)
            assert end <= self.most
            others = [a for a in self._appended if a[0] < end and offset < a[1]]
            assert offset >= change.floor, f"{change} was put to {offset}"
            assert not others, f"{change} was put to {offset}, where {others} is"
            change.sizes = (self.size, max(self.size, end))
            change.offset = offset
            self.bytes[offset:end] = change.data
            self.size = max(self.size, end)
            self._appended.append((offset, end))
            if not any(other.offset is None for other in self.running):
                at = self._append_floor
                for begin, end in sorted(self._appended):
                    assert begin == at, f"appends left a gap: {sorted(self._appended)} from {self._append_floor}"
                    at = end

    def free_place(self, change: Change, tail: bytes) -> int | None:
        """Where an append went that did not say so; `tail`: the file from its floor on."""
        with self.lock:
            at = tail.find(change.data)
            while at >= 0:
                offset = change.floor + at
                if not any(a < offset + len(change.data) and offset < b for a, b in self._appended):
                    return offset
                at = tail.find(change.data, at + 1)
        return None

    def cancel(self, change: Change) -> None:
        """Its call has said that it did nothing."""
        with self.lock:
            change.cancelled = True
            self.running.remove(change)

    def settle(self, change: Change, found: bytes, size: int) -> None:
        """Its call did a part of it: `found` is there now, and the file has `size` bytes. The range is still owned."""
        assert change.offset is not None
        with self.lock:
            if change.sizes:
                assert change.sizes[0] <= size <= change.sizes[1], f"{change} in part: {size} bytes"
                self.size = size
            wanted = max(0, min(len(change.data), self.size - change.offset))
            assert len(found) == wanted, f"{change} in part: {len(found)} bytes of {wanted}"
            old = numpy.frombuffer(bytes(self.bytes[change.offset : change.offset + wanted]), numpy.uint8)
            new, now = (numpy.frombuffer(data, numpy.uint8) for data in (change.data[:wanted], found))
            wrong = numpy.flatnonzero((now != old) & (now != new))
            assert not len(wrong), f"{change} in part: neither old nor new at {change.offset + int(wrong[0])}"
            self.running.remove(change)
            self.bytes[change.offset : change.offset + wanted] = found

    def rest(self) -> bytes:
        """Nothing runs: what the file is."""
        with self.lock:
            assert not self.running, self.running
            self.log.clear()
            return bytes(self.bytes[: self.size])

    def look(self, start: int, end: int) -> Window:
        return Window(self, start, end)


class Window:
    """[start, end) from now on."""

    __slots__ = ("base", "content", "end", "first", "running", "size", "start")

    def __init__(self, content: Content, start: int, end: int) -> None:
        self.content, self.start, self.end = content, start, end
        with content.lock:
            self.base = bytes(content.bytes[start:end])
            self.size = content.size
            self.running = tuple(content.running)
            self.first = len(content.log)

    def verify(self, got: bytes, what: str, at: int | None = None, *, short: bool = False) -> None:
        """`got`, read at `at` (the start), may be what somebody sees. `short`: it may end anywhere."""
        at = self.start if at is None else at
        known = self._known()
        if not short:
            self._verify_length(len(got), at, known, what)
        seen = numpy.frombuffer(got, numpy.uint8)
        begin = at - self.start
        right = seen == numpy.frombuffer(self.base[begin : begin + len(got)], numpy.uint8)
        for change, offset, _sizes in known:
            if offset is None:
                right[max(0, change.floor - at) :] = True
                continue
            low, high = max(at, offset), min(at + len(got), offset + len(change.data))
            if low < high:
                given = numpy.frombuffer(change.data, numpy.uint8, high - low, low - offset)
                right[low - at : high - at] |= seen[low - at : high - at] == given
        if not right.all():
            raise AssertionError(self._report(got, at, numpy.flatnonzero(~right), known, what))

    def _sizes(self, known: list[Known]) -> list[int]:
        return [self.size, *(size for *_, sizes in known for size in sizes)]

    def verify_shorter(self, end: int, what: str) -> None:
        """The file may have been too short for bytes up to `end`."""
        sizes = self._sizes(self._known())
        assert min(sizes) < end, f"{what} up to {end}: the file had {sorted(set(sizes))}"

    def _known(self) -> list[Known]:
        """What ran since the window was opened, as far as it is known by now."""
        with self.content.lock:
            changes = [c for c in (*self.running, *self.content.log[self.first :]) if not c.cancelled]
            return [(c, c.offset, c.sizes) for c in changes]

    def _verify_length(self, length: int, at: int, known: list[Known], what: str) -> None:
        sizes = self._sizes(known)
        if any(offset is None for _, offset, _ in known):
            sizes.append(self.content.most)
        wanted = self.end - at
        least, most = (max(0, min(wanted, size - at)) for size in (min(sizes), max(sizes)))
        if not least <= length <= most:
            raise AssertionError(
                f"{what} [{at}, {self.end}): {length} bytes, not {least} to {most}; the file had {sorted(set(sizes))}"
            )

    def _report(
        self,
        got: bytes,
        at: int,
        wrong: numpy.ndarray,
        known: list[Known],
        what: str,
    ) -> str:
        first, last = int(wrong[0]), int(wrong[-1])
        near = [
            repr(change)
            for change in self.content.log
            if change.offset is None or (change.offset <= at + last and at + first < change.end)
        ]
        base = self.base[at - self.start :]
        return "\n  ".join(
            [
                f"{what} [{at}, {at + len(got)}): {len(wrong)} bytes are wrong, from {at + first} to {at + last}",
                f"seen {got[first : first + 16].hex()}, content before {base[first : first + 16].hex()}",
                f"ran meanwhile: {[change for change, *_ in known][:20]}",
                f"changes of these bytes since the last rest: {near[-20:]}",
            ]
        )
