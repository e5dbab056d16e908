"""The binding to pyfuse3: requests of the kernel on a trio loop.

Reads and writes of cached data are completed on the loop, in one step. All other calls of the server run on threads,
with a deadline, after which the program gets EIO. So a backend that hangs does not block readers of cached data.

No exception may reach pyfuse3: it would end the loop, and with it the mount.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio

from .errnos import errno_of
from .server import Attributes, Listing, Owner, Server
from .tasks import Aside, Bytes

__all__ = ["KernelCaching", "Operations"]

log = logging.getLogger("pagecache.fuse")
P = ParamSpec("P")
T = TypeVar("T")

CAPABILITY = b"security.capability"
NAME_MAX = 255
KNOWN_TIMEOUT_S, SILENCE_S = 1.0, 5.0
"""Seconds that the store gets to confirm known values; seconds without further calls after it missed that limit."""
ENDLESS = 1 << 50
"""Size in bytes of a store that does not report its free space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCaching:
    """Caching by the kernel.

    Attributes:
        direct_io: no pages: each read and write comes here. Shared mappings are impossible then.
        keep_pages: pages stay from one open to the next, while the version of the object is unchanged.
        entry_timeout: seconds for which names are valid.
        attr_timeout: seconds for which attributes are valid.
    """

    direct_io: bool = False
    keep_pages: bool = False
    entry_timeout: float = 1.0
    attr_timeout: float = 1.0


def _fuse_error(error: BaseException, what: str) -> pyfuse3.FUSEError:
    """Return an error as pyfuse3 needs it."""
    if isinstance(error, pyfuse3.FUSEError):
        return error
    code = errno_of(error)
    if not isinstance(error, OSError | ValueError | MemoryError):
        log.error("%s failed with an unexpected error", what, exc_info=error)
    elif code == errno.EIO:
        log.warning("%s: %s: EIO for the program", what, error)
    return pyfuse3.FUSEError(code)


