"""Opening an object: the backend's file, close-to-open.

`open_inode` finds or makes the inode of a name that the caller holds as busy. Unless the caller accepts cached data
unchecked, the backend is asked for the name, never an open file: the name may lead to another object by now. Then the
version is compared: after a foreign change, cached data is not served, and a foreign change under local data is a
conflict, settled by the volume's options (contract 2.19, 2.20).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..backends.plain import open_seen, open_to_read
from ..backends.protocol import BackendFile, ObjectStat, close_backend_file
from ..engine.attempts import Attempts, insisting
from ..engine.commit import remote
from ..engine.commit.owed import FOLLOWING, NOTHING_OWED
from ..engine.file import EngineFile
from ..engine.io import barrier
from ..engine.io.barrier import FileSync
from ..engine.report.reason import Reason, during
from ..engine.retryer import is_transient
from ..errors import Key, ShutdownError, os_error
from ..native import END, LOCK, STAMP_MAX, TOKEN
from . import lifetimes
from .answers import checked_open, checked_stat
from .inode import Inode
from .lifetimes import Use
from .modes import flags_mode

if TYPE_CHECKING:
    from ..file.cached import CachedFile
    from .volume import Volume

T = TypeVar("T")


LOOKS = 2
"""How often an open looks at the store beside changes of this cache."""


def open_inode(volume: Volume, name: Key, key: Key, bits: int, age: float, tries: Attempts) -> Use:
    """Return a use of the inode, with its backend file open; the name is busy. This counts as a handle from the first
    moment on, so that a concurrent abandon does not free the inode.
    """
    opened: _Opened | None = None
    try:
        while True:
            use = _known(volume, name, tries)
            if use is not None:
                inode = use.inode
                try:
                    volume.engine.keep(inode)
                    if inode.owed is not NOTHING_OWED and inode.owed.owes(FOLLOWING):
                        inode.settled(partial(open_renamed, inode), tries)
                    if inode.backend_file is not None:
                        own = opened if opened is not None and _leads_to(inode, opened) else None
                        made = own is not None and own.created
                        if made:  # an open by another name has found it
                            _record_creation(inode)
                            inode.give_up_copy("it was created and opened at once")  # bytes may be in the log
                        # An open makes one object, though another program renames it before the open returns.
                        still = made or _open_known(volume, inode, name, key, bits, age, tries)
                        if own is not None and not still:  # the name has led there, and does no longer
                            volume.engine.close_later(own.backend_file, key)
                            opened = None
                    else:
                        quiet = inode.versions.quiet()
                        if opened is None and not bits & os.O_EXCL:
                            opened = as_seen(inode, name, key, age)
                        if opened is None:
                            opened = _open(volume, key, bits, tries, read=not inode.usage()["cached"])
                        else:  # other names may have led to changes of the object since
                            opened = opened._replace(stat=checked_stat(tries.repeated(opened.backend_file.stat), key))
                        still = _leads_to(inode, opened) and not _is_replaced(inode, opened, quiet, tries)
                        if still:
                            found, opened = opened, None
                            if not _use(volume, inode, found, key):
                                opened = found
                                lifetimes.release(use)
                                continue  # an open by another name was faster
                            _reopen(volume, inode, found, name, age, tries, quiet)
                    if still:
                        return use
                    _leave(volume, name, inode)
                except BaseException:
                    lifetimes.release(use)
                    raise
                lifetimes.release(use)
            found, opened = opened or _open(volume, key, bits, tries, read=True), None
            use = _make(volume, name, key, found)
            if use is not None:
                return use
            opened = _still_named(volume, found, key, tries)
    finally:
        if opened is not None:
            volume.engine.close_later(opened.backend_file, key)


def _known(volume: Volume, name: Key, tries: Attempts) -> Use | None:
    """Return a use of the inode that the name led to when it was last known. An abandoned one goes back before."""
    while True:
        with volume.inodes_lock:
            known = volume.inodes.at(name)
            if known is None:
                return None
            use = Use(known)
            use.begin()
        if not known.abandoned:
            return use
        try:
            lifetimes.settle_abandoned(known, tries)
        finally:
            lifetimes.release(use)


def _leads_to(inode: Inode, opened: _Opened) -> bool:
    """Return whether a name has led to the object of the inode when it was opened."""
    identity = opened.stat.identity
    if inode.identity is not None and identity is not None:
        return inode.identity == identity
    with inode.owner.inodes_lock:
        if identity in inode.owner.inodes.objects:
            return False
    return not opened.created or inode.has_local()


def _still_named(volume: Volume, opened: _Opened, key: Key, tries: Attempts) -> _Opened | None:
    """Return an opened file anew, as of now. None: its object has lost its last name, and the file is closed. Another
    name, which only this call holds, has led to it, such as a symbolic link; its cache went with the name.
    """
    if opened.removals == volume.inodes.removals:
        return opened
    named = False
    try:
        removals = volume.inodes.removals
        stat = checked_stat(tries.repeated(opened.backend_file.stat), key)
        named = stat.nlink != 0
        return opened._replace(stat=stat, removals=removals) if named else None
    finally:
        if not named:
            volume.engine.close_later(opened.backend_file, key)


def _leave(volume: Volume, name: Key, inode: Inode) -> None:
    """Record that the name leads to another object, or to none. If the store knows names only, the object is gone."""
    inode.give_up_copy("another writer has changed its name")
    if inode.identity is None:
        lifetimes.unname(volume, inode)
    else:
        with volume.inodes_lock:
            if volume.inodes.get(name) is inode:
                volume.inodes.unbind(name)


def _make(volume: Volume, name: Key, key: Key, opened: _Opened) -> Use | None:
    """Return a use of a new inode for an opened object. None: another name has led to its inode, and now this one
    does; or it may have lost its names since. The opened file is not used. An error closes it.
    """
    inode = Inode(volume, name, opened.backend_file, opened.stat)
    if opened.created:
        _record_creation(inode)
    inode.versions.confirm(name, opened.stat.version, opened.since)
    use = Use(inode)
    table = volume.inodes
    try:
        with volume.inodes_lock:
            volume.engine.check_alive(key, opened.reconnects)
            other = table.objects.get(opened.stat.identity)
            stands = opened.stat.identity is None or opened.removals == table.removals
            if other is None and stands:
                if volume.engine.mirror is not None:
                    volume.engine.mirror.opened(inode, created=opened.created)
                use.begin()
                table.add(inode)
                table.bind(name, inode)
            elif other is not None:
                table.bind(name, other)
        if other is not None or not stands:
            _forget_new(use)  # its file stays open
            return None
        volume.engine.add(inode)
    except BaseException:
        with volume.inodes_lock:
            published = table.knows(inode)
        if published:  # an interrupt: the next open finds it
            volume.engine.add(inode)
            volume.engine.name_sync.changed()
            lifetimes.release(use)
        else:
            _forget_new(use)
            volume.engine.close_later(opened.backend_file, key)
        raise
    return use


def _record_creation(inode: Inode) -> None:
    """Record that an open has created the object of an inode: its name is uncommitted."""
    if not inode.limits().durable_writes:
        inode.set_uncommitted(created=True)
    inode.owner.engine.name_sync.changed()


def _forget_new(use: Use) -> None:
    """Free an inode that no open has found. Its file of the backend stays open."""
    inode, volume = use.inode, use.inode.owner
    with volume.inodes_lock:
        use.end()
    use.leave()
    inode.take_files()
    inode.forget_uncommitted()
    inode.destroy()


def bind(
    use: Use, key: Key, bits: int, make: Callable[[Use], CachedFile], *, nameless: bool = False
) -> CachedFile | None:
    """Return a handle for the result of `open_inode`, which an error releases. None: it was abandoned concurrently.
    `nameless`: the object may have lost its name.
    """
    inode, volume = use.inode, use.inode.owner
    handle: CachedFile | None = None
    try:
        with volume.inodes_lock:
            usable = not inode.abandoned and (nameless or not inode.removed)
            if usable and bits & os.O_ACCMODE != os.O_RDONLY:
                use.write()  # from now on no abandon drops its bytes
        if not usable:
            lifetimes.release(use)
            return None
        if volume.engine.seals:
            volume.engine.check_unsealed(key)
        handle = make(use)
        with volume.inodes_lock:
            inode.open_handles[id(use)] = weakref.ref(handle)
        return handle
    except BaseException:
        if handle is not None:
            handle._leave()  # it was not collected unclosed
        lifetimes.release(use)
        raise


def open_again(handle: CachedFile, bits: int) -> CachedFile | None:
    """Return another handle on the object of `handle`, independent of its current name. None: `handle` is closed, or
    the object was abandoned.

    Raises:
        PermissionError: for writing on a read-only volume.
    """
    inode, key, volume = handle._inode, handle.key, handle.volume
    volume._check_alive(key)
    volume._check_may_write(key, bits)
    use, options, tries = Use(inode), volume.options, volume._attempts("open", key, None)
    through, window = bool(options.write_through), int(options.read_ahead)

    def make(use: Use) -> CachedFile:
        return type(handle)(use, key, flags_mode(bits), bits, through=through, read_ahead=window)

    try:
        with volume.inodes_lock:
            if not inode.handles:
                return None
            use.begin()
        lifetimes.settle_abandoned(inode, tries)
        opened = bind(use, key, bits, make, nameless=True)
    except BaseException:
        lifetimes.release(use)
        raise
    if opened is not None:
        try:
            if volume.recovery is not None and bits & (os.O_ACCMODE | os.O_TRUNC):
                volume.recovery.opened_for_writing(inode, tries)
            if bits & os.O_TRUNC and inode.size:
                opened._empty()
            lifetimes.opened(opened._use)
        except BaseException:
            opened._leave()
            raise
    return opened


def _open_known(volume: Volume, inode: Inode, name: Key, key: Key, bits: int, age: float, tries: Attempts) -> bool:
    """Open a known inode, whose backend file is open; it is not idle. False: the name does not lead to it any longer:
    another writer has removed or replaced the object. `age`: of a look in seconds that is recent enough. An exclusive
    open follows no link: one that has the name takes it, wherever it leads.
    """
    exclusive = bool(bits & os.O_CREAT and bits & os.O_EXCL)
    if exclusive or inode.dispute.base_lost or not age or not inode.versions.is_recent(name, age):
        began = volume.engine.clock.now()
        quiet, stat = _look(volume, inode, key, tries, follow=not exclusive)
        if quiet is not None and stat is None:
            return False
        if exclusive:
            raise os_error(errno.EEXIST, key)
        if quiet is not None and stat is not None:
            if not compare(volume, inode, stat, tries, quiet):
                return False
            inode.versions.confirm(name, stat.version, began)
            return True
    if inode.conflict is not None:
        raise inode.conflict_error()
    return True


def _look(
    volume: Volume, inode: Inode, key: Key, tries: Attempts, *, follow: bool
) -> tuple[int | None, ObjectStat | None]:
    """Look at the stored object of a name; return `Versions.quiet` before the look, and the status. `follow`: as for
    `stored_stat`.

    An answer that there is no object counts only if this cache has changed nothing meanwhile: a commit makes one. Then
    one more look follows; beside changes without end the object is taken as it is (None, None).
    """
    for _ in range(LOOKS):
        quiet = inode.versions.quiet()
        stat = stored_stat(volume, inode, key, tries, follow=follow)
        if stat is not None:
            return quiet, stat
        if inode.identity is not None and not inode.limits().commit_on_close:
            return 0, None  # the name leads elsewhere, whatever is written
        if quiet is not None and inode.versions.quiet() == quiet:
            return quiet, None
    return None, None


class _Opened(NamedTuple):
    """A file of the backend for a name. `created`: its open has created the object. `reconnects`, `removals`: number of
    reconnects, and `InodeTable.removals`, before it. `since`: the time before it; None: the store was not asked.
    """

    backend_file: BackendFile
    stat: ObjectStat
    created: bool
    reconnects: int
    removals: int
    since: float | None


def as_seen(inode: Inode, name: Key, key: Key, age: float) -> _Opened | None:
    """Return a file of the version that an inode had when its backend file was closed, without asking the store. None:
    the store has to be asked, because the last look at the name is `age` seconds old, or the backend cannot do this.
    """
    volume = inode.owner
    before = volume.engine.reconnects, volume.inodes.removals, None
    reconnects, seen = inode.last_seen or (None, None)
    if reconnects != before[0] or inode.identity is not None or inode.conflict is not None:
        return None
    if not inode.versions.is_recent(name, age):
        return None
    backend_file = open_seen(volume.engine.backend, key, seen)
    if backend_file is None:
        return None
    backend_file, stat = checked_open(lambda: backend_file, key)
    if inode.versions.is_base(stat.version):
        return _Opened(backend_file, stat, False, *before)
    volume.engine.close_later(backend_file, key)
    return None


def _open(volume: Volume, key: Key, bits: int, tries: Attempts, *, read: bool) -> _Opened:
    before = volume.engine.reconnects, volume.inodes.removals, volume.engine.clock.now()
    return _Opened(*open_backend(volume, key, bits, tries, read=read), *before)


def _use(volume: Volume, inode: Inode, opened: _Opened, key: Key) -> bool:
    """Use a file for a known inode whose backend file was closed. False: it is open by now.

    Raises:
        ShutdownError: the backend that opened it is gone; the file is closed.
    """
    try:
        with volume.inodes_lock:
            volume.engine.check_alive(key, opened.reconnects)  # a later reconnect opens the object anew
            if inode.backend_file is not None:
                return False
            inode.use(opened.backend_file)
            volume.inodes.identify(inode, opened.stat.identity)
            return True
    except ShutdownError:
        volume.engine.close_later(opened.backend_file, key)
        raise


def _reopen(
    volume: Volume, inode: Inode, opened: _Opened, name: Key, age: float, tries: Attempts, quiet: int | None
) -> None:
    """Compare a known inode with the file that was opened for it. `quiet`: `Versions.quiet` before that."""
    if opened.created:
        volume.engine.name_sync.changed()
        compare(volume, inode, opened.stat, tries)
    elif age < math.inf or opened.stat.size != inode.remote_size:
        if quiet is not None:
            compare(volume, inode, opened.stat, tries, quiet)
            inode.versions.confirm(name, opened.stat.version, opened.since)
        elif inode.conflict is not None:
            raise inode.conflict_error()


def open_backend(
    volume: Volume, key: Key, bits: int, tries: Attempts, *, read: bool = False
) -> tuple[BackendFile, ObjectStat, bool]:
    """Open, or create on request; return also whether this created the object. `read`: nothing of it is cached.

    A creation that may have been carried out is retried. If the retry finds the object, it is the created one, or an
    equivalent one; but with `exclusive` its creator is unknown, and the first error is raised. A creation on a
    commit_on_close backend makes nothing that a retry could find.
    """
    create, exclusive = bool(bits & os.O_CREAT), bool(bits & os.O_CREAT and bits & os.O_EXCL)
    read = read and not create and not bits & os.O_TRUNC
    began, backend = volume.engine.reconnects, volume.engine.backend
    made = False
    first: BaseException | None = None

    def make() -> BackendFile:
        nonlocal made
        backend_file = tries.make(partial(backend.open, key, create=True, exclusive=True))
        made = not backend.limits.commit_on_close
        return backend_file

    def attempt() -> tuple[BackendFile, ObjectStat, bool]:
        nonlocal first
        opened, tries.first = None, first  # `repeated` has forgotten it
        try:
            opened = found_or_made()
            return opened
        finally:
            first = tries.first
            if volume.recovery is not None and (made or tries.doubtful or (opened is not None and opened[2])):
                volume.recovery.give_up(key, by=tries)

    def found_or_made() -> tuple[BackendFile, ObjectStat, bool]:
        landed = made or (tries.doubtful and not backend.limits.commit_on_close)
        if made or not exclusive:
            try:
                return *checked_open(lambda: open_to_read(backend, key) if read else backend.open(key), key), landed
            except FileNotFoundError:
                if not create:
                    raise
        try:
            return *checked_open(make, key), True
        except FileExistsError:
            if exclusive and landed and tries.first is not None:  # a creation with an answer is no doubt
                tries.give_up()
            if exclusive:
                raise
        return *checked_open(lambda: backend.open(key, create=True), key), landed

    def undo(result: tuple[BackendFile, ObjectStat, bool]) -> None:
        close_backend_file(result[0])

    freed = True
    try:
        while True:
            try:
                return tries.repeated(attempt, undo)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not freed:
                    raise
                freed = free_descriptors(volume, tries)  # one more attempt in any case: others may have let go of some
                tries.alive(began)
    finally:
        first = None  # as in `repeated`


def follow(inode: Inode, earlier: BackendFile | None) -> None:
    """Record that a file has another name, by which it is opened before the next call on it; on a thread of the volume.
    `earlier`: its file of the backend that has changed the name: a reconnect may have let go of it, and opens the
    object.

    Bytes uploaded for a commit follow automatically. A file whose commit had no answer is kept if it says that it has
    followed: only this file tells that commit from another writer's version, also in a copy. Otherwise the file is
    opened anew, so that later uploads go to this name.
    """
    backend_file = inode.backend_file
    if not inode.finds_by_name() or inode.removed:
        return
    inode.versions.may_be_copied(inode.limits().commit_on_close)
    if backend_file is None:
        if earlier is not None and not inode.owner.engine.aborted:  # else its backend may never answer
            with contextlib.suppress(Exception):  # then the version is another one, and a conflict
                take_version(inode, earlier)
        return
    following = _Following(inode)
    if not inode.owner.engine.aborted:
        with contextlib.suppress(OSError):  # it is asked again before the next call
            if insisting(inode, partial(following.goes_on, backend_file)):
                return
    inode.owe(following)


def take_version(inode: Inode, backend_file: BackendFile) -> ObjectStat:
    """Take the version that a whole object has under a new name from the file that was open before: only this file
    tells it from another writer's. Return the status.
    """
    found = checked_stat(backend_file.stat(), inode.key)
    if inode.limits().commit_on_close and (found.version is not None or inode.versions.base is None):
        inode.versions.follow(inode.versions.base, found.version)
    return found


def owe_opening(inode: Inode) -> None:
    """Let a file be opened by its name before its next call."""
    with inode.owner.inodes_lock:
        known = inode.owner.inodes.knows(inode)
    if known:
        inode.owe(_Following(inode))


def open_renamed(file: EngineFile) -> None:
    """Open a file by its new name, if that is owed. After an error it stays owed. The token is held, on a thread of the
    volume.
    """
    insisting(file, partial(file.owed.pay_now, FOLLOWING))


def _has_uncommitted(inode: Inode) -> bool:
    """Return whether the backend may have changes that are not committed. It has none of bytes that were spilled."""
    undone = inode.undone()
    if undone["resized"] or not inode.commit_needed(STAMP_MAX):
        return bool(undone["resized"])
    sent = inode.usage()["unstable"] or inode.direct_ranges() or not inode.staging.is_unsent()
    return bool(sent or undone["created"] or undone["lowest"] != END or undone["hole_end"] or undone["gone_end"])


class _Following:
    """The debt to open a renamed file by its name. The file that was open before may store bytes under an earlier name:
    no call goes to it any longer.

    A copy may have another version than its source. Only the file that was open before tells that version from another
    writer's, so it has to answer, or to refuse for good, before the new name is opened.
    """

    method, arguments, behind = FOLLOWING, (), False

    def __init__(self, inode: Inode) -> None:
        self._inode = inode
        self._asked = False

    def goes_on(self, backend_file: BackendFile) -> bool:
        """Return whether the file that was open before goes on under the new name; take the version that it has there.

        Raises:
            OSError: a transient one: it is to be asked again.
        """
        volume, inode, followed = self._inode.owner, self._inode, False
        if self._asked or not inode.limits().commit_on_close:
            return False
        try:
            found = take_version(self._inode, backend_file)
        except OSError as error:
            if is_transient(error):
                raise
        else:
            followed = found.key is not None and volume._canonical(found.key) == inode.key
        self._asked = True
        # After a failed commit nothing but the size tells of bytes that this file has taken.
        return bool(_has_uncommitted(inode) or (followed and inode.versions.stale))

    def call(self, backend_file: BackendFile) -> None:
        """Open the file. If another version is stored than the one below the local bytes, it is a foreign one, and no
        byte of it is read: the file that was open before refuses reads of a lost version.

        Raises:
            FileNotFoundError: another program has removed the object, below unsaved bytes of an object in place: they
                stay unsaved until something has the name.
        """
        volume, inode, key = self._inode.owner, self._inode, self._inode.key
        if inode.removed or self.goes_on(backend_file):
            return
        reconnects, used, whole = volume.engine.reconnects, False, inode.limits().commit_on_close
        try:
            fresh, stat = checked_open(lambda: volume.engine.backend.open(key), key)
        except FileNotFoundError:
            self._check_name(key)
            if not inode.local_ranges() and not (whole and inode.has_local()):
                lifetimes.unname(volume, self._inode)
            elif whole:
                remote.changed(inode, None)
            else:
                raise
            return
        try:
            self._check_name(key)
            if whole and stat.version != inode.versions.base:
                remote.changed(inode, stat.version)
                return
            with volume.inodes_lock:
                volume.engine.check_alive(key, reconnects)
                used = not inode.removed
                if used:
                    inode.replace_by(fresh)
        finally:
            if not used:
                volume.engine.close_later(fresh, key)

    def _check_name(self, key: Key) -> None:
        """Raise an error after which the call is made again, if the name is not that of the open any longer."""
        inode = self._inode
        if inode.unnaming is not None or inode.key != key:
            raise OSError(errno.EBUSY, "the name of the object is being changed", key)


def stored_stat(volume: Volume, inode: Inode, key: Key, tries: Attempts, *, follow: bool = True) -> ObjectStat | None:
    """Return the stored status of the object of a name. None: the name does not lead to the object of the inode any
    longer. With `follow` False a link is found itself, even if it leads there no longer.
    """

    def look() -> ObjectStat:
        backend = volume.engine.backend
        return (backend.stat if follow else getattr(backend, "lstat", backend.stat))(key)

    try:
        stat = checked_stat(tries.repeated(look), key)
    except FileNotFoundError:
        whole = inode.limits().commit_on_close
        if whole and inode.undone()["created"]:
            # It exists here, uncommitted; its file may have a version.
            return ObjectStat(size=0, version=inode.versions.base)
        if inode.identity is not None and not whole:
            return None
        if not inode.has_local():
            return None
        return ObjectStat(size=0)  # only local data is left of it
    other = None not in (stat.identity, inode.identity) and stat.identity != inode.identity
    return None if other and stat.kind != "symlink" else stat


def free_descriptors(volume: Volume, tries: Attempts) -> bool:
    """Close idle files of the backend, when out of file descriptors; return whether there were any. Those with unsaved
    bytes are saved only if there are no others: a commit may need descriptors.
    """
    return _close_idle(volume, tries) or _close_saved(volume, tries)


def _close_idle(volume: Volume, tries: Attempts) -> bool:
    """Close idle files; return whether there were any. One call takes and closes them: nothing comes between."""

    def close() -> bool:
        taken = volume.engine.take_idle(0, turn=None)
        for backend_file in taken:
            with contextlib.suppress(Exception):  # it is not about the file that is opened
                close_backend_file(backend_file)
        return bool(taken)

    return tries.repeated(close, what="close", again=False, whole=True)


def _close_saved(volume: Volume, tries: Attempts) -> bool:
    """Save idle files, until one is closed or none can be saved; return whether one is. The others stay unsaved."""
    engine = volume.engine
    syncs = [FileSync(f) for f in engine.idle_files() if f.has_local() and not f.limits().commit_on_close]

    def save() -> bool:
        left, closed = syncs, _close_idle(volume, tries)
        while left and not closed:
            tries.alive()
            left = [sync for sync in left if not _is_over(sync)]
            closed = _close_idle(volume, tries)
            if left and not closed:
                left[0].wait(tries.deadline)
        return closed

    try:
        return during(Reason("a file that can be closed", engine.native, key=tries.key), save)
    finally:
        for sync in syncs:
            sync.leave()


def _is_over(sync: FileSync) -> bool:
    """Return whether a file is saved, or cannot be: its own next sync raises the error."""
    file = sync.file
    try:
        file.volume.check_wait("an open", file.key)
        file.check_here(sync.needs())
        over = file.freed or file.removed or file.is_kept_back() or sync.poll()
        if over and not file.has_local():
            file.confirm_saved()
    except ShutdownError:
        raise
    except OSError:
        return True
    return over


def compare(volume: Volume, inode: Inode, stat: ObjectStat, tries: Attempts, quiet: int | None = None) -> bool:
    """Compare versions for close-to-open: after a foreign change, cached data is not served (contract 2.19, 2.20).

    `quiet` is `Versions.quiet` before `stat` was read: if it is unchanged after the comparison as well, the
    difference is not this cache's own change. False: another program has replaced the object, with nothing local; the
    file keeps the version that it read, without a name.
    """
    changes = inode.changes()
    if inode.dispute.versions is not None:
        raise inode.conflict_error()
    if inode.is_stale() and not inode.versions.is_given_up():
        return True  # this cache's writes changed it; the end of the flush reads their version
    same = stat.version == inode.versions.base
    if stat.version is None and not inode.limits().commit_on_close:
        # A version decides, if there is one: storing part of a unit makes an object longer, too.
        same = stat.size == inode.remote_size
    if quiet is not None and inode.versions.quiet() != quiet:
        return True
    if same and inode.versions.announced is None:
        if inode.dispute.base_lost:
            with inode.lock:
                inode.dispute.find_base()
            inode.bind()  # the announced change did not happen
        return True
    whole = inode.limits().commit_on_close
    if volume.prefers_stored and not whole:
        stat, changes = _yielded(volume, inode, stat, changes, tries)
    inode.give_up_copy("the object was changed by another writer")
    if whole and _replaced(inode, stat, changes, tries):
        return False
    if whole and inode.is_stale():
        return True  # a write has come since: its commit finds whose version that is
    if inode.has_local() or not (whole or inode.settled(partial(_take, inode, stat, changes), tries)):
        remote_change(volume, inode, stat, tries)
    return True


def _is_replaced(inode: Inode, opened: _Opened, quiet: int | None, tries: Attempts) -> bool:
    """Return whether a name leads to another version of a whole object than a known inode has, whose backend file was
    closed, and nothing of which is local: then the opened file is that of a new inode.
    """
    whole = inode.limits().commit_on_close and not opened.created
    if not whole or quiet is None or inode.conflict is not None or opened.stat.version == inode.versions.base:
        return False
    return _replaced(inode, opened.stat, quiet, tries)


def _replaced(inode: Inode, stat: ObjectStat, changes: int, tries: Attempts) -> bool:
    """Take the name from a whole object that another program has replaced, if nothing is local; its handles never see
    the new version. The inode lock is held: a write is over, and makes this a conflict, or finds its handle replaced.
    The token excludes commits. `changes`: the number of this cache's changes at the comparison.
    """
    replaced = False

    def take_name() -> None:
        nonlocal replaced
        replaced = not inode.has_local() and inode.changes() == changes
        if replaced:
            inode.replaced()
            # Open handles keep the file, which refuses reads of uncached bytes.
            lifetimes.take_name(inode.owner, inode, partial(inode.lose_version, stat.version))

    inode.run(LOCK | TOKEN, "holding", take_name, tries.deadline.until())
    if replaced:
        _report_taken(inode)
    return replaced


def _yielded(volume: Volume, inode: Inode, stat: ObjectStat, changes: int, tries: Attempts) -> tuple[ObjectStat, int]:
    """Handle a foreign change of a file that is stored in place: bytes acknowledged for this cache are in it, below
    those of the other writer. Once they are durable nothing of this cache can be lost, and the other version becomes
    the base.
    """
    usage = inode.usage()
    if inode.has_local() and not usage["dirty"] and not usage["writeback"]:
        with contextlib.suppress(OSError):  # otherwise it is a conflict
            barrier.fsync(inode, tries.deadline.timeout())
            changes = inode.changes()
            stat = stored_stat(volume, inode, inode.key, tries) or stat
    return stat, changes


def _take(inode: Inode, stat: ObjectStat, changes: int) -> bool:
    """Make the other version the base, if nothing is local still. The token is held: concurrent writes are neither
    written back, to the file of either version, nor committed. `changes`: the number of this cache's changes at the
    comparison.
    """
    if inode.has_local():
        return False
    # No direct write begins: it needs no token, and its stored bytes would be past an end that was read before.
    inode.close_gate()
    if inode.changes() != changes or inode.direct_count():
        inode.invalidate_range(0, END)  # later writes of this cache went over it, and set the sizes, or will
        return True
    inode.invalidate_range(0, END)
    if not inode.set_sizes(stat.size, stat.size):
        return False
    inode.invalidate_range(0, END)  # nothing of the old version is left
    _report_taken(inode)
    with inode.lock:
        inode.versions.take(stat.version, stale=inode.versions.stale)
        inode.versions.sized()
    return True


def _report_taken(inode: Inode) -> None:
    what, next = "another version is stored than the one that was cached", "cached bytes are read again"
    inode.owner.engine.emit("invalidated", inode.key, ((0, inode.size),), message=what, next=next)
    inode.owner.engine.say(logging.DEBUG, "changes of stored objects", what, next, inode.key)


def remote_change(volume: Volume, inode: Inode, stat: ObjectStat, tries: Attempts) -> None:
    """Settle a foreign change under local data before the open continues, if possible."""
    # An announced change concerned no local byte then: a change that does comes as a conflict with the announcement.
    apart = inode.versions.announced is not None and stat.version in (inode.versions.announced, inode.versions.base)
    if apart:
        inode.settled(lambda: remote.lie_over_announced(inode), tries)
    elif volume.options.on_conflict == "fail":
        if not inode.limits().commit_on_close:
            inode.invalidate_range(0, END)
        remote.changed(inode, stat.version)
        raise inode.conflict_error()
    else:
        inode.settled(lambda: remote.take(inode), tries)
