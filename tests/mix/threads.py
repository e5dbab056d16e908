"""What a thread of the mix does: a random verb after the other, each owning what it changes."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from typing import Any

from pagecache import Advice, CachedFile, View

from .history import Change
from .ranges import END, Claim
from .world import OWNED, PAGE, PATIENCE, File, World

__all__ = ["Worker", "length", "place", "put"]


def length(rng: random.Random) -> int:
    return rng.choice([1, 7, 512, rng.randrange(1, 600), PAGE, rng.randrange(1, 3 * PAGE), rng.randrange(1, 16 * PAGE)])


def place(rng: random.Random, most: int) -> int:
    at = rng.randrange(most)
    return at - at % PAGE if rng.random() < 0.4 else at


class Worker:
    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.verbs: list[Callable[[File], None]] = [
            verb for verb, times in self.weights().items() for _ in range(times)
        ]

    def weights(self) -> dict[Callable[[File], None], int]:
        return {
            self.read: 14,
            self.try_read: 4,
            self.look_at_view: 6,
            self.write: 16,
            self.try_write: 4,
            self.append: 4,
            self.store_to_view: 6,
            self.copy_from_view: 5,
            self.read_into_view: 4,
            self.truncate: 3,
            self.make_hole: 4,
            self.fsync: 3,
            self.hand_over: 3,
            self.drop: 4,
            self.advise: 3,
            self.reopen: 1,
        }

    def run(self, times: int, stopped: Callable[[], bool]) -> None:
        for _ in range(times):
            if stopped():
                return
            verb = self.rng.choice(self.verbs)
            verb(self.rng.choice(self.world.files))
            self.world.counts[verb.__name__] += 1

    # -- choosing

    def handle(self, file: File) -> CachedFile:
        return self.rng.choice(file.handles)

    def range(self, most: int) -> tuple[int, int]:
        start = place(self.rng, most)
        return start, min(most, start + length(self.rng))

    def range_inside(self, file: File) -> tuple[int, int] | None:
        size = file.content.size
        return self.range(size) if size else None

    def owned(self, file: File, *pieces: tuple[int, int]) -> Any:
        return file.ranges.owning(file.ranges.obtain(file.inside(*pieces), OWNED))

    # -- reading

    def read(self, file: File) -> None:
        start, end = self.range(self.world.variant.most)
        handle, how = self.handle(file), self.rng.randrange(3)
        window = file.look(start, end)
        if how == 0:
            got = handle.pread(end - start, start)
        elif how == 1:
            space = bytearray(b"\xa5" * (end - start))
            got = bytes(space[: handle.pread_into(space, start)])
        else:
            cut = self.rng.randrange(end - start + 1)
            spaces = [bytearray(cut), bytearray(end - start - cut)]
            count = handle.preadv(spaces, start)
            got = b"".join(spaces)[:count]
        window.verify(got, f"{file.key}: read {how} by {handle.mode} {type(handle).__name__}")

    def try_read(self, file: File) -> None:
        start, end = self.range(self.world.variant.most)
        handle = file.plain
        window = file.look(start, end)
        got = handle.try_pread(end - start, start)
        if got is not None:
            window.verify(got, f"{file.key}: try_pread")

    def look_at_view(self, file: File) -> None:
        where = self.range_inside(file)
        if where is None:
            return
        start, end = where
        window = file.look(start, end)
        try:
            view = self.world.view(file, start, end - start)
        except ValueError:
            window.verify_shorter(end, f"{file.key}: a view of what is not there")
            return  # the file was cut meanwhile
        if view is None:
            return
        for _ in range(self.rng.randrange(1, 4)):
            window.verify(view.tobytes(), f"{file.key}: view, detached {view.detached}", short=True)
            time.sleep(0)
        self.leave(view)

    def leave(self, view: View) -> None:
        """Release a view, or let it be found by the garbage collector."""
        if self.rng.random() < 0.7:
            view.release()
        else:
            ring: list[Any] = [view]
            ring.append(ring)
            if self.rng.random() < 0.3:
                del ring, view
                gc.collect()

    # -- writing

    def changing(self, file: File, change: Change, call: Callable[[], object]) -> None:
        """A change whose call says what became of it."""
        try:
            call()
        except OSError as error:
            if not self.world.excused(error):
                raise
            file.settle(change)
        else:
            file.content.finish(change)

    def write(self, file: File) -> None:
        start, end = self.range(self.world.variant.most)
        handle = self.handle(file)
        data = self.rng.randbytes(end - start)
        with self.owned(file, (start, end)) as claim:
            assert claim is not None
            change = file.content.begin(f"pwrite by {type(handle).__name__}", start, data)
            cut = self.rng.randrange(len(data) + 1)
            if self.rng.random() < 0.3:
                self.changing(file, change, lambda: handle.pwritev([data[:cut], data[cut:]], start))
            else:
                self.changing(file, change, lambda: handle.pwrite(data, start))

    def try_write(self, file: File) -> None:
        start, end = self.range(self.world.variant.most)
        data = self.rng.randbytes(end - start)
        claim = file.ranges.attempt(file.inside((start, end)))
        with file.ranges.owning(claim):
            if claim is None:
                return
            change = file.content.begin("try_pwrite", start, data)
            if file.plain.try_pwrite(data, start) is None:
                file.content.cancel(change)
            else:
                file.content.finish(change)

    def append(self, file: File) -> None:
        data = self.rng.randbytes(length(self.rng))

        def wanted() -> Claim | None:
            size = file.content.size
            return Claim([(size, END)], appends=True) if size < self.world.variant.most else None

        with file.ranges.owning(file.ranges.obtain(wanted, OWNED)) as claim:
            if claim is not None:
                change = file.content.begin_append(data)
                try:
                    offset = self.handle(file).append(data)
                except OSError as error:
                    self.world.refused_append(file, change, error)
                else:
                    file.content.finish_append(change, offset)

    # -- writable views

    def store_to_view(self, file: File) -> None:
        where = self.range_inside(file)
        if where is None:
            return
        start, end = where
        with self.owned(file, (start, end)) as claim:
            if claim is None or end > file.content.size:
                return
            view = self.world.view(file, start, end - start, writable=True)
            if view is None:
                return
            unsure = self.store(file, view, start)
            self.leave(view)
            for change in unsure:
                file.settle(change)

    def store(self, file: File, view: View, start: int) -> list[Change]:
        """Store here and there; what was stored to memory that turns out to be cut off."""
        for _ in range(self.rng.randrange(1, 4)):
            at = self.rng.randrange(len(view))
            data = self.rng.randbytes(self.rng.randrange(1, len(view) - at + 1))
            change = file.content.begin("store to a view", start + at, data)
            put(view, at, data)
            if view.detached:
                self.world.counts["cut off"] += 1
                return [change]
            file.content.finish(change)
            if self.rng.random() < 0.2:
                self.fsync(file)
        return []

    def copy_from_view(self, file: File) -> None:
        """Within the file, overlapping or not."""
        where = self.range_inside(file)
        if where is None:
            return
        start, end = where
        size = end - start
        to = max(0, min(self.world.variant.most - size, start + self.rng.randrange(-size, size + 1)))
        if self.rng.random() < 0.3:
            to = place(self.rng, self.world.variant.most - size + 1)
        with self.owned(file, (start, end), (to, to + size)) as claim:
            if claim is None or end > file.content.size:
                return
            view = self.world.view(file, start, size)
            if view is None:
                return
            handle = self.handle(file)
            change = file.content.begin(f"copy by {type(handle).__name__}", to, view.tobytes())
            if len(view.segments) == 1:
                self.changing(file, change, lambda: handle.pwrite(view.segments[0], to))
            else:
                self.changing(file, change, lambda: handle.pwritev(view.segments, to))
            self.leave(view)

    def read_into_view(self, file: File) -> None:
        """Another place of the file read into a writable view of it."""
        where = self.range_inside(file)
        if where is None:
            return
        start, end = where
        size = end - start
        origin = max(0, min(file.content.size - size, start + self.rng.randrange(-2 * size, 2 * size + 1)))
        with self.owned(file, (start, end), (origin, origin + size)) as claim:
            if claim is None or max(end, origin + size) > file.content.size:
                return
            view = self.world.view(file, start, size, writable=True)
            if view is None:
                return
            change = file.content.begin("read into a view", start, bytes(file.content.bytes[origin : origin + size]))
            count = file.plain.preadv(view.segments, origin)
            assert count == size, f"{count} bytes of {size}"
            detached = view.detached
            self.leave(view)
            if detached:
                file.settle(change)
            else:
                file.content.finish(change)

    # -- size and space

    def truncate(self, file: File) -> None:
        to = place(self.rng, self.world.variant.most)
        with file.ranges.owning(file.ranges.obtain(lambda: Claim([(min(to, file.content.size), END)]), OWNED)) as claim:
            assert claim is not None
            size = file.content.size
            change = file.content.begin("truncate", min(to, size), bytes(max(0, size - to)), to)
            try:
                self.handle(file).truncate(to)
            except OSError as error:
                if not self.world.excused(error):
                    raise
                file.content.cancel(change)
            else:
                file.content.finish(change)

    def make_hole(self, file: File) -> None:
        where = self.range_inside(file)
        if where is None:
            return
        start, end = where
        with self.owned(file, (start, end)) as claim:
            if claim is None or end > file.content.size:
                return
            handle, punch = self.handle(file), self.rng.random() < 0.6
            change = file.content.begin("punch_hole" if punch else "zero_range", start, bytes(end - start))
            call = handle.punch_hole if punch else handle.zero_range
            self.changing(file, change, lambda: call(start, end - start))

    # -- what changes nothing

    def fsync(self, file: File) -> None:
        """What was written before is stored when it returns [I-18]."""
        window = file.look(0, file.content.most)
        if self.rng.random() < 0.7:
            self.handle(file).fsync(timeout=PATIENCE)
        else:
            self.world.volume.sync(PATIENCE)
        window.verify(self.world.stored.read(file.key), f"{file.key}: the store after fsync")

    def hand_over(self, file: File) -> None:
        if self.rng.random() < 0.5:
            self.handle(file).flush()
        else:
            start, end = self.range(self.world.variant.most)
            self.handle(file).sync_range(start, end - start)

    def drop(self, file: File) -> None:
        start, end = self.range(self.world.variant.most)
        if self.rng.random() < 0.5:
            self.world.volume.drop_clean(file.key, start, end - start)
        elif self.rng.random() < 0.2:
            self.world.volume.drop_clean()
        else:
            try:
                self.world.volume.invalidate(file.key, start, end - start)
            except BlockingIOError:
                self.world.counts["invalidate refused"] += 1

    def advise(self, file: File) -> None:
        start, end = self.range(self.world.variant.most)
        handle = self.handle(file)
        if self.rng.random() < 0.5:
            handle.advise(self.rng.choice(list(Advice)), start, end - start)
        else:
            handle.prefetch(start, end - start, wait=self.rng.random() < 0.5)

    def reopen(self, file: File) -> None:
        direct = self.rng.random() < 0.5
        start, end = self.range(self.world.variant.most)
        with self.world.volume.open(file.key, "rb", direct=direct) as handle:
            window = file.look(start, end)
            window.verify(handle.pread(end - start, start), f"{file.key}: by a new handle")


def put(view: View, at: int, data: bytes) -> None:
    """Store into the segments."""
    for segment in view.segments:
        if at < len(segment) and data:
            part = data[: len(segment) - at]
            segment[at : at + len(part)] = part
            data, at = data[len(part) :], 0
        else:
            at -= len(segment)
