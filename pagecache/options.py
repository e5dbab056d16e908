"""Types of the options that calls take as keywords: type checkers report a misspelt name, and editors complete it.

`CacheConfig`, `VolumeOptions` and `BackendLimits` hold the defaults and the rules. These TypedDicts have the same
fields, for `PageCache`, `PageCache.configure`, `PageCache.attach`, the backends, and `aio.open`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from .config import OnConflict, Policy, RetryPolicy, Size, SourceMayFault

if TYPE_CHECKING:
    from .file.cached import CachedFile

__all__ = [
    "AdviceName",
    "CacheChanges",
    "CacheOverrides",
    "LimitsOverrides",
    "OpenMode",
    "OpenOptions",
    "VolumeOverrides",
]

_Read = Literal["r", "rb", "br", "r+", "r+b", "rb+", "br+"]
_Write = Literal["w", "wb", "bw", "w+", "w+b", "wb+", "bw+"]
_Make = Literal["x", "xb", "bx", "x+", "x+b", "xb+", "bx+"]
_Append = Literal["a", "ab", "ba", "a+", "a+b", "ab+", "ba+"]
OpenMode = Literal[_Read, _Write, _Make, _Append]
"""Modes of `Volume.open`."""


AdviceName = Literal["normal", "sequential", "random", "willneed", "dontneed", "noreuse"]
"""Values of `Advice`, which `CachedFile.advise` also takes."""


class CacheChanges(TypedDict, total=False):
    """Options of `PageCache.configure`: the fields of `CacheConfig` that a running cache can change."""

    dirty_background: float | Size
    dirty_limit: float | Size
    dirty_expire: float
    flush_interval: float
    failed_limit: float
    throttle_timeout: float | None
    cow_limit: Size
    gil_release: Size
    retry: RetryPolicy
    exit_timeout: float
    stall_warn: float
    poison: bool


class CacheOverrides(CacheChanges, total=False):
    """Options of `PageCache`: the fields of `CacheConfig`."""

    page_size: Size
    max_folio: Size


class VolumeOverrides(TypedDict, total=False):
    """Options of `PageCache.attach`: the fields of `VolumeOptions`."""

    read_ahead: Size
    sync_on_close: bool | None
    on_conflict: OnConflict
    write_through: bool
    read_only: bool
    dirty_share: float
    source_may_fault: SourceMayFault
    revalidate: float
    policy: Policy


class LimitsOverrides(TypedDict, total=False):
    """Options of a backend: the fields of `BackendLimits`."""

    max_read: Size
    max_write: Size
    max_vectors: int
    read_unit: Size
    write_unit: Size
    boundary: Size
    direct_unit: Size
    max_inflight: int
    read_ahead: Size
    durable_writes: bool
    commit_on_close: bool
    ordered_writes: bool
    parallel_direct_writes: bool
    read_only: bool
    prompt: bool
    trusted: bool
    sync_timeout: float | None
    retry: RetryPolicy | None


class OpenOptions(TypedDict, total=False):
    """Options of `aio.open`: the keywords of `Volume.open`."""

    flags: int | None
    direct: bool
    write_through: bool | None
    keep_cache: bool
    revalidate: float | None
    read_ahead: Size | None
    parallel_direct_writes: bool
    kind: type[CachedFile]
    timeout: float | None
