"""Requests of the loop in C as calls of the file system, and their results as replies: one method for each operation.

The calls block, on the threads of `Loop`. Exceptions become an errno. A reply comes too late if its deadline has passed
or its program was killed. It is undone then: lookups are forgotten, opened files are released.

`FileSystem` is the interface of a file system. `Server` has all of it; another file system may have any part. A missing
operation is ENOSYS, or has a simple default here.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ..native.loop import NOT_KNOWN, Dirents, FuseRequest, NativeLoop
from .callers import NONE, Callers
from .entries import Listed
from .errnos import errno_of
from .files import Files, all_data
from .loopfile import LoopFile
from .server import Attributes, Listing, Owner, Server

__all__ = ["Answers", "FileSystem", "has_xattrs"]

log = logging.getLogger("pagecache.fuse")

CAPABILITY = "security.capability"
ACLS = ("system.posix_acl_access", "system.posix_acl_default")
TRUSTED = "trusted."
"""Prefix of extended attributes that Linux shows to the superuser only."""
NAME_MAX = 255
FORGOTTEN = 256
"""Nodes that are fetched at once when the kernel has forgotten many."""
WRITTEN_BACK_AT_ONCE = 8
"""Files whose pages the kernel writes back on request at the same time: far fewer than there are threads (loop.py)."""
TAKING = ("unlink", "rmdir", "rename")
"""Requests that take names away."""
ENDLESS = 1 << 50
"""Size in bytes of a store that does not report its free space."""
STATFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")
DIRECTORY = 0o040755


class FileSystem(Protocol):
    """The interface of a file system for a loop, by the kernel's inode numbers; 1 is the root. Calls come from several
    threads, and an OSError goes to the program.

    These methods are required. The other methods of `Server` are optional: create, setattr, unlink, mkdir, ...; and for
    directories `entries(number)`, an iterable of (name, Attributes), in place of `opendir`. "." and ".." need not be
    included. A name that is empty, longer than 1024 bytes, or has a slash or a NUL is left out, with a warning in the
    log.
    """

    files: Files

    def getattr(self, number: int) -> Attributes: ...
    def lookup(self, parent: int, name: str) -> Attributes: ...
    def open(self, number: int, flags: int) -> tuple[int, bool]:
        """Return a number of `files`, and whether the kernel's pages of the file are still valid."""
        ...


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a directory, from `opendir` or `entries`, and the time of that call."""

    listing: Listing | None
    entries: list[tuple[str, Attributes]]
    arrived_ns: int


@dataclass(slots=True)
class _Directory:
    """An open directory. `content`: the content for its readers; None: not read yet."""

    content: _Content | None = None


def _values(found: Attributes) -> tuple[int, ...]:
    return (
        found.number,
        found.mode,
        found.nlink,
        found.uid,
        found.gid,
        found.size,
        found.atime_ns,
        found.mtime_ns,
        found.ctime_ns,
        found.rdev,
        NOT_KNOWN if found.allocated is None else found.allocated,
        found.taken,
    )


def has_xattrs(system: FileSystem) -> bool:
    """Return whether the file system keeps extended attributes. If not, the loop itself reports that there is no
    security.capability.
    """
    names = getattr(system, "names", None)
    return callable(getattr(system, "getxattr", None)) and bool(getattr(names, "has_xattrs", True))


def _code(error: BaseException, what: str) -> int:
    """Return the errno for a program."""
    code = errno_of(error)
    if not isinstance(error, OSError | ValueError | MemoryError):
        log.error("%s failed with an unexpected error", what, exc_info=error)
    elif code == errno.EIO:
        log.warning("%s: %s: EIO for the program", what, error)
    return code


class Answers:
    """The operations.

    Args:
        loop: the source of requests.
        system: the file system.
        deadline: seconds after which a request has been given up; None: never.
        direct_io: the kernel keeps no pages, and clears no set-id bits of files that are written.
        acls: the kernel enforces POSIX ACLs.
    """

    def __init__(
        self,
        loop: NativeLoop,
        system: FileSystem,
        deadline: float | None,
        *,
        direct_io: bool = False,
        acls: bool = False,
    ) -> None:
        self._loop = loop
        self._direct_io, self._acls = direct_io, acls
        self._system: Any = system
        self._files = system.files
        self._callers = Callers()
        self._deadline = deadline
        self._lock = threading.Lock()  # guards the table of directories and their content; held briefly
        self._written_back = threading.Semaphore(WRITTEN_BACK_AT_ONCE)
        self._directories: dict[int, _Directory] = {}
        self._next_directory = 1
        self._listed = Listed()
        self._has_xattrs = has_xattrs(system)

    def answer(self, request: FuseRequest) -> None:
        """Serve one request. Never raises."""
        op, token = request.op, request.token
        comes_back = self._callers.knows(request.thread)
        request.again = self._callers.comes(request.thread, op, request.number)
        if comes_back and op in TAKING:
            self._came(request.thread)
        try:
            getattr(self, f"_{op}")(request, token)
        except BaseException as error:  # SystemExit, too: the request must get a reply
            code = _code(error, op)
            tried = op == "open" or (op == "setattr" and request.fh is None and "size" in request.changes)
            number = request.number if tried else NONE
            self._callers.failed(request.thread, op, number, stale=code == errno.ESTALE, again=request.again)
            self._loop.reply_error(token, code)
        finally:
            if comes_back and not self._callers.knows(request.thread):
                self._came(request.thread)
            self._loop.done(token)

    def _method(self, name: str) -> Callable[..., Any]:
        method = getattr(self._system, name, None)
        if method is None:
            raise OSError(errno.ENOSYS, f"this file system has no {name}")
        found: Callable[..., Any] = method
        return found

    def _is_own(self, method: Callable[..., Any]) -> bool:
        """Return whether the file system has a method of `Server`, with its last argument."""
        return getattr(type(self._system), method.__name__, None) is method

    def _again(self, request: FuseRequest, method: Callable[..., Any]) -> tuple[bool | None, ...]:
        """Return the last argument of such a method, if it has one."""
        return (request.again if request.thread else None,) if self._is_own(method) else ()

    def _came(self, thread: int) -> None:
        if isinstance(self._system, Server):
            self._system.came(thread)

    def _done(self, token: int) -> None:
        self._loop.reply_error(token, 0)

    # -- for the loop itself

    def _forget(self, request: FuseRequest, token: int) -> None:
        while forgotten := self._loop.forgotten(FORGOTTEN):
            for number, times in forgotten:
                try:
                    self._forget_node(number, times)
                except Exception as error:  # a foreign file system: forget the others all the same
                    _code(error, "forget")

    def _forget_node(self, number: int, times: int = 1) -> None:
        forget = getattr(self._system, "forget", None)
        if forget is not None:
            forget(number, times)

    def _read_ahead(self, request: FuseRequest, token: int) -> None:
        opened = self._files.by_number.get(request.fh or 0)
        if opened is not None and not opened.file.closed:
            opened.file._move_window(request.offset)

    # -- names and attributes

    def _entry(self, token: int, found: Attributes) -> None:
        if not self._loop.reply_entry(token, _values(found)):
            self._forget_node(found.number)

    def _lookup(self, request: FuseRequest, token: int) -> None:
        known = self._callers.knows(request.thread) and self._is_own(Server.lookup)
        found = self._system.lookup(request.number, request.name, *((request.thread,) if known else ()))
        passing = stat.S_IFMT(found.mode) in (stat.S_IFDIR, stat.S_IFLNK)
        self._callers.found(request.thread, found.number, passing=passing)
        self._entry(token, found)

    def _getattr(self, request: FuseRequest, token: int) -> None:
        self._loop.reply_attributes(token, _values(self._system.getattr(request.number)))

    def _setattr(self, request: FuseRequest, token: int) -> None:
        again = self._again(request, Server.setattr)
        found = self._method("setattr")(request.number, request.changes, request.fh, *again)
        self._loop.reply_attributes(token, _values(found))

    def _readlink(self, request: FuseRequest, token: int) -> None:
        self._loop.reply_data(token, os.fsencode(self._method("readlink")(request.number)))

    def _mknod(self, request: FuseRequest, token: int) -> None:
        more = (request.rdev,) if stat.S_IFMT(request.mode) in (stat.S_IFCHR, stat.S_IFBLK) else ()
        self._entry(
            token, self._method("mknod")(request.number, request.name, request.mode, Owner(*request.owner), *more)
        )

    def _mkdir(self, request: FuseRequest, token: int) -> None:
        self._entry(token, self._method("mkdir")(request.number, request.name, request.mode, Owner(*request.owner)))

    def _symlink(self, request: FuseRequest, token: int) -> None:
        self._entry(token, self._method("symlink")(request.number, request.name, request.name2, Owner(*request.owner)))

    def _link(self, request: FuseRequest, token: int) -> None:
        self._entry(token, self._method("link")(request.number, request.number2, request.name2))

    def _unlink(self, request: FuseRequest, token: int) -> None:
        self._method("unlink")(request.number, request.name)
        self._done(token)

    def _rmdir(self, request: FuseRequest, token: int) -> None:
        self._method("rmdir")(request.number, request.name)
        self._done(token)

    def _rename(self, request: FuseRequest, token: int) -> None:
        self._method("rename")(request.number, request.name, request.number2, request.name2, request.flags)
        self._done(token)

    # -- files

    def _begin(self, fh: int, number: int) -> LoopFile:
        opened = self._files.get(fh)
        if not isinstance(opened, LoopFile):
            raise TypeError(f"{opened!r} was opened before the loop began")
        opened.begin(self._loop, number, opened.file)
        return opened

    def _give_back(self, fh: int) -> None:
        getattr(self._system, "release", self._files.release)(fh)

    def _open(self, request: FuseRequest, token: int) -> None:
        fh, kept = self._system.open(request.number, request.flags, *self._again(request, Server.open))
        try:
            if self._direct_io and request.flags & os.O_ACCMODE and request.owner[0]:
                self._clear_set_id(request.number)
            opened = self._begin(fh, request.number)
            known = getattr(self._system, "known", None)
            if known is not None and (found := known(request.number)) is not None:
                self._loop.attributes_known(_values(found))
            if self._loop.reply_open(token, opened, kept):
                return
        except BaseException:
            self._give_back(fh)
            raise
        self._give_back(fh)

    def _clear_set_id(self, number: int) -> None:
        """Clear the set-id bits of a file that a user other than root may write: without pages the kernel does not."""
        clear = getattr(self._system, "clear_set_id", None)
        if clear is not None:
            clear(number)

    def _create(self, request: FuseRequest, token: int) -> None:
        fh, found = self._method("create")(
            request.number, request.name, request.mode, request.flags, Owner(*request.owner)
        )
        try:
            if self._loop.reply_create(token, _values(found), self._begin(fh, found.number)):
                return
        except BaseException:
            self._give_back(fh)
            self._forget_node(found.number)
            raise
        self._give_back(fh)
        self._forget_node(found.number)

    def _read(self, request: FuseRequest, token: int) -> None:
        opened = self._files.get(request.fh or 0)
        self._loop.reply_data(token, opened.file.pread(request.size, request.offset))

    def _write(self, request: FuseRequest, token: int) -> None:
        opened = self._files.get(request.fh or 0)
        self._loop.reply_written(token, opened.write(request.data, request.offset))

    def _lseek(self, request: FuseRequest, token: int) -> None:
        """Find data or a hole. First the kernel writes back pages that programs may have stored to through mappings."""
        fh, offset, whence = request.fh or 0, request.offset, request.flags
        may_be_mapped = getattr(self._system, "may_be_mapped", None)
        try:
            if (may_be_mapped is None or may_be_mapped(request.number)) and not self._pages_written_back(
                request.number
            ):
                found = all_data(self._files.get(fh).file.size, offset, whence)
            else:
                found = getattr(self._system, "lseek", self._files.lseek)(fh, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            self._loop.reply_error(token, errno.ENXIO)
        else:
            self._loop.reply_offset(token, found)

    def _pages_written_back(self, number: int) -> bool:
        """Have the kernel write back and drop its pages of a file. False: too many calls do that already. Each of these
        writes may need a thread of the loop, so most threads stay free for them.
        """
        if not self._written_back.acquire(blocking=False):
            return False
        try:
            return self._loop.notify_inode(number) in (0, -errno.ENOENT)
        finally:
            self._written_back.release()

    def _flush(self, request: FuseRequest, token: int) -> None:
        getattr(self._system, "flush", self._files.flush)(request.fh or 0)
        self._done(token)

    def _fsync(self, request: FuseRequest, token: int) -> None:
        fsync = getattr(self._system, "fsync", None)
        if fsync is None:
            self._files.get(request.fh or 0).fsync(data_only=bool(request.flags), timeout=self._deadline)
        else:
            fsync(request.fh, bool(request.flags), self._deadline)
        self._done(token)

    def _release(self, request: FuseRequest, token: int) -> None:
        self._give_back(request.fh or 0)
        self._done(token)

    # -- directories

    def _read_content(self, number: int, arrived_ns: int) -> _Content:
        opendir = getattr(self._system, "opendir", None)
        if opendir is not None:
            return _Content(opendir(number), [], arrived_ns)
        return _Content(None, self._listed.of(f"directory {number}", self._method("entries")(number)), arrived_ns)

    def _opendir(self, request: FuseRequest, token: int) -> None:
        """Open a directory. Its content is read later, at the first readdir, so that it includes changes made in
        between.
        """
        if not hasattr(self._system, "opendir"):
            self._method("entries")
        with self._lock:
            fh, self._next_directory = self._next_directory, self._next_directory + 1
            self._directories[fh] = _Directory()
        if not self._loop.reply_opendir(token, fh):
            self._directories.pop(fh, None)

    def _readdir(self, request: FuseRequest, token: int) -> None:
        self._list(request, token, plus=False)

    def _readdirplus(self, request: FuseRequest, token: int) -> None:
        self._list(request, token, plus=True)

    def _list(self, request: FuseRequest, token: int, *, plus: bool) -> None:
        directory = self._directories[request.fh or 0]
        content = directory.content
        if content is None or request.offset == 0:
            content = self._read_content(request.number, request.arrived_ns)
            with self._lock:  # after its deadline this call may end after a later one, whose content is in use
                if directory.content is None or directory.content.arrived_ns <= content.arrived_ns:
                    directory.content = content
        answer = Dirents(self._loop, request.size, plus)
        counted: list[int] = []
        try:
            self._fill(answer, content, request, counted)
            if not answer.reply(token):
                for number in counted:
                    self._forget_node(number)
        finally:
            answer.free()

    def _fill(self, answer: Dirents, content: _Content, request: FuseRequest, counted: list[int]) -> None:
        """Add entries from the requested offset on, as many as fit; `counted`: collects nodes whose lookup counts in
        the kernel.
        """
        listing = content.listing
        number = request.number
        count = len(content.entries) if listing is None else len(listing.entries)
        dots = Attributes(number, DIRECTORY, 2, 0, 0, 0, 0, 0, 0)
        for index in range(request.offset, count + 2):
            if index < 2:
                if not answer.add((".", "..")[index], _values(dots), True, index + 1):
                    return
                continue
            if listing is None:
                name, found = content.entries[index - 2]
                certain = True
            else:
                name = listing.entries[index - 2][0]
                entry = self._system.entry(listing, index - 2)
                found = self._system.entry_now(listing, index - 2) if entry is None else entry
                if found is None:  # the name is gone
                    continue
                certain = listing.certain()
            added = answer.add(name, _values(found), certain, index + 1)
            if added and answer.plus:
                counted.append(found.number)
            elif listing is not None:
                self._forget_node(found.number)
            if not added:
                return

    def _releasedir(self, request: FuseRequest, token: int) -> None:
        self._directories.pop(request.fh or 0, None)
        self._done(token)

    def _fsyncdir(self, request: FuseRequest, token: int) -> None:
        fsyncdir = getattr(self._system, "fsyncdir", None)
        if fsyncdir is not None:
            fsyncdir()
        self._done(token)

    def _statfs(self, request: FuseRequest, token: int) -> None:
        statfs = getattr(self._system, "statfs", None)
        found = None if statfs is None else statfs()
        if found is None:
            blocks = ENDLESS // 4096
            fields: tuple[int, ...] = (4096, 4096, blocks, blocks, blocks, 1 << 31, 1 << 31, 1 << 31, NAME_MAX)
        else:
            fields = tuple(int(getattr(found, name)) for name in STATFS)
        self._loop.reply_statfs(token, fields)

    # -- extended attributes

    def _check_xattrs(self) -> None:
        if not self._has_xattrs:
            # The kernel then stops asking; otherwise it would ask before each write.
            raise OSError(errno.ENOSYS, "no extended attributes")

    def _getxattr(self, request: FuseRequest, token: int) -> None:
        self._check_xattrs()
        try:
            value = self._system.getxattr(request.number, request.name)
        except OSError as error:
            if not (self._acls and request.name in ACLS and error.errno == errno.EOPNOTSUPP):
                raise
            # For the kernel only ENODATA means that there is no ACL: with another error it refuses the whole call.
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from None
        self._loop.reply_data(token, value)

    def _setxattr(self, request: FuseRequest, token: int) -> None:
        self._check_xattrs()
        if request.name == CAPABILITY:
            raise io.UnsupportedOperation(errno.EOPNOTSUPP, "capabilities are not kept")
        self._method("setxattr")(request.number, request.name, request.data, request.flags)
        self._done(token)

    def _listxattr(self, request: FuseRequest, token: int) -> None:
        self._check_xattrs()
        names: Iterable[str] = self._method("listxattr")(request.number)
        root = request.owner[0] == 0
        shown = [name for name in names if name != CAPABILITY and (root or not name.startswith(TRUSTED))]
        self._loop.reply_data(token, b"".join(os.fsencode(name) + b"\0" for name in shown))

    def _removexattr(self, request: FuseRequest, token: int) -> None:
        self._check_xattrs()
        if request.name == CAPABILITY:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        self._method("removexattr")(request.number, request.name)
        self._done(token)
