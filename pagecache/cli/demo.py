"""The command `pagecache demo`: one job over two stores, with the cache and without it.

    store          files     cache      without the cache
    directory      24 MiB     6 MiB     each read and write is a call of the backend
    object store    4 MiB    16 MiB     each read and write is a request of 10 ms

The job: write files, edit them at random places and read them back, some rounds, then sync and close. A copy in memory
has the right bytes: every byte that a side reads is compared with it, and at the end every byte of its files. The clock
runs only inside the calls of a side. The seed decides all sizes, bytes and edits.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click

from pagecache.cli.usage import interrupted, print_json
from pagecache.interrupts import leave_on_sigterm, uninterrupted
from pagecache.quantities import size_text

KIB, MIB = 1024, 1 << 20
PIECES = (509, 4095, 4096, 4097, 16 * KIB, 64 * KIB + 3, 256 * KIB, MIB)
LONGEST_EDIT, LONGEST_HOLE, MOST_EDITS = 48 * KIB, 24 * KIB, 64
PHASES = ("write", "edit", "read back", "sync")
ROUNDS = 2
DIRECTORY, OBJECTS = (24 * MIB, 6 * MIB), (4 * MIB, 16 * MIB)  # bytes of the files, capacity of the cache
REQUEST_SECONDS = 0.01
BANDWIDTH = 100e6  # bytes per second
GIVE_UP_SECONDS = 5.0  # for closing the cache after an interrupt

Edit = tuple[int, bytes | None]  # offset and bytes; new size and None

# ---------------------------------------------------------------- the plan


def sizes_of(rng: Random, total: int) -> list[int]:
    """Return sizes of files, from 256 bytes to 1 MiB, that add up to `total`."""
    sizes = list[int]()
    while total:
        sizes.append(min(total, int(2 ** rng.uniform(8, 20))))
        total -= sizes[-1]
    return sizes


def pieces_of(rng: Random, size: int) -> list[tuple[int, int]]:
    """Return consecutive pieces of mixed lengths that cover a file, as offset and length."""
    pieces, offset = list[tuple[int, int]](), 0
    while offset < size:
        pieces.append((offset, min(rng.choice(PIECES), size - offset)))
        offset += pieces[-1][1]
    return pieces


def edits_of(rng: Random, size: int) -> list[Edit]:
    """Return the edits of a file in order: most overwrite bytes inside of it; others grow it, with a hole or without,
    or set its size.
    """
    edits = list[Edit]()
    for _ in range(min(MOST_EDITS, 2 + size // (32 * KIB))):
        kind = rng.choices(("overwrite", "grow", "append", "truncate"), (80, 6, 8, 6))[0]
        length = max(1, int(LONGEST_EDIT ** rng.random()))
        if kind == "truncate":
            size = max(0, size + rng.randrange(-LONGEST_HOLE, LONGEST_HOLE // 4))
            edits.append((size, None))
            continue
        offset = size if kind == "append" else size + rng.randrange(LONGEST_HOLE)
        if kind == "overwrite" and size:
            offset = rng.randrange(size)
            length = min(length, size - offset)
        edits.append((offset, rng.randbytes(length)))
        size = max(size, offset + length)
    return edits


def edited(content: bytearray, edits: list[Edit]) -> None:
    """Apply edits to the copy in memory."""
    for offset, data in edits:
        content.extend(bytes(max(0, offset - len(content))))
        end = len(content) if data is None else offset + len(data)
        content[offset:end] = data or b""


# ---------------------------------------------------------------- the sides


class Cached:
    """Through a volume of a cache."""

    def __init__(self, cache: Any, backend: Any) -> None:
        self.cache, self.volume = cache, cache.attach(backend)

    def open(self, key: str, mode: str) -> Any:
        return self.volume.open(key, mode)

    def sync(self) -> None:
        self.volume.sync()

    def close(self) -> None:
        self.cache.close()


class DirectFile:
    """An object whose every read and write is a call of the backend."""

    def __init__(self, file: Any) -> None:
        self.file, self.truncate, self.commit, self.close = file, file.truncate, file.commit, file.close

    def pread(self, length: int, offset: int) -> bytes:
        data = bytearray(length)
        return bytes(data[: self.file.read_into(offset, [memoryview(data)])])

    def pwrite(self, data: bytes, offset: int) -> None:
        self.file.write_from(offset, [memoryview(data)])


class Direct:
    """Straight on the backend."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.written: list[str] = []

    def open(self, key: str, mode: str) -> DirectFile:
        if mode == "wb":
            self.written.append(key)
        else:
            self.backend.stat(key)  # as `open()` does: it looks it up
        return DirectFile(self.backend.open(key, create=mode == "wb"))

    def sync(self) -> None:
        for key in self.written:
            with closing(self.open(key, "r+b")) as opened:
                opened.commit()

    def close(self) -> None:
        self.backend.close()


