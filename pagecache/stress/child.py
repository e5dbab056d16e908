"""A process that plays the workers of one stir, records their calls in a journal, and may be killed in between.

    parent                            child
    spawn(Task) ────── pickled ─────▶ main: target over the parent's store, models, workers
      │                                 │
      │      journal (shared) ◀─────────┤ each call before it begins, and after it returned
      │                                 ╳ SIGKILL, by itself, at the record or store call that the seed chose
    wait, then read the journal

The moment is a count, not a time, so a replay dies at one fixed place in its stream of calls.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import Key
from pagecache.stress.hang import Hang
from pagecache.stress.history import Broken, Write
from pagecache.stress.journal import Full, Journal
from pagecache.stress.plan import Plan
from pagecache.stress.targets import UnusableTarget
from pagecache.stress.world import Failure, Found, World
from pagecache.stress.zygote import START, Forked

__all__ = ["START", "Child", "MortalBackend", "Task", "die", "first_write", "main", "spawn", "waiting"]

CHECK_S = 0.2  # seconds between checks of whether to stop


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one child.

    Attributes:
        play: plays the workers; called with this task and the journal.
        plan, number: of the run, of the round.
        life: index of the stir in the round.
        target: source of the target.
        contents: of the files, as stored.
        names: of the workers' own objects -> content.
        workers: numbers of the workers to play.
        count: operations of each worker.
        calls: the store call at which the child dies, counted from 1; 0: at none.
        fate: of that call: "before", "half" or "after".
        records: the journal record after which the child dies; 0: none.
    """

    play: Callable[[Task, Journal], None]
    plan: Plan
    number: int
    life: int
    target: Any
    contents: list[bytes]
    names: dict[str, bytes]
    workers: Sequence[int]
    count: int
    calls: int = 0
    fate: str = "before"
    records: int = 0


class Child(Forked):
    """A running child; a context manager that leaves no process behind."""

    def __init__(self, task: Task) -> None:
        self.fd = Journal.make()
        super().__init__(__name__, [self.fd], task)

    def end(self, timeout: float, stopped: threading.Event) -> int:
        """Wait for the end and return the exit status: 0, or minus a signal. If `stopped` is set, kill the child.

        Raises:
            Found: the child does not end.
        """
        end = time.monotonic() + timeout
        while (status := self.wait(CHECK_S)) is None:
            if stopped.is_set():
                self.kill()
            elif time.monotonic() > end:
                hang = Hang(("a process of workers does not end",), (), {"its threads": self.stacks().splitlines()})
                raise Found(Failure("hang", hang.describe(), hang=hang))
        return status

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        os.close(self.fd)


def unpicklable(what: object) -> str:
    """Return why a factory cannot be sent to another process, as a sentence; "" if it can."""
    try:
        pickle.dumps(what)
    except Exception as error:
        return f"{what!r} cannot be brought to another process: {error}"
    if getattr(what, "__module__", "") == "__main__":
        return f"{what!r} is of the main program: put it into a module"
    return ""


def spawn(task: Task) -> Child:
    """Start a child.

    Raises:
        UnusableTarget: the source of the target cannot be pickled.
    """
    if why := unpicklable(task.target):
        raise UnusableTarget(why)
    return Child(task)


def waiting(world: World, whom: str, stir: Callable[[], None]) -> list[threading.Thread]:
    """Make a thread that runs a stir of children; its exceptions become failures of the world.

    Args:
        world: of the parent.
        whom: name of the awaited processes in reports.
        stir: starts the children, waits for them, and reports their calls.
    """

    def guarded() -> None:
        try:
            stir()
        except Found as found:
            world.fail(found.failure)
        except Broken as error:
            world.fail(Failure.of(error))
        except Exception as error:
            world.fail(Failure("error", f"{whom}: {type(error).__name__}: {error}"))

    thread = threading.Thread(target=world.run, args=(guarded,), name="stress-processes", daemon=True)
    thread.start()
    return [thread]


def die() -> None:
    """Kill this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(START)  # no thread may run on before the signal arrives


def main(fd: int, task: Task) -> None:
    """Run a task; the entry point of the child."""
    journal = MortalJournal(fd, task.records)
    try:
        task.play(task, journal)
    except UnusableTarget as error:
        journal.put("unusable", str(error))
    except Full:
        die()
    except Found as found:
        journal.note("failure", found.failure)
    except Broken as error:
        journal.note("failure", Failure(error.kind, str(error)))
    except BaseException as error:
        journal.note("failure", Failure("error", "".join(traceback.format_exception(error)).strip()))
    os._exit(0)


class MortalJournal(Journal):
    """A journal whose process dies after a given number of records."""

    def __init__(self, fd: int, records: int) -> None:
        super().__init__(fd)
        self._left = records

    def put(self, *record: Any) -> None:
        super().put(*record)
        self._left -= 1  # with several threads here, either this record or the next
        if not self._left:
            die()


class Countdown:
    """Count store calls down to the one that kills the process."""

    def __init__(self, calls: int, fate: str) -> None:
        self._left, self._fate = calls, fate
        self._lock = threading.Lock()

    def around(self, call: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Make a call that changes the store."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and self._fate == "half" and half is not None:
            half()
        if last and self._fate != "after":
            die()
        answer = call()
        if last:
            die()
        return answer


class MortalBackend(PassingBackend):
    """A backend whose process dies at one of its calls."""

    def __init__(self, inner: Backend, task: Task) -> None:
        super().__init__(inner)
        self._countdown = Countdown(task.calls, task.fate)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        def opened() -> BackendFile:
            return MortalFile(self.inner.open(key, create=create, exclusive=exclusive), self._countdown)

        return cast(BackendFile, self._countdown.around(opened)) if create else opened()

    def remove(self, key: Key) -> None:
        self._countdown.around(lambda: self.inner.remove(key))

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self._countdown.around(lambda: self.inner.rename(src, dst, replace=replace))

    def sync(self) -> None:
        self._countdown.around(self.inner.sync)


class MortalFile(PassingFile):
    """An object of `MortalBackend`."""

    def __init__(self, inner: BackendFile, countdown: Countdown) -> None:
        super().__init__(inner)
        self._countdown = countdown

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        first = buffers[: (len(buffers) + 1) // 2]
        half = [*first[:-1], first[-1][: len(first[-1]) // 2]] if len(buffers) < 2 else first

        def torn() -> None:
            with contextlib.suppress(Exception):  # for example of less than a unit
                if any(len(buffer) for buffer in half):
                    self.inner.write_from(offset, half)

        return cast(int, self._countdown.around(lambda: self.inner.write_from(offset, buffers), torn))

    def truncate(self, size: int) -> None:
        self._countdown.around(lambda: self.inner.truncate(size))

    def commit(self) -> str | None:
        return cast("str | None", self._countdown.around(self.inner.commit))

    def _punch_hole(self, offset: int, length: int) -> None:
        inner: Any = self.inner
        self._countdown.around(lambda: inner.punch_hole(offset, length))


def first_write(file: int, tag: int, content: bytes) -> Write:
    """Return the write that stands for a content that exists already."""
    write = Write("content", "", 0, 0, file, tag, 0, len(content))
    write.literal = [(0, (content,))] if content else []
    return write
