"""Rows made from documents: the figures of a cache, a volume and a file, as plain numbers.

Two documents of one socket give rates and the hit rate of the time between them; one alone gives the totals. None means
"not known", never 0. Texts are unchanged; the code that shows them makes them printable.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagecache.cli.top.rates import hit_rate, per_second, seconds_between, since
from pagecache.cli.top.states import local_bytes, parts
from pagecache.observe.answers import Cache, Counters, File, Files, Latency, Stats, Volume, Waits
from pagecache.observe.client import LiveError

# The orders of /v1/files: only the server sees all files.
SORTS = ("dirty", "cached", "failed", "unstable", "age", "hits", "key")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a socket.

    Attributes:
        match: The text in the request for files.
        error: The error of an unreadable socket; the other fields are None then.
    """

    socket: Path
    stats: Stats | None = None
    files: Files | None = None
    waits: Waits | None = None
    match: str = ""
    error: LiveError | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """The figures that a cache, a volume and a file have in common.

    Attributes:
        parts: Bytes by state, disjoint.
        local: Bytes that are not known to be saved.
        failed: Bytes whose last write-back failed for good.
        hit_rate: Since the sample before; `total_hit_rate` since the beginning.
        reads, writes, commits: Backend calls per second.
        accesses: Hits and misses per second.
    """

    parts: dict[str, float]
    counters: Counters
    local: float
    hit_rate: float | None
    total_hit_rate: float | None
    accesses: float | None
    reads: float | None
    writes: float | None
    commits: float | None


def traffic(now: Counters, before: Counters | None, seconds: float | None) -> Traffic:
    """Return the figures of some counters, and of the time since others."""
    before = before if seconds is not None else None
    return Traffic(
        parts=parts(now),
        counters=now,
        local=local_bytes(now),
        hit_rate=None if before is None else hit_rate(now, before),
        total_hit_rate=hit_rate(now),
        accesses=per_second(before, now, seconds, "hits", "misses"),
        reads=per_second(before, now, seconds, "read_requests"),
        writes=per_second(before, now, seconds, "write_requests"),
        commits=per_second(before, now, seconds, "commits"),
    )


@dataclass(frozen=True, slots=True)
class CacheRow:
    """One socket: its cache, or the reason why there is none.

    Attributes:
        status: "" if it answers, else a few words.
        gone: Seconds since it last answered; None while it does.
    """

    socket: Path
    name: str
    status: str = ""
    message: str = ""
    gone: float | None = None
    pid: int | None = None
    command: str | None = None
    uptime: float | None = None
    cache: Cache | None = None
    traffic: Traffic | None = None
    oldest: float | None = None
    clean_in: float | None = None
    throttled: int = 0


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """One volume, with the latency of the time since the sample before (of all time without one)."""

    socket: Path
    cache: str
    capacity: int
    volume: Volume
    traffic: Traffic
    latency: Latency

    @property
    def identity(self) -> tuple[Path, str]:
        """Return a value that is equal for one volume in all samples."""
        return self.socket, self.volume.name


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file."""

    socket: Path
    pid: int
    cache: str
    file: File
    traffic: Traffic

    @property
    def identity(self) -> tuple[Path, int, int]:
        """Return a value that is equal for one file in all samples: an id is never used twice in a cache."""
        return self.socket, self.pid, self.file.id


# Shortest time for rates: samples taken by a key press may be too close together.
TIME_MIN = 0.25
PAST_MAX = 8


@dataclass(slots=True)
class Watch:
    """The samples of one socket: the last one, the last good one, and an earlier good one to compare with.

    Attributes:
        since: Time of the last good sample, or of the first of all; by the clock of the caller of `take`.
    """

    socket: Path
    last: Sample | None = None
    good: Sample | None = None
    before: Sample | None = None
    since: float = 0.0
    _past: list[Sample] = field(default_factory=list)

    def take(self, sample: Sample, now: float) -> None:
        """Take a sample made at `now`."""
        if self.last is None:
            self.since = now
        self.last = sample
        if sample.stats is None:
            return
        if self.good is not None:
            self._past.append(self.good)
        self.good, self.since = sample, now
        # The newest that is old enough; older ones are no longer needed.
        old = [number for number, one in enumerate(self._past) if (time_between(one, sample) or 0.0) >= TIME_MIN]
        self.before = self._past[old[-1]] if old else None
        self._past = self._past[old[-1] if old else 0 :][-PAST_MAX:]

    @property
    def present(self) -> Sample | None:
        """Return the last sample if it is good: an unreadable socket shows no figures of the past."""
        return self.last if self.last is not None and self.last.stats is not None else None

    def between(self) -> float | None:
        """Return the seconds between the samples that rates are made of, by the cache's clock."""
        return time_between(self.before, self.good)


