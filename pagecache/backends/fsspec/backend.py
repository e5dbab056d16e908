"""Any file system of fsspec. Files of LocalFileSystem are written in place, like those of a DirectoryBackend; all other
ones are objects as a whole. Asynchronous classes have fsspec's loop, for which threads wait.
"""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, Literal, Unpack, get_args

from ...config import BY_TIME, with_overrides
from ...errors import Key
from ...options import LimitsOverrides
from ..beneath import directories_above
from ..directory import DirectoryBackend, DirectoryFile
from ..passing import PassingBackend
from ..protocol import BackendLimits
from ..url import without_user
from .calls import AwaitedCalls, Calls, beneath, fsspec, name_of, path_beneath, store_name
from .objects import Objects

Publish = Literal["move", "put"]
AT_ONCE = frozenset({"s3:", "s3a:"})
"""Protocols whose file systems are known to store a whole object or nothing, and to leave nothing behind."""
NEAR = frozenset({"memory:"})
"""Protocols of file systems in this process, which need no retries by time."""
WHOLE = BackendLimits(commit_on_close=True, max_read="4MiB")
FAR = replace(WHOLE, max_read="32MiB", read_ahead="64MiB")
"""Limits, unless others are given."""
OPTIONS = ("limits", "publish", "spool", "check_reads")


class FsspecBackend(PassingBackend):
    """The objects below a path of an fsspec file system, by their path relative to it.

    Local files are written in place; all other objects as a whole, by a commit, after which they are as durable as the
    file system makes them. Missing abilities of the class show at once: if it cannot store, remove or replace objects,
    the backend is read-only, and gives the reason.

    Args:
        fs: the file system. An instance made with ``asynchronous=True`` runs on fsspec's loop, and must have no user
            with another one: give ``skip_instance_cache=True`` too.
        root: a path, with or without the protocol; "" is everything.
        limits: of one call; default: those of `BackendLimits`, for objects that commit makes visible.
        publish: how a commit replaces an object: "move" stores it under a temporary name first, "put" is one call,
            which must store all or nothing. None: "put" for S3, otherwise "move". No effect on local files.
        spool: directory of this machine for uncommitted bytes; None: that of temporary files.
        check_reads: check after every read that the version is still the opened one. If there are no other writers,
            False saves a request each time.
        overrides: fields of `BackendLimits`, such as ``read_only=True``.

    Raises:
        TypeError, ValueError: an argument is invalid; names it and the reason.

    >>> import fsspec
    >>> backend = FsspecBackend(fsspec.filesystem("memory"), "/doctest")
    >>> file = backend.open("greeting", create=True)
    >>> file.write_from(0, [memoryview(b"hello")])
    5
    >>> _ = file.commit()
    >>> fsspec.filesystem("memory").cat("/doctest/greeting")
    b'hello'
    """

    def __init__(
        self,
        fs: Any,
        root: str = "",
        *,
        limits: BackendLimits | None = None,
        publish: Publish | None = None,
        spool: str | os.PathLike[str] | None = None,
        check_reads: bool = True,
        **overrides: Unpack[LimitsOverrides],
    ) -> None:
        _check(fs, root, publish, spool, check_reads)
        inner: Any
        if type(beneath(fs)) is fsspec.implementations.local.LocalFileSystem:
            inner = LocalObjects(fs, root, limits, **overrides)
        else:
            near = name_of(fs) in NEAR
            whole = with_overrides(limits or (WHOLE if near else FAR), overrides)
            whole = whole if near else replace(whole, retry=whole.retry or BY_TIME)
            if not whole.commit_on_close or whole.durable_writes:
                raise ValueError(
                    "limits: objects of this file system become visible by commit, and are not durable before"
                )
            how = publish or ("put" if name_of(fs) in AT_ONCE else "move")
            options = {"spool": None if spool is None else os.fspath(spool), "check_reads": check_reads}
            awaited = bool(fs.async_impl and fs.asynchronous)
            inner = Objects(AwaitedCalls(fs) if awaited else Calls(fs), root, whole, how, options)
        super().__init__(inner)
        vars(self)["open"] = inner.open  # which may take `seen`
        self._place = fs, root

    @functools.cached_property  # which a caller may assign to
    def name(self) -> str:
        """Name of the store in a disk tier: one for the same objects in any process and with any credentials."""
        return self.inner.name if isinstance(self.inner, LocalObjects) else store_name(*self._place)


