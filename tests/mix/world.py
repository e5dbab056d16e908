"""The files of a mix: cache, backend, handles, what they should contain; and what happens when all is at rest."""

from __future__ import annotations

import errno
import gc
import os
import random
import tempfile
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagecache import BackendError, CachedFile, PageCache, RetryPolicy, View, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..aio.stores import Store
from ..staging import StagingBackend
from .history import Change, Content, Window
from .ranges import END, Claim, Ranges

__all__ = ["PAGE", "File", "Variant", "World"]

PAGE = 4096
PATIENCE = 30.0
OWNED = 90.0  # longer than any owner may wait, by far: a loaded machine is slow
APPENDED = 2 << 20  # bytes that may be appended to a file of the largest size


def _again() -> BackendError:
    return BackendError(errno.EIO, "made up, goes away", retry=True, retry_after=0.0)


FAULTS = [  # all of which end well, sent often enough
    Rule(("read", "write", "truncate", "punch"), error=_again, chance=0.04),
    Rule("write", error=_again, done=True, chance=0.03),
    Rule(("read", "write"), error=errno.EAGAIN, chance=0.02),
    Rule("write", error=lambda: BackendError(errno.EIO, "too long", retry=True, max_write=2 * PAGE), chance=0.01),
    Rule(("read", "write"), short="half", chance=0.1),
    Rule(("read", "write"), short=1, chance=0.02),
    # No answer of a commit gets lost: reads of staged bytes raise until the next one.
    Rule("commit", error=_again, chance=0.1),
]
PATIENT = RetryPolicy(attempts=1000, first_delay=0.001, max_delay=0.01, deadline=None)


@dataclass(frozen=True, slots=True)
class Variant:
    """What a round runs on; chosen by the seed."""

    store: str
    capacity: int
    max_folio: int
    parallel: bool
    limits: dict[str, Any]
    options: dict[str, Any]
    config: dict[str, Any]
    files: int
    most: int  # bytes of a file
    faults: int  # seed of the failures of its backend; 0: none

    @property
    def publishes(self) -> bool:
        """Whether a commit is what makes bytes visible."""
        return self.store == "objects"

    def rules(self) -> list[Rule]:
        """Direct bytes that a failing commit has not covered are a loss: commits fail where there are none. A part of a
        unit is nothing that a backend may see.
        """
        whole = self.limits["write_unit"] > 1
        return [
            rule
            for rule in FAULTS
            if (self.publishes or "commit" not in rule.operations()) and not (whole and rule.short is not None)
        ]

    @classmethod
    def of(cls, rng: random.Random) -> Variant:
        capacity = rng.choice([128, 256, 512, 1024]) << 10
        max_folio = rng.choice([PAGE, 16 << 10, 64 << 10, 2 << 20])
        parallel = rng.random() < 0.6
        limits: dict[str, Any] = {
            "parallel_direct_writes": parallel,
            "max_inflight": rng.choice([2, 8]),
            "durable_writes": rng.random() < 0.2,
            "max_write": rng.choice([2 * PAGE, 1 << 20]),
            "direct_unit": rng.choice([1, 1, 512, PAGE]),
            "write_unit": rng.choice([1, 1, 1, 1, 512]),
            "ordered_writes": rng.random() < 0.1,
        }
        store = rng.choice(["memory", "dir", "async", "objects"])
        if store == "objects":
            limits = {name: limits[name] for name in ("max_inflight", "max_write", "write_unit")}
        return cls(
            store=store,
            capacity=capacity,
            max_folio=max_folio,
            parallel=parallel,
            limits=limits,
            options={"read_ahead": rng.choice([0, "64KiB"])},
            config={
                "dirty_background": rng.choice([0.1, 0.3]),
                "dirty_limit": rng.choice([0.4, 0.6]),
                "flush_interval": 0.05,
                "dirty_expire": rng.choice([0.05, 30.0]),
                "gil_release": rng.choice([PAGE, "1MiB"]),
                "poison": rng.random() < 0.5,
            },
            files=rng.choice([1, 2, 4]),
            most=rng.choice([64, 256, 1024]) << 10,
            faults=rng.choice([0, 0, rng.randrange(1, 1 << 30)]) if store != "async" else 0,
        )