def _answered(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(call)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except Exception as error:
            raise _fuse_error(error, call.__name__) from None

    return answer


@dataclass(slots=True)
class _Directory:
    """An open directory. `listing`: the content for its readers; None: not read yet."""

    number: int
    listing: Listing | None = None


class Operations(pyfuse3.Operations):
    """The handlers that pyfuse3 calls."""

    supports_dot_lookup = False
    enable_writeback_cache = False  # decision 135: the kernel would hold data that an fsync of the cache misses
    enable_acl = False

    def __init__(self, server: Server, aside: Aside, caching: KernelCaching) -> None:
        super().__init__()
        self._server = server
        self._aside = aside
        self._caching = caching
        bytes = Bytes(server.files, aside, _fuse_error, pages=not caching.direct_io)
        self.read, self.write = bytes.read, bytes.write  # type: ignore[method-assign]
        self._directories: dict[int, _Directory] = {}
        self._next_directory = 1
        self._silent_until = 0.0  # until then known values are not confirmed: the store did not reply

    # -- answers

    def _entry(self, found: Attributes) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = found.number
        entry.entry_timeout = self._caching.entry_timeout
        entry.attr_timeout = self._caching.attr_timeout
        entry.st_mode = found.mode
        entry.st_nlink = found.nlink
        entry.st_uid = found.uid
        entry.st_gid = found.gid
        entry.st_size = found.size
        entry.st_rdev = found.rdev
        entry.st_blocks = found.blocks
        entry.st_atime_ns = found.atime_ns
        entry.st_mtime_ns = found.mtime_ns
        entry.st_ctime_ns = found.ctime_ns
        return entry

    async def _counted(self, call: Callable[[], Attributes]) -> pyfuse3.EntryAttributes:
        """Make a call that adds a lookup of a node in the kernel."""
        return self._entry(await self._aside.call(call, lambda found: self._server.forget(found.number)))

    def _forget(self, late: Attributes | None) -> None:
        """Undo the lookup of a late reply."""
        if late is not None:
            self._server.forget(late.number)

    @staticmethod
    def _owner(ctx: pyfuse3.RequestContext) -> Owner:
        return Owner(ctx.uid, ctx.gid)

    # -- bytes: read and write are those of Bytes

    @_answered
    async def flush(self, fh: int) -> None:
        opened = self._server.files.get(fh)
        if opened.idle():
            opened.flush()
        else:
            await self._aside.call(opened.flush)

    @_answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._aside.call(partial(self._server.fsync, fh, datasync, self._aside.deadline))

    @_answered
    async def release(self, fh: int) -> None:
        await self._aside.call(partial(self._server.release, fh))

    # -- files

    def _info(self, fh: int, kept: bool) -> pyfuse3.FileInfo:
        caching = self._caching
        keep = kept and caching.keep_pages and not caching.direct_io
        return pyfuse3.FileInfo(fh=fh, direct_io=caching.direct_io, keep_cache=keep)

    @_answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        call = partial(self._server.open, inode, flags)
        return self._info(*await self._aside.call(call, lambda opened: self._server.release(opened[0])))

    @_answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        def undo(made: tuple[int, Attributes]) -> None:
            self._server.release(made[0])
            self._server.forget(made[1].number)

        call = partial(self._server.create, parent_inode, os.fsdecode(name), mode, flags, self._owner(ctx))
        fh, found = await self._aside.call(call, undo)
        return self._info(fh, False), self._entry(found)

    # -- attributes

    @_answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Return attributes. The kernel asks before reads of cached pages, too: if the store does not reply, those of
        open files are served from memory.
        """
        call, known = partial(self._server.getattr, inode), self._server.known(inode)
        if known is None:
            return self._entry(await self._aside.call(call))
        if trio.current_time() < self._silent_until:
            return self._entry(known)
        try:
            return self._entry(await self._aside.call(call, patience=KNOWN_TIMEOUT_S))
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                self._silent_until = trio.current_time() + SILENCE_S
            elif errno_of(error) != errno.EIO:
                raise
            return self._entry(known)

    @_answered
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        changes: dict[str, int] = {}
        if fields.update_size:
            changes["size"] = attr.st_size
        if fields.update_mode:
            changes["mode"] = attr.st_mode & 0o7777
        if fields.update_uid:
            changes["uid"] = attr.st_uid
        if fields.update_gid:
            changes["gid"] = attr.st_gid
        if fields.update_atime:
            changes["atime_ns"] = attr.st_atime_ns
        if fields.update_mtime:
            changes["mtime_ns"] = attr.st_mtime_ns
        return self._entry(await self._aside.call(partial(self._server.setattr, inode, changes, fh)))

    @_answered
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return os.fsencode(await self._aside.call(partial(self._server.readlink, inode)))

    @_answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        found = await self._aside.call(self._server.statfs)
        answer = pyfuse3.StatvfsData()
        answer.f_namemax = NAME_MAX
        if found is None:
            answer.f_bsize = answer.f_frsize = 4096
            answer.f_blocks = answer.f_bfree = answer.f_bavail = ENDLESS // 4096
            answer.f_files = answer.f_ffree = answer.f_favail = 1 << 31
            return answer
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
        for name in (*names, "f_namemax"):
            setattr(answer, name, getattr(found, name))
        return answer

    # -- extended attributes

    def _check_xattrs(self) -> None:
        if not self._server.names.has_xattrs:
            # The kernel then stops asking; otherwise it would ask before each write.
            raise pyfuse3.FUSEError(errno.ENOSYS)

    @_answered
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._check_xattrs()
        if name == CAPABILITY:  # requested before each write, and never kept
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return await self._aside.call(partial(self._server.getxattr, inode, os.fsdecode(name)))

    @_answered
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._check_xattrs()
        if name == CAPABILITY:
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)
        await self._aside.call(partial(self._server.setxattr, inode, os.fsdecode(name), value))

    @_answered
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        self._check_xattrs()
        names = await self._aside.call(partial(self._server.listxattr, inode))
        return [os.fsencode(name) for name in names if os.fsencode(name) != CAPABILITY]

    @_answered
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._check_xattrs()
        if name == CAPABILITY:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        await self._aside.call(partial(self._server.removexattr, inode, os.fsdecode(name)))

    # -- names

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return await self._counted(partial(self._server.lookup, parent_inode, os.fsdecode(name)))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, times in inode_list:
            self._server.forget(number, times)

    @_answered
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        owner = self._owner(ctx)
        return await self._counted(partial(self._server.mkdir, parent_inode, os.fsdecode(name), mode, owner))

    @_answered
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        owner = self._owner(ctx)
        return await self._counted(partial(self._server.mknod, parent_inode, os.fsdecode(name), mode, owner, rdev))

    @_answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._aside.call(partial(self._server.unlink, parent_inode, os.fsdecode(name)))

    @_answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._aside.call(partial(self._server.rmdir, parent_inode, os.fsdecode(name)))

    @_answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        where, what, owner = os.fsdecode(name), os.fsdecode(target), self._owner(ctx)
        return await self._counted(partial(self._server.symlink, parent_inode, where, what, owner))

    @_answered
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        old, new = os.fsdecode(name_old), os.fsdecode(name_new)
        await self._aside.call(partial(self._server.rename, parent_inode_old, old, parent_inode_new, new, flags))

    @_answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self._counted(partial(self._server.link, inode, new_parent_inode, os.fsdecode(new_name)))

    # -- directories

    @_answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory. Its content is read later, at the first readdir, so that it includes changes made in
        between.
        """
        fh, self._next_directory = self._next_directory, self._next_directory + 1
        self._directories[fh] = _Directory(inode)
        return fh

    @_answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self._directories[fh]
        listing = directory.listing
        if listing is None or start_id == 0:
            listing = directory.listing = await self._aside.call(partial(self._server.opendir, directory.number))
        for index in range(start_id, len(listing.entries) + 2):
            if not await self._reply(token, listing, index):
                return

    async def _reply(self, token: pyfuse3.ReaddirToken, listing: Listing, index: int) -> bool:
        """Add an entry to the reply; False: there was no room for it."""
        if index < 2:  # for these the kernel uses only the names
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = listing.node.number
            entry.st_mode = 0o040755
            return pyfuse3.readdir_reply(token, (b".", b"..")[index], entry, index + 1)
        name = os.fsencode(listing.entries[index - 2][0])
        found = self._server.entry(listing, index - 2)
        if found is None:
            call = partial(self._server.entry_now, listing, index - 2)
            found = await self._aside.call(call, self._forget)
            if found is None:  # the name is gone
                return True
        entry = self._entry(found)
        if not listing.certain():  # the name may be gone: the kernel must look it up before using it
            entry.entry_timeout = entry.attr_timeout = 0
        if pyfuse3.readdir_reply(token, name, entry, index + 1):
            return True
        self._server.forget(found.number)
        return False

    async def releasedir(self, fh: int) -> None:
        self._directories.pop(fh, None)

    @_answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._aside.call(self._server.fsyncdir)
