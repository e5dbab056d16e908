"""Check whether an observation is possible: it covers a range of a model during a call, and a verdict judges its bytes.

    observation = Observation(model, start, end)    when the call begins
    got = ...                                       the call
    observation.returned()                          when it has returned
    verdict(observation, got, ...)                  None, or a `Doubt` to check again later; raises Broken

Each byte must come from a write whose byte was current at a time between call and return [I-17]. For a store that is
read after an fsync the observation begins at the call of fsync: then the store is at least as new as the last write
before the call [I-18], and at most as new as the last write before the read.

The place of an append, and the content of a copy, are known when they have returned. Bytes that were seen before that
and fit nothing else are a doubt until then.

Not detected: a wrong byte that equals the right one by chance (one in 256, so all of n wrong bytes with 256^-n), and
wrong combinations: the size and each byte are checked separately.

Times are those of the logical clock: smaller is earlier.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from pagecache.stress.content import decode
from pagecache.stress.history import FOREVER, RUNNING, Broken, Candidates, Model, Piece, Write

SHOWN = 4  # ranges, and writes, in one story
VALUES_MAX = 8  # values of a copied byte, before the copy counts as unknown


class Observation:
    """A range [start, end) of a file, observed from now on.

    `store`: the observed bytes are those of the store. Bytes of a running write may be visible in memory before they
    count as dirty: a sync that is called then does not save them.
    """

    def __init__(self, model: Model, start: int, end: int, worker: int, what: str, *, store: bool = False) -> None:
        self.model, self.start, self.end = model, start, end
        self.worker, self.what = worker, what
        with model.lock:
            self.begun = model.clock.tick()
            self.pieces = list(model.extents.pieces(start, end))
            self.sizes = list(model.sizes)
            self.beside = list(model.running)
            self._overtaken = [piece for pieces in model.overtaken.values() for piece in pieces] if store else []
            self._first = len(model.log)
        self.ended: float = FOREVER

    def returned(self) -> None:
        """End the observation: later changes are not part of it."""
        with self.model.lock:
            if self.ended == FOREVER:
                self.ended = self.model.clock.tick()
                self.beside += self.model.log[self._first :]

    def until_now(self) -> Observation:
        """Return a copy of the observation that ends now; the observation itself goes on."""
        found = copy.copy(self)
        found.beside = list(self.beside)
        found.returned()
        return found

    def _beside(self) -> list[Write]:
        """Return the concurrent writes, including the unreported parts of failed calls. The model's lock is held: a
        concurrent failure splits its write.
        """
        found = []
        for write in self.beside:
            part: Write | None = write
            while part is not None:
                found.append(part)
                part = part.rest
        return found

    def covered(self, write: Write) -> None:
        """Record that `write`, which began after the observation, is stored for certain: writes that ended before it
        began are overwritten.
        """
        self.pieces = [
            (low, high, tuple(one for one in found if one.ended >= write.begun)) for low, high, found in self.pieces
        ]
        self.sizes = [replace(size, value=max(size.value, write.end), least=None) for size in self.sizes]

    def segments(self, start: int, end: int, ignored: Write | None = None) -> Iterator[Piece]:
        """Yield the range in pieces, each with all known writes that it may come from."""
        with self.model.lock:
            extra = [(one.start, one.end, one) for one in self._beside() if one.resolved]
        for low, high, found in self.pieces:
            low, high = max(low, start), min(high, end)
            if low >= high:
                continue
            here: list[Piece] = [
                (from_, to, (one,)) for from_, to, one in extra if one is not ignored and from_ < high and to > low
            ]
            here += [piece for piece in self._overtaken if piece[0] < high and piece[1] > low]
            if not here:
                yield low, high, found
                continue
            cuts = {low, high}
            cuts.update(cut for piece in here for cut in piece[:2] if low < cut < high)
            edges = sorted(cuts)
            for a, b in pairwise(edges):
                more = [one for from_, to, ones in here if from_ <= a and to >= b for one in ones]
                yield a, b, tuple(dict.fromkeys((*found, *more)))

    def cut_since(self, begun: float) -> Write | None:
        """Return a truncate that began after `begun`, and left less than the range when the observation ended;
        None: no certain one.
        """
        with self.model.lock:
            for write in self.beside:
                cuts = write.size is not None and 0 <= write.size < self.end
                if cuts and write.certain and begun < write.begun and write.ended < self.ended:
                    return write
        return None

    def unresolved(self, end: int | None = None) -> list[Write]:
        """Return the concurrent writes that may have changed bytes before `end`, and whose place or content is
        unknown.
        """
        end = self.end if end is None else end
        with self.model.lock:
            return [
                write
                for write in self._beside()
                if not write.resolved
                and (write.start < end and write.end > self.start if write.start >= 0 else write.floor < end)
            ]

    def sizes_meanwhile(self) -> tuple[int, int]:
        """Return the smallest and the largest size that the file may have had."""
        least = min(size.value if size.least is None else size.least for size in self.sizes)
        most = max(size.value for size in self.sizes)
        with self.model.lock:
            beside = [(write.size, write.length, write.end) for write in self._beside()]
        for size, length, end in beside:
            if size is not None and size >= 0:
                least, most = min(least, size), max(most, size)
            elif size is None and length:
                most = max(most, end)
        return least, most


@dataclass(frozen=True, slots=True)
class Doubt:
    """Observed bytes that fit if one of `writes`, which still run, stored them."""

    observation: Observation
    got: bytes
    store: bool
    writes: tuple[Write, ...]

    def recheck(self) -> Doubt | None:
        """Check the bytes again, with newer knowledge."""
        return verdict(self.observation, self.got, store=self.store)


def verdict(observation: Observation, got: bytes, *, short: bool = False, store: bool = False) -> Doubt | None:
    """Check whether the observation may have seen `got`, the bytes from its start on.

    Args:
        observation: has returned.
        got: the bytes.
        short: the read may end anywhere: the length is not checked.
        store: the bytes are those of the store, which does not show the state of readers.

    Raises:
        Broken: the bytes are impossible.
    """
    # A concurrent append may have extended the file, too.
    unresolved = tuple(observation.unresolved())
    wrong = None if short else _wrong_length(observation, len(got))
    bad: list[tuple[int, int]] = []
    seen: list[Piece] = []
    if wrong is None:
        for low, high, found in observation.segments(observation.start, observation.start + len(got)):
            part = got[low - observation.start : high - observation.start]
            pieces, missed = fit(low, high, found, part, first=bool(unresolved))
            bad += missed
            if bad and unresolved:
                return Doubt(observation, got, store, unresolved)
            if len(found) > 1:
                seen += pieces
    if wrong is None and not bad:
        if not store:
            _overtake(observation.model, seen)
        return None
    if unresolved:
        return Doubt(observation, got, store, unresolved)
    finding = Finding(observation, got, _joined(bad), wrong)
    raise Broken(describe_finding(finding), finding=finding)


def _wrong_length(observation: Observation, length: int) -> str | None:
    """Return an error text about the length; None: it is possible. A call in pieces may find another end for each
    piece.
    """
    least, most = observation.sizes_meanwhile()
    low, high = (max(0, min(size, observation.end) - observation.start) for size in (least, most))
    if low <= length <= high:
        return None
    return f"{length} bytes, where the file had {least}" + (f" to {most}" if most > least else "")


def fit(
    low: int, high: int, found: Candidates, got: bytes, *, first: bool = False
) -> tuple[list[Piece], list[tuple[int, int]]]:
    """Match each byte with writes: return pieces with all matching writes, and the ranges without a match.

    `first`: one such range is enough.
    """
    if any(write.wild for write in found):
        return [(low, high, found)], []
    options = [(write, data) for write in found for data in write.possible(low, high)]
    whole = tuple(dict.fromkeys(write for write, data in options if data == got))
    if whole:
        return [(low, high, whole)], []
    pieces: list[Piece] = []
    bad: list[tuple[int, int]] = []
    stack = [(0, high - low)]
    while stack:
        a, b = stack.pop()
        part = got[a:b]
        match = tuple(dict.fromkeys(write for write, data in options if data[a:b] == part))
        if match:
            pieces.append((low + a, low + b, match))
        elif b - a == 1:
            bad.append((low + a, low + b))
            if first:
                break
        else:
            middle = (a + b) // 2
            stack += [(middle, b), (a, middle)]
    return pieces, bad


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges with fewer than 16 bytes between them: single bytes match by chance."""
    joined: list[tuple[int, int]] = []
    for low, high in ranges:
        if joined and low - joined[-1][1] < 16:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