class Stored:
    """The backend of a variant, and how to look at what it has without the cache."""

    def __init__(self, variant: Variant) -> None:
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.objects: StagingBackend | None = None
        self.backend: Any
        if variant.store == "dir":
            self.folder = tempfile.TemporaryDirectory(prefix="mix")
            self.backend = DirectoryBackend(self.folder.name, **variant.limits)
            self.read: Callable[[str], bytes] = self._from_folder
        elif variant.store == "objects":
            self.folder = tempfile.TemporaryDirectory(prefix="mix")
            objects = self.objects = StagingBackend(Path(self.folder.name), **variant.limits)
            self.backend, self.read = objects, lambda key: objects.visible(key) or b""
        elif variant.store == "async":
            store = Store({}, **variant.limits)
            self.backend, self.read = store, store.content
        else:
            memory = MemoryBackend(**variant.limits)
            self.backend, self.read = memory, memory.snapshot
        if variant.faults:
            self.backend = FaultyBackend(self.backend, FaultPlan(variant.rules(), variant.faults))

    def _from_folder(self, key: str) -> bytes:
        assert self.folder is not None
        with open(os.path.join(self.folder.name, key), "rb") as file:
            return file.read()

    def close(self) -> None:
        violations = [] if self.objects is None else self.objects.violations
        assert violations == [], violations[:5]
        if self.folder is not None:
            self.folder.cleanup()


