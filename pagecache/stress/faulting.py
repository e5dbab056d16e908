"""Faults of a round, what each of them allows, and who repairs what does not repair itself.

    error that goes away, short answer, delay, order
                        nothing is seen of it, but an error where it does not end
    error that stays, no space
                        a call raises it; what was accepted is in the cache, and is saved when it is tried again
    commit that fails   fsync, sync and close raise it; bytes past the cache (direct) are told as a loss, because nobody
                        can send them again
    another version     ESTALE, until the conflict is settled; the bytes of the files are everybody's, so the version
                        alone is another
    death               calls raise ENOTCONN or ESHUTDOWN; after `reconnect` everything that was accepted and not synced
                        is there, but direct writes that were not committed

Objects that are replaced as a whole get no other version: handles of the old one are over then, and what was cut and
not committed is whole again [2.19]. The profiles "touched" and "rivals" are made for that.

So an error is an answer where a fault of the plan explains it [I-22], and no fault explains a byte that is neither old
nor new. The repairer is a thread beside the workers: it reconnects a volume whose backend has died, and settles
conflicts. At rest nothing fails: it has ended, and what is left to repair is repaired first.
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
from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.errors import Key
from pagecache.native import operations
from pagecache.testing import AsyncFaultyBackend, FaultPlan, FaultyBackend, Rule
from pagecache.testing.faults import TRUTH

if TYPE_CHECKING:
    from pagecache.stress.plan import Plan

__all__ = ["Faulting"]

Faulty = FaultyBackend | AsyncFaultyBackend

LOOK = 0.005  # seconds between two looks at what is to be repaired
NAMING = {"remove", "rename"}
PATIENCE = 20.0  # seconds that calls inside a dead backend may need to return
PROTOCOL = {errno.EPROTO, errno.EIO}  # what a wrong answer counts as


class Faulting:
    """The faults of one round.

    Args:
        plan: of the run.
        number: of the round.
        whole: objects are replaced as a whole: nobody else stores another version.

    Attributes:
        plan: what fails.
        left_out: rules of the plan do not apply.
        config, options: of the cache and its volume, with which a round gets through it.
        explained: errnos that calls may raise.
        shortens: calls may do a part of what they are asked for.
        loses_direct: what was written past the cache and is not committed may be lost.
        repairing: somebody repairs while calls fail; `repairs`: how often what was repaired.
    """

    def __init__(self, plan: Plan, number: int, *, whole: bool = False) -> None:
        rng = plan.rng("faults", number)
        asked = FaultPlan.profile(plan.faults, rng.randrange(1, 1 << 32))
        rules = tuple(rule for rule in asked.rules if not (whole and rule.change))
        self.plan, self.left_out = FaultPlan(rules, asked.seed), len(rules) < len(asked.rules)
        self._rng = random.Random(rng.random())
        self.repairs: Counter[str] = Counter()
        self.config: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        if self.plan.rules:
            self.config["retry"] = RetryPolicy(
                attempts=rng.choice([2, 5]), first_delay=0.001, max_delay=0.02, deadline=5.0, failed_retry=0.1
            )
            self.options["on_conflict"] = rng.choice(["fail", "rebase"])
        self.explained = explained(self.plan.rules)
        self.shortens = any(rule.short is not None for rule in self.plan.rules)
        self.loses_direct = any(rule.dies for rule in self.plan.rules)
        self.repairing = self.loses_direct or any(rule.change for rule in self.plan.rules)
        self._conflicts: dict[Key, None] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, volume: Volume, backend: Faulty, attached: Backend | AsyncBackend) -> None:
        """The volume whose backend fails from here on; `attached`: the volume's, around the one that fails."""
        self._volume, self._backend, self._attached = volume, backend, attached
        volume.cache.subscribe(self._heard)
        self.stir()

    def follow(self, backend: Faulty, attached: Backend | AsyncBackend) -> None:
        """The volume has another backend, which does not fail yet."""
        self._backend, self._attached = backend, attached

    def stir(self) -> None:
        """Let calls fail."""
        self._backend.use(self.plan)
        if self.repairing:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="stress-repair", daemon=True)
            self._thread.start()

    def calm(self) -> None:
        """No call fails any more, and nothing is left to repair."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._backend.use([])
        if self._backend.dead:
            self._reconnect()
        self._settle_all()
        self._volume.retry_failed()

    def _settle_all(self) -> None:
        """Events come late, and calls that began while calls failed end late: so files are asked, until it is quiet."""
        volume, until = self._volume.engine, time.monotonic() + PATIENCE
        while True:
            still = not self.repairing or all(
                one.volume != volume.native.address for one in operations(self._volume.cache.native.core)
            )
            found = [file.key for file in volume.files() if file.conflict is not None]
            for key in found:
                self._settle(key)
            if not found:
                if still or time.monotonic() > until:
                    break
                time.sleep(LOOK)
        self._taken()

    # -- repairs

    def _heard(self, event: Event) -> None:
        if event.kind == "conflict" and event.key is not None:
            with self._lock:
                self._conflicts[event.key] = None

    def _taken(self) -> list[Key]:
        with self._lock:
            conflicts, self._conflicts = self._conflicts, {}
        return list(conflicts)

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            if self._backend.dead:
                with contextlib.suppress(OSError):  # it fails as everything does: once more
                    self._reconnect()
            for key in self._taken():
                try:
                    self._settle(key)
                except OSError:
                    with self._lock:
                        self._conflicts[key] = None

    def _settle(self, key: Key) -> None:
        """A conflict, in one of the ways that lose nothing."""
        self._volume.resolve(key, self._rng.choice(HOW))
        self.repairs["conflicts settled"] += 1

    def _reconnect(self) -> None:
        """As an operator may do it: with or without an end to all waits first, and with or without a fence.

        The backend is the same one again. So the volume is stopped before a fence, or calls that it makes as soon as
        the backend is revived come after it. One that changes names may be on its way still: then there is no fence.
        """
        fenced = self._rng.random() < 0.5
        if fenced or self._rng.random() < 0.5:
            self._volume.abort()
        fenced = fenced and not any(job.what in NAMING for job in self._volume.engine.runner.running())
        if fenced:
            self._backend.fence(PATIENCE)
        self._backend.revive()
        try:
            self._volume.reconnect(self._attached, fenced=fenced)
        except OSError:
            self._backend.faults.die(Rule(dies=True).exception)
            raise
        self.repairs["deaths survived"] += 1


HOW: tuple[Literal["force", "rebase"], ...] = ("force", "rebase")


def explained(rules: Iterable[Rule]) -> frozenset[int]:
    """The errnos that may come of rules."""
    found: set[int] = set()
    for rule in rules:
        if rule.error is not None or rule.dies:
            error = rule.exception(None)
            found.add(getattr(error, "errno", None) or errno.EIO)
            found.add(errno.EAGAIN)  # a direct write gives up where what is under it is sent again and again
        if rule.dies:
            found |= {errno.ESHUTDOWN, errno.EIO}
        if rule.change:
            found |= {errno.ESTALE}
        if rule.short == 0 or rule.answer is not TRUTH:
            found |= PROTOCOL
    return frozenset(found)
