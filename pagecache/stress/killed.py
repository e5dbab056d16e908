"""Kill the process of the cache: in each stir of a round the cache is in a child, over a store that outlives it.

    rest        the parent's cache saves everything, and is closed
    stir        a child makes a cache over the parent's store. The workers of the parent make its calls, over sockets.
                The child dies at a call that the seed chooses: it is done, or in part, or not
    recover     call the factory again; the stored state must be one that a crash may leave (durable.py); then make a
                new cache in the parent
    rest        read everything by every way

So the models of the parent see each call begin, and return or fail. The moment is a count of calls, not a time. Views
are memory of the child, and tasks have its loop: such a round has neither.

If the child does not find the parent's files, the store ends with its process: the run is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any, cast

from pagecache.errors import set_written
from pagecache.stress.cached import CachedTarget
from pagecache.stress.crash import Crash
from pagecache.stress.hang import state
from pagecache.stress.history import Broken
from pagecache.stress.naming import maker
from pagecache.stress.plan import Plan
from pagecache.stress.player import Players
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.stress.world import World, described

CALLS = (6, 50, 200)
"""Upper bounds for the number of calls before the child dies; one of them is chosen for each stir."""
RECOVERS = 1.0  # seconds, at most, before a child that recovers is killed
START = 60.0  # seconds that a loaded machine may take to start a process, and to end one
ASKED = 5.0  # seconds in which a child says where it hangs
CHECK_S = 0.2  # seconds between checks of whether to stop
CONNECTIONS = 100  # at most so many calls at one time
STDERR_MAX = 8000  # characters of stderr in an error
PR_SET_PDEATHSIG = 1
PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import pagecache.stress.killed as k; k.main()"
)
OWN = ("key", "level", "calm", "give_up", "remember", "discard")
"""Methods of the parent's target that are not calls of the cache."""


def unpicklable(what: object) -> str:
    """Return why a factory cannot be sent to another process, as a sentence; "" if it can."""
    try:
        pickle.dumps(what)
    except Exception as error:
        return f"{what!r} cannot be brought to another process: {error}"
    if getattr(what, "__module__", "") == "__main__":
        return f"{what!r} is of the main program: put it into a module"
    return ""


# ---------------------------------------------------------------------------------------------- the parent


class Killed(Crash):
    """Crashes by SIGKILL.

    Args:
        world: of the round.
        target: its target.
        made_from: source of the target, by name or as a factory.
    """

    kind = "killed"

    def __init__(self, world: World, target: CachedTarget, made_from: Any) -> None:
        super().__init__(world, target)
        self._made_from = made_from
        self._life = 0
        self._child: Child | None = None
        target.ways -= {"views"}
        target.skipped["tasks and views beside a kill"] = "they are in the process that dies"

    def arm(self) -> None:
        """Move the cache to a child; UnusableTarget: another process does not find the files."""
        super().arm()
        world, target, plan = self._world, self._target, self._world.plan
        target.close()
        self._life += 1
        rng = plan.rng("killed", world.number, self._life)
        dies = rng.randrange(1, rng.choice(CALLS))
        self._child = child = Child(plan, world.number, self._made_from)
        if why := child.begun(world.stopped):
            raise UnusableTarget(f"crashes: killed cannot be on {target.name}: {why}")
        world.target = cast(Target, Remote(target, child, world, dies))

    def _recover(self, players: Players) -> None:
        self.stop()
        self._target.remember(self._durable.names())
        rng = self._world.plan.rng("recovery", self._world.number, self._life)
        while self._world.plan.durability == "disk" and rng.random() < 0.25:
            child = Child(self._world.plan, self._world.number, self._made_from)
            time.sleep(rng.random() * RECOVERS)
            child.kill()
            self._world.count("recoveries killed")
        self._start_again(players)

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class Child:
    """A process with a cache: `free` are the connections for calls, `spare` is the one for questions."""

    def __init__(self, plan: Plan, number: int, made_from: Any) -> None:
        self.killed = False
        pairs = [Pipe() for _ in range(1 + min(plan.threads, CONNECTIONS))]
        self._errors = os.fdopen(os.memfd_create("pagecache-stress-errors"), "w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[theirs.fileno() for _, theirs in pairs],
            process_group=0,  # Ctrl-C reaches the parent alone, which decides
        )
        assert self._process.stdin is not None
        task = (os.getpid(), plan, number, made_from, [theirs.fileno() for _, theirs in pairs])
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:  # it has failed, and reports how
            for what in (sys.path, task):
                pickle.dump(what, stream)
        for _, theirs in pairs:
            theirs.close()
        self.spare, *ours = (ours for ours, _ in pairs)
        self.free = queue.SimpleQueue[Connection]()
        for connection in ours:
            self.free.put(connection)

    def begun(self, stopped: threading.Event) -> str:
        """Wait until it takes calls; return why it does not, as a sentence; Broken: it has ended."""
        end = time.monotonic() + START
        while not self.spare.poll(CHECK_S):
            if stopped.is_set() or time.monotonic() > end:
                return "it does not begin"
        try:
            return str(self.spare.recv())
        except EOFError:
            raise self.ended() from None

    def ended(self) -> Broken:
        """Return a finding: it has ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(START)
        return Broken(
            f"the process of the cache ended with status {self._process.returncode}\n{self.errors()}", "error"
        )

    def errors(self) -> str:
        """Return the end of its stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-STDERR_MAX:].strip()

    def hang(self, late: Sequence[str]) -> str:
        """Return where it hangs; if it says nothing, the stacks that it writes when it is aborted."""
        with contextlib.suppress(OSError, EOFError):
            self.spare.send(("hang", (list(late),)))
            if self.spare.poll(ASKED):
                return str(self.spare.recv()[1])
        self._process.send_signal(signal.SIGABRT)
        self._process.wait(START)
        return "\n".join([*late, "its threads:", self.errors()])

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.killed = True
        self._process.kill()
        self._process.wait(START)  # a system call that does not return delays its death
        if not self._errors.closed:
            self._errors.close()