Side = Cached | Direct

# ---------------------------------------------------------------- the job


class Difference(NamedTuple):
    """The first difference: bytes of both from there on; empty: the end of the file."""

    key: str
    offset: int
    expected: bytes
    found: bytes
    stage: str


@dataclass
class Course:
    """The findings of the job on one side of one store.

    Attributes:
        seconds: by phase.
        requests: calls of the store with a delay.
        counters: of the cache; empty without it.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    requests: int = 0
    counters: dict[str, int | float] = field(default_factory=dict)
    difference: Difference | None = None

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the body to a phase."""
        began = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - began

    def compare(self, key: str, base: int, expected: bytes | bytearray, found: bytes, stage: str) -> None:
        """Compare bytes that begin at offset `base` of a file."""
        if expected != found and self.difference is None:
            pairs = enumerate(zip(expected, found, strict=False))
            at = next((index for index, (one, other) in pairs if one != other), min(len(expected), len(found)))
            self.difference = Difference(key, base + at, bytes(expected[at : at + 16]), found[at : at + 16], stage)


def do(side: Side, folder: Path, seed: int, total: int, advance: Callable[[int], None]) -> Course:
    """Do the job; `folder`: has the files of the side."""
    rng, course, contents = Random(seed), Course(), dict[str, bytearray]()
    for number, size in enumerate(sizes_of(rng, total)):
        key, data = f"file-{number}", rng.randbytes(size)
        pieces = pieces_of(rng, size)
        with course.timed("write"), closing(side.open(key, "wb")) as file:
            for offset, length in pieces:
                file.pwrite(data[offset : offset + length], offset)
        contents[key] = bytearray(data)
    advance(1)
    for _ in range(ROUNDS):
        for key in rng.sample(list(contents), len(contents)):
            edits = edits_of(rng, len(contents[key]))
            with course.timed("edit"), closing(side.open(key, "r+b")) as file:
                for offset, change in edits:
                    file.truncate(offset) if change is None else file.pwrite(change, offset)
            edited(contents[key], edits)
        advance(1)
        for key in rng.sample(list(contents), len(contents)):
            pieces = pieces_of(rng, len(contents[key]))
            rng.shuffle(pieces)
            with course.timed("read back"), closing(side.open(key, "rb")) as file:
                found = [file.pread(length, offset) for offset, length in pieces]
            for (offset, length), piece in zip(pieces, found, strict=True):
                course.compare(key, offset, contents[key][offset : offset + length], piece, "read back")
        advance(1)
    with course.timed("sync"):
        side.sync()
    if isinstance(side, Cached):
        course.counters = side.cache.stats().to_dict()
    with course.timed("sync"):
        side.close()
    for key, content in contents.items():
        course.compare(key, 0, content, (folder / key).read_bytes(), "in the files after close")
    advance(1)
    return course


@dataclass(frozen=True)
class Part:
    """The findings on one store."""

    total: int
    capacity: int
    cached: Course
    direct: Course

    @property
    def difference(self) -> Difference | None:
        return self.cached.difference or self.direct.difference

    @property
    def speed_ratio(self) -> float:
        return self.direct.total / max(self.cached.total, 1e-9)

    @property
    def hit_rate(self) -> float:
        hits, misses = self.cached.counters["hits"], self.cached.counters["misses"]
        return hits / (hits + misses) if hits + misses else 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "bytes": self.total,
            "capacity": self.capacity,
            "hit_rate": self.hit_rate,
            "seconds": {"cache": self.cached.seconds, "direct calls": self.direct.seconds},
            "requests": {"cache": self.cached.requests, "direct calls": self.direct.requests},
            "speed_ratio": self.speed_ratio,
            "counters": self.cached.counters,
        }


