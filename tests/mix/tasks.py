"""What a task of the mix does. It takes what it wants to change if it is free, and reads otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pagecache import View, aio

from .choosing import Chooser
from .history import Change
from .ranges import END, Claim
from .threads import put
from .world import File, World

__all__ = ["Task", "run_tasks"]

Handles = dict[str, list[aio.AsyncCachedFile]]


class Task(Chooser):
    def __init__(self, world: World, handles: Handles, seed: str) -> None:
        super().__init__(world, seed)
        self.handles = handles
        self.verbs: list[Callable[[File], Awaitable[None]]] = [
            *(verb for verb in (self.read, self.write) for _ in range(8)),
            *(verb for verb in (self.append, self.view, self.copy, self.store) for _ in range(2)),
            self.truncate,
            self.hole,
            self.fsync,
            self.flush,
            self.give_up,
        ]

    async def run(self, times: int, stopped: Callable[[], bool]) -> None:
        for _ in range(times):
            if stopped():
                return
            verb = self.rng.choice(self.verbs)
            await verb(self.rng.choice(self.world.files))
            self.world.counts[f"task {verb.__name__}"] += 1
            await asyncio.sleep(0)

    def handle(self, file: File) -> aio.AsyncCachedFile:
        return self.rng.choice(self.handles[file.key])

    def claim(self, file: File, wanted: Callable[[], Claim | None]) -> Claim | None:
        return file.ranges.attempt(wanted)

    async def view_of(self, file: File, start: int, size: int, *, writable: bool = False) -> View | None:
        """None: there is no room for one. ValueError: the range is not in the file."""
        amount = self.world.take(size)
        if not amount:
            return None
        try:
            view: View = await self.handles[file.key][0].view(start, size, writable=writable)
        except BaseException as error:
            self.world.budget.give(amount)
            if isinstance(error, OSError) and self.world.excused(error):
                return None
            raise
        self.world.budget.give_with(view, amount)
        return view

    async def changing(self, file: File, change: Change, call: Awaitable[object]) -> None:
        try:
            await call
        except OSError as error:
            if not self.world.excused(error):
                raise
            await asyncio.to_thread(file.settle, change)
        else:
            file.content.finish(change)

    async def read(self, file: File) -> None:
        start, end = self.range()
        handle, how = self.handle(file), self.rng.randrange(3)
        window = file.look(start, end)
        if how == 0:
            got = await handle.pread(end - start, start)
        elif how == 1:
            space = bytearray(end - start)
            got = bytes(space[: await handle.pread_into(space, start)])
        else:
            found = handle.try_pread(end - start, start)
            if found is None:
                return
            got = found
        window.verify(got, f"{file.key}: task read {how} by {type(handle).__name__}")

    async def write(self, file: File) -> None:
        start, end = self.range()
        with self.owning(file, file.inside((start, end))) as claim:
            if claim is None:
                await self.read(file)
                return
            handle, data = self.handle(file), self.rng.randbytes(end - start)
            change = file.content.begin(f"task pwrite by {type(handle).__name__}", start, data)
            how = self.rng.randrange(3)
            if how == 0 and handle is self.handles[file.key][0]:
                if handle.try_pwrite(data, start) is None:
                    file.content.cancel(change)
                else:
                    file.content.finish(change)
            elif how == 1:
                cut = self.rng.randrange(len(data) + 1)
                await self.changing(file, change, handle.pwritev([data[:cut], data[cut:]], start))
            else:
                await self.changing(file, change, handle.pwrite(data, start))

    async def append(self, file: File) -> None:
        data = self.rng.randbytes(self.rng.randrange(1, 2000))

        def wanted() -> Claim | None:
            size = file.content.size
            return Claim([(size, END)], appends=True) if size < self.world.variant.most else None

        with self.owning(file, wanted) as claim:
            if claim is None:
                await self.read(file)
                return
            change = file.content.begin_append(data)
            try:
                offset = await self.handle(file).append(data)
            except OSError as error:
                self.world.refused_append(file, change, error)
            else:
                file.content.finish_append(change, offset)

    async def view(self, file: File) -> None:
        size = file.content.size
        if not size:
            return
        start, end = self.range(size)
        window = file.look(start, end)
        try:
            view = await self.view_of(file, start, end - start)
        except ValueError:
            window.verify_shorter(end, f"{file.key}: a view of what is not there")
            return  # the file was cut meanwhile
        if view is None:
            return
        with view:
            for _ in range(self.rng.randrange(1, 4)):
                window.verify(view.tobytes(), f"{file.key}: task view, detached {view.detached}", short=True)
                await asyncio.sleep(0)

    async def copy(self, file: File) -> None:
        """Within the file, overlapping or not."""

        def beside(start: int, size: int) -> int:
            return max(0, min(self.world.variant.most - size, start + self.rng.randrange(-size, size + 1)))

        with self.owning_inside(file, beside) as owned:
            if owned is None:
                return
            start, end, to = owned
            view = await self.view_of(file, start, end - start)
            if view is None:
                return
            with view:
                handle = self.handle(file)
                change = file.content.begin(f"task copy by {type(handle).__name__}", to, view.tobytes())
                if len(view.segments) == 1:
                    await self.changing(file, change, handle.pwrite(view.segments[0], to))
                else:
                    await self.changing(file, change, handle.pwritev(view.segments, to))

    async def store(self, file: File) -> None:
        """Through a writable view."""
        with self.owning_inside(file) as owned:
            if owned is None:
                return
            start, end, _ = owned
            view = await self.view_of(file, start, end - start, writable=True)
            if view is None:
                return
            with view:
                for _ in range(2):
                    data = self.rng.randbytes(len(view))
                    change = file.content.begin("task store to a view", start, data)
                    put(view, 0, data)
                    if view.detached:
                        await asyncio.to_thread(file.settle, change)
                        return
                    file.content.finish(change)
                    await asyncio.sleep(0)

    async def truncate(self, file: File) -> None:
        to = self.place(self.world.variant.most)
        with self.owning(file, lambda: Claim([(min(to, file.content.size), END)])) as claim:
            if claim is None:
                return
            size = file.content.size
            change = file.content.begin("task truncate", min(to, size), bytes(max(0, size - to)), to)
            try:
                await self.handle(file).truncate(to)
            except OSError as error:
                if not self.world.excused(error):
                    raise
                file.content.cancel(change)
            else:
                file.content.finish(change)

    async def hole(self, file: File) -> None:
        with self.owning_inside(file) as owned:
            if owned is None:
                return
            start, end, _ = owned
            handle = self.handle(file)
            change = file.content.begin("task hole", start, bytes(end - start))
            call = handle.punch_hole if self.rng.random() < 0.5 else handle.zero_range
            await self.changing(file, change, call(start, end - start))

    async def fsync(self, file: File) -> None:
        window = file.look(0, file.content.most)
        if self.rng.random() < 0.7:
            await self.handle(file).fsync(timeout=30)
        else:
            await self.world.volume.begin_sync()
        window.verify(
            await asyncio.to_thread(self.world.stored.read, file.key), f"{file.key}: the store after task fsync"
        )

    async def flush(self, file: File) -> None:
        await self.handle(file).flush()

    async def give_up(self, file: File) -> None:
        """A read that is cancelled leaves nothing behind."""
        start, end = self.range()
        read = asyncio.ensure_future(self.one_read(file, start, end))
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.wait([read])
        if not read.cancelled():
            read.result()

    async def one_read(self, file: File, start: int, end: int) -> None:
        handle, window = self.handle(file), file.look(start, end)
        window.verify(await handle.pread(end - start, start), f"{file.key}: task read that may be cancelled")


async def run_tasks(
    world: World,
    count: int,
    times: int,
    seed: str,
    stopped: Callable[[], bool],
    failed: Callable[[BaseException], None],
) -> None:
    """`count` tasks on this loop. `failed` is told at once: the others go on owning what they own until they stop."""
    handles: Handles = {}
    for file in world.files:
        handles[file.key] = [
            await aio.open(world.volume, file.key, "r+b"),
            await aio.open(world.volume, file.key, "r+b", direct=True),
            await aio.open(world.volume, file.key, "r+b", direct=True, parallel_direct_writes=world.variant.parallel),
        ]

    async def one(number: int) -> None:
        try:
            await Task(world, handles, f"{seed} task {number}").run(times, stopped)
        except BaseException as error:
            failed(error)

    try:
        await asyncio.wait([asyncio.create_task(one(number)) for number in range(count)])
    finally:
        for opened in handles.values():
            for handle in opened:
                await handle.close()
