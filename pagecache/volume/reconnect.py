"""Reconnect: another backend for the one that is gone (contract 2.17, 2.22).

    1  objects are opened in the new backend, while the volume is still aborted; an error here changes nothing
    2  operations that hang in the old backend end: fills always, writes and commits if they can no longer land
    3  uncommitted changes: bytes are dirty again, staged ones unsent, sizes and creations are owed; direct writes are a
       loss, and so are holes unless a commit makes bytes visible
    4  the volume lives

The file of a running remove or rename on the old backend is left closed until that call has returned (namespace.py).

Files in use by an old call wait for it by their token: nothing here takes one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..backends.protocol import Backend, BackendFile, BackendLimits, ObjectStat, close_backend_file
from ..engine.attempts import Attempts, insisting
from ..engine.commit import remote
from ..engine.commit.owed import repeated
from ..engine.foreign import raised_by
from ..engine.park import SLICE, Signal, start_thread
from ..engine.report.notices import cause
from ..engine.runner import Job
from ..engine.volume import threads_of
from ..errors import ConflictError, LostRange, ShutdownError
from ..native import END, FORGET_CUTS, FORGET_HOLES, NAMES, uninterrupted
from . import lifetimes
from .answers import checked_open
from .inode import Inode
from .opening import compare

if TYPE_CHECKING:
    from .namespace import NameChange
    from .volume import Volume

T = TypeVar("T")

CALLERS = 10.0  # seconds
ELSEWHERE = {errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
"""What the open of a file says if something else has its name, or that of a directory above it."""


class Opened(NamedTuple):
    backend_file: BackendFile
    stat: ObjectStat
    quiet: int | None  # `EngineFile.quiet` before `stat` was read
    settled: bool = False  # no commit of the old backend could be carried out after `stat` was read
    ours: bool | None = None  # a commit of unknown result, or a rename, has made it; None: the backend does not say
    unanswered: tuple[object, ...] = ()  # identifies those


def reconnect(volume: Volume, backend: Backend, fenced: bool) -> None:
    engine = volume.engine
    if engine.left or not engine.aborted:  # no running commit counts any longer
        engine.abort(None)
    aborts, alive = engine.aborts, _alive(volume)
    engine.runner.renew(threads_of(backend))
    _outlast_callers(volume, alive)
    _go_on(volume, backend, fenced, aborts, alive)
    with volume.inodes_lock:
        unused = [inode for inode in volume.orphans if inode.handles == 0]
    for inode in unused:
        lifetimes.bury(volume, inode)  # impossible while the volume was aborted
    if engine.journal is not None:
        engine.journal.confirm_all()  # the identities of its objects
    if volume.recovery is not None:
        volume.recovery.start_again()
    volume.cache.flusher.wake()


def _outlast_callers(volume: Volume, alive: Callable[[], None]) -> None:
    """Wait for the callers. Their waits have ended, but a thread may take its time to see that: its changes must be
    recorded before the new backend is used. The limit is for callers that cannot continue before this has ended.
    """
    engine = volume.engine
    until, never = engine.clock.now() + CALLERS, Signal()
    while engine.native.stragglers() and engine.clock.now() < until:
        alive()
        never.wait(SLICE / 10)


def _go_on(volume: Volume, backend: Backend, fenced: bool, aborts: int, alive: Callable[[], None]) -> None:
    """Reconnect. The volume is aborted before the end, so no inode is freed: most of these have no handles."""
    engine = volume.engine
    _settle_names(volume, backend, fenced, alive)
    with volume.inodes_lock:
        inodes = [inode for inode in volume.inodes.objects.values() if not inode.freed]
        orphans = [inode for inode in volume.orphans if not inode.freed]
        left = {inode: inode.naming for inode in (*inodes, *orphans) if inode.naming is not None}
        for inode in (*inodes, *orphans):
            inode.missed = inode in left
    inodes = [inode for inode in inodes if inode not in left]
    opened = _open_all(volume, backend, [inode for inode in inodes if _wanted(inode)], fenced, alive)
    for inode in inodes:
        if inode.direct_count():
            inode.tail_left()  # an old call may have stored bytes past the end, and a fence forgets it
    engine.native.revoke(fenced)
    adopted = (*inodes, *(inode for inode in orphans if inode not in left))
    old = list(filter(None, (inode.backend_file for inode in (*adopted, *left))))

    def take_over() -> set[Inode]:
        with volume.late_lock:  # the end of the volume takes it, too
            alive()
            volume.late.clear()  # a late opening for an earlier backend ends here
            compared = {inode for inode in adopted if _adopt(inode, opened.get(inode), backend.limits, fenced)}
            for inode in adopted[len(inodes) :]:
                _lose(inode)
            for inode in left:
                inode.versions.find_unanswered()
                inode.use(None)
            with volume.inodes_lock:
                for inode in inodes if backend is not engine.backend else opened:
                    if inode in opened or volume.inodes.names(inode):
                        volume.inodes.identify(inode, None)  # the new backend has other identities
                for inode, found in opened.items():
                    volume.inodes.identify(inode, found.stat.identity)
            late = {inode: found for inode, found in opened.items() if inode in compared and not found.settled}
            volume.late.update(late)
            for inode, found in late.items():  # before any read: it waits until its file is opened again
                inode.settle(partial(_open_again, volume, backend, inode, found))
            engine.resume(backend, aborts)
            return compared

    try:
        compared: set[Inode] = uninterrupted(take_over)  # a signal handler that ends the volume finds one backend
    except ShutdownError:
        for inode, found in opened.items():
            if inode.backend_file is not found.backend_file:
                _close(found)
        raise
    _let_go(old)
    engine.native.revoke(fenced)  # those that began in between
    for inode in inodes:
        _send_again(inode, known=inode in opened)
    for inode, found in opened.items():
        if inode not in compared:
            _check_version(volume, inode, found)
    with volume.inodes_lock:
        ended = [inode for inode in left if inode.missed and inode.naming is None]  # their calls ended before `resume`
        for inode in ended:
            inode.naming = left[inode]
    for inode in ended:
        inode.settle(partial(left[inode].catch_up, inode))


def _lose(inode: Inode) -> None:
    """Record that no name leads to a removed file in the new backend."""
    inode.lose_object()
    inode.set_aside()


def _let_go(old: list[BackendFile]) -> None:
    """Drop the files of the old backend on a separate thread: the last reference to a local file closes it, and its
    file system may hang.
    """
    if not old:
        return
    thread = threading.Thread(target=old.clear, name="pagecache-old-files", daemon=True)
    with contextlib.suppress(BlockingIOError):  # they are dropped here
        start_thread(thread, "for files of the old backend")


def catch_up(naming: NameChange, backend: Backend, inode: Inode) -> None:
    """Reconnect one file, whose name was unknown during the reconnect to this backend. The token is held, on a thread
    of the volume.
    """
    volume = naming.volume
    if inode.freed:
        return
    with volume.inodes_lock:
        known = volume.inodes.knows(inode)
    opened = _open_late(volume, backend, inode) if known and _wanted(inode) else None
    with naming.catching_up:
        if inode.naming is not naming:
            _close(opened)  # a concurrent fenced reconnect has done it
            return
        compared = _adopt(inode, opened, backend.limits, False, late=True)
        if opened is not None:
            with volume.inodes_lock:
                volume.inodes.identify(inode, opened.stat.identity)
        elif inode.removed:
            _lose(inode)
        if opened is not None and not compared:
            _take_version(inode, opened)
        _send_again(inode, known=opened is not None)
    volume.cache.flusher.wake()


def open_late(inodes: Iterable[Inode]) -> None:
    """Open files again that wait for it, before a call changes their names: a copy has another version than the commit
    that they may have to recognise. Their tokens are held, on a thread of the volume.
    """
    for inode in inodes:
        if (early := inode.owner.late.get(inode)) is not None:
            _open_again(inode.owner, inode.owner.engine.backend, inode, early)


def _open_again(volume: Volume, backend: Backend, inode: Inode, early: Opened) -> None:
    """Open a file again if a commit of the old backend, which has returned by now, has stored a version since. The
    token is held, on a thread of the volume, before any other call of the file.
    """
    with contextlib.suppress(ShutdownError):  # the next reconnect opens it
        if volume.late.get(inode) is not early:
            return  # a later reconnect has opened it
        usable = not inode.freed and not inode.removed and inode.conflict is None
        opened = fresh = None
        if usable and inode.backend_file is early.backend_file:
            opened = _open_late(volume, backend, inode, early.unanswered)
        with volume.late_lock:
            if volume.late.get(inode) is early and not volume.engine.aborted:
                del volume.late[inode]
                fresh = opened if opened is not None and opened.stat.version != early.stat.version else None
            if fresh is not None:
                _adopt(inode, fresh, backend.limits, False)
        if fresh is None:
            _close(opened)
            return
        volume.engine.close_later(early.backend_file, inode.key)
        _send_again(inode, known=True)


def _open_late(volume: Volume, backend: Backend, inode: Inode, unanswered: tuple[object, ...] = ()) -> Opened | None:
    """Open a file late. None: it stays closed until its name is opened."""
    try:
        return insisting(inode, partial(_open, backend, inode, unanswered=unanswered))
    except Exception as error:
        if not volume.engine.aborted:  # otherwise the next reconnect opens it
            what = f"not opened by the new backend: {cause(error)}"
            volume.engine.say(logging.ERROR, "the volume", what, "it stays closed until it is opened again", inode.key)
        return None


def _take_version(inode: Inode, opened: Opened) -> None:
    """Record the version like `_check_version`, with the token held."""
    if inode.versions.stale or not inode.limits().commit_on_close:
        inode.invalidate_range(0, END)
        inode.versions.replace(opened.stat.version, stale=True)
    else:
        _is_base(inode, opened)


def _send_again(inode: Inode, *, known: bool) -> None:
    if known:
        inode.journaled.identified()
    if inode.conflict is None or known:
        inode.retry(failed_too=inode.conflict is None)


def _settle_names(volume: Volume, backend: Backend, fenced: bool, alive: Callable[[], None]) -> None:
    """Settle removes and renames of unknown result. After a fence also the running calls that change names: they can do
    nothing more on the old backend. The effects are read from the store.
    """
    with volume.inodes_lock:
        cached = (*volume.inodes.objects.values(), *volume.orphans) if fenced else ()
        running = {inode.naming: None for inode in cached if inode.naming is not None}
        changes = dict.fromkeys((*running, *volume.unsettled.values()))
    for change in changes:
        call = partial(change.settle_aborted, backend, fenced, alive)
        job = Job(call, what="stat", key=change.src)
        _wait(volume.engine.runner.submit(NAMES, job), alive)
        if change in running:
            volume.busy.take_away(change.names)


def _wanted(inode: Inode) -> bool:
    return not inode.abandoned and (inode.handles > 0 or inode.has_local())


def _open_all(
    volume: Volume, backend: Backend, inodes: list[Inode], fenced: bool, alive: Callable[[], None]
) -> dict[Inode, Opened]:
    """Open all objects concurrently. A missing object without local data stays closed."""
    same = backend is volume.engine.backend
    jobs: dict[Inode, Job[Opened | None]] = {}
    opened: dict[Inode, Opened] = {}
    try:
        for inode in inodes:
            call = partial(_open, backend, inode, fenced, same=same)
            job = Job(call, _close, what="open", key=inode.key)
            jobs[inode] = volume.engine.runner.submit(NAMES, job)
        for inode, job in jobs.items():
            found = _wait(job, alive)
            if found is not None:
                opened[inode] = found
        alive()
    except BaseException:
        for inode, job in jobs.items():
            if inode in opened:
                _close(opened[inode])
            else:
                job.abandon()
        raise
    return opened


def _alive(volume: Volume) -> Callable[[], None]:
    """Return a function that raises when the reconnect has become pointless."""
    engine = volume.engine
    began = engine.reconnects, engine.aborts

    def check() -> None:
        if volume.detached or (engine.reconnects, engine.aborts) != began:
            raise ShutdownError(f"the volume {volume.name!r} was detached, aborted, or reconnected by another thread")

    return check


def _wait(job: Job[T], alive: Callable[[], None]) -> T:
    try:
        return job.wait(alive)
    except Exception as error:
        if error is not job.error:
            raise
        raised = raised_by(error, job.what, job.key)
        if raised is error:
            raise
        raise raised from error


def _open(
    backend: Backend, inode: Inode, fenced: bool = False, *, same: bool = False, unanswered: tuple[object, ...] = ()
) -> Opened | None:
    """Open a file anew; `same`: by the backend that has reported its identity. `unanswered`: identifies its commits of
    unknown result; empty: as its present backend file says. None: it stays closed.
    """
    with inode.owner.inodes_lock:
        named = inode.owner.inodes.names(inode)
    held = inode.withheld and (inode.owner.options.read_only or backend.limits.read_only)
    create = named and inode.has_local() and not held
    settled = fenced or not inode.publications
    found = _find(backend, inode, create=create, comparable=not named or (same and not inode.finds_by_name()))
    if found is None:
        return None
    backend_file, stat, quiet = found
    early = inode.owner.late.get(inode)  # its backend file has made no commit yet
    unanswered = unanswered or (early.unanswered if early else inode.versions.find_unanswered())
    recognises: Any = getattr(backend_file, "recognises", None) if unanswered else None
    try:
        # All are asked: from then on the file recognises their later commits, too.
        ours = None if recognises is None else max(bool(recognises(one)) for one in unanswered)
        return Opened(backend_file, stat, quiet, settled, ours, unanswered)
    except BaseException:
        close_backend_file(backend_file)
        raise


def _find(
    backend: Backend, inode: Inode, *, create: bool, comparable: bool
) -> tuple[BackendFile, ObjectStat, int | None] | None:
    """Open a file by its last known name; return also its status, and `Versions.quiet` before that. None: there is no
    object, or another one has the name; `comparable`: their identities say so, and which other name leads to it.
    """
    key, quiet = inode.key, inode.versions.quiet()
    for name in (key, *inode.aliases) if comparable else ():
        try:
            found = checked_open(partial(backend.open, name), name)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in ELSEWHERE:
                raise
        else:
            if found[1].identity == inode.identity:
                if name != key:
                    with inode.owner.inodes_lock:
                        inode.owner.inodes.set_last_name(inode, name)
                return *found, quiet
            close_backend_file(found[0])
        create &= name != key  # otherwise something else has the name
    if comparable and not create:
        return None
    try:
        return *checked_open(partial(backend.open, key, create=create), key), quiet
    except OSError as error:  # FileNotFoundError with `create`: not the object is missing, but the place for it
        if create or not (isinstance(error, FileNotFoundError) or error.errno in ELSEWHERE):
            raise
        return None


def _close(opened: Opened | None) -> None:
    if opened is not None:
        close_backend_file(opened.backend_file)


def _adopt(inode: Inode, opened: Opened | None, limits: BackendLimits, fenced: bool, late: bool = False) -> bool:
    """Give a file its newly opened backend file, in a backend with these limits. False: the stored version is still to
    be compared. `late`: it is closed, unless an open by another name has opened it since: that file stays.
    """
    # If the backend does not say which version a rename has made: without local bytes the next open takes any.
    told = not inode.has_local() if opened is None else opened.ours is not None
    if inode.publications or (inode.versions.copied and not told):
        inode.versions.doubt()
    if fenced:
        inode.fence()
        inode.owed.fence()
        inode.fence_names()
    with inode.lock:
        inode.commits.forget_failures()
        if inode.conflict is None:
            inode.failures.forget()
    if (
        inode.usage()["unstable"]
        or inode.usage()["staged"]
        or len(inode.owed)
        or inode.tail()
        or inode.direct_ranges()
        or any(inode.undone()[what] for what in ("created", "resized", "hole_end", "gone_end"))
    ):
        inode.versions.about_to_change()  # losses of a store in place are no foreign changes
    tail = inode.tail()  # first: a later tail is noted for the next backend
    inode.uncommit()
    inode.staging.forgotten()
    inode.lose_direct(forget=True)
    durable = inode.limits().durable_writes
    keep = {"punch_hole", "truncate"} if durable else {"punch_hole"}
    kept = inode.owe_instead(repeated(inode, durable), keep=keep)
    if not (inode.commits.holes or inode.limits().commit_on_close):  # else they are owed, and later writes sent again
        _lose_holes(inode, [step.arguments for step in kept if step.method == "punch_hole"])
    if tail:
        inode.tail_owed(tail)
    if len(inode.owed):
        inode.set_uncommitted()
    if (getattr(opened and opened.backend_file, "limits", None) or limits).durable_writes:
        inode.forget_uncommitted(FORGET_CUTS)  # owed ones are over when they are paid; later ones stay
    if opened is not None or not late:
        inode.use(None if opened is None else opened.backend_file)
    inode.settle_due()
    if opened is None:
        return True
    if not inode.limits().commit_on_close:
        return False
    if inode.has_local():
        _settle_base(inode, opened)
        return True
    if inode.versions.stale:
        return False
    return _is_base(inode, opened)


def _is_base(inode: Inode, opened: Opened) -> bool:
    """Return whether the stored version is the base of a whole object, nothing of which is local. From any other one
    its handles read nothing.
    """
    stored = opened.stat.version
    if stored == inode.versions.base:
        return True
    if opened.ours:
        inode.versions.replace(stored)
    else:
        remote.changed(inode, stored)
    return bool(opened.ours)


def _settle_base(inode: Inode, opened: Opened) -> None:
    """Compare the stored version with the base of an object that is replaced as a whole, below its changes, before a
    commit may begin. Only a commit of unknown result, or a rename, makes another version that is no foreign one. If
    the backend does not say, every version found after such a call counts as its own.
    """
    stored = opened.stat.version
    same = stored == inode.versions.base
    if same and (opened.settled or not inode.versions.stale):
        inode.versions.replace(stored, stale=False)
    elif same or opened.ours or (inode.versions.stale and opened.ours is not False):
        inode.invalidate_range(0, END)
        inode.versions.replace(stored)
    else:
        remote.replaced(inode, stored)


def _lose_holes(inode: Inode, owed: Iterable[tuple[int, ...]]) -> None:
    """Report holes as lost, and read them again: later writes may lie in them, so they are not repeated. Except owed
    ones, (offset, length) each: nothing was stored since.
    """
    undone = inode.undone()
    lost = [(undone["hole_pos"], min(undone["hole_end"], inode.size))]
    inode.forget_uncommitted(FORGET_HOLES)
    with inode.lock:
        inode.commits.holes.clear()
    for offset, length in owed:
        inode.set_uncommitted(hole=(offset, offset + length))
        lost = [
            piece for start, end in lost for piece in ((start, min(end, offset)), (max(start, offset + length), end))
        ]
    ranges = []
    for start, end in lost:
        if start < end:
            inode.invalidate_range(start, end)
            ranges.append(LostRange(inode.key, start, end - start, errno.EIO, inode.owner.name))
    if ranges:
        inode.give_up_copy("a hole was lost with the backend")
        inode.report_loss(ranges, "holes were not committed when the backend was lost")


def _check_version(volume: Volume, inode: Inode, opened: Opened) -> None:
    """Keep clean pages only if nothing has changed the object, including changes sent to the old backend.

    The status from its open may be outdated: old calls may have ended since, and writers did not wait.
    """
    if inode.recovering:
        return  # the next call drops what was laid in part, and then compares
    if opened.quiet is not None and inode.versions.quiet() == opened.quiet and not inode.is_stale():
        try:
            compare(volume, inode, opened.stat, Attempts(volume.engine, "open", inode.key), opened.quiet)
        except ShutdownError:
            raise  # the next reconnect compares
        except ConflictError:
            pass  # the next commit and the next open raise it
        except OSError:  # the store does not answer: the next open compares
            inode.invalidate_range(0, END)
            return
        if inode.versions.quiet() is not None:
            return
    if inode.dispute.base_lost:
        return  # of a whole object: its handles read no other version
    inode.invalidate_range(0, END)
    inode.versions.replace(opened.stat.version, stale=True)
