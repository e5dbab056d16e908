"""Faults of a round, the results that each of them allows, and the repairer.

    error that goes away, short reply, delay, order
                        invisible, apart from an error that does not end
    error that stays, no space
                        a call raises it; accepted bytes are in the cache, and a later retry saves them
    commit that fails   fsync, sync and close raise it; direct writes are reported as lost, because they cannot be sent
                        again
    another version     ESTALE, until the conflict is settled; files are shared by all workers, so only the version
                        changes
    death               calls raise ENOTCONN or ESHUTDOWN; after `reconnect` all accepted and unsynced bytes exist,
                        except uncommitted direct writes

Objects that are replaced as a whole get no other version [2.19]: the ways "rivals" and "others" test that. If no other
program writes, a conflict is a finding.

So an error is a valid result if a fault of the plan explains it [I-22], and no fault explains a byte that is neither
old nor new. The repairer is a thread beside the workers: it reconnects a volume whose backend has died, and settles
conflicts. At rest nothing fails: the repairer has ended, and pending repairs are done first.
"""

from __future__ import annotations

import contextlib
import errno
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pagecache import Event, RetryPolicy, Volume
from pagecache.errors import Key
from pagecache.native import operations
from pagecache.stress.history import Broken
from pagecache.testing import FaultPlan, FaultyBackend, Rule
from pagecache.testing.faults import TRUTH

if TYPE_CHECKING:
    from pagecache.engine.file import EngineFile
    from pagecache.stress.plan import Plan

CHECK_S = 0.005  # seconds between two checks for necessary repairs
NAMING = {"remove", "rename"}
FENCE_TIMEOUT_S = 20.0  # seconds that calls in a dead backend may need to return
PROTOCOL = {errno.EPROTO, errno.EIO}  # errnos of a wrong reply
WRITERS = {"foreign", "losses", "rivals", "others"}  # the ways that store other versions behind the cache


