"""Workers: threads, and tasks on one event loop, each running its operations one after another."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from pagecache.stress.history import Broken
from pagecache.stress.profiles import PROFILES, Operation, operations
from pagecache.stress.script import Script
from pagecache.stress.steps import Step, Steps
from pagecache.stress.targets import Verb
from pagecache.stress.world import Halted, World, described

Recorded = Callable[[str, Sequence[Any]], AbstractContextManager[None]]

PAUSE = 0.001  # seconds before an operation that faults refused is retried
TASKS_SHARE = 4  # a task runs so many times fewer operations than a thread


def tasks_of(world: World) -> int:
    """Return the number of tasks: 0 if the target has no coroutines."""
    return 0 if world.target.tasks is None else world.plan.tasks


def stream_of(world: World, worker: int) -> Iterator[Operation]:
    """Yield the operations that the seed gives a worker, without end."""
    plan = world.plan
    return operations(
        PROFILES[plan.profile],
        plan.rng("worker", world.number, worker),
        files=plan.files,
        size=plan.size_bytes,
        edges=world.target.edges,
        ways=[way for way in plan.mix or world.target.ways if way in world.target.ways],
    )


class Players:
    """All workers of a round; their streams of operations continue from stir to stir, or they play a script.

    Attributes:
        count: operations of a thread in a stir; tasks run their share.
        stirs: number of stirs so far.
    """

    def __init__(self, world: World, count: int) -> None:
        self.world, self.count, self.stirs = world, count, 0
        plan = world.plan
        numbers = range(1, 1 + plan.threads + plan.tasks)
        self._steps = [Steps(world, number) for number in numbers]
        self._streams = [stream_of(world, number) for number in numbers]
        self._begun: list[list[int]] = [[] for _ in numbers]  # of each worker: number of operations begun in each stir

    def turn(self, number: int) -> Iterator[Operation]:
        """Yield the operations of worker `number` (from 0) in this stir: of its stream, or those of the script."""
        script, begun = self.world.plan.script, self._begun[number]
        stream = itertools.islice(self._streams[number], self._share(number))
        for operation in stream if script is None else script.turn(number, len(begun) - 1):
            if self.world.stopped.is_set():
                return
            begun[-1] += 1
            yield operation

    def script(self, *, planned: bool) -> Script:
        """Return the operations begun so far, or with `planned` all of their stirs; repeated ones once."""
        plan, script = self.world.plan, self.world.plan.script
        workers = []
        for number, begun in enumerate(self._begun[: plan.threads + tasks_of(self.world)]):
            if script is None:
                stream, most = stream_of(self.world, number + 1), self._share(number)
                stirs = [tuple(itertools.islice(stream, most if planned else count)) for count in begun]
            else:
                known = zip(script.workers[number], begun, strict=False)
                stirs = [stir if planned else stir[:count] for stir, count in known]
            workers.append(tuple(stirs))
        repeat = 1 if script is None else script.repeat
        contents = tuple(self.world.contents)
        return Script(contents, tuple(workers[: plan.threads]), tuple(workers[plan.threads :]), repeat)

    def _share(self, number: int) -> int:
        """Return the number of operations of worker `number` (from 0) in a stir."""
        return self.count if number < self.world.plan.threads else max(1, self.count // TASKS_SHARE)

    def stir(self) -> list[threading.Thread]:
        """Start a stir; return the running threads."""
        plan, go = self.world.plan, threading.Event()
        self.stirs += 1
        for begun in self._begun:
            begun.append(0)
        in_step = PROFILES[plan.profile].in_step and not tasks_of(self.world)
        # Damage that two calls do together is seen before a third one repairs it: a size that is too large is right
        # again with the next write at the end.
        bar = threading.Barrier(plan.threads, self._check_state) if in_step else None
        calls = [(f"stress-{number + 1}", partial(self._thread, number, go, bar)) for number in range(plan.threads)]
        calls += [("stress-tasks", partial(self._loop))] if tasks_of(self.world) else []
        run = self.world.run
        threads = [threading.Thread(target=run, args=(call,), name=name, daemon=True) for name, call in calls]
        try:
            for thread in threads:
                thread.start()
        finally:
            go.set()  # all at once: a thread with little work would end before the next one runs
        return threads

    def recall(self, found: Callable[[str], bytes | None]) -> None:
        """After a crash, set the workers' names to the contents that `found` returns."""
        for steps in self._steps:
            steps.recall(found)

    # -- threads

    def _thread(self, number: int, go: threading.Event, bar: threading.Barrier | None) -> None:
        try:
            go.wait()
            for operation in self.turn(number):
                step = self._steps[number].conduct(operation)
                played(self.world.target, step, partial(self.world.move, number + 1), self.world.recorded)
                if bar is not None:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        bar.wait()
        except BaseException as error:
            self._failed(error)
        finally:
            if bar is not None:
                bar.abort()  # the others go on alone

    def _check_state(self) -> None:
        """Check the state after all threads have ended an operation."""
        self.world.counters["looks in step"] += 1
        try:
            self.world.target.check()
        except AssertionError as error:
            self.world.fail(Broken(f"in step: {error}", "check"))

    # -- tasks

    def _loop(self) -> None:
        try:
            asyncio.run(self._tasks())
        except BaseException as error:
            self._failed(error)

    async def _tasks(self) -> None:
        plan = self.world.plan
        self.world.loop = asyncio.get_running_loop()
        try:
            await self.world.target.tasks.open()
            numbers = range(plan.threads, plan.threads + plan.tasks)
            await asyncio.wait([asyncio.create_task(self._task(number)) for number in numbers])
        finally:
            await self.world.target.tasks.close()
            self.world.loop = None

    async def _task(self, number: int) -> None:
        try:
            for operation in self.turn(number):
                await self._play_async(number, self._steps[number].conduct(operation))
                await asyncio.sleep(0)
        except BaseException as error:
            self._failed(error)

    async def _play_async(self, number: int, step: Step) -> None:
        call, answer = self.world.target.tasks.call, None
        with contextlib.suppress(StopIteration):
            while True:
                name, *arguments = continued(step, answer)
                try:
                    with self.world.recorded(name, arguments):
                        answer = await (asyncio.sleep(PAUSE) if name == "pause" else call(name, tuple(arguments)))
                except (OSError, ValueError) as error:
                    answer = error
                self.world.move(self._steps[number].worker)

    def _failed(self, error: BaseException) -> None:
        """Record the first failure, which makes the other workers end after their operations. Interruptions by a crash
        do not count.
        """
        if isinstance(error, Halted) or (isinstance(error, OSError) and self.world.crashing):
            return
        self.world.fail(error if isinstance(error, Broken) else Broken(described(error), "error"))


def played(
    target: Any, step: Step, returned: Callable[[], None] = lambda: None, recorded: Recorded = lambda *_: nullcontext()
) -> None:
    """Make the calls of an operation in this thread, each within `recorded`; `returned` is called after each."""
    answer = None
    with contextlib.suppress(StopIteration):
        while True:
            name, *arguments = continued(step, answer)
            try:
                call = partial(time.sleep, PAUSE) if name == "pause" else partial(getattr(target, name), *arguments)
                with recorded(name, arguments):
                    answer = call()
            except (OSError, ValueError) as error:
                answer = error
            returned()


def continued(step: Step, answer: Any) -> Verb:
    """Return the next verb of an operation, after the answer to the last one: a result, or an error."""
    return step.throw(answer) if isinstance(answer, OSError | ValueError) else step.send(answer)
