"""One cache for equal requests: targets, options, and the caches of this process.

fsspec makes an instance of a file system for each thread, each set of arguments and each unpickling. Two instances with
separate caches would not see each other's unstored writes. So an instance holds its arguments, a `Wanted`, and finds
the volume here at each use:

    cache options                         one PageCache: one budget of memory
    cache options, target, its options    one Volume of that cache

A fork leaves the caches to the parent: the child begins with none, and makes new ones when it uses an inherited file
system. A cache lives until `close`, or until the process ends, and is saved then.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
from fsspec.utils import tokenize

from ..backends.fsspec import FsspecBackend
from ..backends.fsspec.calls import LISTING_OPTIONS
from ..cache import PageCache
from ..config import CacheConfig, Durability, Size, VolumeOptions, unknown_option, with_overrides
from ..disk.tier import DiskTier
from ..errors import LostRange
from ..volume.volume import Volume

CACHE_OPTIONS = {field.name for field in dataclasses.fields(CacheConfig)}
VOLUME_OPTIONS = {field.name for field in dataclasses.fields(VolumeOptions)}
BACKEND_OPTIONS = {"publish", "spool", "check_reads"}
DISK_OPTIONS = {"disk", "disk_size"}
DEFAULTS = VolumeOptions(sync_on_close=True, read_ahead="256MiB")
"""Defaults of a volume. A closed file is committed: a later change by another process is no conflict. The line
to the store decides how much is read ahead.
"""

_lock = threading.Lock()
_caches: dict[Any, PageCache] = {}
_volumes: dict[Wanted, Volume] = {}
_numbers = itertools.count(1)


def _forked() -> None:
    global _lock
    _lock = threading.Lock()
    _caches.clear()
    _volumes.clear()


os.register_at_fork(after_in_child=_forked)


class Target:
    """The file system below.

    Two targets are equal if one reads what the other stores: both were made by equal arguments. An instance other than
    the one that fsspec returns for its arguments (made without the instance cache, or a class without one) may have
    separate state, and is equal to itself alone.

    Raises:
        ValueError: neither `fs` nor `protocol` is given, or both, or the protocol is unknown.
    """

    def __init__(self, fs: Any, protocol: str | None, options: Mapping[str, Any] | None) -> None:
        if fs is not None and (protocol is not None or options):
            raise ValueError(f"fs: {fs!r} is given beside target_protocol {protocol!r}; only one can name the target")
        if fs is None and protocol is None:
            raise ValueError(
                "no target: give fs=..., or target_protocol='file', 's3', ..., or put it behind '::' as in "
                "'pagecache::s3://bucket/key'"
            )
        if fs is not None and not isinstance(fs, fsspec.AbstractFileSystem):
            raise TypeError(f"fs: {fs!r} is not an fsspec file system")
        if getattr(fs, "asynchronous", False):
            raise ValueError(f"fs: {fs!r} was made with asynchronous=True; the layer above it uses threads")
        options = dict(options or {})
        found = _made(protocol, options) if fs is None else fs
        self._instance, self._pid = found, os.getpid()
        self._made_by_arguments = type(found)._cache.get(found._fs_token) is found
        if self._made_by_arguments:
            self._identity = tokenize(type(found), found.storage_args, found.storage_options)
        else:
            self._identity = tokenize(protocol, options) if fs is None else f"instance {id(found)}"

    @property
    def fs(self) -> Any:
        """Return an instance that works in this process: an asynchronous one has a thread that a fork does not copy."""
        if self._pid != os.getpid() and self._made_by_arguments:
            make, arguments = self._instance.__reduce__()
            self._instance, self._pid = make(*arguments), os.getpid()
        return self._instance

    @property
    def protocols(self) -> tuple[str, ...]:
        """Return its protocol, and other names of that."""
        protocol = self.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _made(protocol: Any, options: dict[str, Any]) -> Any:
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        rule = "a protocol that fsspec knows, see fsspec.available_protocols()"
        raise ValueError(f"target_protocol: {protocol!r} is not {rule}") from error
    return fsspec.filesystem(protocol, **options)


@dataclass(frozen=True)
class Wanted:
    """The arguments of a file system. Equal ones share a volume, those with equal cache options a budget."""

    target: Target
    capacity: int
    config: CacheConfig
    options: VolumeOptions
    backend: frozenset[tuple[str, Any]]
    disk: tuple[tuple[str, Any], ...]
    durability: Durability
    volume_id: str | None

    @property
    def _shared(self) -> Any:
        """What the file systems of one cache have in common."""
        return self.capacity, self.config, self.disk

    def volume(self) -> Volume:
        """Return the volume of this process; make it if there is none, or the last one was closed."""
        if (found := self.open_volume()) is not None:
            return found
        # Before taking the lock, which is held only briefly: this may call the target.
        backend = FsspecBackend(self.target.fs, **dict(self.backend))
        in_tier = self.volume_id or (backend.name if dict(self.disk).get("disk") else None)
        ways: Any = {"durability": self.durability, "volume_id": in_tier}
        with _lock:
            if (found := self.open_volume()) is None:
                cache = _caches.get(self._shared)
                if cache is None or cache.closed:
                    cache = PageCache(self.capacity, config=self.config, disk=_tier(**dict(self.disk)))
                name = f"{self.target.protocols[0]}-{next(_numbers)}"
                found = cache.attach(backend, name=name, options=self.options, **ways)
                _caches[self._shared], _volumes[self] = cache, found
            return found

    def open_volume(self) -> Volume | None:
        """Return the volume, if there is one."""
        found = _volumes.get(self)
        return None if found is None or found.detached else found

    def close(self, timeout: float | None, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
        """Save and release the volume, and the cache if this was its last one."""
        found = self.open_volume()
        if found is None:
            return []
        lost = found.detach(timeout=timeout, on_failed=on_failed)
        with _lock:
            if _volumes.get(self) is found:
                del _volumes[self]
            unused = not found.cache.volumes()
            if unused and _caches.get(self._shared) is found.cache:
                del _caches[self._shared]
        if unused:
            found.cache.close()
        return lost


def wanted(target: Target, capacity: Size, options: Mapping[str, Any]) -> Wanted:
    """Return the `Wanted` for the arguments of a file system.

    Raises:
        TypeError: an option with an unknown name; names the nearest.
        ValueError: an option out of range; names value and rule.
    """
    known = CACHE_OPTIONS | VOLUME_OPTIONS | BACKEND_OPTIONS | DISK_OPTIONS | {"durability", "volume_id"}
    for name in options:
        if name not in known | LISTING_OPTIONS:
            raise unknown_option("pagecache:", name, known | {"capacity", "fs", "target_protocol"})
    config = with_overrides(CacheConfig(), _among(options, CACHE_OPTIONS))
    resolved = config.resolve(capacity).capacity
    config.check_fits(resolved)
    seen = with_overrides(DEFAULTS, _among(options, VOLUME_OPTIONS))
    disk = _among(options, DISK_OPTIONS)
    if disk.get("disk_size") is not None and disk.get("disk") is None:
        raise ValueError(f"disk_size: {disk['disk_size']!r} without the option disk")
    _tier(**disk)  # raises the error of an invalid value
    durability = options.get("durability", "backend")
    if durability not in ("backend", "disk") or (durability == "disk" and "disk" not in disk):
        raise ValueError(f"durability: {durability!r} is not 'backend', or 'disk' with the option disk")
    volume_id = options.get("volume_id")
    if volume_id is not None and (not isinstance(volume_id, str) or not volume_id):
        raise ValueError(f"volume_id: {volume_id!r} is not a text of at least one character")
    below = frozenset(_among(options, BACKEND_OPTIONS).items())
    return Wanted(target, resolved, config, seen, below, tuple(sorted(disk.items())), durability, volume_id)


def _tier(disk: str | os.PathLike[str] | None = None, disk_size: Size = "10GiB") -> DiskTier | None:
    return None if disk is None else DiskTier(disk, size=disk_size)


def _among(options: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}
