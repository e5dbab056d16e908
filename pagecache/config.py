"""Options, their rules, and the meaning of sizes.

Three immutable values: `CacheConfig` (a cache), `RetryPolicy` (a part of it) and `VolumeOptions` (a volume). A value
that is out of range is a ValueError that names option, value and rule, raised where it was written and not where it
is first used. An unknown option is a TypeError with the nearest known name.

Sizes may be given as text ("64K", "64KiB", "1.5GB") and are stored as ints. Fractions of the capacity stay fractions,
so that they follow a `resize`; `CacheConfig.resolve` turns them into bytes for one capacity.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar, cast, get_args

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Size = int | str
"""Bytes: an int, or text with a binary unit (K, M, G, T, KiB, MiB, GiB, TiB) or a decimal one (kB, MB, GB, TB)."""

OnConflict = Literal["fail", "take_remote"]
Durability = Literal["backend", "disk"]
Policy = Literal["adaptive", "sticky"]
SourceMayFault = Literal["auto", "always", "never"]

SIZE_MAX = 2**63 - 1
PAGE_SIZE_MIN = 4096
FOLIO_PAGES_MAX = 512  # the highest order of the buddy allocator is 9
CACHE_PAGES_MIN = 16
CACHE_PAGES_MAX = 1 << 29  # half of the maximum of an arena: the other half is for `resize`

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
UNITS = "B, K, M, G, T, KiB, MiB, GiB, TiB (1K = 1KiB = 1024) or kB, MB, GB, TB (1kB = 1000)"


def parse_size(value: object, what: str) -> int:
    """Return bytes from an int or a text such as "4096", "64K", "64KiB" or "1.5GB"; a fraction of a byte is dropped.

    Args:
        value: an int or a text.
        what: name of the option; begins the error message.

    Raises:
        ValueError: neither; names the value and the rule.

    >>> parse_size("1.5GiB", "capacity")
    1610612736
    >>> parse_size("64K", "capacity")
    65536
    """
    size: int | None = None
    rule = "a size is an int of bytes, or text such as '64K', '64KiB', '1.5GB'"
    if isinstance(value, str):
        if match := _SIZE.fullmatch(value):
            unit = _UNITS.get(match[2].lower())
            whole, _, decimals = match[1].partition(".")
            size = None if unit is None else int(whole + decimals) * unit // 10 ** len(decimals)  # exact
            rule = f"{match[2]!r} is not one of the units {UNITS}"
    elif not isinstance(value, bool):
        try:
            size = operator.index(cast(SupportsIndex, value))
        except TypeError:
            pass
    if size is None:
        raise ValueError(f"{what}: {value!r} is not a size: {rule}")
    if not 0 <= size <= SIZE_MAX:
        raise ValueError(f"{what}: {value!r} is not a size from 0 to 2**63 - 1 bytes")
    return size


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _number(
    value: object, what: str, *, low: float = 0.0, high: float = math.inf, above: bool = False, none: bool = False
) -> float | None:
    """Return a finite float from `low` (excluded if `above`) to `high`; None only if `none`."""
    if value is None and none:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if low <= value <= high and not (above and value == low):
            return float(value)
    rule = f"{'above' if above else 'at least'} {low:g}" + ("" if high == math.inf else f" and at most {high:g}")
    raise ValueError(f"{what}: {value!r} is not a number {rule}{', or None' if none else ''}")


def checked_seconds(value: object, what: str) -> float:
    """Return a number of seconds, 0 or more.

    Raises:
        ValueError: names value and rule.
    """
    seconds = _number(value, what)
    assert seconds is not None
    return seconds


def _choice(value: object, what: str, choices: Collection[object]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{what}: {value!r} is not one of {', '.join(map(repr, choices))}")


def _share_or_size(value: object, what: str) -> float | int:
    """Return a float, a fraction of the capacity, unchanged, and anything else as a size."""
    if isinstance(value, float):
        share = _number(value, what, high=1.0)
        assert share is not None
        return share
    return parse_size(value, what)


Options = TypeVar("Options", bound="DataclassInstance")
Described = TypeVar("Described")


def unknown_option(kind: str, name: str, known: Collection[str]) -> TypeError:
    """Return the error for an unknown option: names the nearest option, or all of them if none is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    meant = repr(near[0]) if near else f"one of {', '.join(sorted(known))}"
    return TypeError(f"{kind} has no option {name!r}; did you mean {meant}?")


def named_options(cls: type[Described]) -> type[Described]:
    """Class decorator: a keyword that the constructor does not have is a TypeError with the nearest one."""
    init = cls.__init__
    known = [*inspect.signature(cls).parameters]

    @functools.wraps(init)
    def checked(self: Described, *args: Any, **values: Any) -> None:
        for name in values:
            if name not in known:
                raise unknown_option(cls.__name__, name, known)
        init(self, *args, **values)

    cls.__init__ = checked  # type: ignore[assignment]
    return cls


def check_retry(policy: RetryPolicy | None) -> None:
    """Check a policy that may be absent.

    Raises:
        ValueError: names the value.
    """
    if policy is not None and not isinstance(policy, RetryPolicy):
        raise ValueError(f"retry: {policy!r} is not a RetryPolicy")