class Remote:
    """The target of a child, see `targets.Target`, which is killed at call number `dies`."""

    tasks = None

    def __init__(self, target: CachedTarget, child: Child, world: World, dies: int) -> None:
        self._target, self._child, self._world = target, child, world
        self._left = dies
        self._lock = threading.Lock()  # protects the number of calls that are left
        self.refused: frozenset[int] = frozenset()
        self.hang = child.hang

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return partial(self._call, name) if callable(found) and name not in OWN else found

    @property
    def explained(self) -> frozenset[int]:
        return self._target.explained | self.refused

    def _call(self, name: str, *arguments: Any) -> Any:
        child = self._child
        connection = child.free.get()
        try:
            connection.send((name, arguments))
            with self._lock:
                self._left -= 1
                dies = not self._left
            if dies:
                self._world.crashing = True
                self._world.stopped.set()
                child.kill()
            done, answer, written, refused = connection.recv()
        except (EOFError, OSError):
            if not child.killed:
                raise child.ended() from None
            raise OSError(errno.ENXIO, "the process of the cache is gone") from None
        finally:
            child.free.put(connection)
        self.refused |= refused
        if done:
            return answer
        if written is not None:
            set_written(answer, written)
        raise answer


# ---------------------------------------------------------------------------------------------- the child


def main() -> None:
    """Make a cache, and its calls; the entry point of the child, which ends with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    parent, plan, number, made_from, numbers = pickle.load(sys.stdin.buffer)
    if os.getppid() != parent:  # it has ended since the start
        os._exit(1)
    spare, *others = [Connection(number) for number in numbers]
    try:
        target = cast(CachedTarget, maker(made_from)(plan, number))
        target.tester = parent
        why = "" if target.adopt() else "the store ends with its process: another one does not find the files"
    except UnusableTarget as error:
        why = str(error)
    for at, connection in enumerate(others, 1):
        threading.Thread(target=serve, args=(connection, target), name=f"stress-{at}", daemon=True).start()
    spare.send(why)
    serve(spare, target)


def serve(connection: Connection, target: CachedTarget) -> None:
    """Make the calls that a connection asks for, until the parent has closed it."""
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            call = partial(state, target=target, loop=None) if name == "hang" else getattr(target, name)
            answer = (True, call(*arguments), None)
        except (OSError, ValueError, AssertionError) as error:
            answer = (False, error, getattr(error, "characters_written", None))
        except Exception as error:
            answer = (False, RuntimeError(described(error)), None)
        connection.send((*answer, target.refused))