class Faulting:
    """The faults of one round.

    Args:
        plan: of the run.
        number: of the round.
        whole: objects are replaced as a whole: no other version is stored.

    Attributes:
        plan: the faults.
        left_out: rules of the plan do not apply.
        config, options: settings of the cache and its volume that let a round survive the faults.
        explained: errnos that calls may raise.
        shortens: calls may do a part of their work.
        loses_direct: uncommitted direct writes may be lost.
        repairing: a repairer runs while calls fail; `repairs`: repaired thing -> count.
    """

    def __init__(self, plan: Plan, number: int, *, whole: bool = False) -> None:
        rng = plan.rng("faults", number)
        profile = FaultPlan.profile(plan.faults, rng.randrange(1, 1 << 32))
        rules = tuple(rule for rule in profile.rules if not (whole and rule.change))
        self.plan, self.left_out = FaultPlan(rules, profile.seed), len(rules) < len(profile.rules)
        self._rng = random.Random(rng.random())
        self.repairs: Counter[str] = Counter()
        self.config: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        if self.plan.rules:
            self.config["retry"] = RetryPolicy(
                attempts=rng.choice([2, 5]), first_delay=0.001, max_delay=0.02, deadline=5.0, failed_retry=0.1
            )
        self.explained = explained(self.plan.rules)
        self.shortens = any(rule.short is not None for rule in self.plan.rules)
        self.loses_direct = any(rule.dies for rule in self.plan.rules)
        self.repairing = self.loses_direct or any(rule.change for rule in self.plan.rules)
        self._others = whole and "others" in plan.mix
        self._alone = bool(plan.mix) and not (WRITERS & set(plan.mix) or any(rule.change for rule in self.plan.rules))
        self.may_conflict = False  # an object was made under a name that the store may have another one under
        self._unfounded: list[Event] = []  # conflicts although no other program writes
        self._conflict = threading.Event()  # there may be one
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, volume: Volume, backend: FaultyBackend) -> None:
        """Start to fail calls of a volume's backend."""
        self._volume, self._backend = volume, backend
        volume.cache.subscribe(self._heard)
        self.stir()

    def follow(self, backend: FaultyBackend) -> None:
        """Change to another backend of the volume, which does not fail yet."""
        self._backend = backend

    def stir(self) -> None:
        """Let calls fail."""
        self._backend.use(self.plan)
        if self.repairing:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="stress-repair", daemon=True)
            self._thread.start()

    def calm(self) -> None:
        """Stop faults, and finish all repairs; Broken: a conflict was declared although no other program writes."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._backend.use([])
        if self._backend.dead:
            self._reconnect()
        self._settle_all()
        self._volume.retry_failed()
        if self._unfounded and not self.may_conflict:
            event = self._unfounded[0]
            raise Broken(f"{event.key}: a conflict, and no other program writes: {event.error}", "error")

    def _settle_all(self) -> None:
        """Settle all conflicts: events and calls that began under faults end late, so check the files until nothing
        changes.
        """
        volume, until = self._volume.engine, time.monotonic() + FENCE_TIMEOUT_S
        while True:
            still = not self.repairing or all(
                one.volume != volume.native.address for one in operations(self._volume.cache.native.core)
            )
            found = self._in_conflict()
            for key in found:
                self._settle(key)
            if not found:
                if still or time.monotonic() > until:
                    break
                time.sleep(CHECK_S)
        self._conflict.clear()

    def _in_conflict(self) -> list[Key]:
        """Return the keys of files in conflict. An object without a name stays so, beside a conflict of the one
        that has the name now: that comes first.
        """
        files = self._volume.engine.files()
        return [file.key for file in files if file.conflict is not None and self._is_named(file)]

    def _is_named(self, file: EngineFile) -> bool:
        """Return whether `resolve` of its key concerns a file."""
        with self._volume.inodes_lock:
            inode = self._volume.inodes.last_known(file.key)
        return not file.removed and (inode is None or inode is file or inode.conflict is None)

    # -- repairs

    def _heard(self, event: Event) -> None:
        if event.kind == "conflict":
            self._conflict.set()
            if self._alone:
                self._unfounded.append(event)

    def _watch(self) -> None:
        while not self._over.wait(CHECK_S):
            if self._backend.dead:
                with contextlib.suppress(OSError):  # it fails by fault as well: once more
                    self._reconnect()
            if not self._others and self._conflict.is_set():
                self._conflict.clear()
                for key in self._in_conflict():
                    self._conflict.set()  # look again: a rename may come first, or the repair fail
                    with contextlib.suppress(OSError):
                        self._settle(key)

    def _settle(self, key: Key) -> None:
        """Settle a conflict, in one of the ways that lose nothing; of whole objects that another program has replaced,
        unsaved bytes are given up. An object that was made where another one is has none of its bytes.
        """
        how = "discard" if self._others else "force" if self.may_conflict else self._rng.choice(HOW)
        try:
            self._volume.resolve(key, how)
        except OSError:
            if how == "rebase":
                raise
            self._volume.resolve(key, "rebase")  # "force" needs bytes of the old version that can no longer be read
        self.repairs["conflicts settled"] += 1

    def _reconnect(self) -> None:
        """Reconnect as an operator may: with or without ending all waits first, and with or without a fence.

        The backend is unchanged. So the volume is stopped before a fence, or calls that it makes as soon as the backend
        is revived come after the fence. A call that changes names may still be in flight: then there is no fence.
        """
        fenced = self._rng.random() < 0.5
        if fenced or self._rng.random() < 0.5:
            self._volume.abort()
        fenced = fenced and not any(job.what in NAMING for job in self._volume.engine.runner.running())
        if fenced:
            self._backend.fence(FENCE_TIMEOUT_S)
        self._backend.revive()
        try:
            self._volume.reconnect(self._backend, fenced=fenced)
        except OSError:
            self._backend.die(Rule(dies=True).exception)
            raise
        self.repairs["deaths survived"] += 1


HOW: tuple[Literal["force", "rebase", "discard"], ...] = ("force", "rebase")


def explained(rules: Iterable[Rule]) -> frozenset[int]:
    """Return the errnos that rules may cause."""
    found: set[int] = set()
    for rule in rules:
        if rule.error is not None or rule.dies:
            error = rule.exception(None)
            found.add(getattr(error, "errno", None) or errno.EIO)
            found.add(errno.EAGAIN)  # a direct write gives up while the bytes below it are sent again and again
        if rule.dies:
            found |= {errno.ESHUTDOWN, errno.EIO}
        if rule.change:
            found |= {errno.ESTALE}
        if rule.short == 0 or rule.answer is not TRUTH:
            found |= PROTOCOL
    return frozenset(found)
