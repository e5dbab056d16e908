"""The operations of workers: their kinds, and for each profile their weights, offsets and lengths.

An `Operation` is fixed before it runs. With `end`, its offset counts from the end of the file at that time, so that it
hits the edge although the end is not known in advance.

"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

PAGE = 4096
PRIVATE = 3  # names of each worker's own objects
SHARED = 4  # names that all workers share

_KINDS = {
    "": "read readv write writev",
    "try": "try_read try_write",
    "views": "view store copy",
    "append": "append",
    "truncate": "truncate",
    "punch": "punch zero",
    "buffered": "flush sync_range fsync sync ticket reopen",
    "hints": "drop invalidate prefetch advise",
    "names": "publish rename remove look",
    "sources": "tear",
    "foreign": "change watch",
    "losses": "lose",
    "rivals": "contest replace",
    "shared": "name_create name_open name_rename name_remove name_sync "
    "held_read held_write held_append held_truncate held_fsync held_close",
    "links": "name_link name_symlink",
    "others": "name_put name_move name_drop",
}
KINDS = {kind: way for way, kinds in _KINDS.items() for kind in kinds.split()}
"""Kind -> its way in the mix; "": one of IO, drawn for each operation."""
IO = ("buffered", "direct", "parallel", "through")
"""Ways of I/O: through memory, past it (alone, or concurrently), or written through at once."""
WAYS = (
    *IO,
    *("views", "append", "truncate", "punch", "try", "names", "hints", "sources"),
    *("foreign", "losses", "rivals", "shared", "links", "others"),
)
"""Elements of a mix. sources: unmapped memory; foreign: a file that a foreign writer changes in the store; losses:
local data is discarded; rivals: a file that is written here while a foreign writer replaces it in the store;
shared: names that all workers share, and handles that stay open while the names change; links: hard and symbolic
links, as shared names; others: another program makes, renames and removes shared objects in the store."""
CROSSING = ("shared", "links", "others")
"""Ways of shared names and objects."""
MOVES = ("read", "readv", "write", "writev", "append", "name_create", "name_open")
"""Kinds that have a way of I/O."""
PLACELESS = {"fsync", "sync", "ticket", "flush", "publish", "rename", "remove", "look", "held_fsync", "held_close"}
PLACELESS |= {kind for kind, way in KINDS.items() if way in CROSSING and kind.startswith("name_")}
"""Kinds without a byte range: they concern a whole file, or a name."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a worker.

    Attributes:
        kind: of KINDS.
        file: its number; for "names" the number of a name of the worker's own, for "shared" that of a shared name.
        way: of IO, for kinds that move bytes; "" for others.
        offset: from the beginning, or from the end if `end`.
        length: bytes.
        extra: a number for all further choices.
    """

    kind: str
    file: int
    way: str = ""
    offset: int = 0
    length: int = 0
    end: bool = False
    extra: int = 0

    def range(self, size: int, most: int) -> tuple[int, int]:
        """Return [start, end) below `most`, in a file of `size` bytes."""
        start = max(0, min(most - 1, (size if self.end else 0) + self.offset))
        return start, min(most, start + self.length)


def names_of(worker: int) -> list[str]:
    """Return the names of a worker's own objects."""
    return [f"own{worker}-{number}" for number in range(PRIVATE)]


def shared_names() -> list[str]:
    """Return the names that all workers share."""
    return [f"shared{number}" for number in range(SHARED)]


def all_names(workers: int) -> list[str]:
    """Return the names of all objects that workers may make: shared ones, their own, and those beside their own."""
    own = [name for worker in range(1, 1 + workers) for name in names_of(worker)]
    return [*shared_names(), *own, *(f"{name}-new" for name in own)]


def places(kind: str, files: int) -> int:
    """Return the number of files, or of names, that operations of a kind choose from."""
    if KINDS[kind] in CROSSING:
        return SHARED
    return PRIVATE if KINDS[kind] == "names" else files


def other(extra: int) -> int:
    """Return eight bits of an operation's `extra` that the basic choices of its kind do not use."""
    return extra >> 8 & 0xFF


def saved_first(extra: int) -> bool:
    """Return whether an object is published by an fsync under another name, and then a rename."""
    return extra % 4 == 2


