"""The plan of a run: its fields are the options of `pagecache stress`, its seed decides every operation.

    Plan ──▶ round 0, 1, 2, ...     each with a fresh target in another variant, until `duration` is over
                 └──▶ workers       threads and tasks; each has its own stream of operations

A worker's operations depend on the seed, the round and the worker's number alone: never on time, on other workers, or
on results of calls. Their timing depends on the machine, so a replay runs the plan again and may need several tries.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pagecache.config import CACHE_PAGES_MAX, Durability, Size, parse_size
from pagecache.stress.profiles import PROFILES, WAYS, leaves_nothing
from pagecache.stress.script import Script, whole
from pagecache.testing import FaultPlan

SEED_MAX = 1 << 32
PAGE = 4096
COUNT_MAX = 1 << 62
SECONDS_MAX = 1e9
SIZES_MAX = 4 << 30  # largest total size of all files in bytes
LIMITS = {
    "threads": (0, 10_000),
    "tasks": (0, 10_000),
    "files": (1, 1024),
    "size": (PAGE, 1 << 30),
    "capacity": (16 * PAGE, CACHE_PAGES_MAX * PAGE),
    "seed": (0, SEED_MAX - 1),
    **dict.fromkeys(("operations", "rounds", "first_round"), (0, COUNT_MAX)),
}
CRASHES = ("killed", "forgetting", "none")


_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}


def seconds(text: str, what: str, *, or_zero: bool = False) -> float:
    """Parse a duration such as "90", "60s", "10m", "1.5h"; `or_zero`: allow 0.

    Raises:
        ValueError: it is no duration.

    >>> seconds("1.5m", "duration")
    90.0
    """
    number = text.rstrip("smhin")
    unit = text[len(number) :]
    try:
        found = float(number) * _SECONDS[unit]
    except (ValueError, KeyError):
        raise ValueError(f"{what}: {text!r} is not a duration such as 90, 60s, 10m or 1.5h") from None
    if not (0 < found < SECONDS_MAX or (or_zero and found == 0)):
        least = "0 or above" if or_zero else "above 0"
        raise ValueError(f"{what}: {text!r} is not {least}, and below {SECONDS_MAX:g} seconds")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run of the stress tester. Immutable; ValueError names the field that is out of range.

    Attributes:
        seed: decides all operations and variants; random by default.
        duration: seconds, or text as "60s", "10m", "1h"; the running round is completed.
        threads, tasks: workers of a round; tasks share one event loop.
        files, size: number of files that all workers share, and the range of operations on them in bytes.
        capacity: of the cache.
        mix: ways of access, of `profiles.WAYS`; empty: all that the target has.
        profile: choice of operations, their weights and ranges: a name of `profiles.PROFILES`.
        faults: "none", "mild", "nasty", "hell", or another profile of `pagecache.testing.FaultPlan`.
        operations: of each worker between two rests; 0: as many as take some seconds.
        rounds: maximum number of rounds; 0: as many as `duration` allows.
        first_round: number of the first one; for a replay.
        patience: seconds, or such text; a call that takes longer hangs.
        crashes: end of the stirs of a round, one kind after another from round to round: "killed" (the process of
            the cache), "forgetting" (the store loses uncommitted changes), "none"; empty: no crashes.
        disk: the cache has a disk tier, which outlives it.
        durability: "backend", or "disk": fsync, sync and close put bytes into the tier, and some calls into the store.
        script: explicit operations, in place of those from the seed; `threads`, `tasks` and `files` are then as many as
            the script has.
    """

    seed: int = field(default_factory=lambda: random.SystemRandom().randrange(SEED_MAX))
    duration: float = 10.0
    threads: int = 8
    tasks: int = 20
    files: int = 4
    size: Size = "1MiB"
    capacity: Size = "1MiB"
    mix: tuple[str, ...] = ()
    profile: str = "fsx"
    faults: str = "none"
    operations: int = 0
    rounds: int = 0
    first_round: int = 0
    patience: float = 60.0
    crashes: tuple[str, ...] = ()
    disk: bool = False
    durability: str = "backend"
    script: Script | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        for name in ("duration", "patience"):
            if isinstance(value := getattr(self, name), str):
                set_field(self, name, seconds(value, name))
        set_field(self, "size", parse_size(self.size, "size"))
        set_field(self, "capacity", parse_size(self.capacity, "capacity"))
        for name in ("mix", "crashes"):
            value = getattr(self, name)
            words = value.split(",") if isinstance(value, str) else value
            set_field(self, name, tuple(dict.fromkeys(word.strip() for word in words if word.strip())))
        if self.script is not None:
            set_field(self, "threads", len(self.script.threads))
            set_field(self, "tasks", len(self.script.tasks))
            set_field(self, "files", len(self.script.contents))
        for name, (least, most) in LIMITS.items():
            whole(getattr(self, name), name, least, most)
        if self.files * self.size_bytes > SIZES_MAX:
            rule = f"the tester has all of it in memory: at most {SIZES_MAX >> 30}GiB"
            raise ValueError(f"size: {self.size} bytes in each of {self.files} files; {rule}")
        for name in ("duration", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < SECONDS_MAX:
                raise ValueError(f"{name}: {value!r} is not a number of seconds above 0")
        if not self.threads + self.tasks:
            raise ValueError("threads: 0, and tasks: 0: nothing would run")
        named = {"crashes": (self.crashes, CRASHES), "mix": (self.mix, WAYS), "profile": ((self.profile,), PROFILES)}
        named["durability"] = (self.durability,), get_args(Durability)
        for name, (words, known) in named.items():
            for word in words:
                if word not in known:
                    raise ValueError(f"{name}: {word!r} is not one of {', '.join(known)}")
        if self.script is None and (nothing := leaves_nothing(self.mix, self.profile)):
            raise ValueError(nothing)
        if not isinstance(self.disk, bool):
            raise ValueError(f"disk: {self.disk!r} is not True or False")
        if self.durability == "disk" and not self.disk:
            raise ValueError("durability: 'disk' needs disk, a tier that fsync puts bytes into")
        FaultPlan.profile(self.faults)  # raises an error that lists the profiles

    @property
    def size_bytes(self) -> int:
        """Return `size` in bytes."""
        return parse_size(self.size, "size")

    def rng(self, *what: object) -> random.Random:
        """Return random numbers for one purpose, equal in every run of this plan."""
        return random.Random(" ".join(map(str, (self.seed, *what))))

    def crash_of(self, number: int) -> str:
        """Return how the stirs of a round end: one of `crashes`."""
        return self.crashes[number % len(self.crashes)] if self.crashes else "none"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields in JSON form."""
        fields = {known.name: getattr(self, known.name) for known in dataclasses.fields(self)}
        script = fields.pop("script")
        fields |= {"mix": list(self.mix), "crashes": list(self.crashes)}
        return fields | ({} if script is None else {"script": script.to_dict()})

    @classmethod
    def from_replay(cls, replay: Mapping[str, Any]) -> Plan:
        """Return the plan of `Report.replay`, or of the file that a failing run left, starting with the failed round.

        Raises:
            ValueError: it is no replay, or of an unknown version.
        """
        fields = replay.get("plan")
        if replay.get("version") != 1 or not isinstance(fields, Mapping):
            raise ValueError("not a replay of pagecache stress: no version 1, or no plan")
        unknown = sorted(set(fields) - {known.name for known in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"the plan of the replay has unknown fields: {', '.join(unknown)}")
        script = fields.get("script")
        return cls(**dict(fields, script=None if script is None else Script.from_dict(script)))
