"""Files of a transaction: they are invisible before it ends.

A file that is opened for writing inside a transaction is a private copy in a temporary file of this machine, which
vanishes with the process. At the end of the transaction it replaces the object at once: if objects appear when they are
closed, by writing and closing it; otherwise under another name beside it, which is then renamed. An object that was
opened for changes (r+, a) must not have been changed by another writer since, stored or not.

Files of one transaction are put in place one after another. If that fails, the earlier ones are in place, and the
others are discarded. The end closes files that its thread has opened. Other threads may be writing theirs: these leave
the transaction, and are put in place when they are closed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import ReferenceType, ref

from fsspec.transaction import Transaction

from ..errors import ConflictError
from ..objects import ObjectStat
from ..volume.modes import mode_flags
from .file import left_by_exception

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..file.cached import CachedFile

log = logging.getLogger("pagecache.fsspec")

COPY = 1 << 20
"""Bytes that are copied at once."""
SUFFIX = ".pagecache-deferred"


def is_deferred(path: str) -> bool:
    """Return whether this is the temporary name of an object between its write and its rename."""
    return path.endswith(SUFFIX)


@contextlib.contextmanager
def _private_folder(volume: Any, key: str) -> Iterator[str | None]:
    """Context with a folder that only this user can enter: others must not read a copy that is not published. None: the
    store has no directories.
    """
    backend = volume.engine.backend
    folder = None
    if hasattr(backend, "mkdir"):
        with contextlib.suppress(io.UnsupportedOperation):
            backend.mkdir(key, 0o700)
            folder = key
    try:
        yield folder
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):
                backend.rmdir(folder)


def _behind_links(backend: Any, key: str) -> str:
    """Return the key of the file that links lead to: a rename would replace the link."""
    if hasattr(backend, "readlink"):
        root: str = backend.root.rstrip("/") + "/"
        real = os.path.realpath(root + key)
        if real.startswith(root):  # the others are refused
            return real[len(root) :]
    return key


class Deferral(Transaction):
    """The transactions of a file system. One inside another is a part of it: the end of the outermost one puts the
    files of all in place. That one is over before its end is processed, so that later writes are not part of it.
    """

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        # Of each that has not ended, the innermost last: its files, with what the program writes to. A collection does
        # not know the order in which those are to be closed.
        self._begun: list[dict[DeferredFile, Any]] = []
        self.lock = threading.RLock()  # a signal handler may open a file

    def start(self) -> None:
        """Begin a transaction."""
        with self.lock:
            self._begun.append({})
            self.fs._intrans = True

    def __enter__(self) -> Self:
        depth = len(self._begun)
        try:
            self.start()
            return self
        except BaseException:  # an interrupt: the body is not entered
            if len(self._begun) > depth:
                self.complete(commit=False)
            raise

    def add(self, file: DeferredFile) -> bool:
        """Make a file a part of the innermost transaction; False: all have ended."""
        with self.lock:
            if self._begun:
                self._begun[-1][file] = file
            return bool(self._begun)

    def keep(self, file: DeferredFile, whole: Any) -> None:
        """Keep what the program writes to until the end of the transaction of a file, if that has one."""
        with self.lock:
            for files in self._begun:
                if file in files:
                    files[file] = whole

    def complete(self, commit: bool = True) -> None:
        """End the innermost transaction: put its files in place, one after another, or leave them to the one around it;
        `commit` False: discard them.

        Raises:
            OSError: of the first file that could not be stored; it and the later ones are discarded.
        """
        files: list[DeferredFile] = []
        try:
            with self.lock:  # an interrupt strikes after a call: there is none before it has ended
                begun = self._begun[-1] if self._begun else {}
                files = [*begun]
                del self._begun[-1:]
                self.fs._intrans = self._begun != []
                if commit and self._begun:
                    self._begun[-1] |= begun
                    files = []
                for file in files:
                    file.left = commit and not (file.closed or file.is_ours())
                files = [file for file in files if not file.left]
            while commit and files:
                files[0].commit()  # or discards it
                files.pop(0)
        finally:
            for file in files:
                file.discard()

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        begun = self._begun[-1] if self._begun else None
        try:
            self.complete(commit=t is None)
        finally:
            if self._begun and self._begun[-1] is begun:  # an interrupt struck before it had ended
                self.complete(commit=False)


class DeferredFile(io.FileIO):
    """A file that is written now and appears with `commit`.

    Raises, when it is opened:
        FileNotFoundError, FileExistsError, PermissionError: as without a transaction.
    """

    mode = ""  # as given: an attribute, not the property of FileIO
    left = False  # by its transaction: the close puts it in place; set under the lock of that

    def __init__(self, fs: Any, path: str, mode: str) -> None:
        self.fs, self.path, self.mode = fs, path, mode
        self.whole: ReferenceType[Any] = ref(self)  # what the program writes to
        self._thread = threading.get_ident()
        self._committing = threading.RLock()  # held over `commit`: a second close waits
        key = fs._key(path)
        self._key = key if mode[0] == "x" else _behind_links(fs.volume.backend, key)
        self._ended = False
        fs.volume._check_may_write(self._key, mode_flags(mode))
        there = fs.volume.exists(self._key)
        if mode[0] == "r" and not there:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        if mode[0] == "x" and there:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        if not there and hasattr(fs.volume.backend, "make_above"):
            try:
                fs.volume.backend.make_above(self._key)
            except FileNotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, "No such directory", path) from error
        self._changes = mode[0] in "ra"
        if self._changes and there:
            self._save()
        self._base = self._stored()
        self._digest = b""  # of the content that was copied
        self._scratch = tempfile.TemporaryFile(prefix="pagecache-")  # noqa: SIM115
        if self._changes and there:
            self._digest = self._read(self._scratch.write)
            self._scratch.flush()
        super().__init__(f"/proc/self/fd/{self._scratch.fileno()}", mode.replace("x", "w"))
        self.name = path

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}{type(self).__name__} {self.path!r} mode={self.mode!r}>"

    @property
    def size(self) -> int:
        """Return the size in bytes."""
        return os.fstat(self._scratch.fileno()).st_size

    def write(self, data: Buffer, /) -> int:
        with memoryview(data) as view, view.cast("B") as rest:
            done = 0
            while done < len(rest):
                done += super().write(rest[done:]) or 0
            return done

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0 and offset < 0:
            raise ValueError(f"offset {offset} is negative; it must be 0 or more")
        return super().seek(offset, whence)

    # -- the end

    def is_ours(self) -> bool:
        """Return whether this thread has opened the file."""
        return self._thread == threading.get_ident()

    def commit(self) -> None:
        """Put the file in its place.

        Raises:
            OSError: it could not be stored; nothing of it is visible.
            ConflictError: the object changed since it was opened for changes.
        """
        with self._committing:
            if self._ended:
                return  # discarded by its writer, or committed
            try:
                self._ended = True
                if not self.closed:
                    (self.whole() or self).close()  # with the bytes that it has buffered
                self.close()
                self._put_in_place()
            finally:
                self.discard()

    def _put_in_place(self) -> None:
        volume = self.fs.volume
        exclusive = self.mode[0] == "x" or (self._changes and self._base is None)
        self._check_base()
        if not volume.backend.limits.commit_on_close:
            self._put_beside(volume, exclusive)
        else:
            self._copy_to(self._key, "x" if exclusive else "r+" if self._changes else "w")

    def _put_beside(self, volume: Any, exclusive: bool) -> None:
        name = f"{self._key}.{uuid.uuid4().hex[:12]}{SUFFIX}"
        with _private_folder(volume, name) as folder:
            beside = name if folder is None else f"{folder}/copy{SUFFIX}"
            try:
                self._copy_to(beside, "x")
                self._keep_attributes(beside)
                self._check_base()  # again: the copy may have taken long
                volume.rename(beside, self._key, replace=not exclusive)
            except BaseException:
                with contextlib.suppress(OSError):
                    volume.remove(beside)
                raise

    def _keep_attributes(self, beside: str) -> None:
        """Give the copy mode, owner and group of the file that it replaces."""
        volume = self.fs.volume
        with contextlib.suppress(FileNotFoundError):
            old: ObjectStat = volume.backend.stat(self._key)
            if old.mode is not None and old.uid is not None and old.gid is not None:
                with contextlib.suppress(PermissionError):
                    volume.setattr(beside, uid=old.uid, gid=old.gid)
                volume.setattr(beside, mode=old.mode)

    def _copy_to(self, key: str, mode: str) -> None:
        self._scratch.seek(0)
        with self.fs.volume.open(key, mode) as new:
            if mode == "r+":
                self._check_opened(new)
                new.truncate(0)
            shutil.copyfileobj(self._scratch, new, COPY)
            if new._commits_on_close():
                new.fsync()  # here: an error of the close would leave the bytes to later saves

    # -- changes by other writers

    def _check_base(self) -> None:
        if not self._changes:
            return
        now = self._stored()
        if self._base != now:
            self._conflict(now)
        if next(iter(self.fs.volume.unsaved(self._key)), None) and self._read() != self._digest:
            self._conflict(now)

    def _check_opened(self, file: CachedFile) -> None:
        """Check the version that the handle has opened: its commit is refused if that one is replaced."""
        opened = file._inode.versions.base
        if opened is not None and opened != self._base:
            self._conflict(opened)

    def _conflict(self, now: str | int | None) -> NoReturn:
        what = "the object was changed since it was opened in this transaction"
        raise ConflictError(what, self.path, base=str(self._base), remote=str(now))

    def _save(self) -> None:
        """Save in the store what the disk tier has of the object: a later save would look like another writer."""
        volume = self.fs.volume
        inode = volume._inode_at(volume._canonical(self._key))
        if inode is not None and inode.journaled.is_live():
            volume._begin_saving([inode]).wait()

    def _stored(self) -> str | int | None:
        """Return the identity of the stored object: its version, or its size if it has none; None: no object."""
        try:
            stat: ObjectStat = self.fs.volume.backend.stat(self._key)
        except FileNotFoundError:
            return None
        return stat.size if stat.version is None else stat.version

    def _read(self, take: Callable[[memoryview], object] = len) -> bytes:
        """Read the object, with unsaved bytes of other handles, and return its digest."""
        digest = hashlib.blake2b()
        with self.fs.volume.open(self._key) as old:
            while data := old.read(COPY):
                digest.update(data)
                take(memoryview(data))
        return digest.digest()

    def discard(self) -> None:
        """Discard the file."""
        self._ended = True
        self.close()
        self._scratch.close()

    def close(self) -> None:
        """Close; `discard` if an exception left a `with fsspec.open(...)`; `commit` if its transaction has left it."""
        if not self.closed and not self._ended and left_by_exception(self):
            self.discard()
        with self.fs._transaction.lock:
            super().close()
        if self.left:
            self.commit()

    def __del__(self) -> None:
        if self.left and not (self.closed or self._ended):
            log.error("%r: dropped unclosed after the end of its transaction: it is not stored", self.path)
        self._ended = True  # nothing is published of a file that was collected unclosed
        super().__del__()

    abandon = discard

    def _commits_on_close(self) -> bool:
        return True  # nothing of it is visible yet, nor will be after a body that raised

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is not None:
            self.discard()
        self.close()
