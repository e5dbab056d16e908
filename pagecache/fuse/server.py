"""A file system over a volume: every operation of the kernel, by inode numbers, for any binding.

The calls block, may be made from any thread, and raise OSError. A binding makes these calls for requests, but serves
reads and writes itself if the cache has the bytes, or room for them (answers.py).

moving.py handles concurrent changes of names, attributes.py the stat result of a status.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..backends.protocol import CheckedKey, ObjectStat
from ..objects import Kind
from ..volume.inode import Inode
from ..volume.volume import Volume
from .attributes import BLOCK, TYPES, Appearance, Attributes, Owner, ServerOptions
from .entries import Listed
from .files import Files, OpenFile
from .moving import Moving, entry_key
from .namespace import Namespace, namespace_of
from .nodes import ROOT, Node, Nodes

T = TypeVar("T")
NOREPLACE = 1  # of renameat2(2)
CREATE = os.O_CREAT | os.O_EXCL
SPECIAL = {kind: name for name, kind in TYPES.items() if name not in ("file", "dir", "symlink")}
TIMES = {"atime_ns", "mtime_ns"}
LOOKUPS_MAX = 3
"""Lookups of a name while other names of its directory are removed. An outdated reply costs the kernel another lookup.
"""


@dataclass(slots=True)
class Listing:
    """The content of a directory at the begin of a reading, or at a rewind."""

    node: Node
    entries: list[tuple[str, ObjectStat]]
    losses: int = 0  # of the directory, at that time
    taken: int = 0  # that time, by time.monotonic_ns

    def certain(self) -> bool:
        """Return whether all names still exist, as far as this server changes them."""
        return self.losses == self.node.losses


def has_one_name(found: ObjectStat) -> bool:
    """Return whether the kernel may keep the name by which an object was found (reply.c), and the object has one."""
    return found.identity is not None and (found.kind == "dir" or found.nlink == 1)


def nameless(node: Node, found: ObjectStat) -> ObjectStat:
    """Return the status of an object that has lost its last name. A write after times were set has moved them."""
    changes = dict(node.nameless)
    if node.nameless_since != found.mtime_ns:
        for name in TIMES & changes.keys():
            del changes[name]
    return dataclasses.replace(found, nlink=0, **changes)


def _is_replaced(inode: Inode) -> bool:
    """Return whether another program has replaced the version of a file (`lose_version`)."""
    return inode.removed and inode.dispute.base_lost


@contextlib.contextmanager
def _unless_closed(opened: OpenFile) -> Iterator[None]:
    """Ignore that a file is closed: the kernel does not wait for a release, so it may come between lookup and use."""
    try:
        yield
    except ValueError:
        if not opened.file.closed:
            raise


class Server:
    """The file system of one volume. `again`: the call is made again after ESTALE (callers.py); None: not known.

    Args:
        volume: stores the bytes.
        options: its appearance.
    """

    def __init__(self, volume: Volume, options: ServerOptions | None = None) -> None:
        self.volume = volume
        # A close exchanges data with other programs and does not commit: a commit per close would cost a `git clone`
        # thousands of fsyncs.
        volume.prefers_stored = True
        self.options = options or ServerOptions()
        self.files = Files(volume)
        self.nodes = Nodes()
        self.names: Namespace = namespace_of(volume)
        self._moving = Moving(self.nodes)
        self._listed = Listed()
        self._appearance = Appearance(self.options)
        self._nodes_of: dict[int, Node] = {}  # number of an open file -> its node

    def node(self, number: int) -> Node:
        try:
            return self.nodes.get(number)
        except KeyError:
            raise OSError(errno.ESTALE, f"no node has the number {number}") from None

    # -- attributes

    def attributes(self, node: Node, found: ObjectStat, taken: int = 0) -> Attributes:
        """Return the stat(2) result of an object. `taken`: result of `_taken` before the object was looked up."""
        node.seen = found
        if found.allocated == 0 and found.size and self._may_be_mapped(node):
            # Programs such as tar treat a file without blocks as one without data.
            found = dataclasses.replace(found, allocated=BLOCK)
        return self._appearance.attributes(node.number, found, self._written_ns(node, found), taken)

    def _written_ns(self, node: Node, found: ObjectStat) -> int:
        """Return the time of the last write that the store does not show; 0: none. That of a closed file ends with the
        first status after the store has all: this one may be older.
        """
        written_ns = max((opened.written_ns for opened in self._opened(node)), default=0)
        inode = self._inode(node, found)
        if inode is not None and (closed_ns := inode.written_ns):
            written_ns = max(written_ns, closed_ns)
            if inode.is_stored():
                inode.clear_written(closed_ns)
                node.changed = time.monotonic_ns()  # listings may be older, too
        return written_ns

    def _inode(self, node: Node, found: ObjectStat) -> Inode | None:
        """Return what is cached of a file."""
        for opened in self._opened(node):
            return opened.file._inode
        if found.kind != "file":
            return None
        if found.identity is not None:
            return self.volume._inode_found(found.key, found)
        key = self.nodes.key(node)
        return None if key is None else self.volume._inode_at(self.volume._canonical(key))

    @staticmethod
    def _as_open(found: ObjectStat, opened: list[OpenFile]) -> ObjectStat:
        """Return an earlier status of an open file with its current size. A writer may have changed its blocks.

        Raises:
            ValueError: the file is closed.
            OSError: another program has replaced the version that it reads.
        """
        found = dataclasses.replace(found, size=opened[0].file.size)
        return dataclasses.replace(found, allocated=None) if any(file.writable for file in opened) else found

    def _taken(self, node: Node) -> int:
        """Return how many bytes the cache has accepted so far for an open file (PC_BY_TAKEN)."""
        opened = self._opened(node)
        return opened[0].file._inode.number("taken") if opened else 0

    def may_be_mapped(self, number: int) -> bool:
        """Return whether a program may have stored to kernel pages that are not written back yet: the file is open for
        writing, and was read.
        """
        return self._may_be_mapped(self.node(number))

    def _may_be_mapped(self, node: Node) -> bool:
        opened = self._opened(node)
        return any(file.writable for file in opened) and (node.was_read or any(file.was_read for file in opened))

    def _opened(self, node: Node, fh: int | None = None) -> list[OpenFile]:
        """Return the open files of a node. In a store that knows names only, those of a version that another program
        has replaced say nothing about what has the name now: only `fh` is returned all the same.
        """
        if not node.opens:
            return []
        with self.nodes.lock:
            numbers = list(node.opens)
        opened = [file for number in numbers if (file := self.files.by_number.get(number)) is not None]
        earlier = {file for file in opened if file.number != fh and _is_replaced(file.file._inode)}
        if earlier and node.identity is None and self.nodes.key(node) is not None:
            return [file for file in opened if file not in earlier]
        return opened

    def _stat(self, node: Node) -> ObjectStat:
        for opened in self._opened(node):
            try:
                found = opened.stat()
            except OSError:
                if opened.file.closed:  # concurrently
                    continue
                raise
            if self.nodes.key(node) is None:
                return nameless(node, found)
            return found
        if node.kind != "file" and node.seen is not None and self.nodes.key(node) is None:
            return nameless(node, node.seen)  # a process has it open, which the kernel does not report
        return self._moving.of(node, self.names.status)

    def getattr(self, number: int) -> Attributes:
        node = self.node(number)
        taken = self._taken(node)
        return self.attributes(node, self._stat(node), taken)

    def known(self, number: int) -> Attributes | None:
        """Return the attributes of an open file without a backend call: its last status, with the size for readers."""
        node = self.node(number)
        opened = self._opened(node)
        if node.seen is None or not opened:
            return None
        try:
            return self.attributes(node, self._as_open(node.seen, opened))
        except (ValueError, OSError):  # closed or replaced since
            return None

    def told_size(self, number: int) -> int | None:
        """Return the size of a file as the kernel knows it: from a reply, or by its own writes."""
        node = self.node(number)
        for opened in self._opened(node):
            with contextlib.suppress(ValueError, OSError):  # closed or replaced since
                return opened.file.size
        return node.seen_size

    def setattr(
        self, number: int, changes: dict[str, int], fh: int | None = None, again: bool | None = None
    ) -> Attributes:
        """Args:
        changes: of size, mode, uid, gid, atime_ns, mtime_ns.
        fh: the open file that is truncated, if any.
        """
        node = self.node(number)
        changes = dict(changes)
        node.changed = time.monotonic_ns()
        size = changes.pop("size", None)
        if size is not None:
            self._truncate(node, size, fh, again)
        if changes:
            if changes.keys() & TIMES:
                self._hand_over(node)
            with self._moving.opening(node, known=again is not None):  # its name is its own, or gone
                if self.names.keeps_modes:
                    self._leave_lost_name(node, again or fh is not None)
                found = self._appearance.owned(self._stat(node))
                if self.nodes.key(node) is None and self.names.keeps_modes:
                    self._keep_nameless(node, changes)
                else:
                    self._moving.of(node, lambda key: self.names.setattr(key, found, changes))
                    if "mtime_ns" in changes and self.names.keeps_modes and (inode := self._inode(node, found)):
                        inode.clear_written(inode.written_ns)
        node.changed = time.monotonic_ns()
        return self.getattr(number)

    def _keep_nameless(self, node: Node, changes: dict[str, int]) -> None:
        """Keep changes of an object that the store cannot find: only its open files show them."""
        node.nameless = {**node.nameless, **changes}
        if changes.keys() & TIMES:
            node.nameless_since = None if node.seen is None else node.seen.mtime_ns
            for opened in self._opened(node):
                with _unless_closed(opened):
                    node.nameless_since = opened.stat().mtime_ns

    def _truncate(self, node: Node, size: int, fh: int | None, again: bool | None) -> None:

        def cut(key: CheckedKey) -> bool:
            try:
                self.volume.truncate(key, size)
            finally:
                self.names.changed(key)
            inode = self.volume._inode_at(self.volume._canonical(key))
            if inode is not None and not inode.is_stored():
                inode.set_written(time.time_ns())
            return True

        stored: int | None = None
        if fh is None:
            with self._moving.opening(node, known=again is not None):
                self._leave_lost_name(node, again)
                if node.opens:
                    found = self._by_name(node, again, self.names.status)
                    stored = None if found is None else found.size
                elif self._by_name(node, again, cut):
                    return
        writable = [opened for opened in self._opened(node, fh) if opened.writable]
        writable.sort(key=lambda opened: opened.number != fh)
        for opened in writable:
            with _unless_closed(opened):
                if opened.file.size != size or stored not in (None, size):  # another program may have appended
                    opened.file.truncate(size)
                    opened.written_ns = time.time_ns()
                    if opened.number == fh:  # C writes the mark, too
                        opened.wrote = True
                elif fh is not None and self.names.keeps_modes:  # ftruncate(2) moves the time, truncate(2) does not
                    self.setattr(node.number, {"mtime_ns": time.time_ns()}, fh)
                return
        try:
            self._moving.of(node, cut)
        except OSError as error:
            other = self._open_again(node, os.O_RDWR) if error.errno == errno.ESTALE else None
            if other is None:
                raise
            try:
                other.file.truncate(size)
            finally:
                self.files.release(other.number)

    def _hand_over(self, node: Node) -> None:
        """Write back now: a later write-back would change the times of the file."""
        for opened in self._opened(node):
            with _unless_closed(opened):
                if opened.writable and not opened.file._commits_on_close():
                    written = opened.written_ns
                    opened.file.flush()
                    opened.stored(written)

    # -- entries

    def lookup(self, parent: int, name: str, caller: int = 0) -> Attributes:
        """Look up a name, and count one lookup of the kernel. `caller`: the number of a thread that comes back
        (callers.py): a call that takes the name of a file away waits until `came`, or a moment.
        """

        def find(directory: Node, key: CheckedKey) -> tuple[Node, ObjectStat]:
            for _ in range(LOOKUPS_MAX):
                losses, began = directory.losses, time.monotonic_ns()
                found = self.names.status(key)
                target = self._target(key, found)
                if losses == directory.losses:  # otherwise the name may have been lost during the lookup
                    break
            sole = began if has_one_name(found) else None
            node = self._found(directory, name, found, sole)
            node.target = target
            return node, found

        above = self.node(parent)
        if caller:
            self._moving.comes_back((above, name), caller)
        node: Node | None = None
        try:
            node, found = self._moving.entry(above, name, find)
        finally:
            if caller and (node is None or node.kind in ("dir", "symlink")):  # the call that comes is for no file here
                self.came(caller)
        with self._counted(node):
            if not node.opens:
                return self.attributes(node, found)
            taken = self._taken(node)
            try:
                now = self._stat(node)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                now = found  # it was closed, and its name is gone since
            if now.nlink is not None and found.nlink is not None and now.nlink < found.nlink:
                # The kernel must not keep the name: it may be one that was removed since.
                now = dataclasses.replace(now, nlink=found.nlink)
            return self.attributes(node, now, taken)

    def _found(self, directory: Node, name: str, found: ObjectStat, sole: int | None = None) -> Node:
        """Return the node of a found entry, and count one lookup of the kernel: a new one if the object that had the
        name before is open still.
        """
        known = self.nodes.child(directory, name)
        if known is not None and self._has_lost_name(known):
            self.nodes.removed(directory, name, known)
        return self.nodes.found(directory, name, found.kind, found.identity, sole=sole)

    def _has_lost_name(self, node: Node) -> bool:
        """Return whether the open object of a node has no name any longer, in a store that knows names only: others
        have changed it.
        """
        return node.identity is None and any(opened.file._inode.removed for opened in self._opened(node))

    def _leave_lost_name(self, node: Node, again: bool | None) -> None:
        """Take a lost name from an open node.

        Raises:
            OSError: ESTALE: the call may have come by that name. The kernel looks the path up again.
        """
        if self._has_lost_name(node) and self.nodes.lose(node, self.nodes.keys(node)) and not again:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def came(self, caller: int) -> None:
        """Record that the call that a thread came back for has ended, or does not come."""
        self._moving.came(caller)

    @contextlib.contextmanager
    def _counted(self, node: Node) -> Iterator[None]:
        """Context of a call that has counted a lookup: an error takes it back."""
        try:
            yield
        except BaseException:
            self.nodes.forget(node.number, 1)
            raise

    def _target(self, key: CheckedKey, found: ObjectStat) -> str | None:
        """Return the target of a found symbolic link: the kernel follows it even if it loses its name before. None: the
        kernel has to ask again.
        """
        if found.kind != "symlink" or found.identity is None:
            return None
        try:
            return self.names.readlink(CheckedKey(key, object=found.identity))
        except OSError:
            return None

    def forget(self, number: int, times: int = 1) -> None:
        self.nodes.forget(number, times)

    def _made(self, directory: Node, key: CheckedKey, found: ObjectStat, mode: int, owner: Owner | None) -> Attributes:
        """Give a new object to its maker, and count one lookup of the kernel. `found`: the status of that object."""
        if self.names.keeps_modes:
            found = self._give(directory, CheckedKey(key, object=found.identity), found, mode, owner)
        node = self._found(directory, key.rpartition("/")[2], found)
        node.changed = time.monotonic_ns()
        return self.attributes(node, found)

    def _found_new(self, key: CheckedKey, kind: Kind) -> ObjectStat:
        """Return the status of an object that this server has just made, without a descriptor.

        Raises:
            OSError: ESTALE: an object of another kind has the name.
        """
        found = self.names.status(key)
        if found.identity is not None and found.kind != kind:
            raise self._another(key)
        return found

    @staticmethod
    def _another(key: CheckedKey) -> OSError:
        return OSError(errno.ESTALE, "the name leads to another object than the one that was made", key)

    def _looks_new(self, key: CheckedKey, found: ObjectStat) -> bool:
        """Return whether an object looks as one does that this server has just made. The owner and mode of another must
        not become those of the new one, and a store that sets them itself keeps them.

        Raises:
            OSError: ESTALE: it is a directory that is not empty.
        """
        if found.kind == "file" or found.identity is None:
            return True  # made with a descriptor, or nothing can be compared
        if found.kind == "dir" and list(self.names.entries(key)):
            raise self._another(key)
        bits = 0 if found.kind == "symlink" else (found.mode or 0) & (stat.S_IRWXG | stat.S_IRWXO)
        user = os.geteuid()
        return not bits and (found.uid == user or user != 0)  # other users can change only what is theirs

    def _give(self, directory: Node, key: CheckedKey, found: ObjectStat, mode: int, owner: Owner | None) -> ObjectStat:
        changes: dict[str, int] = {}
        if owner is not None and os.geteuid() == 0:
            gid = owner.gid
            above = directory.seen or self._moving.of(directory, self.names.status)
            if (above.mode or 0) & stat.S_ISGID:
                gid = gid if above.gid is None else above.gid
                mode |= stat.S_ISGID if found.kind == "dir" else 0
            if (found.uid, found.gid) != (owner.uid, gid):
                changes |= {"uid": owner.uid, "gid": gid}
        if found.kind != "symlink" and found.mode != stat.S_IMODE(mode):
            changes["mode"] = stat.S_IMODE(mode)
        return self.names.setattr(key, found, changes) if changes and self._looks_new(key, found) else found

    def _make(
        self, parent: int, name: str, kind: Kind, make: Callable[[CheckedKey], object], mode: int, owner: Owner | None
    ) -> Attributes:
        def give(directory: Node, key: CheckedKey) -> Attributes:
            return self._made(directory, key, self._found_new(key, kind), mode, owner)

        above = self.node(parent)
        self._moving.entry(above, name, lambda _, key: make(key))
        return self._moving.entry(above, name, give)  # alone: a rename of the directory repeats it

    def mkdir(self, parent: int, name: str, mode: int, owner: Owner | None = None) -> Attributes:
        return self._make(parent, name, "dir", self.names.mkdir, mode, owner)

    def mknod(self, parent: int, name: str, mode: int, owner: Owner | None = None, rdev: int = 0) -> Attributes:
        """Make a regular file, or a FIFO, socket or device node, which the kernel opens without this server."""
        if stat.S_IFMT(mode) in (0, stat.S_IFREG):
            fh, made = self.create(parent, name, mode, os.O_WRONLY | os.O_EXCL, owner)
            self.release(fh)
            return made

        kind = stat.S_IFMT(mode)
        make = partial(self.names.mknod, mode=kind | 0o600, rdev=rdev)
        return self._make(parent, name, SPECIAL[kind], make, mode, owner)

    def create(
        self, parent: int, name: str, mode: int, flags: int, owner: Owner | None = None
    ) -> tuple[int, Attributes]:
        """Make a file and open it."""

        def make(_directory: Node, key: CheckedKey) -> OpenFile:
            try:
                opened = self.files.open_file(key, flags | os.O_CREAT | os.O_EXCL)
            except FileExistsError as error:
                self.names.changed(key)  # by another program
                if flags & os.O_EXCL:
                    raise
                # Another call has just made it. The kernel has not checked its permissions, and looks it up again.
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), key) from error
            return opened

        def give(directory: Node, key: CheckedKey) -> Attributes:
            self.names.created(key)
            return self._made(directory, key, opened.stat(), mode, owner)

        above = self.node(parent)
        opened = self._moving.entry(above, name, make)
        try:
            made = self._moving.entry(above, name, give)  # alone: a rename of the directory repeats it
        except BaseException:
            self.files.take_back(opened.number)
            raise
        self._open(self.node(made.number), opened)
        return opened.number, made

    def _open(self, node: Node, opened: OpenFile) -> None:
        self._nodes_of[opened.number] = node
        self.nodes.opened(node, opened.number)

    def unlink(self, parent: int, name: str) -> None:
        def remove(directory: Node, key: CheckedKey) -> None:
            with self._moving.taking((directory, name)):
                known = self.nodes.child(directory, name)
                self.names.remove(key, self.names.status(key).kind if known is None else known.kind)
                self.nodes.removed(directory, name)

        self._moving.entry(self.node(parent), name, remove)

    def rmdir(self, parent: int, name: str) -> None:
        def remove(directory: Node, key: CheckedKey) -> None:
            self.names.rmdir(key)
            self.nodes.removed(directory, name)

        self._moving.entry(self.node(parent), name, remove)

    def rename(self, parent: int, name: str, new_parent: int, new_name: str, flags: int = 0) -> None:
        if flags & ~NOREPLACE:
            raise OSError(errno.EINVAL, "names cannot be exchanged", name)
        target = self.node(new_parent)

        def move(directory: Node, key: CheckedKey) -> None:
            new = self._key_in(target, new_name)
            with self._moving.taking((directory, name), (target, new_name), key=key):
                known = self.nodes.child(directory, name)
                try:
                    self.names.rename(key, new, None if known is None else known.kind, replace=not flags & NOREPLACE)
                except FileNotFoundError:
                    self._check_found(target)
                    raise
                self.nodes.renamed(directory, name, target, new_name, known)

        self._moving.entry(self.node(parent), name, move)

    def _check_found(self, directory: Node) -> None:
        """Raises:
        OSError: ESTALE: another program has renamed the directory. The kernel looks the path up again.
        """
        key = self.nodes.key(directory)
        if key is not None and directory.identity is not None:
            try:
                self.names.status(CheckedKey(key, object=directory.identity))
            except OSError:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), key) from None

    def _key_in(self, directory: Node, name: str) -> CheckedKey:
        """Return the key of an entry.

        Raises:
            FileNotFoundError: the directory has lost its name.
        """
        key = self.nodes.key(directory)
        if key is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return entry_key(directory, key, name)

    def link(self, number: int, new_parent: int, new_name: str) -> Attributes:
        node, directory = self.node(number), self.node(new_parent)

        def add(key: str) -> None:
            new = self._key_in(directory, new_name)
            self.names.link(key, new, node.kind)

        with self._moving.opening(node):  # its name is its own, or gone
            self._moving.of(node, add)
        self.nodes.linked(node, directory, new_name)
        with self._counted(node):
            return self.getattr(number)

    def symlink(self, parent: int, name: str, target: str, owner: Owner | None = None) -> Attributes:
        return self._make(parent, name, "symlink", partial(self.names.symlink, target), 0o777, owner)

    def readlink(self, number: int) -> str:
        node = self.node(number)
        return self._moving.of(node, self.names.readlink) if node.target is None else node.target

    # -- directories

    def opendir(self, number: int) -> Listing:
        """Return the current content of a directory. Call it when an open directory is read from its beginning, not
        when it is opened: programs expect the content of that moment.

        Raises:
            FileNotFoundError: the store has no such directory.
        """
        listing = Listing(self.node(number), [])

        def read(key: str) -> list[tuple[str, ObjectStat]]:
            found = self.names.entries(CheckedKey(key, object=listing.node.identity))
            return self._listed.of(f"directory /{key}", found)

        listing.losses = listing.node.losses  # before the listing, which may contain names that are lost meanwhile
        listing.taken = time.monotonic_ns()
        if self.nodes.key(listing.node) is not None:
            listing.entries = self._moving.by_key(listing.node, read)
        return listing

    def entry(self, listing: Listing, index: int) -> Attributes | None:
        """Return one entry, and count one lookup of the kernel. Makes no backend call.

        Returns:
            None: the entry, or the object of its name, may have changed since the listing, so call `entry_now`. The
                kernel
            trusts the reported size, and would cut the file to an old one.
        """
        name, found = listing.entries[index]
        known = self.nodes.child(listing.node, name)
        if known is None and (not listing.certain() or listing.node.changed >= listing.taken):
            return None
        if known is not None and (not known.may_be(found.kind, found.identity) or self._has_lost_name(known)):
            return None  # a lookup may have found the other object since
        if known is not None and (known.opens or known.changed >= listing.taken):
            opened = self._opened(known)
            if not opened:
                return None
            try:
                found = self._as_open(found, opened)
            except (ValueError, OSError):  # closed or replaced since
                return None
        sole = 0 if has_one_name(found) else None
        node = self.nodes.found(listing.node, name, found.kind, found.identity, sole=sole)
        return self._counted_entry(self.attributes(node, found))

    @staticmethod
    def _counted_entry(shown: Attributes) -> Attributes:
        """Return attributes of an entry whose lookup is counted: 0 names, as some stores report, stand for none."""
        return shown if shown.nlink else dataclasses.replace(shown, nlink=1)

    def entry_now(self, listing: Listing, index: int) -> Attributes | None:
        """Return the current attributes of an entry; None if the name is gone. If the store does not report any, the
        kernel gets the name alone (`nlink` is 0), and no lookup is counted.
        """
        name, found = listing.entries[index]
        try:
            return self._counted_entry(self.lookup(listing.node.number, name))
        except FileNotFoundError:
            return None
        except OSError:
            alone = self.attributes(self.nodes.found(listing.node, name, found.kind, found.identity), found)
            self.forget(alone.number, 1)
            return dataclasses.replace(alone, nlink=0)

    def fsyncdir(self) -> None:
        self.names.sync()

    # -- files

    def open(self, number: int, flags: int, again: bool | None = None) -> tuple[int, bool]:
        """Returns:
        The number of the open file, and whether the kernel's pages of it are still valid.
        """
        node = self.node(number)
        empty = flags & os.O_TRUNC and node.seen_size == 0
        with self._moving.opening(node, known=again is not None):
            opened = self._by_name(node, again, lambda key: self._open_by_key(node, key, flags))
            if opened is None:
                opened = self._open_again(node, flags)
            if opened is None:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._open(node, opened)
        if empty and self.names.keeps_modes:  # an empty file is not shortened, but its time must move
            try:
                self.setattr(number, {"mtime_ns": time.time_ns()})
            except BaseException:
                self.files.give_up(opened.number)
                self.release(opened.number)
                raise
        inode = opened.file._inode
        version = None if inode.versions.stale else inode.versions.base
        with self.nodes.lock:
            kept = version is not None and version == node.kept
            if not kept:
                node.kept = opened.number, version
        return opened.number, kept

    def delivered(self, number: int, fh: int) -> None:
        """Record that the kernel has the result of `open`: the next one may report that its pages are valid."""
        self.nodes.delivered(number, fh)

    def _by_name(self, node: Node, again: bool | None, call: Callable[[CheckedKey], T]) -> T | None:
        """Make a call with a key of a node.

        Returns:
            None: the node has lost its names, and this call did not come by one that another program has taken.

        Raises:
            OSError: ESTALE: another program may have taken that name. The kernel looks the path up again.
        """
        gone: set[str] = set()

        def may_be_taken() -> bool:  # after the keys were read: if not, the name that the call came by is among them
            return again is False and time.monotonic() < node.taken_until

        def by_key(key: CheckedKey) -> T:
            if may_be_taken():
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), key)
            try:
                if again or gone.isdisjoint(self.nodes.keys(node)):
                    return call(key)
                self.names.status(key)  # no more: the call may come by the name that is gone
            except OSError:
                gone.add(key)
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)

        try:
            return self._moving.of(node, by_key)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            lost = self.nodes.lose(node, gone)
            if not again and (lost or may_be_taken() or node.links):  # its directory may have been taken
                raise
            return None

    def _open_by_key(self, node: Node, key: CheckedKey, flags: int) -> OpenFile:
        try:
            opened = self.files.open_file(key, flags & ~CREATE)
        except FileNotFoundError:
            self.names.changed(key)  # by another program: the kernel looks it up again
            raise
        if node.identity is not None or (key in self.nodes.keys(node) and not self._has_lost_name(node)):
            return opened
        self.files.take_back(opened.number)  # it may be another object: the name has moved
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)

    def _open_again(self, node: Node, flags: int) -> OpenFile | None:
        """Open a node without a name by one of its open files (/proc/self/fd/N); None: it is not open."""
        for opened in self._opened(node):
            if (again := self.files.open_again(opened, flags & ~CREATE)) is not None:
                return again
        return None

    def clear_set_id(self, number: int) -> None:
        """Clear the set-id bits of a file, as Linux does when a user without privileges writes it."""
        mode = self._stat(self.node(number)).mode or 0
        if mode & (stat.S_ISUID | stat.S_ISGID):
            self.setattr(number, {"mode": mode & ~(stat.S_ISUID | stat.S_ISGID)})

    def flush(self, fh: int) -> None:
        try:
            self.files.flush(fh)
        finally:
            self._may_have_stored(fh)

    def fsync(self, fh: int, datasync: bool = False, timeout: float | None = None) -> None:
        try:
            self.files.fsync(fh, datasync, timeout)
        finally:
            self._may_have_stored(fh)

    def _may_have_stored(self, fh: int) -> None:
        opened = self.files.by_number.get(fh)
        if opened is not None and opened.writable:
            self.names.changed(str(opened.file._inode.key))

    def release(self, fh: int) -> None:
        node = self._nodes_of.pop(fh, None)
        if node is not None:
            opened = self.files.get(fh)
            node.was_read |= opened.was_read
            if opened.writable and node.seen is not None:
                with contextlib.suppress(ValueError, OSError):  # closed, or replaced: a release never fails
                    node.seen = self._as_open(node.seen, [opened])
            node.changed = time.monotonic_ns()  # first: from now on the file does not report its size
        self._may_have_stored(fh)
        self.files.release(fh)
        if node is not None:
            node.changed = time.monotonic_ns()
            self.nodes.released(node, fh)

    # -- extended attributes, space, end

    def _xattr(self, call: str, number: int, *arguments: Any) -> Any:
        node = self.node(number)
        return self._moving.of(node, lambda key: self.names.xattr(call, key, node.kind, *arguments))

    def getxattr(self, number: int, name: str) -> Any:
        return self._xattr("getxattr", number, name)

    def setxattr(self, number: int, name: str, value: bytes, flags: int = 0) -> None:
        self._xattr("setxattr", number, name, value, flags)

    def listxattr(self, number: int) -> Any:
        return self._xattr("listxattr", number)

    def removexattr(self, number: int, name: str) -> None:
        self._xattr("removexattr", number, name)

    def statfs(self) -> Any:
        """Return os.statvfs_result; None if the store does not report its free space."""
        return self.names.statfs()

    def changed(self, key: Any) -> list[int]:
        """Return the numbers of an object after a foreign change: the kernel's data of them is outdated."""
        named = self.nodes.at(key) if isinstance(key, str) else None
        nodes = {} if named is None else {named.number: named}
        for fh, opened in list(self.files.by_number.items()):
            if opened.file._inode.key == key and (node := self._nodes_of.get(fh)) is not None:
                nodes[node.number] = node
        with self.nodes.lock:
            for node in nodes.values():
                node.kept = None
        return [number for number in nodes if number != ROOT]

    def close(self) -> None:
        """Release every open file."""
        self.files.close()