class Budget:
    """How much views may pin at a time, so that the mix does not stop itself for want of memory."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._left = most
        self._given: deque[int] = deque()  # by finalisers, which take no lock

    def take(self, amount: int) -> bool:
        with self._lock:
            while self._given:
                self._left += self._given.popleft()
            if amount > self._left:
                return False
            self._left -= amount
            return True

    def give(self, amount: int) -> None:
        self._given.append(amount)

    def give_with(self, view: View, amount: int) -> None:
        """When the view is gone, which may be left to the garbage collector."""
        weakref.finalize(view, self.give, amount).atexit = False


@dataclass(slots=True)
class File:
    """One object, the handles that all share, and its model."""

    key: str
    volume: Volume
    content: Content
    ranges: Ranges
    handles: list[CachedFile] = field(default_factory=list)

    @property
    def plain(self) -> CachedFile:
        return self.handles[0]

    def look(self, start: int, end: int) -> Window:
        return self.content.look(start, end)

    def inside(self, *pieces: tuple[int, int]) -> Callable[[], Claim | None]:
        """A claim on ranges; on the end of the file too, where one reaches behind it."""
        return lambda: Claim([(a, END if b > self.content.size else b) for a, b in pieces])

    def settle(self, change: Change) -> None:
        """A call did a part of a change, and nobody knows which."""
        assert change.offset is not None
        self.content.settle(change, self.plain.pread(len(change.data), change.offset), self.plain.size)


class World:
    """Everything of one round."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.counts: Counter[str] = Counter()
        self.stored = Stored(variant)
        self.cache = PageCache(variant.capacity, max_folio=variant.max_folio, retry=PATIENT, **variant.config)
        self.volume = self.cache.attach(self.stored.backend, **variant.options)
        self.files = [self._file(f"file{n}") for n in range(variant.files)]
        # What pins a page pins its folio.
        self.folio = min(variant.max_folio, variant.capacity // 8)
        self.budget = Budget(max(3 * self.folio, variant.capacity // 4))
        self.rests = 0

    def _file(self, key: str) -> File:
        plain = self.volume.open(key, "w+b")
        parallel = self.variant.parallel
        handles = [
            plain,
            self.volume.open(key, "r+b"),
            self.volume.open(key, "r+b", direct=True),
            self.volume.open(key, "r+b", direct=True, parallel_direct_writes=parallel),
            self.volume.open(key, "r+b", write_through=True),
        ]
        return File(key, self.volume, Content(self.variant.most + APPENDED), Ranges(), handles)

    def take(self, size: int) -> int:
        """What a view of so many bytes takes of the budget; 0: enough is pinned already."""
        amount = size + self.folio
        if self.budget.take(amount):
            return amount
        self.counts["no view"] += 1
        if self.counts["no view"] % 8 == 0:
            gc.collect()
        return 0

    def view(self, file: File, start: int, size: int, *, writable: bool = False) -> View | None:
        """None: there is no room for one. ValueError: the range is not in the file."""
        amount = self.take(size)
        if not amount:
            return None
        try:
            view = file.plain.view(start, size, writable=writable)
        except BaseException as error:
            self.budget.give(amount)
            if isinstance(error, OSError) and self.excused(error):
                return None
            raise
        self.budget.give_with(view, amount)
        return view

    def excused(self, error: OSError) -> bool:
        """Too much of a small cache is pinned: an answer, not a fault."""
        self.counts[errno.errorcode.get(error.errno or 0, "?")] += 1
        return error.errno in (errno.ENOMEM, errno.ENOBUFS)

    def refused_append(self, file: File, change: Change, error: OSError) -> None:
        """There is no room for it, or for the rest of it."""
        taken: int = getattr(error, "characters_written", 0)
        if not self.excused(error):
            raise error
        if not taken:
            file.content.cancel(change)
            return
        self.counts["append in part"] += 1
        change.data = change.data[:taken]
        offset = file.content.free_place(change, file.plain.pread(file.content.most, change.floor))
        if offset is None:
            raise error
        file.content.finish_append(change, offset)

    def rest(self) -> None:
        """Nothing runs: the invariants hold, all handles agree with the model, and so does the store after fsync."""
        gc.collect()
        self.cache.check()
        if self.rests and not self.variant.publishes:
            self._reconnect()
        for file in self.files:
            expected = file.content.rest()
            self._agree(file, expected, "at rest")
            file.plain.fsync(timeout=PATIENCE)
            same(self.stored.read(file.key), expected, f"{file.key} in the store after fsync")
        self.cache.check()
        self.rests += 1
        if self.rests % 2:
            self.volume.invalidate()
            for file in self.files:
                self._agree(file, file.content.rest(), "read again")
            self.cache.check()

    def _reconnect(self) -> None:
        """Commit, write and cut a little, abort, and go on with the same store: nothing of it is lost. Direct bytes and
        holes that are not committed would be, where the truncate after which they came is made again.
        """
        self.volume.sync(PATIENCE)
        rng = random.Random(self.rests)
        for file in self.files:
            self._write_a_little(file, rng)
        self.volume.abort(ConnectionError("made up"))
        self.volume.reconnect(self.stored.backend)
        self.cache.check()

    def _write_a_little(self, file: File, rng: random.Random) -> None:
        for number in range(8):
            start = rng.randrange(self.variant.most)
            data = rng.randbytes(min(rng.randrange(1, 3 * PAGE), self.variant.most - start))
            change = file.content.begin("write before an abort", start, data)
            try:
                file.plain.pwrite(data, start)
            except OSError as error:
                if not self.excused(error):
                    raise
                file.settle(change)
            else:
                file.content.finish(change)
            if number == 3:
                file.plain.flush()
        size = rng.randrange(file.content.size + 1)
        change = file.content.begin("truncate before an abort", size, b"", size)
        file.plain.truncate(size)
        file.content.finish(change)

    def _agree(self, file: File, expected: bytes, when: str) -> None:
        for handle in file.handles:
            assert handle.size == len(expected), f"{file.key} {when}: {handle.size} bytes, not {len(expected)}"
            same(handle.pread(file.content.most, 0), expected, f"{file.key} {when}, by {handle!r}")

    def close(self) -> None:
        """The end: what was accepted is stored by closing."""
        contents = [file.content.rest() for file in self.files]
        for file in self.files:
            for handle in file.handles:
                handle.close()
        assert self.cache.close(timeout=PATIENCE) == []
        for file, expected in zip(self.files, contents, strict=True):
            same(self.stored.read(file.key), expected, f"{file.key} in the store after close")
        self.stored.close()


def same(got: bytes, expected: bytes, what: str) -> None:
    if got != expected:
        differ = [i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b]
        first, last = (differ[0], differ[-1]) if differ else (0, 0)
        raise AssertionError(
            f"{what}: {len(got)} bytes, not {len(expected)}; {len(differ)} differ, from {first} to {last}"
            + (f": {got[first : first + 16].hex()}, not {expected[first : first + 16].hex()}" if differ else "")
        )
