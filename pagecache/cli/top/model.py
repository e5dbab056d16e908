"""The state of the live view, and its requests to the sockets. No terminal, no thread: samples in, rows out.

The samplers read `question` and `pause_or_interval` from their threads: both use attributes that are replaced as a
whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pagecache.cli.top.rows import (
    SORTS,
    CacheRow,
    FileRow,
    Sample,
    VolumeRow,
    Watch,
    cache_row,
    file_rows,
    matching,
    merge_files,
    volume_rows,
    waits_of,
)
from pagecache.cli.top.sampling import Question
from pagecache.observe.answers import Waits

INTERVALS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
# The largest limit that a server accepts.
FILES_MAX = 1000
# A socket that was found, not named, is dropped so many seconds after its file is gone.
FORGOTTEN = 60.0


@dataclass(frozen=True, slots=True)
class FileList:
    """The files to show.

    Attributes:
        total: Number of matching files, shown or not; None: the servers have not answered for this filter.
    """

    rows: list[FileRow]
    total: int | None


@dataclass(slots=True)
class Model:
    """The state of a live view.

    Attributes:
        find: Searches for sockets if none were named.
        sort: One of SORTS.
        filter: Show only files with this text in their keys.
        volume: Show only files of this volume (socket, name).
        page: Number of files that the screen has asked for so far.
        most: Largest number of files to ask for; None: as many as the screen has room for.
    """

    sockets: Sequence[Path]
    clock: Callable[[], float]
    find: Callable[[], Sequence[Path]] | None = None
    sort: str = "dirty"
    filter: str = ""
    volume: tuple[Path, str] | None = None
    interval: float = 1.0
    paused: bool = False
    page: int = 50
    most: int | None = None
    watches: dict[Path, Watch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.sockets:
            self.watches[path] = Watch(path)

    def take(self, sample: Sample) -> None:
        """Take one sample. Samples of dropped sockets are ignored."""
        watch = self.watches.get(sample.socket)
        if watch is not None:
            watch.take(sample, self.clock())

    def refresh_sockets(self) -> tuple[list[Path], list[Path]]:
        """Return new sockets and sockets to drop. Only if none were named."""
        if self.find is None:
            return [], []
        there = self.find()
        new = [path for path in there if path not in self.watches]
        for path in new:
            self.watches[path] = Watch(path)
        lost = []
        for path, watch in list(self.watches.items()):
            if path not in there and (cache_row(watch, self.clock()).gone or 0.0) > FORGOTTEN:
                del self.watches[path]
                lost.append(path)
        return new, lost

    def question(self, socket: Path) -> Question:
        """Return the question for a socket: the visible page, without files of volumes that are not shown."""
        volume = self.volume
        if volume is not None and volume[0] != socket:
            return Question(sort=self.sort, limit=0, match=self.filter)
        return Question(self.sort, self.page_limit(), volume[1] if volume else None, self.filter)

    def pause_or_interval(self) -> float | None:
        """Return the seconds between samples; None: paused."""
        return None if self.paused else self.interval

    def caches(self) -> list[CacheRow]:
        """Return one row for each socket."""
        now = self.clock()
        return [cache_row(watch, now) for watch in self.watches.values()]

    def volumes(self) -> list[VolumeRow]:
        """Return the volumes of all sockets that answer."""
        return [row for watch in self.watches.values() for row in volume_rows(watch)]

    def files(self) -> FileList:
        """Return the files to show, in order: the known ones until the servers have answered for this filter."""
        rows = [row for watch in self.watches.values() for row in file_rows(watch)]
        if self.volume is not None:
            rows = [row for row in rows if (row.socket, row.file.volume) == self.volume]
        answers = [watch.present for watch in self.watches.values() if watch.present is not None]
        known = all(answer.match == self.filter for answer in answers)
        total = sum(answer.files.total for answer in answers if answer.files is not None)
        rows = merge_files(matching(rows, self.filter), self.sort)
        # Each of several sockets gave a page: only so many files are certain to be the first of all.
        return FileList(rows[: self.page_limit()], total if known else None)

    def page_limit(self) -> int:
        """Return the largest number of files to show."""
        return min(self.page, FILES_MAX) if self.most is None else min(self.page, FILES_MAX, self.most)

    def waits(self) -> list[Waits]:
        """Return the waits of all sockets that answer."""
        found = [waits_of(watch) for watch in self.watches.values()]
        return [waits for waits in found if waits is not None]

    def pid(self, socket: Path) -> int | None:
        """Return the process that owns the socket now; None while it does not answer."""
        watch = self.watches.get(socket)
        return watch.present.stats.pid if watch and watch.present and watch.present.stats else None

    def next_sort(self, step: int) -> None:
        """Choose the next order of files, or the one before."""
        self.sort = SORTS[(SORTS.index(self.sort) + step) % len(SORTS)]

    def change_interval(self, step: int) -> None:
        """Choose the next longer interval, or the next shorter one."""
        if step > 0:
            self.interval = next((one for one in INTERVALS if one > self.interval), self.interval)
        else:
            self.interval = next((one for one in reversed(INTERVALS) if one < self.interval), self.interval)

    def want(self, files: int) -> bool:
        """Ask for at least so many files from now on; return whether that is more than before."""
        more = files > self.page
        self.page = max(files, self.page)
        return more and self.page <= FILES_MAX