def with_overrides(options: Options, overrides: Mapping[str, Any], call: Any = None) -> Options:
    """Return the options with some fields replaced, validated like new ones. `call`: takes them beside others.

    Raises:
        TypeError: no such field; names the nearest.
        ValueError: a value out of range; names value and rule.

    >>> with_overrides(VolumeOptions(), {"read_ahead": "64KiB"}).read_ahead
    65536
    """
    known = [f.name for f in dataclasses.fields(options)]
    wrong = [name for name in overrides if name not in known]
    if wrong and call is not None:
        raise unknown_option(call.__qualname__.removesuffix(".__init__"), wrong[0], [*known, *call.__kwdefaults__])
    return dataclasses.replace(options, **overrides) if overrides else options


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how fast a failed backend call is repeated.

    Attributes:
        attempts: calls including the first; progress resets the count.
        first_delay: seconds before the second call; doubled each time, full jitter.
        max_delay: most seconds between two calls.
        deadline: seconds after which retries end (a running call is never ended); None: never.
        failed_retry: parked data is retried after so many seconds; None: only on request.
    """

    attempts: int = 5
    first_delay: float = 0.05
    max_delay: float = 10.0
    deadline: float | None = 120.0
    failed_retry: float | None = 30.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"attempts: {self.attempts!r} is not an int of at least 1")
        _number(self.first_delay, "first_delay")
        _number(self.max_delay, "max_delay")
        _number(self.deadline, "deadline", above=True, none=True)
        _number(self.failed_retry, "failed_retry", above=True, none=True)
        if self.max_delay < self.first_delay:
            raise ValueError(f"max_delay: {self.max_delay!r} is less than first_delay {self.first_delay!r}")


BY_TIME = RetryPolicy(attempts=1000, first_delay=0.1, max_delay=5.0, deadline=60.0)
"""The policy for stores behind a network: the time decides, as a server that restarts refuses many calls quickly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """The sizes of a CacheConfig in bytes, for one capacity: the form in which the core gets them."""

    capacity: int
    page_size: int
    max_folio: int
    dirty_background: int
    dirty_limit: int
    failed_limit: int
    cow_limit: int
    gil_release: int


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Limits, intervals and policies of a cache. Sizes are stored as ints, whatever form they were given in.

    Attributes:
        page_size: smallest index unit; a power of two, at least 4096.
        max_folio: largest unit of memory; lowered to capacity / 8 if that is less.
        dirty_background: above this the flusher works; a float is a fraction of the capacity, anything else a size.
        dirty_limit: writers are slowed from the midpoint between the two and stopped here.
        dirty_expire: seconds after which dirty data is written back even below `dirty_background`. This does not commit
            it. No effect on backends with `commit_on_close`.
        flush_interval: seconds between two turns of the flusher.
        failed_limit: fraction of `dirty_limit`; above it, writes to a file with failed data raise its error at once.
        throttle_timeout: seconds a throttled writer waits before BlockingIOError; None: no limit.
        cow_limit: largest folio that is copied when its bytes in flight are modified; above it the writer waits.
        gil_release: copies of at least this size release the GIL.
        retry: policy after a failed backend call.
        exit_timeout: seconds for writing back at interpreter exit.
        stall_warn: seconds without a completion, or of one call of a name, after which an event and a log line report
            it.
        poison: overwrite freed frames and revoked backend buffers (debugging).
    """

    page_size: Size = 4096
    max_folio: Size = "2MiB"
    dirty_background: float | Size = 0.25
    dirty_limit: float | Size = 0.50
    dirty_expire: float = 30.0
    flush_interval: float = 5.0
    failed_limit: float = 0.5
    throttle_timeout: float | None = None
    cow_limit: Size = "2MiB"
    gil_release: Size = "1MiB"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    exit_timeout: float = 5.0
    stall_warn: float = 10.0
    poison: bool = False

    def __post_init__(self) -> None:
        page, folio = parse_size(self.page_size, "page_size"), parse_size(self.max_folio, "max_folio")
        if not _power_of_two(page) or page < PAGE_SIZE_MIN:
            raise ValueError(f"page_size: {self.page_size!r} is not a power of two of at least {PAGE_SIZE_MIN}")
        if not _power_of_two(folio) or not page <= folio <= page * FOLIO_PAGES_MAX:
            rule = f"a power of two from one page ({page}) to {FOLIO_PAGES_MAX} pages ({page * FOLIO_PAGES_MAX})"
            raise ValueError(f"max_folio: {self.max_folio!r} is not {rule}")
        sizes: dict[str, float | int] = {"page_size": page, "max_folio": folio}
        for name in ("dirty_background", "dirty_limit"):
            sizes[name] = _share_or_size(getattr(self, name), name)
        for name in ("cow_limit", "gil_release"):
            sizes[name] = parse_size(getattr(self, name), name)
        if not sizes["dirty_limit"]:
            raise ValueError(f"dirty_limit: {self.dirty_limit!r} would block every write; it must be above 0")
        for name, size in sizes.items():
            object.__setattr__(self, name, size)
        _number(self.dirty_expire, "dirty_expire")
        _number(self.flush_interval, "flush_interval", above=True)
        _number(self.failed_limit, "failed_limit", high=1.0)
        _number(self.throttle_timeout, "throttle_timeout", none=True)
        _number(self.exit_timeout, "exit_timeout")
        _number(self.stall_warn, "stall_warn", above=True)
        _choice(self.poison, "poison", (True, False))
        if self.retry is None:
            raise ValueError("retry: None is not a RetryPolicy")
        check_retry(self.retry)

    def resolve(self, capacity: Size) -> CacheLimits:
        """Return the limits in bytes for a capacity.

        A `dirty_background` that is not below `dirty_limit` counts as half of it, so that lowering the limit alone just
        works; neither exceeds the capacity (after `resize`), and a writer can always have one page dirty.

        Raises:
            ValueError: capacity below 16 pages, or above 2**29.
        """
        total, page = parse_size(capacity, "capacity"), int(self.page_size)
        if total < CACHE_PAGES_MIN * page:
            rule = f"less than {CACHE_PAGES_MIN} pages of {page} bytes"
            raise ValueError(f"capacity: {capacity!r} is {rule} ({CACHE_PAGES_MIN * page})")
        if total > CACHE_PAGES_MAX * page:
            rule = f"more than {CACHE_PAGES_MAX} pages of {page} bytes"
            raise ValueError(f"capacity: {capacity!r} is {rule} ({CACHE_PAGES_MAX * page // (1 << 30)}GiB)")
        total -= total % page
        limit = max(page, min(total, _bytes_of(self.dirty_limit, total)))
        background = _bytes_of(self.dirty_background, total)
        return CacheLimits(
            capacity=total,
            page_size=page,
            max_folio=max(page, min(int(self.max_folio), 1 << ((total // 8).bit_length() - 1))),
            dirty_background=background if background < limit else limit // 2,
            dirty_limit=limit,
            failed_limit=int(limit * self.failed_limit),
            cow_limit=int(self.cow_limit),
            gil_release=int(self.gil_release),
        )

    def check_fits(self, capacity: int, names: Collection[str] = ("dirty_background", "dirty_limit")) -> None:
        """Refuse limits, given as sizes, that a cache of this capacity can never reach.

        Raises:
            ValueError: one of `names` is a size above the capacity.
        """
        for name in names:
            size = getattr(self, name)
            if not isinstance(size, float) and size - size % int(self.page_size) > capacity:
                raise ValueError(
                    f"{name}: {size} is more than the capacity ({capacity}); give a smaller size or a share"
                )


def _bytes_of(value: float | Size, capacity: int) -> int:
    return int(value * capacity) if isinstance(value, float) else int(value)


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeOptions:
    """Options of one backend behind a cache.

    Attributes:
        read_ahead: largest readahead window in bytes; 0 turns readahead off. Within it the measured line to the store
            decides.
        sync_on_close: commit when the last writable handle closes; None: as the backend's limits say.
        on_conflict: action when the stored object changed under local data: raise ConflictError at commit ("fail"), or
            drop the local bytes ("take_remote").
        write_through: every write returns only when the backend acknowledged it.
        read_only: opening for writing is a PermissionError.
        dirty_share: fraction of the cache's `dirty_limit` that this volume may use.
        source_may_fault: whether user memory that may fault while copying is staged first.
        revalidate: seconds for which an open, or a `stat` by name, believes a version that was seen under its name; 0:
            each asks the backend.
        policy: which clean pages go when memory is short: "adaptive" keeps what is read often, and notices programs
            that read more than fits again and again; "sticky" keeps what it has until it was not read for two rounds
            of such a program.
    """

    read_ahead: Size = "1MiB"
    sync_on_close: bool | None = None
    on_conflict: OnConflict = "fail"
    write_through: bool = False
    read_only: bool = False
    dirty_share: float = 1.0
    source_may_fault: SourceMayFault = "auto"
    revalidate: float = 0.0
    policy: Policy = "adaptive"

    def __post_init__(self) -> None:
        object.__setattr__(self, "read_ahead", parse_size(self.read_ahead, "read_ahead"))
        _choice(self.sync_on_close, "sync_on_close", (None, True, False))
        if str(self.on_conflict) == "rebase":
            raise ValueError(
                "on_conflict: 'rebase' is not a policy, because it replaces bytes of another program unseen; use 'fail'"
                ' and, after a ConflictError, Volume.resolve(key, "rebase")'
            )
        _choice(self.on_conflict, "on_conflict", get_args(OnConflict))
        _choice(self.write_through, "write_through", (True, False))
        _choice(self.read_only, "read_only", (True, False))
        _number(self.dirty_share, "dirty_share", high=1.0, above=True)
        _choice(self.source_may_fault, "source_may_fault", get_args(SourceMayFault))
        object.__setattr__(self, "revalidate", checked_seconds(self.revalidate, "revalidate"))
        _choice(self.policy, "policy", get_args(Policy))
