"""Workers: threads, and tasks on one event loop, each playing its operations one after another."""

from __future__ import annotations

import asyncio
import itertools
import threading
import traceback
from collections.abc import Iterator

from pagecache.stress.history import Broken
from pagecache.stress.profiles import PROFILES, Operation, operations
from pagecache.stress.steps import Step, Steps
from pagecache.stress.world import Failure, World

__all__ = ["Players"]

TASKS_SHARE = 4  # a task makes so many times fewer operations than a thread


class Players:
    """All workers of a round; their streams of operations go on from stir to stir."""

    def __init__(self, world: World) -> None:
        self.world = world
        plan = world.plan
        self._steps = [Steps(world, number) for number in range(1, 1 + plan.threads + plan.tasks)]
        self._streams = [self._stream(number) for number in range(1, 1 + plan.threads + plan.tasks)]

    def _stream(self, worker: int) -> Iterator[Operation]:
        world, plan = self.world, self.world.plan
        ways = [way for way in plan.mix or world.target.ways if way in world.target.ways]
        return operations(
            PROFILES[plan.profile],
            plan.rng("worker", world.number, worker),
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
        ]
        if plan.tasks and self.world.target.tasks is not None:
            share = max(1, count // TASKS_SHARE)
            threads.append(threading.Thread(target=self._loop, args=(share,), name="stress-tasks", daemon=True))
        for thread in threads:
            thread.start()
        return threads

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
        await self.world.target.tasks.open()
        try:
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
        """One is enough: the others end after what they do."""
        if isinstance(error, Broken):
            self.world.fail(Failure(error.kind, str(error)))
        else:
            self.world.fail(Failure("error", "".join(traceback.format_exception(error)).strip()))
