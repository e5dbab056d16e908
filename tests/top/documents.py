"""The documents of docs/live.md made by hand: a busy cache with known figures, as a function of time.

`busy(tick)` is the cache after `tick` seconds; two of them have known rates. Some names of files contain control
sequences, others wide letters.
"""

from __future__ import annotations

from typing import Any

MIB = 1 << 20
BOUNDS = [1e-6 * 2**k for k in range(24)]  # 1 µs to 8.4 s

NASTY = "evil\x1b]0;owned\x07\x1b[2Jname\r\n\u202etxt"
WIDE = "写真/東京タワー.jpg"

FILE_NAMES = ["db/main.sqlite", "db/main.sqlite-wal", "logs/2025-11-20.log", WIDE, NASTY, "a[b]/[bold]markup[/bold]"]

Document = dict[str, Any]


def counters(**values: float) -> Document:
    """All counters that any reader uses, 0 unless given."""
    names = (
        "capacity used clean dirty writeback unstable staged failed pinned folios hits misses evicted read_requests "
        "read_bytes write_requests write_bytes commits retries throttled_seconds"
    )
    return {**dict.fromkeys(names.split(), 0), **values}


def histogram(first: int, counts: list[int], seconds: float) -> Document:
    """`counts` from bound number `first` on."""
    all_counts = [0] * first + counts + [0] * (len(BOUNDS) + 1 - first - len(counts))
    return {"bounds": BOUNDS, "counts": all_counts, "count": sum(counts), "sum": seconds}


def volume(name: str, tick: float, **changes: Any) -> Document:
    """A volume without trouble, with some traffic."""
    plain: Document = {
        "name": name,
        "backend": "DirectoryBackend",
        "state": "attached",
        "reason": None,
        "files": 3,
        "handles": 2,
        "oldest": {"dirty": None, "failed": None},
        "queue": {
            "running": 0,
            "waiting": {"commit": 0, "names": 0, "fill": 0, "integrity": 0, "background": 0, "readahead": 0},
        },
        "throttle": {"waiting": 0, "position": 0.0, "local": 0, "limit": 128 * MIB},
        "rate": 0.0,
        "clean_in": 0.0,
        "latency": {
            "read": histogram(6, [4, 20, 80, 10, 2], 0.03),
            "write": histogram(0, [], 0.0),
            "commit": histogram(0, [], 0.0),
        },
        "errors": [],
        "counters": counters(clean=20 * MIB, used=20 * MIB, hits=2000 + 100 * tick, misses=100, read_requests=116),
    }
    return {**plain, **changes}


def busy_volume(tick: float) -> Document:
    """Dirty, in flight, unstable, staged and failed bytes, writers that wait, errors."""
    return volume(
        "photos",
        tick,
        backend="MyS3",
        files=len(FILE_NAMES),
        handles=4,
        oldest={"dirty": 3.25 + tick, "failed": 95.0 + tick},
        queue={
            "running": 2,
            "waiting": {"commit": 1, "names": 0, "fill": 0, "integrity": 1, "background": 7, "readahead": 3},
        },
        throttle={"waiting": 2, "position": 0.4, "local": 50 * MIB, "limit": 128 * MIB},
        rate=25.0 * MIB,
        clean_in=2.0,
        latency={
            "read": histogram(8, [int(10 + tick), 60, 200, 90, 20, 4, 1], 0.9),
            "write": histogram(12, [5, 40, int(120 + 10 * tick), 60, 8], 3.5),
            "commit": histogram(14, [3, 9, int(3 + tick)], 1.25),
        },
        errors=[
            {
                "age": 1.25 + tick, "kind": "failed", "key": "db/main.sqlite", "offset": 0, "length": 4096,
                "errno": 5, "name": "EIO", "message": "the disk said \x1b[31mno", "next": "tried again in 3.2 s",
            },
            {
                "age": 95.0 + tick, "kind": "parked", "key": NASTY, "offset": 8192, "length": 2 * MIB,
                "errno": 28, "name": "ENOSPC", "message": "no space left", "next": "tried again in 5 min",
            },
        ],
        counters=counters(
            used=150 * MIB, clean=100 * MIB, dirty=30 * MIB, writeback=8 * MIB, unstable=10 * MIB, staged=2 * MIB,
            failed=3 * MIB, pinned=1 * MIB, folios=1200, hits=90_000 + 9_000 * tick, misses=1_000 + 1_000 * tick,
            read_requests=385 + tick, read_bytes=40 * MIB + MIB * tick, write_requests=233 + 10 * tick,
            write_bytes=300 * MIB + 25 * MIB * tick, commits=15 + tick, retries=4,
        ),
    )  # fmt: skip