Edges = tuple[int, ...]
"""Lengths at which code branches: of pages, folios and write units."""
Choice = Callable[[random.Random, int, Edges, int], tuple[int, int, bool]]  # rng, size, edges, position -> where


@dataclass(frozen=True, slots=True)
class Profile:
    """Weights of kinds, weights of IO ways, and a function that chooses offset, length and whether they count from the
    end.
    """

    weights: dict[str, int]
    where: Choice
    io: tuple[int, int, int, int] = (6, 2, 2, 1)
    share: float = 1.0  # fraction of a file's size that operations use
    in_step: bool = False  # threads begin each operation together, if there are no tasks


# ---------------------------------------------------------------------------------------------- where, and how much


def _adversarial(rng: random.Random, size: int, edges: Edges, _position: int) -> tuple[int, int, bool]:
    """Edges of units and of the file, one byte to each side; a third of the operations in a hot twentieth."""
    unit = rng.choice(edges)
    pages = rng.randrange(1, rng.choice([4, 16]) * PAGE)
    length = rng.choice([1, rng.randrange(1, 64), rng.randrange(1, 600), unit - 1, unit, unit + 1, pages, pages])
    length = max(1, min(length, size // 2))
    turn = rng.random()
    if turn < 0.15:  # around the end
        at = rng.choice([-length, -length - 1, -length + 1, -1, 0, 1, -unit, -rng.randrange(1, 3 * PAGE)])
        return at, length, True
    at = rng.randrange(size // 20 + 1) if turn < 0.45 else rng.randrange(size)
    if rng.random() < 0.5:
        at = max(0, at - at % unit + rng.choice([-1, 0, 0, 0, 1]))
    if rng.random() < 0.2:  # up to an edge
        at = max(0, at - at % unit + unit - length)
    return at, length, False


def _pages(rng: random.Random, size: int, _edges: Edges, _position: int) -> tuple[int, int, bool]:
    """One to four whole pages; four fifths of them in the first quarter."""
    pages = max(1, size // PAGE)
    first = rng.randrange(max(1, pages // 4)) if rng.random() < 0.8 else rng.randrange(pages)
    return first * PAGE, PAGE * rng.choice([1, 1, 1, 2, 4]), False


def _sequential(rng: random.Random, size: int, edges: Edges, position: int) -> tuple[int, int, bool]:
    """The range after the last one, with an occasional seek."""
    length = min(size, rng.choice([PAGE, 16 * PAGE, 32 * PAGE, 64 * PAGE, max(edges)]))
    if position >= size or rng.random() < 0.05:
        position = rng.randrange(size)
    return position, length, False


def _small(rng: random.Random, size: int, edges: Edges, position: int) -> tuple[int, int, bool]:
    """Whole pages half of the time, as direct I/O needs, in a few places that all workers share."""
    if rng.random() < 0.5:
        return _adversarial(rng, size, edges, position)
    pages = max(1, size // PAGE)
    return rng.randrange(pages) * PAGE, PAGE * rng.choice([1, 1, 2, 4]), False


def _over_the_end(rng: random.Random, size: int, _edges: Edges, _position: int) -> tuple[int, int, bool]:
    """From right before the end to past it; a fifth of the operations anywhere, so that files become short again."""
    length = rng.choice([rng.randrange(1, 600), PAGE, rng.randrange(1, 4 * PAGE), rng.randrange(PAGE, 8 * PAGE)])
    if rng.random() < 0.2:
        return rng.randrange(size), length, False
    return -rng.choice([0, 1, rng.randrange(PAGE), rng.randrange(4 * PAGE)]), length, True


def _profile(weights: str, where: Choice, **more: Any) -> Profile:
    """Return a profile; `weights`: kinds, each with its weight."""
    words = weights.split()
    return Profile(dict(zip(words[::2], map(int, words[1::2]), strict=True)), where, **more)


PROFILES: dict[str, Profile] = {
    "fsx": _profile(
        "read 16 readv 4 try_read 4 view 6 write 16 writev 5 try_write 4 append 4 store 6 copy 4 truncate 3 "
        "punch 3 zero 2 flush 2 sync_range 2 fsync 3 sync 1 ticket 1 drop 3 invalidate 2 prefetch 2 advise 2 "
        "reopen 1 publish 1 rename 1 remove 1 look 1 tear 1 change 3 watch 6",
        _adversarial,
    ),
    "database": _profile(
        "read 12 write 16 fsync 8 sync 1 ticket 1 append 2 sync_range 2 drop 2 store 2 view 2 invalidate 1",
        _pages,
        io=(6, 2, 4, 2),
    ),
    "generic-095": _profile(
        "read 10 readv 3 write 12 writev 3 view 6 store 8 copy 6 truncate 4 punch 2 fsync 1 invalidate 2 "
        "drop 2 try_read 2 try_write 2 append 2",
        _small,
        io=(4, 3, 5, 1),
        share=0.25,
    ),
    "metadata": _profile(
        "publish 12 rename 8 remove 4 look 8 sync 3 ticket 2 write 4 append 4 read 6 truncate 3 fsync 3 reopen 3",
        _adversarial,
        share=0.25,
    ),
    "saving": _profile(
        "write 8 fsync 24 flush 4 sync_range 4 sync 1 ticket 1 read 2 append 1 truncate 1",
        _pages,
        io=(5, 1, 4, 1),
        share=0.25,
    ),
    "crowd": _profile("write 16 append 8 truncate 4 read 2 fsync 1", _sequential, io=(10, 1, 4, 0)),
    "losses": _profile(
        "read 8 write 12 append 6 view 1 store 2 truncate 2 punch 1 flush 4 sync_range 2 fsync 3 sync 1 drop 1 "
        "prefetch 2 lose 8 contest 14 replace 4 change 4 watch 12",
        _adversarial,
        share=0.5,
    ),
    "ends": _profile(
        "write 8 append 8 truncate 3 flush 6 fsync 2 read 2 lose 10 contest 20 replace 8", _over_the_end, in_step=True
    ),
    "names": _profile(
        "name_create 8 name_open 8 name_rename 10 name_remove 5 name_sync 1 name_link 4 name_symlink 2 "
        "name_put 4 name_move 2 name_drop 2 held_read 16 held_write 14 held_append 3 "
        "held_truncate 2 held_fsync 6 held_close 6 publish 1 rename 1 remove 1 read 2 write 2 drop 3",
        _adversarial,
        share=0.25,
    ),
    "versions": _profile(
        "name_create 3 name_open 10 name_rename 1 name_remove 1 name_put 6 held_read 10 "
        "held_write 20 held_append 2 held_truncate 4 held_fsync 14 held_close 4",
        _pages,
        share=0.25,
    ),
}


def has(profile: str, ways: Collection[str]) -> bool:
    """Return whether a profile has an operation of one of these ways."""
    return any(KINDS[kind] in ways if KINDS[kind] else set(IO) & set(ways) for kind in PROFILES[profile].weights)


def leaves_nothing(mix: Collection[str], profile: str) -> str:
    """Return a sentence if a profile has no operation of a mix; "" if it has."""
    if not mix or has(profile, mix):
        return ""
    others = ", ".join(name for name in PROFILES if has(name, mix))
    return f"mix: {', '.join(mix)} leaves nothing to do of profile {profile}; profiles that have it: {others}"


def operations(
    profile: Profile, rng: random.Random, *, files: int, size: int, edges: Edges, ways: Collection[str]
) -> Iterator[Operation]:
    """Yield one worker's operations, without end; none if nothing of the profile is possible in these ways."""
    possible = [way for way in IO if way in ways]
    kinds = [kind for kind in profile.weights if (KINDS[kind] in ways if KINDS[kind] else possible)]
    if not kinds:
        return
    weights = [profile.weights[kind] for kind in kinds]
    io_weights = [profile.io[IO.index(way)] or 1 for way in possible]
    reach, position = max(PAGE, int(size * profile.share)), 0
    while True:
        kind = rng.choices(kinds, weights)[0]
        offset, length, end = profile.where(rng, reach, edges, position)
        position = offset + length
        yield Operation(
            kind,
            rng.randrange(places(kind, files)),
            rng.choices(possible, io_weights)[0] if possible and kind in MOVES else "",
            offset,
            length,
            end,
            rng.randrange(1 << 16),
        )
