"""Files below a directory of this machine.

Bytes move with preadv and pwritev, directly between the caller's buffers and the kernel. The backend adds durability
and identity:

* `commit` is fsync of the file, and of those directories above it whose names changed since they were last synced, so
  that a new file exists after a crash. `sync` covers all other directories.
* The version of an object is mtime_ns:size:ino. A commit within one clock tick of the last version that was told moves
  mtime on by a nanosecond.
* Keys are paths relative to the root. They cannot leave it: `beneath.py` explains how.
* The identity of an object is its device, inode number and birth time. It is exact while the object is open; the birth
  time tells the next object with that number apart, in file systems that keep it.
"""

from __future__ import annotations

import builtins
import errno
import functools
import os
import stat
from collections.abc import Iterator
from typing import Unpack

from ..config import with_overrides
from ..errors import Key, os_error
from ..native import names
from ..objects import Kind
from ..options import LimitsOverrides
from .beneath import DIRECTORY, LINKS_MAX, Place, Tree, Unsynced, check_object, path_of
from .protocol import BackendFile, BackendLimits, NamespaceBackend, ObjectStat

ZEROS = bytes(1 << 20)
OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block; regular files ignore it
SPECIAL = {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
ONLY_READABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY}


def _proc_path(held: Place) -> str:
    """Return a path that leads to a held object, even if that is a symbolic link: calls on attributes need one."""
    return f"/proc/self/fd/{held.directory}"


def _not_regular(kind: Kind) -> OSError:
    if kind == "dir":
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return OSError(errno.EINVAL, "not a regular file")