def measure(name: str, root: Path, seed: int, total: int, capacity: int, delay: float, bar: Any) -> Part:
    """Do the job on one store with the cache, and without it; `delay`: of each call, in seconds."""
    from pagecache.backends import DirectoryBackend
    from pagecache.testing import LatencyBackend

    def course_of(make: Callable[[Any], Side], side: str) -> Course:
        folder = root / name / side
        folder.mkdir(parents=True)
        backend: Any = DirectoryBackend(folder)
        if delay:
            backend = LatencyBackend(backend, read=delay, write=delay, commit=delay, look_up=delay, bandwidth=BANDWIDTH)
        with bar.phase(f"{name}, {side}", 2 + 2 * ROUNDS) as advance:
            course = do(make(backend), folder, seed, total, advance)
        course.requests = backend.delayed if delay else 0
        return course

    with cache_of(capacity) as cache:
        cached = course_of(partial(Cached, cache), "cache")
    return Part(total, capacity, cached, course_of(Direct, "direct calls"))


@contextmanager
def cache_of(capacity: int) -> Iterator[Any]:
    """Yield a cache that the body closes; an error closes it without saving its data."""
    from pagecache import PageCache

    cache = PageCache(capacity)
    try:
        yield cache
    except BaseException:
        with uninterrupted(), suppress(OSError):  # the original error is the one to report
            cache.close(timeout=GIVE_UP_SECONDS, on_failed="discard")
        raise


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield the directory of a run, which is always removed."""
    root = Path(tempfile.mkdtemp(prefix="pagecache-demo-"))
    try:
        yield root
    finally:
        with uninterrupted():
            shutil.rmtree(root, ignore_errors=True)


# ---------------------------------------------------------------- the report


def print_report(parts: dict[str, Part], elapsed: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    for name, part in parts.items():
        console.print(f"{name}: files of {size_text(part.total)}, cache of {size_text(part.capacity)}", style="bold")
        table = Table("phase", "cache", "direct calls", "speed", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        rows = [(phase, part.cached.seconds[phase], part.direct.seconds[phase]) for phase in PHASES]
        for phase, own, other in [*rows, ("all", part.cached.total, part.direct.total)]:
            table.add_row(phase, f"{own:.2f} s", f"{other:.2f} s", f"{other / own:.2f}×" if own else "")
        table.add_row("hit rate", f"{100 * part.hit_rate:.1f} %")
        if part.direct.requests:
            table.add_row("requests", f"{part.cached.requests:,}", f"{part.direct.requests:,}")
        console.print(table, "", sep="\n")
    different = next((part.difference for part in parts.values() if part.difference), None)
    verdict = "VERIFIED: every byte is right"
    if different is not None:
        texts = [data.hex(" ") if data else "the end of the file" for data in (different.expected, different.found)]
        place = f"{different.key} at offset {different.offset}"
        verdict = f"DIFFERENT: {place}: expected {texts[0]}, found {texts[1]} ({different.stage})"
    console.print(f"{verdict} ({elapsed:.1f} s)", style="bold red" if different else "bold green", highlight=False)


@click.command(short_help="Write and edit files over two stores, with the cache and without it")
@click.option("--seed", default=1, show_default=True, help="Number that decides files and edits.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(seed: int, as_json: bool) -> None:
    """Write files, edit them and read them back over two stores, with the cache and without it.

    The first store is a directory; the cache is a quarter of the files. The second is a simulated object store, with
    10 ms for each request; the cache holds all files. Without the cache each read and write is a call of the store. In
    the end every file is compared byte by byte with a copy in memory. Everything happens in a temporary directory
    (TMPDIR).
    """
    from pagecache.cli.progress import progress_on_stderr

    leave_on_sigterm()
    began = time.monotonic()
    try:
        with workplace() as root, progress_on_stderr() as bar:
            directory = measure("directory", root, seed, *DIRECTORY, 0.0, bar)
            store = measure("object store", root, seed, *OBJECTS, REQUEST_SECONDS, bar)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    elapsed = time.monotonic() - began
    different = directory.difference or store.difference
    if as_json:
        parts = {"directory": directory.figures(), "object_store": store.figures()}
        shown = None
        if different is not None:
            shown = different._asdict() | {"expected": different.expected.hex(), "found": different.found.hex()}
        print_json({"verified": different is None, "difference": shown, "seed": seed, "elapsed": elapsed, **parts})
    else:
        simulated = f"Simulated object store ({1000 * REQUEST_SECONDS:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s)"
        print_report({"Directory": directory, simulated: store}, elapsed)
    sys.exit(1 if different else 0)
