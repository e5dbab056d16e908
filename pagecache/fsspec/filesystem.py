"""PageCacheFileSystem: the file system interface of fsspec over a volume and the target below it.

    bytes, sizes of open files     the volume: open, remove, rename, stat
    directories, listings          the target, overlaid with unstored changes
    everything else                fsspec's AbstractFileSystem: walk, glob, du, get, put, cat, pipe, ...

There is no listing cache here: `ls` asks the target, and `invalidate_cache` is passed on to it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from glob import has_magic
from types import MappingProxyType
from typing import Any, Literal, cast
from uuid import uuid4
from weakref import ref

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.implementations.chained import ChainedFileSystem
from fsspec.utils import other_paths, stringify_path, tokenize

from ..backends.fsspec.objects import STAGE
from ..cache import PageCache
from ..config import Size
from ..engine.park import NEVER
from ..errors import LostRange
from ..objects import FileStat
from ..options import OpenMode
from ..volume.status import of_cached
from ..volume.volume import Volume
from .file import CompressedFile, PageCacheFile, TextFile, checked_mode, give_up
from .listing import entry_of, is_directory, is_private, overlaid
from .ranges import read_span, span_of
from .sharing import Target, wanted
from .transaction import Deferral, DeferredFile

OPENING = ("write_through", "keep_cache", "revalidate", "read_ahead")
"""Options of `Volume.open` that `open` takes."""
IGNORED = ("cache_type", "fill_cache", "size", "cache_options")
"""Options of fsspec's own files, without effect here."""
NOTHING: Mapping[str, FileStat] = MappingProxyType({})