class DirectoryFile(names.LocalFile, BackendFile):
    """One open file. It works on after its name was removed, renamed or replaced."""

    def __init__(self, _directory: int, _name: str, flags: int, backend: DirectoryBackend, key: Key) -> None:
        self._backend = backend
        self._key = key
        self._version: str | None = None  # told last; `changed` is since then

    def stat(self) -> ObjectStat:
        found, changed = None, self.changed
        if changed:  # otherwise a write beside this call may set it now
            self.changed = False
        try:
            found = names.status(self.fd)
        finally:
            if changed and (found is None or found.version == self._version):
                self.changed = True  # the commit moves the time on
        self._version = found.version
        return found

    def truncate(self, size: int) -> None:
        self.need_writable()
        os.ftruncate(self.fd, size)
        self.changed = True

    def punch_hole(self, offset: int, length: int) -> None:
        self.need_writable()
        end = min(offset + length, os.fstat(self.fd).st_size)
        if offset < end and not names.punch_hole(self.fd, offset, end - offset):
            os.posix_fallocate(self.fd, offset, end - offset)  # a full disk refuses before a byte is lost
            while offset < end:
                offset += os.pwrite(self.fd, ZEROS[: end - offset], offset)
        self.changed = True

    def next_data(self, offset: int) -> tuple[int, int] | None:
        try:
            begin = os.lseek(self.fd, offset, os.SEEK_DATA)
            return begin, max(os.lseek(self.fd, begin, os.SEEK_HOLE), begin + 1)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    def commit(self) -> str | None:
        changed, self.changed = self.changed, False
        try:
            if changed and names.status(self.fd).version == self._version:
                # Two changes within one clock tick of the file system would share a version, and the cache would keep
                # old data.
                found = os.fstat(self.fd)
                os.utime(self.fd, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
            if self.writable:
                os.fsync(self.fd)
            self._backend._unsynced.sync(above=self.fd)
        except BaseException:
            self.changed = changed
            raise
        self._version = names.status(self.fd).version
        return self._version

    def need_writable(self) -> None:
        if not self.writable:
            raise PermissionError(errno.EACCES, "the file could be opened for reading only", self._key)


class DirectoryBackend(NamespaceBackend):
    """The files below `root`, by their path relative to it.

    Args:
        root: an existing directory.
        limits: of one call; default: those of `BackendLimits`, with parallel direct writes,
            and prompt.
        overrides: fields of `BackendLimits`, such as ``read_only=True``.

    Raises:
        FileNotFoundError, NotADirectoryError: of `root`.
    """

    def __init__(
        self, root: str | os.PathLike[str], limits: BackendLimits | None = None, **overrides: Unpack[LimitsOverrides]
    ) -> None:
        self.limits = with_overrides(limits or BackendLimits(parallel_direct_writes=True, prompt=True), overrides)
        self._tree = Tree(os.fspath(root))
        self._unsynced = Unsynced(self._tree)

    @functools.cached_property
    def name(self) -> str:
        """Name of the store in a disk tier."""
        return f"dir:{self.root}"

    @property
    def root(self) -> str:
        """Return the directory, as an absolute path without links."""
        return self._tree.root

    def lasting_identity(self, identity: tuple[int, int, int]) -> str | None:
        """Return an identity without the device, whose number a reboot may change; None: there is no birth time."""
        _, inode, birth = identity
        return f"{inode}:{birth}" if birth else None

    # ---------------------------------------------------------------------------------------- objects

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> DirectoryFile:
        looks = 0
        while True:
            with self._tree.locate(key, follow=not (create and exclusive)) as place:
                try:
                    return self._open_at(place, key, create, exclusive)
                except OSError as error:
                    looks += 1
                    changed = error.errno == errno.ELOOP or (create and error.errno == errno.ENOENT)
                    if not changed or looks == LINKS_MAX:
                        raise  # otherwise a link has the name by now, or nothing: look again

    def _open_at(self, place: Place, key: Key, create: bool, exclusive: bool) -> DirectoryFile:
        if place.kind is not None and create and exclusive:
            raise os_error(errno.EEXIST, key)
        if place.kind is None:
            if not create:
                raise os_error(errno.ENOENT, key)
            self._change_allowed(key)
            self._unsynced.add(place)  # an interrupt may come behind the creation
            try:
                file = DirectoryFile(place.directory, place.name, OPEN | os.O_RDWR | os.O_CREAT | os.O_EXCL, self, key)
            except FileExistsError:
                if exclusive:
                    raise
                file = self._open_existing(place, key)  # a concurrent call has made it
            else:
                self._unsynced.add(place)  # again: a sync may have ended beside it
        else:
            file = self._open_existing(place, key)
        try:
            opened = names.status(file.fd)
            check_object(key, opened)
            if opened.kind != "file":
                raise _not_regular(opened.kind)
            file._version = opened.version
        except BaseException:
            file.close()  # the error may live long
            raise
        return file

    def _open_existing(self, place: Place, key: Key) -> DirectoryFile:
        if place.kind is not None and place.kind != "file":
            raise _not_regular(place.kind)  # before the open, which has side effects for a device or a FIFO
        if not self.limits.read_only:
            try:
                return DirectoryFile(place.directory, place.name, OPEN | os.O_RDWR, self, key)
            except OSError as error:
                if error.errno not in ONLY_READABLE:
                    raise
        return DirectoryFile(place.directory, place.name, OPEN | os.O_RDONLY, self, key)

    def _change_allowed(self, key: Key) -> None:
        if self.limits.read_only:
            raise os_error(errno.EROFS, key)

    def stat(self, key: Key, *, follow: bool = True) -> ObjectStat:
        """Return the status of the key's object; with `follow` False of a link itself."""
        found = self._tree.find(key, follow=follow)
        if found is None:
            raise os_error(errno.ENOENT, key)
        return found

    def lstat(self, key: Key) -> ObjectStat:
        """Return the status of a link itself."""
        return self.stat(key, follow=False)

    def canonical(self, key: Key) -> Key:
        """Return the path in its shortest spelling; links are not resolved.

        Raises:
            ValueError: no object below the root can have this key; names key and rule.
        """
        path = path_of(key)
        if "/" in path or path == ".":
            return "/".join(part for part in path.split("/") if part not in ("", "."))
        return path

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Yield the regular files whose path starts with `prefix`, in order of directories."""
        if "\0" in prefix or prefix.startswith("/") or ".." in prefix.split("/"):
            return
        todo = [prefix.rpartition("/")[0]]
        while todo:
            try:
                entries = self._entries(todo.pop())
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed concurrently, or there never was one
            for found in entries:
                path = str(found.key)
                if found.kind == "dir" and (path.startswith(prefix) or prefix.startswith(path + "/")):
                    todo.append(path)
                elif found.kind == "file" and path.startswith(prefix):
                    yield found

    # ---------------------------------------------------------------------------------------- names

    def remove(self, key: Key) -> None:
        with self._tree.locate(key, follow=False) as place:
            self._change_allowed(key)
            os.unlink(place.name, dir_fd=place.directory)
            self._unsynced.add(place)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        old = self._tree.locate(src, follow=False)
        try:  # no `with`: errors of the call name `dst`
            self._change_allowed(src)
            if old.kind is None:
                raise os_error(errno.ENOENT, src)
            with self._tree.locate(dst, follow=False) as new:
                if new.kind is not None and not replace:
                    raise os_error(errno.EEXIST, dst)
                changed = self._unsynced.add(old, new)  # a concurrent commit finds its file by either path
                self._rename(old, new, replace)
                self._unsynced.renamed(old, new, changed)
        finally:
            old.close()

    def _rename(self, old: Place, new: Place, replace: bool) -> None:
        if not replace:
            if not names.rename_noreplace(old.directory, old.name, new.directory, new.name):
                if new.path.startswith(f"{old.path}/"):  # the kernel refuses this, too, by EINVAL
                    raise os_error(errno.EINVAL, old.key)
                # Link fails if the name is taken; for directories there is no such call.
                directories = {"src_dir_fd": old.directory, "dst_dir_fd": new.directory}
                os.link(old.name, new.name, **directories, follow_symlinks=False)
                os.unlink(old.name, dir_fd=old.directory)
        elif new.path == old.path or not old.is_same(new) or old.kind == "dir":
            os.rename(old.name, new.name, src_dir_fd=old.directory, dst_dir_fd=new.directory)
        else:
            self._rename_to_itself(old, new)

    def _rename_to_itself(self, old: Place, new: Place) -> None:
        """Rename an object to another path of it. That may be of the same entry: in a file system without case, or in a
        directory that is mounted twice.
        """
        one_directory = names.status(old.directory).identity == names.status(new.directory).identity
        if one_directory and old.name == new.name:
            return
        two = True
        if one_directory:
            with names.Descriptor(old.directory, ".", DIRECTORY) as directory:
                two = {old.name, new.name} <= set(os.listdir(directory.fd))
        now = names.status(old.directory, old.name)  # last: another program may have removed the new name
        if two and (now.nlink or 0) > 1 and old.found is not None and now.identity == old.found.identity:
            os.unlink(old.name, dir_fd=old.directory)  # two names of one object: rename() would leave both
        else:
            os.rename(old.name, new.name, src_dir_fd=old.directory, dst_dir_fd=new.directory)

    def link(self, src: Key, dst: Key, *, follow: bool = True) -> None:
        """Give the key's object a second name; with `follow` False, the link itself."""
        held = self._held(src, follow)
        try:  # no `with`: errors of the call name `dst`
            self._change_allowed(src)
            with self._tree.locate(dst, follow=False) as new:
                os.link(_proc_path(held), new.name, dst_dir_fd=new.directory, follow_symlinks=True)
                self._unsynced.add(new)
        finally:
            held.close()

    def symlink(self, target: str, key: Key) -> None:
        """Make a symbolic link. A link out of the root can be made, but not followed."""
        with self._tree.locate(key, follow=False) as place:
            self._change_allowed(key)
            os.symlink(target, place.name, dir_fd=place.directory)
            self._unsynced.add(place)

    def mknod(self, key: Key, mode: int, rdev: int = 0) -> None:
        """Make a FIFO, a socket or a device node; `open` makes regular files."""
        if stat.S_IFMT(mode) not in SPECIAL:
            raise ValueError(f"mode {mode:#o} is not that of a FIFO, a socket or a device")
        with self._tree.locate(key, follow=False) as place:
            self._change_allowed(key)
            os.mknod(place.name, mode, rdev, dir_fd=place.directory)
            self._unsynced.add(place)

    def readlink(self, key: Key) -> str:
        with self._held(key, follow=False) as held:
            if held.kind != "symlink":
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return os.readlink("", dir_fd=held.directory)

    # ---------------------------------------------------------------------------------------- directories

    def mkdir(self, key: Key, mode: int = 0o777) -> None:
        with self._tree.locate(key, follow=False) as place:
            self._change_allowed(key)
            if place.kind is not None:
                raise os_error(errno.EEXIST, key)
            os.mkdir(place.name, mode, dir_fd=place.directory)
            self._unsynced.add(place)

    def rmdir(self, key: Key) -> None:
        with self._tree.locate(key, follow=False) as place:
            self._change_allowed(key)
            os.rmdir(place.name, dir_fd=place.directory)
            self._unsynced.removed(place)

    def readdir(self, key: Key) -> Iterator[ObjectStat]:
        return iter(self._entries(key))

    def _entries(self, key: Key) -> builtins.list[ObjectStat]:
        """Return the status of everything in a directory, links not followed, by name."""
        entries = []
        with self._tree.locate(key) as place:
            if place.kind is None:
                raise os_error(errno.ENOENT, key)
            with names.Descriptor(place.directory, place.name, DIRECTORY | OPEN) as directory:
                fd = directory.fd
                check_object(key, names.status(fd))
                for name in sorted(os.listdir(fd)):
                    try:
                        found = names.status(fd, name, f"{place.path}/{name}" if place.path else name)
                    except FileNotFoundError:
                        continue  # removed concurrently
                    entries.append(found)
        return entries

    def statfs(self) -> os.statvfs_result:
        return os.fstatvfs(self._tree.top.fd)

    # ---------------------------------------------------------------------------------------- attributes

    def _held(self, key: Key, follow: bool) -> Place:
        """Return a place whose descriptor leads to the key's object itself and nowhere else."""
        with self._tree.locate(key, follow=follow) as place:
            if place.kind is None:
                raise os_error(errno.ENOENT, key)
            with names.Descriptor(place.directory, place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC) as opened:
                held = Place(opened.fd, "", False, key)
            try:
                check_object(key, held.found)
            except BaseException:
                held.close()
                raise
            return held

    def _held_for_change(self, key: Key, follow: bool) -> Place:
        self._change_allowed(key)
        return self._held(key, follow)

    def setattr(
        self,
        key: Key,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        follow: bool = True,
    ) -> ObjectStat:
        """Change attributes of the key's object; with `follow` False of a link itself."""
        with self._held_for_change(key, follow) as held:
            path = _proc_path(held)
            if uid is not None or gid is not None:
                os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
            if mode is not None:  # after chown, which clears set-id bits
                os.chmod(path, mode)
            if atime_ns is not None or mtime_ns is not None:
                found = os.stat(path)
                atime = found.st_atime_ns if atime_ns is None else atime_ns
                os.utime(path, ns=(atime, found.st_mtime_ns if mtime_ns is None else mtime_ns))
            return names.status(held.directory)

    def getxattr(self, key: Key, name: str, *, follow: bool = True) -> bytes:
        with self._held(key, follow) as held:
            return os.getxattr(_proc_path(held), name)

    def setxattr(self, key: Key, name: str, value: bytes, flags: int = 0, *, follow: bool = True) -> None:
        with self._held_for_change(key, follow) as held:
            os.setxattr(_proc_path(held), name, value, flags)

    def listxattr(self, key: Key, *, follow: bool = True) -> Iterator[str]:
        with self._held(key, follow) as held:
            return iter(os.listxattr(_proc_path(held)))

    def removexattr(self, key: Key, name: str, *, follow: bool = True) -> None:
        with self._held_for_change(key, follow) as held:
            os.removexattr(_proc_path(held), name)

    # ---------------------------------------------------------------------------------------- durability

    def sync(self) -> None:
        self._unsynced.sync()

    def close(self) -> None:
        """Release the root; names become unreachable, open files work on. Idempotent."""
        self._tree.close()
