"""Workers: threads, and tasks on one event loop, each playing its operations one after another."""

from __future__ import annotations

import asyncio
import itertools
import threading
import traceback
from collections.abc import Callable, Collection, Iterator

from pagecache.stress.history import Broken
from pagecache.stress.profiles import PROFILES, Operation, operations
from pagecache.stress.steps import Step, Steps
from pagecache.stress.world import Failure, Halted, World

__all__ = ["Players"]

LIFE = 20  # bits of a sequence number that are counted within one life
TASKS_SHARE = 4  # a task makes so many times fewer operations than a thread


class Players:
    """All workers of a round, or some; their streams of operations go on from stir to stir.

    Args:
        world: of the round.
        life: of which stir, where each has workers of its own, in another process.
        workers: numbers of those that are played here, threads first; None: all.
    """

    def __init__(self, world: World, life: int = 0, workers: Collection[int] | None = None) -> None:
        self.world = world
        self._life = life
        plan = world.plan
        numbers = range(1, 1 + plan.threads + plan.tasks)
        self._steps = [Steps(world, number, life << LIFE) for number in numbers]
        self._streams = [self._stream(number) for number in numbers]
        self._played = frozenset(numbers if workers is None else workers)

    def _stream(self, worker: int) -> Iterator[Operation]:
        world, plan = self.world, self.world.plan
        ways = [way for way in plan.mix or world.target.ways if way in world.target.ways]
        return operations(
            PROFILES[plan.profile],
            plan.rng("worker", world.number, worker, *([self._life] if self._life else [])),
            files=plan.files,
            size=plan.size_bytes,
            edges=world.target.edges,
            ways=ways,
        )

    def stir(self, count: int) -> list[threading.Thread]:
        """Let each thread make `count` operations, and tasks their share; returns the threads, which run."""
        plan = self.world.plan
        threads = [
            threading.Thread(target=self._thread, args=(number, count), name=f"stress-{number + 1}", daemon=True)
            for number in range(plan.threads)
            if number + 1 in self._played
        ]
        if plan.tasks and self.world.target.tasks is not None:
            share = max(1, count // TASKS_SHARE)
            threads.append(threading.Thread(target=self._loop, args=(share,), name="stress-tasks", daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def recall(self, found: Callable[[str], bytes | None]) -> None:
        """After a crash: names have what `found` says."""
        for steps in self._steps:
            steps.recall(found)

    # -- threads

    def _thread(self, number: int, count: int) -> None:
        try:
            for operation in itertools.islice(self._streams[number], count):
                if self.world.stopped.is_set():
                    return
                self._play(self._steps[number].conduct(operation))
        except BaseException as error:
            self._failed(error)

    def _play(self, step: Step) -> None:
        target = self.world.target
        try:
            name, *arguments = next(step)
            while True:
                try:
                    answer = getattr(target, name)(*arguments)
                except (OSError, ValueError) as error:
                    name, *arguments = step.throw(error)
                else:
                    name, *arguments = step.send(answer)
        except StopIteration:
            pass

    # -- tasks

    def _loop(self, count: int) -> None:
        try:
            asyncio.run(self._tasks(count))
        except BaseException as error:
            self._failed(error)

    async def _tasks(self, count: int) -> None:
        plan = self.world.plan
        try:
            await self.world.target.tasks.open()
            numbers = range(plan.threads, plan.threads + plan.tasks)
            await asyncio.wait([asyncio.create_task(self._task(number, count)) for number in numbers])
        finally:
            await self.world.target.tasks.close()

    async def _task(self, number: int, count: int) -> None:
        try:
            for operation in itertools.islice(self._streams[number], count):
                if self.world.stopped.is_set():
                    return
                await self._play_async(self._steps[number].conduct(operation))
                await asyncio.sleep(0)
        except BaseException as error:
            self._failed(error)

    async def _play_async(self, step: Step) -> None:
        call = self.world.target.tasks.call
        try:
            name, *arguments = next(step)
            while True:
                try:
                    answer = await call(name, tuple(arguments))
                except (OSError, ValueError) as error:
                    name, *arguments = step.throw(error)
                else:
                    name, *arguments = step.send(answer)
        except StopIteration:
            pass

    def _failed(self, error: BaseException) -> None:
        """One is enough: the others end after what they do. What a crash has interrupted is nothing."""
        if isinstance(error, Halted) or (isinstance(error, OSError) and self.world.crashing):
            return
        if isinstance(error, Broken):
            self.world.fail(Failure(error.kind, str(error)))
        else:
            self.world.fail(Failure("error", "".join(traceback.format_exception(error)).strip()))
