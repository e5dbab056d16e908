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
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

from ..native.loop import NOT_KNOWN, Dirents, FuseRequest, NativeLoop
from .attributes import Attributes, Owner
from .callers import CALLERS_MAX, NONE, UNKNOWN_AGAIN_S, Callers
from .entries import Listed
from .errnos import errno_of
from .files import Files, all_data
from .loopfile import LoopFile
from .server import Listing, Server

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
PASSED_ON = {
    "getattr": ("number",),
    "readlink": ("number",),
    "mkdir": ("number", "name", "mode", "owner"),
    "symlink": ("number", "name", "name2", "owner"),
    "link": ("number", "number2", "name2"),
    "unlink": ("number", "name"),
    "rmdir": ("number", "name"),
    "rename": ("number", "name", "number2", "name2", "flags"),
    "flush": ("fh",),
    "release": ("fh",),
}
"""Requests that are calls of the file system with these fields."""
REPLYING = ("forget", "read_ahead", "open", "create", "opendir", "readdir", "readdirplus")
"""Requests whose methods reply themselves, if the kernel waits for a reply."""
WITHOUT_RESULT = (
    *("unlink", "rmdir", "rename", "flush", "fsync", "release", "releasedir", "fsyncdir", "setxattr", "removexattr"),
)
TAKING = ("unlink", "rmdir", "rename")
"""Requests that take names away."""
ENDLESS = 1 << 50
"""Size in bytes of a store that does not report its free space."""
STATFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")
DIRECTORY = 0o040755
FIELDS = attrgetter(*Attributes.__slots__)


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
    entries: list[tuple[str, Any]]
    arrived_ns: int


