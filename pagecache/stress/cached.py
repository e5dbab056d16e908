"""The cache as a target: over any backend, by all entry points, for threads and for tasks.

objects.py has the tester's operations below the cache, cached_tasks.py the calls of tasks.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import mmap
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pagecache import CachedFile, DiskTier, PageCache, Volume, aio
from pagecache.backends import MemoryBackend
from pagecache.backends.protocol import Backend, BackendLimits
from pagecache.config import Durability, parse_size
from pagecache.disk.device import OS, Device
from pagecache.errors import ConflictError, DataLossError, Key, UnsavedDataError
from pagecache.options import OpenMode, OpenOptions
from pagecache.stats import RecoveredFile
from pagecache.stress.cached_tasks import Budget, CachedTasks, HeldView
from pagecache.stress.faulting import Faulting
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import PAST, Broken
from pagecache.stress.objects import TRIES, Objects, insisting
from pagecache.stress.others import Others
from pagecache.stress.plan import Plan
from pagecache.stress.profiles import CROSSING, IO, WAYS, other, shared_names
from pagecache.stress.targets import READ_ALL, Target, UnusableTarget
from pagecache.testing import FaultyBackend
from pagecache.volume.inode import Inode

T = TypeVar("T")

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings of a round that the seed chooses in addition to its plan: folio sizes, thresholds, readahead. For the
    default memory backend also its limits.
    """

    config: dict[str, Any]
    options: dict[str, Any]
    limits: dict[str, Any]
    tier: dict[str, Any]
    mirror: bool = False
    objects: bool = False  # the memory backend makes objects visible by commit

    @classmethod
    def of(cls, rng: random.Random) -> Variant:
        """Choose settings by the seed."""
        config: dict[str, Any] = {
            "max_folio": rng.choice([PAGE, 4 * PAGE, 16 * PAGE, "2MiB"]),
            "dirty_background": rng.choice([0.1, 0.25]),
            "dirty_limit": rng.choice([0.4, 0.5, 0.6]),
            "flush_interval": 0.05,
            "dirty_expire": rng.choice([0.05, 0.5, 30.0]),
            "gil_release": rng.choice([1, PAGE, "1MiB"]),
            "poison": rng.random() < 0.5,
        }
        limits: dict[str, Any] = {
            "parallel_direct_writes": rng.random() < 0.6,
            "max_inflight": rng.choice([2, 8]),
            "durable_writes": rng.random() < 0.2,
            "max_write": rng.choice([2 * PAGE, 1 << 20]),
            "max_read": rng.choice([4 * PAGE, 1 << 20]),
            "direct_unit": rng.choice([1, 1, 512, PAGE]),
            "write_unit": rng.choice([1, 1, 1, 512, 2 * PAGE]),
            "ordered_writes": rng.random() < 0.1,
        }
        options: dict[str, Any] = {"read_ahead": rng.choice([0, "64KiB", "1MiB"])}
        mirror, objects = rng.random() < 0.2, rng.random() < 0.15
        if objects:
            limits |= {"durable_writes": False, "parallel_direct_writes": False, "ordered_writes": False}
            limits["write_unit"] = rng.choice([512, 2 * PAGE, 4 * PAGE])
            config["max_folio"] = PAGE
        limits["max_write"] = max(limits["max_write"], limits["write_unit"])
        tier: dict[str, Any] = {"size": "16MiB", "segment": "1MiB"}  # small, so that it evicts
        if rng.random() < 0.3:
            tier["journal_limit"] = "512KiB"
        return cls(config, options, limits, tier, mirror, objects)

    def store(self, *, crash: bool) -> Backend:
        """Make a memory backend with these limits."""
        limits = BackendLimits(**self.limits)
        if not self.objects or crash:
            return MemoryBackend(limits)
        return ForgettingBackend(MemoryBackend(limits), replace(limits, commit_on_close=True))