def _overtake(model: Model, seen: list[Piece]) -> None:
    """Record that seen bytes are current: writes that ended before they began cannot be seen later.

    Only for buffered writes: while a direct write has stored its bytes and not returned, memory may show the old
    ones.
    """
    for low, high, found in seen if not model.loose else ():
        if len(found) == 1 and found[0].way == "buffered" and found[0].certain:
            write = found[0]
            with model.lock:
                pieces = []
                for a, b, here in model.extents.pieces(low, high):
                    left = here if write not in here else tuple(o for o in here if o is write or o.ended >= write.begun)
                    pieces.append((a, b, left))
                    if len(left) < len(here) and write in model.running:
                        gone = tuple(one for one in here if one not in left)
                        model.overtaken.setdefault(write, []).append((a, b, gone))
                model.extents.assign(low, high, pieces)


def settled(observation: Observation, got: bytes, *, store: bool = False) -> list[Piece]:
    """Return the content of a file while nothing runs: each byte with the writes that `got` fits.

    Raises:
        Broken: a byte has an impossible value.
    """
    verdict(observation, got, store=store)
    pieces: list[Piece] = []
    for low, high, found in observation.segments(observation.start, observation.start + len(got)):
        part = got[low - observation.start : high - observation.start]
        wild = next((write for write in found if write.wild), None)
        pieces += fit(low, high, found, part)[0] if wild is None else [(low, high, (wild.known(low, part),))]
    return pieces