class LocalObjects(DirectoryBackend):
    """Files of this machine, given as a file system of fsspec: written in place."""

    def __init__(self, fs: Any, root: str, limits: BackendLimits | None, **overrides: Unpack[LimitsOverrides]) -> None:
        self.fs = fs
        self._makes_directories = beneath(fs).auto_mkdir
        path = path_beneath(fs, root) or "/"
        if self._makes_directories:
            os.makedirs(path, exist_ok=True)
        super().__init__(path, limits, **overrides)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> DirectoryFile:
        try:
            return super().open(key, create=create, exclusive=exclusive)
        except FileNotFoundError:
            if not (create and self._makes_directories):
                raise
        self.make_above(key)
        return super().open(key, create=create, exclusive=exclusive)

    def make_above(self, key: Key) -> None:
        """Make the directories above a key, if the file system does so; FileNotFoundError: it does not, and they are
        missing.
        """
        directories = [*directories_above(str(self.canonical(key)))]
        for directory in directories if self._makes_directories else ():
            with suppress(FileExistsError):
                self.mkdir(directory)
        for directory in directories[-1:]:
            self.stat(directory)


def _check(fs: Any, root: object, publish: object, spool: Any, check_reads: object) -> None:
    if not isinstance(fs, fsspec.AbstractFileSystem):
        hint = "; for a URL there is backend_from_url('fsspec:...')" if isinstance(fs, str) else ""
        raise TypeError(f"fs: {fs!r} is not an fsspec file system{hint}")
    if isinstance(fs, fsspec.implementations.cached.CachingFileSystem):
        kind = type(fs).__name__
        raise ValueError(f"fs: a {kind} keeps copies, which go stale; give the file system below it")
    if not isinstance(root, str):
        raise TypeError(f"root must be a str, not {type(root).__name__}")
    if publish is not None and publish not in get_args(Publish):
        raise ValueError(f"publish: {publish!r} is not one of {', '.join(map(repr, get_args(Publish)))} or None")
    if spool is not None and not os.path.isdir(os.fspath(spool)):
        raise ValueError(f"spool: {spool!r} is not a directory")
    if not isinstance(check_reads, bool):
        raise ValueError(f"check_reads: {check_reads!r} is not True or False")


def backend_from_fsspec_url(url: str, **options: Any) -> Any:
    """Return a backend for `fsspec:URL`, including chained ones. Options other than the backend's go to the file
    system.

    Raises:
        ValueError: an unknown protocol of fsspec, or one whose package is not installed.
    """
    target = url.partition(":")[2]
    if not target.partition(":")[0] or ":" not in target:
        raise ValueError(f"{without_user(url)!r}: a URL of fsspec must follow 'fsspec:', such as memory://folder")
    own = {name: options.pop(name) for name in [*OPTIONS, *(f.name for f in fields(BackendLimits))] if name in options}
    try:
        fs, root = fsspec.core.url_to_fs(target, skip_instance_cache=True, **options)
    except ImportError as error:
        what = f"a package that fsspec needs for this is not installed: {error}"
        raise ValueError(f"{without_user(url)!r}: {what}") from error
    except ValueError as error:
        known, _, protocol = str(error).partition(": ")
        if known != "Protocol not known":
            raise ValueError(f"{without_user(url)!r}: {error}") from error
        install = f"install the package that brings it, such as {protocol}fs"
        raise ValueError(f"{without_user(url)!r}: fsspec knows no protocol {protocol!r}; {install}") from error
    if hasattr(fs, "dircache"):
        fs.dircache.use_listings_cache = False
    return FsspecBackend(fs, root, **own)
