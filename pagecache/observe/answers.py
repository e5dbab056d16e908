"""The documents of docs/live.md as a reader sees them: typed, checked, reduced to the fields that readers use.

Fields are only ever added to a schema, so a reader ignores unknown fields. A missing field, or one of another type, is
an error that names it: figures about unsaved data are never guesses. Fields that later versions of a schema added have
a default here.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, TypeVar

SCHEMA = 1
WHOLE_MAX = 2**64 - 1
NUMBER_MAX = 1e100  # sums and products of such numbers stay finite

Counters = Mapping[str, float]
T = TypeVar("T")


class Malformed(ValueError):
    """A document does not have this schema; the message names the place."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations of calls: `counts[k]` of them at most `bounds[k]` seconds; the last count is of longer calls."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    count: int = 0
    sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Backend calls that ended."""

    read: Histogram = field(default_factory=Histogram)
    write: Histogram = field(default_factory=Histogram)
    commit: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class Oldest:
    """Ages of the oldest bytes in seconds; None: there are no such bytes."""

    dirty: float | None = None
    failed: float | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """Running backend calls, and waiting work by class."""

    running: int = 0
    waiting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Throttle:
    """Writers that are slowed or stopped; `position` is 1.0 at the limit."""

    waiting: int = 0
    position: float = 0.0
    local: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """One event of trouble, and the next automatic step."""

    age: float
    kind: str
    key: str | None = None
    offset: int | None = None
    length: int | None = None
    errno: int | None = None
    name: str | None = None
    message: str | None = None
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of `/v1/stats`."""

    name: str
    capacity: int
    page_size: int
    dirty_background: int | None
    dirty_limit: int | None
    counters: Counters
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of `/v1/stats`."""

    name: str
    state: str
    counters: Counters
    backend: str | None = None
    reason: str | None = None
    files: int = 0
    handles: int = 0
    oldest: Oldest = field(default_factory=Oldest)
    queue: Queue = field(default_factory=Queue)
    throttle: Throttle = field(default_factory=Throttle)
    rate: float | None = None
    clean_in: float | None = None
    latency: Latency = field(default_factory=Latency)
    errors: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """`/v1/stats`."""

    schema: int
    pagecache: str
    pid: int
    uptime: float
    cache: Cache
    volumes: tuple[Volume, ...]
    command: str | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One file of `/v1/files`."""

    id: int
    volume: str
    key: str
    size: int
    counters: Counters
    stored: int | None = None
    handles: int = 0
    oldest_dirty: float | None = None
    state: str = "open"


@dataclass(frozen=True, slots=True)
class Files:
    """`/v1/files`: the first of `total`."""

    schema: int
    uptime: float
    total: int
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Folios:
    """`/v1/folios`: runs of (offset, length, state), whole pages; uncached bytes have no run.

    The answer covers `length` bytes at `offset`, which may be less than the requested range.
    """

    schema: int
    id: int
    volume: str
    key: str
    size: int
    page_size: int
    offset: int
    length: int
    folios: int
    runs: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder that a wait is for."""

    what: str | None = None
    thread: int | None = None
    name: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait of `/v1/waits`."""

    seconds: float
    what: str
    thread: int | None = None
    name: str | None = None
    volume: str | None = None
    key: str | None = None
    file: int | None = None
    owner: Owner | None = None
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """`/v1/waits`."""

    schema: int
    waits: tuple[Wait, ...]


@dataclass(frozen=True, slots=True)
class FailedRange:
    """One range of `/v1/failed`, or of the errors of a ticket."""

    key: str
    offset: int
    length: int
    volume: str | None = None
    errno: int | None = None
    name: str | None = None
    attempts: int = 0
    next_retry: float | None = None
    message: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """`/v1/failed`: the first of `total`."""

    schema: int
    failed: tuple[FailedRange, ...]
    total: int | None = None


@dataclass(frozen=True, slots=True)
class SyncError:
    """The ranges of one volume that a ticket could not save."""

    message: str
    volume: str | None = None
    ranges: tuple[FailedRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Sync:
    """`/v1/sync`: the progress of a ticket."""

    schema: int
    ticket: int
    total: int
    remaining: int
    done: bool
    rate: float | None = None
    expected: float | None = None
    seconds: float = 0.0
    errors: tuple[SyncError, ...] = ()


def decode(kind: type[T], document: object) -> T:
    """Return a document, parsed from JSON, as one of the classes above.

    Raises:
        Malformed: A field is missing or has another type.
    """
    return typing.cast(T, value_of(kind, document, ""))


def value_of(kind: Any, value: object, where: str) -> object:
    """Return `value` as a `kind`; `where` is the place in the document, for messages."""
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        return object_of(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return value_of(next(one for one in arguments if one is not type(None)), value, where)
    if origin is tuple:
        return tuple_of(arguments, value, where)
    if origin is Mapping:
        require(isinstance(value, dict), where, "an object", value)
        assert isinstance(value, dict)
        return {name: value_of(arguments[1], one, f"{where}.{name}") for name, one in value.items()}
    return scalar_of(kind, value, where)


def object_of(kind: Any, value: object, where: str) -> object:
    """Return a dataclass. Unknown fields are ignored; fields without a default are required."""
    require(isinstance(value, dict), where, "an object", value)
    assert isinstance(value, dict)
    known: dict[str, object] = {}
    for name, (of, needed) in shape(kind).items():
        if name in value:
            known[name] = value_of(of, value[name], f"{where}.{name}")
        elif needed:
            raise Malformed(f"{where or 'the document'} has no {name!r}".lstrip("."))
    return kind(**known)


@cache
def shape(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field, and whether it is required."""
    hints = typing.get_type_hints(kind)
    return {
        one.name: (hints[one.name], one.default is MISSING and one.default_factory is MISSING) for one in fields(kind)
    }


def tuple_of(arguments: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    """Return an array: of one type, or with one type for each place."""
    require(isinstance(value, list), where, "an array", value)
    assert isinstance(value, list)
    if arguments[-1] is Ellipsis:
        return tuple(value_of(arguments[0], one, f"{where}[{number}]") for number, one in enumerate(value))
    require(len(value) == len(arguments), where, f"an array of {len(arguments)}", value)
    return tuple(
        value_of(kind, one, f"{where}[{number}]")
        for number, (kind, one) in enumerate(zip(arguments, value, strict=True))
    )


def scalar_of(kind: Any, value: object, where: str) -> object:
    """Return a string, bool or number. Whole numbers are sizes, counts and ids, so none is below 0."""
    if kind is float:
        # NaN is not within the bounds either.
        fine = type(value) in (int, float) and abs(typing.cast(float, value)) <= NUMBER_MAX
        require(fine, where, "a number", value)
        return value
    if kind is int:
        require(type(value) is int and 0 <= value <= WHOLE_MAX, where, "a whole number from 0 on", value)
        return value
    require(type(value) is kind, where, "a string" if kind is str else "true or false", value)
    return value


def require(fine: bool, where: str, wanted: str, value: object) -> None:
    """Return the error for a place of the document."""
    if not fine:
        found = repr(value)
        found = found if len(found) <= 40 else found[:39] + "…"
        raise Malformed(f"{where.lstrip('.') or 'the document'} is {found}, not {wanted}")