def at_rest(model: Model, what: str) -> Observation:
    """Return an observation of a whole file, made while nothing runs."""
    observation = Observation(model, 0, FOREVER, 0, what)
    observation.returned()
    return observation


def settle(model: Model, what: str, got: bytes) -> None:
    """Check the content of a file while nothing runs, and fix it."""
    model.settle(settled(at_rest(model, what), got), len(got))


def copied(observation: Observation, write: Write, shift: int) -> list[tuple[int, tuple[bytes, ...]]] | None:
    """Return the possible bytes that a copy of the observed range stored, `shift` bytes further on; None: any bytes."""
    if any(one is not write for one in observation.unresolved()):
        return None
    literal = []
    for low, high, found in observation.segments(observation.start, observation.end, ignored=write):
        if any(one.wild for one in found):
            return None
        values = tuple(dict.fromkeys(data for one in found for data in one.possible(low, high)))
        if len(values) > VALUES_MAX:
            return None
        literal.append((low + shift, values))
    return literal


# ---------------------------------------------------------------------------------------------- wrong bytes, in words


@dataclass(frozen=True, slots=True)
class Finding:
    """The wrong bytes of an observation."""

    observation: Observation
    got: bytes
    ranges: list[tuple[int, int]]
    length: str | None


def worker_name(worker: int) -> str:
    """Return the name of a worker."""
    return f"writer {worker}" if worker else "the beginning"


def describe(write: Write) -> str:
    """Describe a write: kind, range and times."""
    if write.kind == "zeros":
        return "zeros, never written"
    if not write.worker:
        return "the content that the file began with"
    ended = "still running" if write.ended == RUNNING else f"returned at {write.ended}"
    sure = "" if write.certain else ", whose result is not certain"
    way = f" ({write.way})" if write.way else ""
    return (
        f"{worker_name(write.worker)}, write {write.sequence}: {write!r}{way}, called at {write.begun}, {ended}{sure}"
    )


def describe_finding(finding: Finding) -> str:
    """Return the whole story, in a few lines."""
    observation = finding.observation
    lines = []
    if finding.length is not None:
        lines.append(f"file {observation.model.number}: {finding.length}")
    for low, high in finding.ranges[:SHOWN]:
        part = finding.got[low - observation.start : high - observation.start]
        lines.append(f"file {observation.model.number}, bytes {low} to {high}: wrong")
        wanted = {one: None for a, b, found in observation.segments(low, high) for one in found}
        should = "should be of" if len(wanted) == 1 else "should be one of"
        lines += [f"  {should}: {describe(write)}" for write in list(wanted)[:SHOWN]]
        lines.append(f"  are: {explain(observation, low, part)}")
        lines += [f"  before: {describe(write)}" for write in _before(observation, low, high, set(wanted))]
    if len(finding.ranges) > SHOWN:
        lines.append(f"and {len(finding.ranges) - SHOWN} ranges more, up to byte {finding.ranges[-1][1]}")
    span = f"[{observation.start}, {observation.end})" if observation.end < 1 << 60 else f"from {observation.start} on"
    observer = f"{worker_name(observation.worker)}, " if observation.worker else ""
    lines.append(
        f"seen by: {observer}{observation.what} {span}, called at {observation.begun}, returned at {observation.ended}"
    )
    return "\n".join(lines)


def _before(observation: Observation, low: int, high: int, known: set[Write]) -> list[Write]:
    """Describe the last writes of these bytes."""
    with observation.model.lock:
        ended = list(observation.model.ended)
    near = [one for one in ended if one not in known and one.start < high and one.end > low]
    return near[-SHOWN:]


def explain(observation: Observation, offset: int, part: bytes) -> str:
    """Explain the origin of bytes that were found in a wrong place."""
    model = observation.model
    if not any(part):
        return f"{len(part)} zeros"
    origin = decode(part, offset, model.number)
    with model.lock:
        known = [*model.ended, *model.running]
    if origin is None:
        return _compare(known, offset, part)
    name = f"{worker_name(origin.worker)}, write {origin.sequence}"
    if origin.file != model.number:
        return f"of file {origin.file}: {name}"
    if origin.appended:
        found = [one for one in known if (one.worker, one.sequence) == (origin.worker, origin.sequence)]
        return f"of an append: {describe(found[0]) if found else name}, from its byte {origin.offset} on"
    for one in known:
        if (one.worker, one.sequence) == (origin.worker, origin.sequence):
            place = "" if one.start <= offset < one.end else ", at the wrong place"
            return f"of {describe(one)}{place}"
    return f"of {name}, long ago" if origin.worker else f"{name}'s content"


def _compare(known: list[Write], offset: int, part: bytes) -> str:
    """Too few bytes to decode: list the writes of this place that they fit."""
    end = offset + len(part)
    fits = [one for one in known if 0 <= one.start <= offset and end <= one.end and part in one.possible(offset, end)]
    if not fits:
        return f"{len(part)} bytes of no write that is remembered"
    chance = "" if len(part) > 3 else f" (or by chance, 1 in {256 ** len(part)}: too few bytes to be sure)"
    return f"of {describe(fits[-1])}{chance}"
