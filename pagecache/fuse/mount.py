"""A mount, from its beginning to its end: the cache, the server, the loop, and everything saved.

    cache and backend -> mounted -> serving -> (SIGTERM: out of sight) -> everything saved -> unmounted

The end comes by an unmount, by SIGTERM, SIGINT or SIGHUP, or because the kernel's connection was cut (umount -f). A
signal first takes the mount out of sight (like umount -l); programs with open files are served until all is saved.
Saving has a deadline; unsaved files are listed then, and the exit status is 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .. import closing
from ..backends.protocol import BackendLimits
from ..backends.url import store_of, without_user
from ..cache import PageCache
from ..disk.tier import DiskTier
from ..errors import FailedRange
from ..objects import Event
from ..target import Target
from ..volume.volume import Volume, largest_window
from .daemon import notify
from .loop import Loop
from .mountpoint import CannotMount, check_mountpoint, check_store, mounted_at
from .options import MountOptions
from .server import Server
from .serving import GRACE, caught_signals, serve, why_cannot_serve

log = logging.getLogger("pagecache.fuse")

READ_AHEAD = 4 << 20
"""Bytes of the largest readahead window, unless a far backend takes more at once."""
READ_AHEAD_KB = 1024
LISTED = 100
STEP = 1.0
"""Seconds between two progress lines of saving."""


class Mount:
    """The one mount of this process.

    Args:
        options: of the mount.
        report: receives progress, for a person.
        complain: receives unsaved files, for a person or the system's log; once.
    """

    def __init__(
        self, options: MountOptions, report: Callable[[str], object], complain: Callable[[str], object]
    ) -> None:
        self.options = options
        self.report, self.complain = report, complain
        self.hidden = False  # out of sight: another mount may be at its path
        self._where = self._device = ""  # as in /proc/self/mountinfo
        self.cache: PageCache
        self.volume: Volume
        self.server: Server
        self.loop: Loop

    def run(self, mounted: Callable[[], object]) -> int:
        """Mount, serve, and save.

        Args:
            mounted: called when programs can use it.

        Returns:
            The exit status: 1 if something is not saved.

        Raises:
            CannotMount, BadTarget, ValueError: it could not be mounted; nothing is left of it.
        """
        options = self.options
        if why := why_cannot_serve():
            raise CannotMount(why)
        check_mountpoint(options.mountpoint)
        _allow_many_files()
        backend = Target(options.url, dict(options.backend_options)).make()
        try:
            check_store(backend, options.mountpoint)
        except BaseException:
            backend.close()
            raise
        try:
            self.cache = PageCache(options.capacity, disk=_tier(options))
        except BaseException:
            backend.close()
            raise
        try:
            named = options.disk is None or isinstance(getattr(backend, "name", None), str)
            self.volume = self.cache.attach(
                backend,
                read_only=options.read_only,
                durability=options.durability,
                volume_id=None if named else store_of(options.url, options.backend_options),
                **reading(options, backend.limits),
            )
            if options.stats is not None:
                self.cache.serve_stats(options.stats)
            self.server = Server(self.volume, options)
            self.server.names.remember(min(options.attr_timeout, options.entry_timeout))
            os.umask(0o077)  # new files are private until they have the requested mode
            self._mount()
        except BaseException:
            self.cache.close(timeout=0.0, on_failed="discard")
            raise
        self.cache.subscribe(self._heard)
        self.cache._mounted_names = lambda: len(self.server.nodes)

        with caught_signals() as signals:
            mounted()
            notify("READY=1", f"MAINPID={os.getpid()}")
            try:
                try:
                    serve(self.loop, signals, self._end, self._save_before_the_end)
                finally:
                    self.loop.stop(unmount=not self.hidden)
            finally:
                status = self._save()
            return status

    # -- mounting

    def _mount(self) -> None:
        options, flags = self.options, {"default_permissions", "subtype=pagecache", *self.options.flags}
        name = without_user(options.url).partition("?")[0] if options.name is None else options.name  # all can read it
        flags.add("fsname=" + name.replace("\\", "\\\\").replace(",", "\\,"))
        flags |= {"ro"} if options.read_only else set()
        flags |= {"allow_other"} if options.allow_other else set()
        self._where = os.path.realpath(options.mountpoint)  # later the kernel would ask this server, on this thread
        with _said_on_stderr() as said:
            try:
                self.loop = Loop(
                    self.server,
                    options.mountpoint,
                    words=",".join(sorted(flags)),
                    direct_io=options.direct_io,
                    keep_pages=options.kernel_cache,
                    entry_timeout=options.entry_timeout,
                    attr_timeout=options.attr_timeout,
                    timeout=options.timeout,
                    acls=options.allow_other,
                )
            except OSError as error:
                raise CannotMount(f"{options.mountpoint}: {said() or error}") from None
        fields = mounted_at(self._where)
        if fields is not None:  # raise the kernel's readahead from 128 KiB to 1 MiB, if permitted
            self._device = fields[2]
            with contextlib.suppress(OSError), open(f"/sys/class/bdi/{self._device}/read_ahead_kb", "w") as file:
                file.write(str(READ_AHEAD_KB))

    # -- serving

    def _end(self, number: signal.Signals) -> None:
        self.report(f"{number.name}: {self.options.mountpoint} is taken out of sight, then saved")
        notify("STOPPING=1", "STATUS=saving")
        self._hide()

    def _hide(self) -> None:
        """Take the mount out of sight; programs with open files or directories in it keep them."""
        command = ["fusermount3", "-u", "-z", "--", self.options.mountpoint]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.hidden, why = not done.returncode, done.stderr.strip()
        except OSError as error:
            why = str(error)
        if not self.hidden and self._device:  # another program may have done it
            with contextlib.suppress(OSError):  # without a free descriptor it counts as in sight
                found = mounted_at(self._where)
                self.hidden = found is None or found[2] != self._device
        if not self.hidden:
            log.warning("%s is in sight until it is saved: %s", self.options.mountpoint, why)

    def _heard(self, event: Event) -> None:
        """Drop the kernel's pages after a foreign version. Runs on the thread of events, which may wait."""
        if event.kind in ("invalidated", "conflict"):
            for number in self.server.changed(event.key):
                with contextlib.suppress(OSError):  # reported at the next access
                    self.loop.invalidate(number)

    # -- saving

    def _save_before_the_end(self) -> None:
        """Save while programs still have files open; later writes are saved afterwards."""
        if not self.volume.engine.backend.limits.commit_on_close:
            with contextlib.suppress(OSError):  # reported at the end
                self.cache.sync(timeout=self.options.drain_timeout)

    def _save(self) -> int:
        """Save everything, by the deadline. Unclosed objects that only their writers may publish are not published."""
        notify("STOPPING=1")
        timeout, began, over = self.options.drain_timeout, time.monotonic(), threading.Event()
        with contextlib.suppress(RuntimeError):  # no thread can be started: saved without progress lines
            threading.Thread(target=self._report, args=(over,), daemon=True).start()
        try:
            # Programs do not wait for the releases of their files.
            if self.volume.engine.backend.limits.commit_on_close:
                self.loop.drain(timeout, only_saving=True)
            closing.withhold(self.cache)
            if timeout is not None:  # what the releases have left, or a moment for other files
                timeout = max(timeout - (time.monotonic() - began), min(timeout, GRACE))
            self.cache.close(timeout=timeout)
        except OSError as error:
            over.set()
            self._list(error, {inode.key for inode in self.cache.spared or ()})
            return 1
        finally:
            over.set()
            if self.cache.live is not None:  # also if the cache is not closed: the process ends
                self.cache.live.stop()
        self._say_left()
        return 0

    def _say_left(self) -> None:
        """Say what only the disk tier has, which counts as saved."""
        tier, journal = self.cache.tier, self.volume.engine.journal
        if tier is not None and journal is not None and (left := len(tier.unsaved(journal.volume_id))):
            what, lists = f"{left} files have bytes that only the disk tier has", shlex.quote(tier.described.path)
            self.complain(f"{what}: `pagecache disk {lists}` lists them, and the next mount saves them")

    def _report(self, over: threading.Event) -> None:
        while not over.wait(STEP):
            stats = self.cache.stats()
            left = stats.dirty + stats.writeback + stats.unstable
            self.report(f"saving: {left} bytes left")
            notify(f"STATUS=saving: {left} bytes left", f"EXTEND_TIMEOUT_USEC={int(10 * STEP * 1e6)}")

    def _list(self, error: OSError, unclosed: set[Any]) -> None:
        self.complain(f"NOT SAVED: {error}")
        ranges: list[FailedRange] = list(getattr(error, "ranges", []))
        for entry in ranges[:LISTED]:
            why = "its writer had not closed it" if entry.key in unclosed else entry.message
            self.complain(f"not saved: {entry.key!r} [{entry.offset}, {entry.offset + entry.length}): {why}")
        if len(ranges) > LISTED:
            self.complain(f"not saved: {len(ranges) - LISTED} more ranges")


def _tier(options: MountOptions) -> DiskTier | None:
    return None if options.disk is None else DiskTier(options.disk, size=options.disk_size)


def reading(options: MountOptions, limits: BackendLimits) -> dict[str, Any]:
    """Return the options of the volume that say how it reads. Whole objects are replaced, so an open within
    `attr_timeout` of a look serves one version; files in place are compared at each open.
    """
    window = options.read_ahead
    if window is None:
        window = largest_window(limits, READ_AHEAD)
    age = options.attr_timeout if limits.commit_on_close else 0.0
    return {"read_ahead": window, "revalidate": age, "policy": options.policy}


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _said_on_stderr() -> Iterator[Callable[[], str]]:
    """Capture stderr, on which libfuse and its programs explain a failed mount, for the error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            lines = file.read().decode(errors="replace").split("\n")
            return "; ".join(line.strip() for line in lines if line.strip())

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