class CachedTarget(Target):
    """A cache over a backend; see `targets.Target`.

    Args:
        plan: of the run.
        number: of the round.
        factory: makes a backend; None: a memory backend with the limits of the variant.
        label: name of the factory in reports.

    Attributes:
        between: makes the layer that the cache gets in place of the backend.
        objects: the tester's access past the cache.
        cannot: "rename", "remove" -> the error of a backend without that operation.
        publishes: the store shows committed content only.
        holds, held: recovered files were not saved at the last attach, and what the store had when all were read.
        recovered: number of files that it had then.
    """

    moves = detaches = True
    exact = True
    holds = False
    recovered = 0
    unreachable = (FileNotFoundError,)  # a backend may find an object by its name at each call

    def __init__(self, plan: Plan, number: int, factory: Callable[[], Backend] | None, label: str) -> None:
        super().__init__(label)
        self._plan, self._number = plan, number
        self.tester = os.getpid()  # two testers may have the same seed
        self._files = plan.files
        self.call_timeout = 4 * plan.patience  # a waiter in a rest times out first, and reports all waits
        self.variant = Variant.of(plan.rng("variant", number))
        if plan.faults != "none":
            self.variant = replace(self.variant, mirror=False, objects=False)
        if plan.crash_of(number) == "forgetting":
            self.variant.limits["durable_writes"] = False
        store = partial(self.variant.store, crash=plan.crash_of(number) != "none")
        self._factory = factory or store
        self._named = factory is not None
        self.between: Callable[[Backend], Backend] = lambda backend: backend
        """Makes the layer between cache and backend, apart from faults; may be called again after a crash."""
        self.device: Device = OS
        """Below the journal of the disk tier."""
        self._attached = 0
        self.objects = Objects(plan, number, self._factory(), label)
        self.key, self.store = self.objects.key, self.objects.read
        limits = self.backend.limits
        if limits.read_only:
            raise UnusableTarget(f"{label} is read-only: there is nothing to write")
        units = {PAGE, int(limits.write_unit), int(limits.direct_unit), int(limits.max_write)}
        folio = self.variant.config["max_folio"]
        units.add(folio if isinstance(folio, int) else PAGE * 16)
        self.edges = tuple(sorted(unit for unit in units if 1 < unit <= 1 << 20))
        self.skipped, self.cannot = self.objects.skipped, self.objects.cannot
        self.ways = frozenset(WAYS)
        if plan.crash_of(number) != "none":
            self.ways -= {*CROSSING}
        if "others" not in plan.mix:
            self.ways -= {"others"}
        if "rivals" not in plan.mix or (self.variant.objects and not self._named):
            self.ways -= {"rivals"}  # the other backend has one place for uncommitted bytes of all writers
        self.store_unit = int(limits.write_unit)
        self.tasks = CachedTasks(self)
        self.faulting = Faulting(plan, number, whole=limits.commit_on_close)
        if self.faulting.left_out:
            self.skipped["another version"] = "objects are replaced as a whole: for that there is --profile versions"
        if "rivals" in plan.mix and not limits.commit_on_close:  # else a discard ends the handles of the old version
            self.faulting.options["on_conflict"] = plan.rng("rivals", number).choice(("fail", "take_remote"))
        self.loses_direct = self.faulting.loses_direct
        self.withholds = limits.commit_on_close
        self.publishes = limits.commit_on_close and self._named
        self.repairs = self.faulting.repairs
        self._refused_before: frozenset[int] = frozenset()
        self._given_up = False
        self._replacing = threading.Lock()
        self._names: set[str] = set()
        self.by_name = limits.commit_on_close
        self.entries: dict[CachedFile, bool] = {}  # open handles on shared names; has the open compared versions?
        self.others: Others | None = None

    # -- beginning and end

    def start(self, contents: Sequence[bytes]) -> None:
        self._files = len(contents)
        self.objects.try_keys()
        self.objects.clear()
        self.shows = not self.backend.limits.commit_on_close and self.objects.shows()
        self.objects.make(contents)
        self.by_name = self.by_name or self.objects.by_name()
        self.creates_unasked = self.withholds and self.objects.creates_unasked()
        if "others" in self.ways:
            self.others = Others(self.objects, self._factory, whole=self.withholds, dies=self.loses_direct)
            if why := self.others.why_not():
                self.ways -= {"others"}
                self.skipped["others"] = why
            elif self.withholds:
                self.between = self.others.between
        self._attach()

    def adopt(self) -> bool:
        """Begin with files that were made elsewhere. False: they do not exist."""
        self.objects.try_keys()
        if not self.objects.find():
            return False
        self._attach()
        return True

    def remember(self, names: Iterable[str]) -> None:
        """Register names that were made elsewhere, for removal at the end."""
        self._names.update(names)

    def _attach(self) -> None:
        """Make a cache, and open handles on all files."""
        least = 8 * max(int(self.backend.limits.write_unit), PAGE)
        capacity = max(parse_size(self._plan.capacity, "capacity"), 2 * least)
        folio = min(parse_size(self.variant.config["max_folio"], "max_folio"), capacity // 8)
        self.budget = Budget(max(3 * folio, capacity // 2), folio)
        self.cache = PageCache(capacity, disk=self._tier(), **self.variant.config, **self.faulting.config)
        self.faults = FaultyBackend(self.between(self.backend))
        mirror = MemoryBackend() if self.variant.mirror else None
        options = self.variant.options | self.faulting.options
        if self._plan.durability == "disk":
            self._attached += 1
            self.holds = self._plan.rng("hold", self._number, self._attached).random() < 0.4
            options |= {"durability": "disk", "on_recovery": "hold" if self.holds else "resume"}
        self.volume: Volume = self.cache.attach(
            self.faults, name="stress", mirror=mirror, volume_id="stress", **options
        )
        self.recovered = len(self.volume.recovered())
        self.rebased: dict[Key, RecoveredFile] = {}  # in conflict with the own commit, as they were recovered
        for number in range(self._files if self.holds else 0):
            self.patiently(number, partial(self.look, number))
        self.held = [self.store(number) for number in range(self._files)] if self.holds else []
        self.files = []  # one by one: `give_up` ends an attach that fails
        for number in range(self._files):
            self.files.append(self.patiently(number, partial(self._open, number)))
        self.faulting.begin(self.volume, self.faults)
        if self.withholds and self.recovered:
            self.may_conflict()  # see `patiently`

    def patiently(self, what: int | str, call: Callable[[], T]) -> T:
        """Return the result of a call for a file or name that may have been recovered. A whole object that a commit had
        stored before the crash, with other bytes than the journal has now, is a conflict.
        """
        for left in reversed(range(TRIES)):
            try:
                return self.with_room(call)
            except ConflictError:
                if not (left and self.withholds and self.recovered):
                    raise
                self.rebased |= {found.key: found for found in self.volume.recovered() if found.key == self.key(what)}
                self.volume.resolve(self.key(what), "rebase")
                self.repairs["conflicts with the own commit"] += 1
        raise AssertionError

    def with_room(self, call: Callable[[], T]) -> T:
        """Return the result of a call. If recovered files that are held fill the memory, they are saved first."""
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ENOBUFS or not self.holds:
                raise
            self.holds = False
            self.volume.resume()
            return call()

    def _tier(self) -> DiskTier | None:
        """Return the tier of this round, which a crash leaves to the next cache."""
        if not self._plan.disk:
            return None
        tier = DiskTier(self._folder, **self.variant.tier)
        tier._device = self.device
        return tier

    @property
    def _folder(self) -> str:
        return os.path.join(
            tempfile.gettempdir(), f"pagecache-stress-disk-{self.tester}-{self._plan.seed}-{self._number}"
        )

    def reconnect(self, *, fenced: bool) -> None:
        """Connect the cache to the backend again, after the backend was gone.

        Handles may still have to report the results of calls that were refused before.
        """
        self._refused_before = self.refused
        self.faults = FaultyBackend(self.between(self.backend))
        self.volume.reconnect(self.faults, fenced=fenced)
        self.faulting.follow(self.faults)

    def resume(self) -> None:
        """Make a new cache over the stored objects, after the old cache was abandoned; with a new backend if
        possible.
        """
        self._follow()
        self._given_up = False
        self._attach()
        self.calm()

    def _open(self, number: int) -> dict[str, list[CachedFile]]:
        key = self.key(number)
        found: dict[str, list[CachedFile]] = {way: [] for way in IO}
        try:
            for way in IO:
                found[way].append(self.volume.open(key, "r+b", **self.options_of(way)))
            found["buffered"].append(self.volume.open(key, "r+b", keep_cache=True))
        except BaseException:
            for file in itertools.chain(*found.values()):
                with contextlib.suppress(OSError):
                    file.close()
            raise
        return found

    @property
    def explained(self) -> frozenset[int]:
        """Return the errnos that faults explain, and those that the backend announces as occasional refusals.

        A part of a unit is no progress, and no progress three times is EIO [2.14].
        """
        found = self.faulting.explained | self.refused
        return found | {errno.EIO} if self.faulting.shortens and self.store_unit > 1 else found

    @property
    def refused(self) -> frozenset[int]:
        return self._refused_before | self.faults.refused

    @property
    def contested(self) -> frozenset[int]:
        """Return the errnos of an open while another version is unsettled."""
        return frozenset({errno.ESTALE} if "rivals" in self._plan.mix else ())

    def may_conflict(self) -> None:
        self.faulting.may_conflict = True

    def calm(self) -> None:
        self.faulting.calm()

    def stir(self) -> None:
        self.faulting.stir()

    @property
    def backend(self) -> Backend:
        """Return the backend below the cache."""
        return self.objects.backend

    def check(self) -> None:
        self.cache.check()

    def close(self) -> None:
        self._close()
        if self._plan.durability == "disk":  # the next attach finds what is not saved yet
            self.resume()
            self.volume.resume()
            self.sync()
            self.check_recovered()
            self._close()

    def check_recovered(self) -> None:
        """Check that everything that was recovered is saved. All of it was resumed, and there was a sync."""
        for found in self.volume.recovered():
            if self.volume.exists(found.key):
                raise Broken(f"a recovered file is not saved by a sync: {found}", "error")
            self.volume.discard(found.key)  # its creation was lost with the store

    def _close(self) -> None:
        for ways in self.files:
            for handles in ways.values():
                for handle in handles:
                    try:
                        handle.close()
                    except DataLossError as error:
                        self.losses.append(error)
        try:
            lost = self.cache.close(timeout=self.call_timeout)
            assert lost == [], lost
        except UnsavedDataError:
            if not self.loses_direct:
                raise
            # Shared objects whose name is in doubt since a reconnect; what else is not saved, the store will show.
            self.cache.close(timeout=self.call_timeout, on_failed="discard")
        self._follow()

    def _follow(self) -> None:
        """Repeat the setup for another backend: the cache closed the old one, or a crash replaced it."""
        if self._named:
            self.objects.follow(self._factory)

    def give_up(self) -> None:
        self.volume.abort()
        handles = [handle for ways in self.files for several in ways.values() for handle in several]
        for handle in (*handles, *self.entries):
            with contextlib.suppress(OSError):
                handle.abandon()
        self.cache.close(timeout=1.0, on_failed="discard")
        self._given_up = True

    def discard(self) -> None:
        if self._given_up:
            self._follow()
        for what in (*range(self._files), *self._names):
            self.objects.remove(what)
        shutil.rmtree(self._folder, ignore_errors=True)
        insisting(self.backend.sync)  # a store may undo removals that were not made durable
        if self.others is not None:
            self.others.close()
        self.backend.close()

    # -- what is stored

    def everywhere(self, file: int) -> Sequence[tuple[str, Callable[[], bytes]]]:
        return [
            (f"a {way} handle", partial(handle.pread, READ_ALL, 0))
            for way, handles in self.files[file].items()
            for handle in handles
        ]

    # -- verbs

    def handle(self, file: int, way: str, extra: int = 0) -> CachedFile:
        """Return one of the handles for a way."""
        handles = self.files[file][way or "buffered"]
        return handles[extra % len(handles)]

    def view(self, file: int, offset: int, length: int, writable: bool) -> HeldView:
        give = self.budget.take(length)
        try:
            return HeldView(self.handle(file, "buffered").view(offset, length, writable=writable), give)
        except BaseException:
            give()
            raise

    def level(self, extra: int) -> tuple[Durability, ...]:
        if self._plan.durability == "backend":
            return ()
        return ("disk" if other(extra) >> 5 & 3 else "backend",)

    def sync(self, level: Durability = "backend") -> None:
        self.volume.sync(self.call_timeout, durability=level)

    def ticket(self, level: Durability = "backend") -> None:
        self.volume.begin_sync(durability=level).wait(self.call_timeout)

    def drop(self, file: int, offset: int, length: int) -> None:
        self.volume.drop_clean(self.key(file), offset, length)

    def drop_all(self) -> None:
        self.volume.drop_clean()

    def invalidate(self, file: int | str, offset: int, length: int) -> None:
        self.volume.invalidate(self.key(file), offset, length)

    def reopen(self, file: int, offset: int, length: int, direct: bool) -> bytes:
        with self.volume.open(self.key(file), "rb", direct=direct) as handle:
            return handle.pread(length, offset)

    def tear(self, file: int, offset: int, data: bytes) -> None:
        with tempfile.TemporaryFile() as source:
            source.write(data)
            source.flush()
            with mmap.mmap(source.fileno(), len(data)) as memory:
                source.truncate((len(data) - 1) // PAGE // 2 * PAGE)
                self.handle(file, "buffered").pwrite(memory, offset)

    def change(self, file: int, offset: int, data: bytes, extra: int) -> None:
        key = self.key(file)
        if not self.shows:
            raise io.UnsupportedOperation("foreign changes need a commit to become visible")
        before, reported = self.backend.stat(key).version, False
        try:
            self.objects.put(file, offset, data)
            if extra % 2 and before != self.backend.stat(key).version:
                self.volume.open(key, "rb").close()  # compares versions
                reported = True
        finally:
            if not reported:
                self.volume.invalidate_remote(key, offset, len(data))

    def lose(self, file: int, offset: int, length: int | None) -> list[tuple[int, int]]:
        return [(lost.offset, lost.length) for lost in self.volume.discard(self.key(file), offset, length)]

    def reported_losses(self, file: int, *, all_of_them: bool = False) -> list[tuple[str, list[tuple[int, int]]]]:
        found = []
        for way, handles in self.files[file].items():
            for number, handle in enumerate(handles):
                if way == "buffered" and number == 0 and not all_of_them:
                    continue  # workers check it
                reported: list[tuple[int, int]] = []
                for _ in range(2):
                    try:
                        handle.flush()
                    except DataLossError as error:
                        reported += [(lost.offset, lost.length) for lost in error.ranges]
                found.append((f"a {way} handle", reported))
        return found

    def replace(self, file: int, data: bytes) -> None:
        key = self.key(file)
        # Some local data exists in any case: without it the cache does not check the size before an open. Another
        # replacement would discard that data, so they run one at a time.
        with self._replacing:
            held = self.handle(file, "buffered").view(0, 1, writable=True)
            try:
                self.objects.put(file, 0, data, whole=True)
                self.volume.invalidate_remote(key)
            finally:
                held.release()
            if self.volume.options.on_conflict == "fail":
                self.volume.resolve(key, "rebase")
            else:
                engine = next(one for one in self.volume.engine.files() if one.key == key)
                engine.settled(lambda: None)  # after the work that the invalidation queued

    # -- names

    def opened(self, name: str, mode: OpenMode) -> CachedFile:
        self._names.add(name)
        return self.volume.open(self.key(name), mode)

    def renamed(self, old: str, new: str) -> None:
        self._names.add(new)
        self.volume.rename(self.key(old), self.key(new))

    def removed(self, name: str) -> None:
        self.volume.remove(self.key(name))

    def enter(self, name: str, way: str, mode: OpenMode) -> CachedFile:
        self._names.add(name)
        before = self.quiet(name)
        return self.entered(self.volume.open(self.key(name), mode, **self.options_of(way)), before)

    def options_of(self, way: str) -> OpenOptions:
        """Return the options of an open for a way."""
        many = way == "parallel" and self.backend.limits.parallel_direct_writes
        return {"direct": way in PAST, "write_through": way == "through", "parallel_direct_writes": many}

    def quiet(self, name: str) -> tuple[Inode | None, int | None]:
        """Return the file that the cache has by a name, and a number that changes with each change of storage by the
        cache; None: one is about to begin. A new file begins with 0.
        """
        inode = self.volume._inode_at(self.volume._canonical(self.key(name)))
        return inode, 0 if inode is None else inode.versions.quiet()

    def entered(self, handle: CachedFile, before: tuple[Inode | None, int | None]) -> CachedFile:
        """Register a handle on a shared name, and return it; `before`: `quiet` before the open."""
        (known, number), inode = before, handle._inode
        same = known in (None, inode)  # not a file that has lost the name meanwhile
        self.entries[handle] = same and number is not None and number == inode.versions.quiet()
        return handle

    def has_compared(self, handle: CachedFile | aio.AsyncCachedFile) -> bool:
        return self.entries.get(handle._file if isinstance(handle, aio.AsyncCachedFile) else handle, False)

    def elsewhere(self, change: str, name: str, *arguments: Any) -> None:
        assert self.others is not None
        self.others.change(change, name, *arguments)

    def settle(self, name: str) -> None:
        try:
            self.volume.open(self.key(name), "rb").close()  # which finds another version
        except ConflictError:
            self.volume.resolve(self.key(name), "discard")
        except FileNotFoundError:
            pass

    def link(self, old: str, new: str) -> None:
        link = self._links("link")
        name = self.volume.busy.holding(self.volume._canonical(self.key(old)), what="a link")
        with name.block, name:  # below a mount the kernel makes no remove or rename of the object beside it
            link(self.key(old), self.key(new), follow=False)

    def symlink(self, leads: str, name: str) -> None:
        self._links("symlink")(self.key(leads), self.key(name))

    def link_of(self, name: str) -> str | None:
        try:
            found = self._links("readlink")(self.key(name))
        except OSError:  # no link, or no links at all
            return None
        return next((each for each in shared_names() if self.key(each) == found), None)

    def _links(self, what: str) -> Callable[..., Any]:
        """Return a call of the backend, as a mount makes it: the cache itself has no links."""
        found: Callable[..., Any] | None = getattr(self.backend, what, None)
        if found is None:
            raise io.UnsupportedOperation(errno.EOPNOTSUPP, f"the backend has no {what}")
        return found

    def act(self, handle: CachedFile | aio.AsyncCachedFile, call: str, *arguments: object) -> object:
        file = handle._file if isinstance(handle, aio.AsyncCachedFile) else handle  # at rest there is no loop
        if call == "close":
            self.entries.pop(file, None)
        return getattr(file, call)(*arguments)

    def look(self, name: int | str) -> bytes | None:
        found, exists = None, self.volume.exists(self.key(name))
        with contextlib.suppress(FileNotFoundError), self.volume.open(self.key(name), "rb") as file:
            found = file.pread(READ_ALL, 0)
        if exists != (found is not None) and not self.faulting.plan.rules:  # a failed rename may still land
            raise Broken(
                f"{name}: exists() says {exists}, and open finds {'no' if found is None else 'an'} object", "error"
            )
        return found