def busy(tick: float = 0.0, *, name: str = "cache-1", pid: int = 4711) -> Document:
    """`/v1/stats` of a cache with two volumes."""
    return {
        "schema": 1,
        "pagecache": "0.1.0",
        "pid": pid,
        "command": "python server.py",
        "time": 1763660000.25 + tick,
        "uptime": 3725.5 + tick,
        "cache": {
            "name": name,
            "capacity": 256 * MIB,
            "page_size": 4096,
            "dirty_background": 64 * MIB,
            "dirty_limit": 128 * MIB,
            "waiting": 2,
            "counters": counters(
                capacity=256 * MIB, used=170 * MIB, clean=120 * MIB, dirty=30 * MIB, writeback=8 * MIB,
                unstable=10 * MIB, staged=2 * MIB, failed=3 * MIB, pinned=1 * MIB, folios=1500,
                hits=92_000 + 9_100 * tick, misses=1_100 + 1_000 * tick, read_requests=501 + tick,
                write_requests=233 + 10 * tick, write_bytes=300 * MIB + 25 * MIB * tick, commits=15 + tick, evicted=77,
            ),
        },
        "volumes": [busy_volume(tick), volume("scratch", tick)],
    }  # fmt: skip


def file(number: int, key: str, tick: float, *, volume: str = "photos") -> Document:
    """File `number`: the first is the dirtiest."""
    dirty = max(0, 12 - 3 * number) * MIB
    return {
        "id": 100 + number,
        "volume": volume,
        "key": key,
        "size": (40 - number % 20) * MIB,
        "stored": (30 - number % 20) * MIB,
        "handles": 1 if number % 2 == 0 else 0,
        "oldest_dirty": 3.25 + tick - number if dirty else None,
        "state": "open" if number % 2 == 0 else "idle",
        "counters": {
            **counters(
                clean=10 * MIB, dirty=dirty, writeback=4 * MIB if number < 2 else 0, failed=MIB if number == 0 else 0,
                unstable=MIB if number == 1 else 0, hits=1000 * (number + 1) + 50 * tick, misses=10 * number,
            ),
            "cached": 10 * MIB + dirty,
        },
    }  # fmt: skip


def all_files(tick: float, count: int = 0) -> list[Document]:
    """The files with odd names, then as many plain ones as make `count`."""
    files = [file(number, key, tick) for number, key in enumerate(FILE_NAMES)]
    files += [file(number, f"many/{number:05}.bin", tick) for number in range(len(files), count)]
    return [*files, *(file(50_000 + number, f"tmp/{number}", tick, volume="scratch") for number in range(3))]


SORTS = {
    "dirty": lambda one: one["counters"]["dirty"],
    "cached": lambda one: one["counters"]["cached"],
    "failed": lambda one: one["counters"]["failed"],
    "unstable": lambda one: one["counters"]["unstable"],
    "age": lambda one: one["oldest_dirty"] or 0.0,
    "hits": lambda one: one["counters"]["hits"],
}


def files(tick: float, *, volume: str | None, sort: str, limit: int, match: str = "", count: int = 0) -> Document:
    """`/v1/files`."""
    chosen = [one for one in all_files(tick, count) if volume in (None, one["volume"])]
    chosen = [one for one in chosen if match.casefold() in str(one["key"]).casefold()]
    if sort == "key":
        chosen.sort(key=lambda one: str(one["key"]))
    else:
        chosen.sort(key=SORTS[sort], reverse=True)
    return {"schema": 1, "uptime": 3725.5 + tick, "total": len(chosen), "files": chosen[:limit]}


STATES = ["failed", "writeback", "dirty", "staged", "unstable", "filling", "pinned", "clean"]


# The most runs of one answer of this owner.
RUNS_MAX = 3


def folios(identity: int, offset: int, length: int | None, *, size: int = 40 * MIB) -> Document:
    """`/v1/folios`: every state once, with holes, over a file of 40 MiB; whole pages, and cut after RUNS_MAX runs."""
    start = min(offset // 4096 * 4096, size)
    end = size if length is None else min(size, offset + length)
    runs: list[list[Any]] = []
    for number, state in enumerate(STATES):
        begin = number * 5 * MIB
        first, last = max(begin, start), min(begin + (4 if number % 2 else 3) * MIB, -(-end // 4096) * 4096)
        if first < last:
            runs.append([first, last - first, state])
    if len(runs) > RUNS_MAX:
        runs = runs[:RUNS_MAX]
        end = runs[-1][0] + runs[-1][1]
    return {
        "schema": 1, "id": identity, "volume": "photos", "key": FILE_NAMES[0], "size": size, "page_size": 4096,
        "offset": start, "length": max(0, end - start), "folios": sum(length for _, length, _ in runs) // 16384,
        "runs": runs,
    }  # fmt: skip


def waits() -> Document:
    """`/v1/waits`."""
    return {
        "schema": 1,
        "waits": [
            {
                "thread": 140001, "name": "MainThread", "seconds": 1.5, "what": "a fill of [0, 4096)",
                "volume": "photos", "key": "db/main.sqlite", "file": 100,
                "owner": {"what": "a read of the backend", "thread": 140002, "name": "pagecache-photos-1",
                          "seconds": 1.5},
                "chain": ["MainThread waits for a fill of [0, 4096) of 'db/main.sqlite'",
                          "pagecache-photos-1 is in read_into of 'db/main.sqlite' for 1.5 s"],
            },
            {
                "thread": 140003, "name": "writer\x1b[5m-1", "seconds": 0.25, "what": "room for dirty data",
                "volume": "photos", "key": NASTY, "file": 104, "owner": None,
                "chain": ["writer\x1b[5m-1 waits for room for dirty data"],
            },
        ],
    }  # fmt: skip