class PageCacheFileSystem(ChainedFileSystem):
    """Any fsspec file system, seen through a page cache.

    Args:
        target_protocol: of the file system below, such as "file" or "s3".
        target_options: its arguments.
        fs: the file system itself, instead of these two.
        fo: the file of a chained URL; not needed.
        capacity: bytes of memory for all file systems of this process with equal cache options.
        **options: fields of `CacheConfig` and `VolumeOptions` (defaults here: `sync_on_close` True, `read_ahead`
            "256MiB"); `publish`, `spool` and `check_reads` of `FsspecBackend`; `disk` and `disk_size`: directory and
            size of a disk tier; `durability` and `volume_id`, as for `PageCache.attach`.

    Raises:
        ValueError, TypeError: no target, an unknown protocol, an option out of range or unknown; names value and rule.

    >>> import fsspec
    >>> fs = PageCacheFileSystem("memory", capacity="1MiB")
    >>> fs.pipe("/greeting", b"hello")
    >>> with fs.open("/greeting", "r+b") as f:
    ...     n = f.pwrite(b"J", 0)
    >>> fs.cat("/greeting")
    b'Jello'
    >>> fs.rm("/greeting"); fs.close()
    []
    """

    protocol: str | tuple[str, ...] = "pagecache"
    transaction_type = Deferral
    _strip_tokenize_options = ("fo",)  # one file system, independent of the file it was made for

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        fo: str | None = None,
        *,
        capacity: Size = "256MiB",
        **options: Any,
    ) -> None:
        if self._cached:
            return
        super().__init__()
        self._transaction = Deferral(self)
        self._wanted = wanted(Target(fs, target_protocol, target_options), capacity, options)
        self.root_marker, self.sep = self.fs.root_marker, self.fs.sep
        # A program that registers the file system by its protocols knows its URLs (`unstrip_protocol`) by these.
        self.protocol = ("pagecache", *(f"pagecache::{below}" for below in self._wanted.target.protocols))
        self._strip_protocol = self._stripped  # a class method in fsspec, which calls it on instances too

    def __repr__(self) -> str:
        return f"<pagecache.fsspec.PageCacheFileSystem above {self._wanted.target.protocols[0]}>"

    @property
    def fs(self) -> Any:
        """Return the file system below."""
        return self._wanted.target.fs

    @property
    def volume(self) -> Volume:
        """Return the target's volume in this process."""
        return self._wanted.volume()

    @property
    def cache(self) -> PageCache:
        """Return the cache, shared by all file systems of this process with equal cache options."""
        return self.volume.cache

    @property
    def fsid(self) -> str:
        return f"pagecache-{self.fs.fsid}"

    # -- paths

    def _stripped(self, path: Any) -> Any:
        if isinstance(path, list):
            return [self._stripped(one) for one in path]
        name = stringify_path(path)
        for prefix in ("pagecache://", "pagecache::"):
            name = name.removeprefix(prefix)
        return self.fs._strip_protocol(name)

    def _parent(self, path: str) -> str:
        return str(self.fs._parent(self._stripped(path)))

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path, as `fsspec.open` takes it."""
        return f"pagecache::{self.fs.unstrip_protocol(self._stripped(name))}"

    def _key(self, path: str) -> str:
        """Return the key of a file in the volume: keys are relative, paths of some file systems begin at a root."""
        return path.removeprefix(self.root_marker)

    # -- state of files

    def _differing(self) -> Volume | None:
        """Return the volume, if its files may differ from the target: an earlier process may have left some on disk."""
        return self.volume if self._wanted.durability == "disk" else self._wanted.open_volume()

    def _unseen(self, before: Mapping[str, FileStat] = NOTHING) -> dict[str, FileStat]:
        """Return the files whose cached state the target does not show, by path. `before`: and those of an earlier look
        as they are now: an answer of the target may be from before they were saved.
        """
        if (volume := self._differing()) is None:
            return {}
        if volume.recovery is not None:
            volume.recovery.outlast(NEVER, again=False)
        now = {f"{self.root_marker}{stat.key}": stat for stat in volume.unsaved(hidden=True)}
        for path in before.keys() - now.keys():
            inode = volume._inode_at(volume._canonical(before[path].key))
            now[path] = before[path] if inode is None else of_cached(inode)
        return now

    def _unseen_at(self, path: str, *, hidden: bool = True) -> FileStat | None:
        """Return the cached state of one file if the target does not show it; not `hidden`: of an uncommitted file."""
        volume, key = self._differing(), self._key(path)
        if volume is not None and key:
            with contextlib.suppress(ValueError, FileNotFoundError, NotADirectoryError):  # no file can be there
                volume._recover_first(volume._attempts("stat", key, None), volume._canonical(key))
                known = next(iter(volume.unsaved(key, hidden=hidden)), None)
                return known or self._identified(hidden).get(self._identity(key))
        return None

    def _identified(self, hidden: bool = True) -> dict[Hashable, FileStat]:
        """Return the files whose cached state the target does not show, by the identity that the target reports."""
        unsaved = self.volume.unsaved(hidden=hidden)
        return {stat.identity: stat for stat in unsaved if stat.identity is not None}

    def _identity(self, key: str) -> Hashable:
        """Return the identity of the object that has a name in the target, if any unsaved file has one."""
        return self.volume.stat(key).identity if self._identified(hidden=False) else None

    def _linked(self, path: str, key: str) -> dict[str, FileStat]:
        """Return files in a directory whose cached state the target does not show, and that the cache knows by another
        name: a link leads to the directory, or to the file.
        """
        readdir: Any = getattr(self.volume.engine.backend, "readdir", None)
        identified = {} if readdir is None else self._identified()
        with contextlib.suppress(ValueError, OSError):
            return {
                f"{path}/{str(entry.key).rpartition('/')[2]}": identified[entry.identity]
                for entry in (readdir(key) if identified else ())
                if entry.identity in identified
            }
        return {}

    def _overlaid(
        self, path: str, stored: Iterable[Mapping[str, Any]] | None, before: Mapping[str, FileStat] = NOTHING
    ) -> list[dict[str, Any]] | None:
        path = path or self.root_marker
        unseen, key, found = self._unseen(before), self._key(path), path
        if unseen and key:
            with contextlib.suppress(ValueError):
                found = f"{self.root_marker}{self.volume.backend.canonical(key)}"
            unseen |= self._linked(found, key)
        return overlaid(path, stored, unseen, found)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List the target, with sizes as a reader finds them, and with files that are not stored yet."""
        path, before = self._stripped(path), self._unseen()
        entries: list[dict[str, Any]] | None = None
        with contextlib.suppress(FileNotFoundError):
            entries = self.fs.ls(path, detail=True, **kwargs)
        found = self._overlaid(path, entries, before)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return found if detail else sorted(entry["name"] for entry in found)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return the target's info on a path, with the size that a reader finds."""
        path = self._stripped(path)
        unseen = self._unseen_at(path)
        try:
            found: dict[str, Any] = self.fs.info(path, **kwargs)
        except FileNotFoundError:
            if unseen is not None:
                return entry_of(path, unseen)
            if self._overlaid(path, None) is None:
                raise
            return {"name": path, "size": 0, "type": "directory"}
        return found if unseen is None else found | {"size": unseen.size}

    def isfile(self, path: str) -> bool:
        """Return whether a path is a file. With `revalidate` one look answers this and the open after it, as pyarrow
        asks for both; within these seconds of the last look there is none.
        """
        key = self._key(self._stripped(path))
        if not (self.volume.options.revalidate and self.volume._inode_at(key)):
            return bool(super().isfile(path))
        with contextlib.suppress(Exception):  # as in fsspec: what cannot be asked is no file
            return self.volume.stat(key).kind == "file"
        return False

    def size(self, path: str) -> int | None:
        """Return the size that a reader finds. While an object is open here, it is that of its handles, without a
        request: DuckDB asks for it a dozen times for each file, and reads by its own handle.
        """
        inode = self.volume._inode_at(self._key(self._stripped(path)))
        if inode is not None and inode.handles and self.volume.backend.limits.commit_on_close:
            return int(inode.size)
        found: int | None = super().size(path)
        return found

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """Return all files below a path; uses the target's method if everything is stored."""
        if self._unseen():
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        path = self._stripped(path)
        found = self.fs.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        shown = {name: entry for name, entry in found.items() if not is_private(name)}
        return shown if detail else sorted(shown)

    def created(self, path: str) -> datetime:
        return self._time(path, self.fs.created)

    def modified(self, path: str) -> datetime:
        """Return the time of the last change; now, while that is not stored."""
        return self._time(path, self.fs.modified)

    def _time(self, path: str, stored: Any) -> datetime:
        path = self._stripped(path)
        if self._unseen_at(path) and (stored == self.fs.modified or not self.fs.exists(path)):
            return datetime.now(UTC)
        found: datetime = stored(path)
        return found

    def ukey(self, path: str) -> str:
        """Return a string that differs whenever the content may differ; for unstored changes each result differs."""
        path = self._stripped(path)
        if self._unseen_at(path):
            return str(tokenize(path, uuid4()))
        return str(self.fs.ukey(path))

    def checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(tokenize(self.ukey(path)), 16)

    def sign(self, path: str, expiration: int = 100, **kwargs: Any) -> str:
        """Return the target's signed URL of the stored content."""
        return str(self.fs.sign(self._stripped(path), expiration=expiration, **kwargs))

    def invalidate_cache(self, path: str | None = None) -> None:
        """Drop cached state of a path, or of all: listings of the target, and cached bytes that are stored."""
        name = None if path is None else self._stripped(path)
        self.fs.invalidate_cache(name)
        volume = self._wanted.open_volume()
        if volume is not None:
            volume.drop_clean(None if name is None else self._key(name))

    # -- names

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        self.fs.mkdir(self._stripped(path), create_parents=create_parents, **kwargs)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.fs.makedirs(self._stripped(path), exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        path = self._stripped(path)
        inside = self._overlaid(path, None)
        if inside:
            raise OSError(errno.ENOTEMPTY, f"Directory not empty: {inside[0]['name']!r} is not stored yet", path)
        with contextlib.suppress(Exception):  # it does not exist, or is in use, that is, not empty
            self.fs.rmdir(f"{path}/{STAGE}")
        self.fs.rmdir(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and with `recursive` the content of directories; of a link the link alone."""
        for name, directory in reversed(self._expanded(path, recursive, maxdepth).items()):
            try:
                self._remove(name, directory, everything=recursive)
            except FileNotFoundError:
                if not recursive:
                    raise  # otherwise it was removed concurrently

    def rm_file(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        path = self._stripped(path)
        self._remove(path, is_directory(self._info_at(path)), everything=False)

    def _remove(self, path: str, directory: bool, *, everything: bool) -> None:
        """Remove a path. `everything`: also hidden content of a directory, such as leftovers of dead processes."""
        if not directory:
            with _naming(path, self._key(path)):
                self.volume.remove(self._key(path))
            return
        with contextlib.suppress(FileNotFoundError):
            if everything:
                self.fs.rm(f"{path}/{STAGE}", recursive=True)
        with contextlib.suppress(FileNotFoundError):  # on an object store it vanished with its last object
            self.rmdir(path)

    def _expanded(self, path: Any, recursive: bool, maxdepth: int | None = None) -> dict[str, bool]:
        """Return what paths and patterns stand for, sorted: the name of each file, and of each directory (True).

        Raises:
            FileNotFoundError: there is nothing. OSError: a directory cannot be listed; `walk` would leave it out.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError(f"maxdepth {maxdepth!r} is less than 1")
        found: dict[str, bool] = {}
        for name in map(self._stripped, [path] if isinstance(path, str | os.PathLike) else path):
            magic = has_magic(name)
            depth = (math.inf if maxdepth is None else maxdepth - magic) if recursive else 0
            for top in self.glob(name, maxdepth=maxdepth) if magic else [name]:
                try:
                    found |= self._below(top, self._info_at(top), depth)
                except FileNotFoundError:
                    if not recursive:
                        raise
        if not found:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return dict(sorted(found.items()))

    def _below(self, path: str, info: Mapping[str, Any], depth: float) -> Iterator[tuple[str, bool]]:
        """Yield a path and, down to a depth, everything below it, each with whether it is a directory."""
        yield path, is_directory(info)
        if is_directory(info) and depth > 0:
            entries: list[dict[str, Any]] = []
            with contextlib.suppress(FileNotFoundError):  # it was removed concurrently
                entries = self.ls(path)
            for entry in entries:
                if (name := entry["name"].rstrip("/")) != path:
                    yield from self._below(name, entry, depth - 1)

    def _info_at(self, path: str) -> Mapping[str, Any]:
        """Return the info of a path, which may be a link that leads nowhere."""
        try:
            return self.info(path)
        except FileNotFoundError as error:
            with contextlib.suppress(ValueError, OSError):
                if hasattr(self.volume.backend, "lstat") and self.volume.backend.lstat(self._key(path)):
                    return {"type": "other"}
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from error

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """Rename files, one after another. A directory is renamed as a whole if the target has directories.

        Raises:
            OSError: a new name is an old one, lies below it, or is that of two files (EINVAL, before any change); or
                one file could not be renamed: those before it have their new names, the others their old ones.
        """
        path1, path2 = stringify_path(path1), stringify_path(path2)
        if isinstance(path1, str) and isinstance(path2, str) and self._moved(path1, path2, maxdepth):
            return
        pairs = self._pairs(path1, path2, recursive, maxdepth)
        files: set[str] = set()
        for source, (target, directory) in pairs.items():
            _check_outside(source, target)
            if target in pairs or target in files:
                raise OSError(errno.EINVAL, "Another file of the same move has or gets this name", source, None, target)
            if not directory:
                files.add(target)
        for source, (target, directory) in pairs.items():
            if directory:
                self.makedirs(target, exist_ok=True)
            else:
                self._rename(source, target)
        for source, (_, directory) in reversed(pairs.items()):
            if directory:
                with contextlib.suppress(FileNotFoundError):  # on an object store it vanished with its last object
                    self.rmdir(source)

    def _moved(self, path: str, new: str, maxdepth: int | None) -> bool:
        """Rename a file, or a whole directory; False: it is a pattern, or what is in the directory is to be renamed."""
        source, target = self._stripped(path), self._stripped(new)
        try:
            directory = is_directory(self._info_at(source))
        except FileNotFoundError:
            if has_magic(source):
                return False
            raise
        if (new.endswith("/") or self.isdir(target)) and not (directory and path.endswith("/")):
            target = f"{target.rstrip('/')}/{source.rpartition('/')[2]}"
        if source == target:
            return True
        if not directory:
            self._rename(source, target)
            return True
        _check_outside(source, target)
        if maxdepth is not None or not hasattr(self.volume.backend, "mkdir"):
            return False
        self.makedirs(self._parent(target), exist_ok=True)
        try:
            self.volume.rename(self._key(source), self._key(target))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EXDEV):
                return False  # the files are put into the directory of that name, or on another disk
            raise
        return True

    def _pairs(self, path1: Any, path2: Any, recursive: bool, maxdepth: int | None) -> dict[str, tuple[str, bool]]:
        """Return the new name of each file and directory, as in fsspec's `copy`, and whether it is a directory."""
        if isinstance(path1, list) and isinstance(path2, list):
            return {
                name: (f"{target}{name[len(source) :]}", directory)
                for source, target in zip(self._stripped(path1), self._stripped(path2), strict=True)
                for name, directory in self._below(source, self._info_at(source), math.inf if recursive else 0)
            }
        found, one = self._expanded(path1, recursive, maxdepth), isinstance(path1, str)
        if one and (not recursive or maxdepth is not None):
            found = {name: directory for name, directory in found.items() if not directory}
        if not found:
            raise IsADirectoryError(errno.EISDIR, "Is a directory; `recursive` moves what is in it", path1)
        exists = one and isinstance(path2, str)  # a directory, which the files are put into
        if exists and has_magic(path1):
            exists = len(found) == 1
        elif exists:
            exists = not path1.endswith("/") and (path2.endswith("/") or self.isdir(path2))
        targets = other_paths(list(found), self._stripped(path2), exists=exists, flatten=not one)
        return dict(zip(found, zip(targets, found.values(), strict=True), strict=True))

    def _rename(self, source: str, target: str) -> None:
        """Rename a file; where the target cannot, copy and remove it."""
        try:
            with _naming(source, self._key(source)):
                self.volume.rename(self._key(source), self._key(target))
        except OSError as error:
            elsewhere = isinstance(error, io.UnsupportedOperation) or error.errno == errno.EXDEV
            if not elsewhere or self._is_one_file(source, target):
                raise
            self._copy(source, target, moving=True)
            self.volume.remove(self._key(source))

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file: on the target if it has the current content of both, otherwise through the cache. A copy to
        the same file changes nothing.
        """
        source, target = self._stripped(path1), self._stripped(path2)
        if self.isdir(source):
            self.makedirs(target, exist_ok=True)
        elif self._is_one_file(source, target):
            self.info(source)  # raises if there is none
        else:
            self._copy(source, target, **kwargs)

    def _is_one_file(self, path: str, other: str) -> bool:
        """Return whether both paths lead to one file, perhaps by links."""
        backend = self.volume.backend
        with contextlib.suppress(ValueError, OSError):  # no file is there, or can be
            if path == other or backend.canonical(self._key(path)) == backend.canonical(self._key(other)):
                return True
            if hasattr(backend, "lstat"):  # otherwise there are no links
                identity = self.volume.stat(self._key(path)).identity
                return identity is not None and identity == self.volume.stat(self._key(other)).identity
        return False

    def _copy(self, source: str, target: str, *, moving: bool = False, **kwargs: Any) -> None:
        """Copy a file. `moving`: the source will be removed, so the copy is durable, and no part of a transaction."""
        through = self._unseen_at(source) or self._unseen_at(target, hidden=False)
        if not (through or (not self.volume.backend.limits.commit_on_close if moving else self._intrans)):
            self.volume._check_may_write(self._key(target), os.O_RDWR)
            with contextlib.suppress(NotImplementedError):
                try:
                    self.fs.cp_file(source, target, **kwargs)
                    return
                finally:  # after an error, too: the copy may have been made
                    self.volume.invalidate_remote(self._key(target))
        with self.open(source) as old, self.open(target, "wb", autocommit=moving or None) as new:
            while data := old.read(self.blocksize):
                new.write(data)
            if moving:
                new.fsync()

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file; with `truncate=False` give an existing one another time, if the target can."""
        path = self._stripped(path)
        if truncate:
            self.open(path, "wb", **kwargs).close()
            return
        with contextlib.suppress(FileExistsError):
            self.open(path, "xb", **kwargs).close()
            return
        if not self._unseen_at(path):  # otherwise storing it sets a new time
            if self._unseen_at(path, hidden=False):
                with self.open(path, "r+b") as file:
                    file.fsync(durability="backend")  # otherwise the new time would look like a foreign change
            try:
                self.fs.touch(path, truncate=False, **kwargs)
            finally:
                self.volume.invalidate_remote(self._key(path))

    def start_transaction(self) -> Deferral:
        """Begin a transaction without a `with`."""
        self._transaction.start()
        return self._transaction

    def end_transaction(self) -> None:
        """End the transaction that was begun last."""
        self._transaction.__exit__(None, None, None)  # it ends, whatever interrupts that

    # -- bytes

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Mapping[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file.

        Args:
            path: with or without the protocol.
            mode: r, r+, w, w+, x, x+, a, a+, with "b" for bytes, "t" or neither for text.
            block_size: largest readahead window in bytes; None: that of the file system's options.
            cache_options: of fsspec's own caches; no effect here.
            compression: a name in fsspec, or "infer", by the path.
            **kwargs: `encoding`, `errors`, `newline` of text; `write_through`, `keep_cache` and `revalidate` of
                `Volume.open`; `autocommit=False`: a file that appears with its `commit`.

        Raises:
            FileNotFoundError, FileExistsError, IsADirectoryError: as `open()`.
            PermissionError: for writing, if the target is read-only.
            ConflictError: the stored object changed under unstored bytes.
            ValueError, TypeError: mode or option; names value and rule.
        """
        binary, text = checked_mode(mode)
        path = self._stripped(path)
        text_options = {name: kwargs.pop(name) for name in ("encoding", "errors", "newline") if name in kwargs and text}
        compress = None if (name := get_compression(path, compression)) is None else compr[name]
        autocommit = kwargs.pop("autocommit", None)  # None: at the end of a transaction, if there is one
        at_once = binary == "rb" or (not self._intrans if autocommit is None else autocommit)
        file = self._open(path, binary, block_size, at_once, cache_options, **kwargs)
        if not at_once and not self._transaction.add(file) and autocommit is None:  # it has ended meanwhile
            file.discard()
            file = self._open(path, binary, block_size, True, cache_options, **kwargs)
        try:
            whole: Any = file if compress is None else CompressedFile(compress(file, mode=binary[0]), file)
            whole = TextFile(whole, **text_options) if text else whole
            if isinstance(file, DeferredFile):
                file.whole = ref(whole)
                self._transaction.keep(file, whole)
            return whole
        except BaseException:
            give_up(file)
            file.close()
            raise

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        for name in kwargs:
            if name not in OPENING + IGNORED:
                raise TypeError(f"open: has no option {name!r}; it has {', '.join(OPENING)}")
        if not autocommit:
            return DeferredFile(self, path, mode)
        options = {name: value for name, value in kwargs.items() if name in OPENING}
        if isinstance(block_size, int) and block_size > 0:
            options.setdefault("read_ahead", block_size)
        key = self._key(path)
        with _naming(path, key):
            file = self.volume.open(key, cast(OpenMode, mode), kind=PageCacheFile, **options)
        assert isinstance(file, PageCacheFile)
        file.fs, file.path, file.name = self, path, path
        return file

    def open_many(self, open_files: Iterable[Any]) -> list[Any]:
        """Open the files of `fsspec.open_files` here: fsspec would open them past the cache."""
        return [one.__enter__() for one in open_files]

    def commit_many(self, open_files: Iterable[Any]) -> None:
        """Do nothing: the files are closed."""

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a whole file; `mode` "create": a new one."""
        with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as file:
            file.write(value)

    def put_file(
        self, lpath: Any, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Copy a file of this machine, or make a directory; `mode` "create": a new one."""
        rpath = self._stripped(rpath)
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=mode != "create")
            return
        with open(lpath, "rb") as old:
            callback.set_size(os.fstat(old.fileno()).st_size)
            self.makedirs(self._parent(rpath), exist_ok=True)
            with self.open(rpath, "xb" if mode == "create" else "wb", **kwargs) as new:
                while data := old.read(self.blocksize):
                    callback.relative_update(new.write(data))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes [start, end) of a file; negative numbers count from its end."""
        with self._open(self._stripped(path), **kwargs) as file:
            at, length = span_of(start, end, file.size)
            data: bytes = file.pread(length, at)
            return data

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int | None] | None,
        ends: int | list[int | None] | None,
        max_gap: int | None = None,
        on_error: Literal["return", "raise"] = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Return many ranges at once, like `cat_file`: all files are read concurrently, near ranges in one call.

        Args:
            paths: one for each range; a path may occur many times.
            starts: one for each range, or one for all.
            ends: one for each range, or one for all.
            max_gap: no effect here.
            on_error: "return": the exception takes the place of the bytes.
            **kwargs: those of `open`.
        """
        if not isinstance(paths, list):
            raise TypeError(f"paths must be a list, not {type(paths).__name__}")
        firsts = starts if isinstance(starts, list) else [starts] * len(paths)
        lasts = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(firsts) == len(lasts):
            raise ValueError(f"{len(paths)} paths, {len(firsts)} starts, {len(lasts)} ends: not as many of each")
        if on_error not in ("return", "raise"):
            raise ValueError(f"on_error {on_error!r} is not one of 'return', 'raise'")
        names = [str(self._stripped(path)) for path in paths]
        with contextlib.ExitStack() as stack:
            files = self._opened(dict.fromkeys(names), stack, on_error, kwargs)
            spans = [
                (0, 0) if isinstance(file := files[name], Exception) else span_of(start, end, file.size)
                for name, start, end in zip(names, firsts, lasts, strict=True)
            ]
            for name, file in files.items():
                if not isinstance(file, Exception):
                    file.prefetch_ranges([span for one, span in zip(names, spans, strict=True) if one == name])
            return [read_span(files[name], span, on_error) for name, span in zip(names, spans, strict=True)]

    def _opened(
        self, names: Iterable[str], stack: contextlib.ExitStack, on_error: str, options: Mapping[str, Any]
    ) -> dict[str, PageCacheFile | Exception]:
        files: dict[str, PageCacheFile | Exception] = {}
        for name in names:
            try:
                files[name] = stack.enter_context(self._open(name, **options))
            except Exception as error:
                if on_error == "raise":
                    raise
                files[name] = error
        return files

    # -- the whole file system

    def sync(self, timeout: float | None = None) -> None:
        """Wait until everything written here is committed, or in the journal (durability "disk"); see `Volume.sync`."""
        volume = self._wanted.open_volume()
        if volume is not None:
            volume.sync(timeout)

    def close(
        self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise"
    ) -> list[LostRange]:
        """Save everything, as `sync` does, and free the memory; the next use begins with an empty cache. This affects
        all file systems of this process with an equal target and equal options.

        Raises:
            UnsavedDataError: not everything could be saved; nothing is lost, and the file system stays usable.
        """
        return self._wanted.close(timeout, on_failed)


def _check_outside(source: str, target: str) -> None:
    """Raise the error of a move into itself."""
    if f"{target}/".startswith(f"{source}/"):
        raise OSError(errno.EINVAL, "A file cannot be moved onto or into itself", source, None, target)


@contextlib.contextmanager
def _naming(path: str, key: str) -> Iterator[None]:
    """Make errors name a file by its path, not by its key in the volume."""
    try:
        yield
    except OSError as error:
        if error.filename == key:
            error.filename = path
        raise