def _values(found: Attributes) -> tuple[int, ...]:
    *fields, allocated, taken = FIELDS(found)
    return (*fields, NOT_KNOWN if allocated is None else allocated, taken)


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
        self._sent_back: dict[int, float] = {}  # by node: see `_sends_back`
        self.short = False  # the loop could not start a thread
        self._deadline = deadline
        self._lock = threading.Lock()  # guards the table of directories and their content; held briefly
        self._written_back = threading.Semaphore(WRITTEN_BACK_AT_ONCE)
        self._directories: dict[int, _Content | None] = {}  # open ones; None: not read yet
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
            if op in REPLYING:
                getattr(self, f"_{op}")(request)
            else:
                self._reply(request, self._call(request))
        except BaseException as error:  # SystemExit, too: the request must get a reply
            none = op == "lseek" and isinstance(error, OSError) and error.errno == errno.ENXIO  # no data, or no hole
            code = errno.ENXIO if none else _code(error, op)
            tried = op == "open" or (op == "setattr" and request.fh is None and "size" in request.changes)
            number = request.number if tried else NONE
            self._callers.failed(request.thread, op, number, stale=code == errno.ESTALE, again=request.again)
            self._loop.reply_error(token, code)
        finally:
            if comes_back and not self._callers.knows(request.thread):
                self._came(request.thread)
            self._loop.done(token)

    def _call(self, request: FuseRequest) -> Any:
        """Make the call of a request. Return its result: attributes, a number, bytes, or the fields of statfs."""
        fields = PASSED_ON.get(request.op)
        if fields is None:
            return getattr(self, f"_{request.op}")(request)
        values = [Owner(*request.owner) if name == "owner" else getattr(request, name) for name in fields]
        return self._method(request.op)(*values)

    def _reply(self, request: FuseRequest, result: Any) -> None:
        loop, token = self._loop, request.token
        if request.op in WITHOUT_RESULT:
            loop.reply_error(token, 0)
        elif isinstance(result, int):
            loop.reply_number(token, result)
        elif isinstance(result, str | bytes):
            loop.reply_data(token, os.fsencode(result))
        elif isinstance(result, tuple):
            loop.reply_statfs(token, result)
        elif not loop.reply_attributes(token, _values(result)) and request.op not in ("getattr", "setattr"):
            self._forget_node(result.number)

    def _optional(self, name: str) -> Callable[..., Any]:
        """Return a method of the file system; if it has none, a function that does nothing."""
        return getattr(self._system, name, lambda *_: None)

    def _method(self, name: str) -> Callable[..., Any]:
        """Return a method of the file system; if it has none, that of its open files."""
        found: Callable[..., Any] | None = getattr(self._system, name, None)
        if found is None and name in ("flush", "fsync", "lseek", "release"):
            found = getattr(self._files, name)
        if found is None:
            raise OSError(errno.ENOSYS, f"this file system has no {name}")
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

    # -- for the loop itself

    def _forget(self, request: FuseRequest) -> None:
        while forgotten := self._loop.forgotten(FORGOTTEN):
            for number, times in forgotten:
                try:
                    self._forget_node(number, times)
                except Exception as error:  # a foreign file system: forget the others all the same
                    _code(error, "forget")

    def _forget_node(self, number: int, times: int = 1) -> None:
        self._optional("forget")(number, times)

    def _read_ahead(self, request: FuseRequest) -> None:
        opened = self._files.by_number.get(request.fh or 0)
        if opened is not None and not opened.file.closed:
            opened.file._move_window(request.offset)

    # -- names and attributes

    def _lookup(self, request: FuseRequest) -> Any:
        known = self._callers.knows(request.thread) and self._is_own(Server.lookup)
        found = self._system.lookup(request.number, request.name, *((request.thread,) if known else ()))
        passing = stat.S_IFMT(found.mode) in (stat.S_IFDIR, stat.S_IFLNK)
        self._callers.found(request.thread, found.number, passing=passing)
        return found

    def _setattr(self, request: FuseRequest) -> Any:
        again = self._again(request, Server.setattr)
        return self._method("setattr")(request.number, request.changes, request.fh, *again)

    def _mknod(self, request: FuseRequest) -> Any:
        more = (request.rdev,) if stat.S_IFMT(request.mode) in (stat.S_IFCHR, stat.S_IFBLK) else ()
        return self._method("mknod")(request.number, request.name, request.mode, Owner(*request.owner), *more)

    # -- files

    def _open(self, request: FuseRequest) -> None:
        told = self._optional("told_size")(request.number)
        fh, kept = self._system.open(request.number, request.flags, *self._again(request, Server.open))
        try:
            differs = told is not None and not request.flags & os.O_TRUNC and told != self._files.get(fh).file.size
        except BaseException:  # its version was replaced since, and the kernel will not release it
            self._files.give_up(fh)
            self._method("release")(fh)
            raise
        if differs:
            # Another program has stored a version since the lookup: the kernel would read to the old size only, and
            # append there. A second try comes with the new size.
            self._loop.notify("inode", request.number, -1, 0)
            if request.flags & os.O_APPEND and self._sends_back(request):
                self._files.give_up(fh)
                self._method("release")(fh)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._reply_opened(request, fh, kept)

    def _sends_back(self, request: FuseRequest) -> bool:
        """Return whether an append fails, and comes again. For some time after a thread without a number was sent back,
        any such append to the file may be its second try, which finds another size if the file grows meanwhile.
        """
        if request.thread:
            return not request.again
        with self._lock:
            now = time.monotonic()
            if now < self._sent_back.get(request.number, 0.0):
                return False
            self._sent_back.pop(request.number, None)  # the oldest is the first
            self._sent_back[request.number] = now + UNKNOWN_AGAIN_S
            if len(self._sent_back) > CALLERS_MAX:
                del self._sent_back[next(iter(self._sent_back))]
        return True

    def _create(self, request: FuseRequest) -> None:
        owner = Owner(*request.owner)
        fh, made = self._method("create")(request.number, request.name, request.mode, request.flags, owner)
        self._reply_opened(request, fh, False, made)

    def _reply_opened(self, request: FuseRequest, fh: int, kept: bool, made: Attributes | None = None) -> None:
        """Reply with an open file, and take it back if the reply was not delivered. `made`: the file is new."""
        delivered = False
        number = request.number if made is None else made.number
        try:
            if made is None and self._direct_io and request.flags & os.O_ACCMODE and request.owner[0]:
                # A user other than root may write it: without pages the kernel does not clear the set-id bits.
                self._optional("clear_set_id")(number)
            opened = self._files.get(fh)
            if not isinstance(opened, LoopFile):
                raise TypeError(f"{opened!r} was opened before the loop began")
            opened.begin(self._loop, number, opened.file)
            if made is None and (found := self._optional("known")(number)) is not None:
                self._loop.attributes_known(_values(found))
            delivered = self._loop.reply_open(request.token, opened, kept, None if made is None else _values(made))
        finally:
            if delivered and made is None:
                self._optional("delivered")(number, fh)
            elif not delivered:
                self._files.give_up(fh)
                self._method("release")(fh)
                if made is not None:
                    self._forget_node(number)

    def _read(self, request: FuseRequest) -> bytes:
        return self._files.get(request.fh or 0).file.pread(request.size, request.offset)

    def _write(self, request: FuseRequest) -> int:
        return self._files.get(request.fh or 0).write(request.data, request.offset, mapped=bool(request.flags))

    def _lseek(self, request: FuseRequest) -> Any:
        """Find data or a hole. First the kernel writes back pages that programs may have stored to through mappings."""
        fh, offset, whence = request.fh or 0, request.offset, request.flags
        may_be_mapped = getattr(self._system, "may_be_mapped", None)
        mapped = may_be_mapped is None or may_be_mapped(request.number)
        if mapped and not self._pages_written_back(request.number):
            return all_data(self._files.get(fh).file.size, offset, whence)
        return self._method("lseek")(fh, offset, whence)

    def _pages_written_back(self, number: int) -> bool:
        """Have the kernel write back and drop its pages of a file. False: too many calls do that already. Each of these
        writes may need a thread of the loop, so most threads stay free for them.
        """
        if self.short or not self._written_back.acquire(blocking=False):
            return False
        try:
            return self._loop.notify("inode", number, 0, 0) in (0, -errno.ENOENT)
        finally:
            self._written_back.release()

    def _fsync(self, request: FuseRequest) -> None:
        self._method("fsync")(request.fh or 0, bool(request.flags), self._deadline)

    # -- directories

    def _read_content(self, number: int, arrived_ns: int) -> _Content:
        opendir = getattr(self._system, "opendir", None)
        if opendir is not None:
            listing = opendir(number)
            return _Content(listing, listing.entries, arrived_ns)
        return _Content(None, self._listed.of(f"directory {number}", self._method("entries")(number)), arrived_ns)

    def _opendir(self, request: FuseRequest) -> None:
        """Open a directory. Its content is read later, at the first readdir, so that it includes changes made in
        between.
        """
        if not hasattr(self._system, "opendir"):
            self._method("entries")
        with self._lock:
            fh, self._next_directory = self._next_directory, self._next_directory + 1
            self._directories[fh] = None
        if not self._loop.reply_number(request.token, fh):
            self._directories.pop(fh, None)

    def _readdir(self, request: FuseRequest) -> None:
        fh = request.fh or 0
        content = self._directories[fh]
        if content is None or request.offset == 0:
            content = self._read_content(request.number, request.arrived_ns)
            with self._lock:  # after its deadline this call may end after a later one, whose content is in use
                known = self._directories.get(fh, content)
                if known is None or known.arrived_ns < content.arrived_ns:
                    self._directories[fh] = content
        answer = Dirents(self._loop, request.size, request.op == "readdirplus")
        counted: list[int] = []
        self._fill(answer, content, request, counted)
        if not answer.reply(request.token):
            for number in counted:
                self._forget_node(number)

    _readdirplus = _readdir

    def _fill(self, answer: Dirents, content: _Content, request: FuseRequest, counted: list[int]) -> None:
        """Add entries from the requested offset on, as many as fit; `counted`: collects nodes whose lookup counts in
        the kernel.
        """
        listing = content.listing
        dots = Attributes(request.number, DIRECTORY, 2, 0, 0, 0, 0, 0, 0)
        for index in range(request.offset, len(content.entries) + 2):
            if index < 2:
                if not answer.add((".", "..")[index], _values(dots), True, index + 1):
                    return
                continue
            name, found = content.entries[index - 2]
            if listing is not None:
                entry = self._system.entry(listing, index - 2)
                found = self._system.entry_now(listing, index - 2) if entry is None else entry
                if found is None:  # the name is gone
                    continue
            certain = listing is None or listing.certain()
            added = answer.add(name, _values(found), certain, index + 1)
            if added and answer.plus and found.nlink:
                counted.append(found.number)
            elif listing is not None and found.nlink:
                self._forget_node(found.number)
            if not added:
                return

    def _releasedir(self, request: FuseRequest) -> None:
        self._directories.pop(request.fh or 0, None)

    def _fsyncdir(self, request: FuseRequest) -> None:
        self._optional("fsyncdir")()

    def _statfs(self, request: FuseRequest) -> tuple[int, ...]:
        found = self._optional("statfs")()
        if found is None:
            blocks = ENDLESS // 4096
            return 4096, 4096, blocks, blocks, blocks, 1 << 31, 1 << 31, 1 << 31, NAME_MAX
        return tuple(int(getattr(found, name)) for name in STATFS)

    # -- extended attributes

    def _check_xattrs(self) -> None:
        if not self._has_xattrs:
            # The kernel then stops asking; otherwise it would ask before each write.
            raise OSError(errno.ENOSYS, "no extended attributes")

    def _getxattr(self, request: FuseRequest) -> bytes:
        self._check_xattrs()
        try:
            return bytes(self._system.getxattr(request.number, request.name))
        except OSError as error:
            if not (self._acls and request.name in ACLS and error.errno == errno.EOPNOTSUPP):
                raise
            # For the kernel only ENODATA means that there is no ACL: with another error it refuses the whole call.
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from None

    def _setxattr(self, request: FuseRequest) -> None:
        self._check_xattrs()
        if request.name == CAPABILITY:
            raise io.UnsupportedOperation(errno.EOPNOTSUPP, "capabilities are not kept")
        self._method("setxattr")(request.number, request.name, request.data, request.flags)

    def _listxattr(self, request: FuseRequest) -> bytes:
        self._check_xattrs()
        names: Iterable[str] = self._method("listxattr")(request.number)
        root = request.owner[0] == 0
        shown = [name for name in names if name != CAPABILITY and (root or not name.startswith(TRUSTED))]
        return b"".join(os.fsencode(name) + b"\0" for name in shown)

    def _removexattr(self, request: FuseRequest) -> None:
        self._check_xattrs()
        if request.name == CAPABILITY:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        self._method("removexattr")(request.number, request.name)
