"""What a thread of the mix does: a random verb after the other, each owning what it changes."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

from pagecache import Advice, CachedFile, View

from .choosing import Chooser
from .history import Change
from .ranges import END, Claim
from .world import OWNED, PATIENCE, File, World

__all__ = ["Worker", "put"]


class Worker(Chooser):
    def __init__(self, world: World, seed: str) -> None:
        super().__init__(world, seed)
        self.own = 0
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
            self.rename_and_remove: 1,
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

    def claim(self, file: File, wanted: Callable[[], Claim | None]) -> Claim | None:
        return file.ranges.obtain(wanted, OWNED)

    # -- reading

    def read(self, file: File) -> None:
        start, end = self.range()
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
        start, end = self.range()
        handle = file.plain
        window = file.look(start, end)
        got = handle.try_pread(end - start, start)
        if got is not None:
            window.verify(got, f"{file.key}: try_pread")

    def look_at_view(self, file: File) -> None:
        if not (size := file.content.size):
            return
        start, end = self.range(size)
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
        start, end = self.range()
        handle = self.handle(file)
        data = self.rng.randbytes(end - start)
        with self.owning(file, file.inside((start, end))):
            change = file.content.begin(f"pwrite by {type(handle).__name__}", start, data)
            cut = self.rng.randrange(len(data) + 1)
            if self.rng.random() < 0.3:
                self.changing(file, change, lambda: handle.pwritev([data[:cut], data[cut:]], start))
            else:
                self.changing(file, change, lambda: handle.pwrite(data, start))

    def try_write(self, file: File) -> None:
        start, end = self.range()
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
        data = self.rng.randbytes(self.length())

        def wanted() -> Claim | None:
            size = file.content.size
            return Claim([(size, END)], appends=True) if size < self.world.variant.most else None

        with self.owning(file, wanted) as claim:
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
        with self.owning_inside(file) as owned:
            if owned is None:
                return
            start, end, _ = owned
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

        def beside(start: int, size: int) -> int:
            if self.rng.random() < 0.3:
                return self.place(self.world.variant.most - size + 1)
            return max(0, min(self.world.variant.most - size, start + self.rng.randrange(-size, size + 1)))

        with self.owning_inside(file, beside) as owned:
            if owned is None:
                return
            start, end, to = owned
            view = self.world.view(file, start, end - start)
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

        def beside(start: int, size: int) -> int:
            return max(0, min(file.content.size - size, start + self.rng.randrange(-2 * size, 2 * size + 1)))

        with self.owning_inside(file, beside) as owned:
            if owned is None:
                return
            start, end, origin = owned
            size = end - start
            if origin + size > file.content.size:
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
        to = self.place(self.world.variant.most)
        with self.owning(file, lambda: Claim([(min(to, file.content.size), END)])):
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
        with self.owning_inside(file) as owned:
            if owned is None:
                return
            start, end, _ = owned
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
            start, end = self.range()
            self.handle(file).sync_range(start, end - start)

    def drop(self, file: File) -> None:
        start, end = self.range()
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
        start, end = self.range()
        handle = self.handle(file)
        if self.rng.random() < 0.5:
            handle.advise(self.rng.choice(list(Advice)), start, end - start)
        else:
            handle.prefetch(start, end - start, wait=self.rng.random() < 0.5)

    def reopen(self, file: File) -> None:
        direct = self.rng.random() < 0.5
        start, end = self.range()
        with self.world.volume.open(file.key, "rb", direct=direct) as handle:
            window = file.look(start, end)
            window.verify(handle.pread(end - start, start), f"{file.key}: by a new handle")

    # -- names: files of its own, which nobody else knows

    def rename_and_remove(self, file: File) -> None:
        """Under another name, perhaps one that was another file's, and without any, a handle shows what it showed."""
        volume, data = self.world.volume, self.rng.randbytes(self.length())
        self.own += 1
        key, other = (f"{name} of {id(self)} {self.own}" for name in ("first", "second"))
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(volume.open(key, "x+b"))
            stack.callback(self._remove_all, key, other)
            try:
                own.pwrite(data, 0)
                if self.rng.random() < 0.3:
                    stack.enter_context(volume.open(other, "x+b")).pwrite(data[::-1], 0)
                    volume.sync(PATIENCE)
            except OSError as error:
                if not self.world.excused(error):
                    raise
                return
            if self.world.variant.publishes or self.rng.random() < 0.5:
                own.fsync(timeout=PATIENCE)  # what was never published has no name yet that could be moved
            volume.rename(key, other)
            assert not volume.exists(key)
            with volume.open(other, "rb") as moved:
                assert moved.pread(len(data) + 1, 0) == data, "after a rename, by a new handle"
            if self.rng.random() < 0.5:
                volume.remove(other)
                assert not volume.exists(other)
            assert own.pread(len(data) + 1, 0) == data, "after rename and remove, by the old handle"

    def _remove_all(self, *keys: str) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self.world.volume.remove(key)


def put(view: View, at: int, data: bytes) -> None:
    """Store into the segments."""
    for segment in view.segments:
        if at < len(segment) and data:
            part = data[: len(segment) - at]
            segment[at : at + len(part)] = part
            data, at = data[len(part) :], 0
        else:
            at -= len(segment)