def time_between(before: Sample | None, now: Sample | None) -> float | None:
    """Return the seconds between two samples of one cache."""
    return seconds_between(before.stats if before else None, now.stats) if now and now.stats else None


def cache_row(watch: Watch, now: float) -> CacheRow:
    """Return the row of a socket."""
    sample = watch.present
    if sample is None or sample.stats is None:
        good = watch.good.stats if watch.good else None
        error = watch.last.error if watch.last else None
        return CacheRow(
            socket=watch.socket,
            name=good.cache.name if good else watch.socket.name,
            pid=good.pid if good else None,
            command=good.command if good else None,
            status="gone" if error and good else "not reached" if error else "connecting",
            message=error.message if error else "",
            gone=now - watch.since if error else None,
        )
    stats = sample.stats
    before = watch.before.stats if watch.before else None
    volumes = stats.volumes
    ages = [volume.oldest.dirty for volume in volumes if volume.oldest.dirty is not None]
    expected = [volume.clean_in for volume in volumes]
    return CacheRow(
        socket=watch.socket,
        name=stats.cache.name,
        pid=stats.pid,
        command=stats.command,
        uptime=stats.uptime,
        cache=stats.cache,
        traffic=traffic(stats.cache.counters, before.cache.counters if before else None, watch.between()),
        oldest=max(ages, default=None),
        # If one of them is not known, the sum is not known.
        clean_in=None if None in expected else max((one for one in expected if one is not None), default=0.0),
        throttled=sum(volume.throttle.waiting for volume in volumes),
    )


def volume_rows(watch: Watch) -> list[VolumeRow]:
    """Return the volumes of a socket, in the order of the document."""
    sample = watch.present
    if sample is None or sample.stats is None:
        return []
    stats, seconds = sample.stats, watch.between()
    before: dict[str, Volume] = {}
    if seconds is not None and watch.before and watch.before.stats:
        before = {volume.name: volume for volume in watch.before.stats.volumes}
    rows = []
    for volume in stats.volumes:
        old = before.get(volume.name)
        rows.append(
            VolumeRow(
                socket=watch.socket,
                cache=stats.cache.name,
                capacity=stats.cache.capacity,
                volume=volume,
                traffic=traffic(volume.counters, old.counters if old else None, seconds),
                latency=latency_since(old, volume),
            )
        )
    return rows


def latency_since(before: Volume | None, now: Volume) -> Latency:
    """Return the calls between the samples; if none ended then, the calls of all time."""
    if before is None:
        return now.latency
    found = {}
    for kind in ("read", "write", "commit"):
        whole = getattr(now.latency, kind)
        lately = since(getattr(before.latency, kind), whole)
        found[kind] = lately if sum(lately.counts) else whole
    return Latency(**found)


def file_rows(watch: Watch) -> list[FileRow]:
    """Return the files of a socket's last sample, in the order of the document."""
    sample = watch.present
    if sample is None or sample.stats is None or sample.files is None:
        return []
    seconds, before = None, dict[int, Counters]()
    if watch.before and watch.before.files and watch.between() is not None:
        before = {file.id: file.counters for file in watch.before.files.files}
        seconds = sample.files.uptime - watch.before.files.uptime
    stats = sample.stats
    return [
        FileRow(
            socket=watch.socket,
            pid=stats.pid,
            cache=stats.cache.name,
            file=file,
            traffic=traffic(file.counters, before.get(file.id), seconds if seconds and seconds > 0 else None),
        )
        for file in sample.files.files
    ]


FILE_ORDER: dict[str, Callable[[FileRow], Any]] = {
    "dirty": lambda row: -row.file.counters.get("dirty", 0),
    "cached": lambda row: -row.file.counters.get("cached", 0),
    "failed": lambda row: -row.file.counters.get("failed", 0),
    "unstable": lambda row: -row.file.counters.get("unstable", 0),
    "age": lambda row: -(-1.0 if row.file.oldest_dirty is None else row.file.oldest_dirty),
    "hits": lambda row: -row.file.counters.get("hits", 0),
    "key": lambda row: row.file.key,
}


def merge_files(rows: Iterable[FileRow], sort: str) -> list[FileRow]:
    """Merge pages of several sockets. Equal files keep the order of their servers."""
    return sorted(rows, key=FILE_ORDER[sort])


def matching(rows: Sequence[FileRow], text: str) -> list[FileRow]:
    """Return the files with the text in their keys, ignoring case, like `match` of `/v1/files`."""
    wanted = text.casefold()
    return [row for row in rows if wanted in row.file.key.casefold()]


def waits_of(watch: Watch) -> Waits | None:
    """Return the waits of a socket's last sample."""
    return watch.present.waits if watch.present else None
