"""The command `pagecache demo`: one job over two stores, with the cache and without it.

    store          files     cache      without the cache
    directory      24 MiB     6 MiB     each read and write is a call of the backend
    object store    4 MiB    16 MiB     each read and write is a request of 10 ms

The job: write files, edit them at random places and read them back, some rounds, then sync and close. A copy in memory
has the right bytes: every byte that a side reads is compared with it, and at the end every byte of its files. The clock
runs only inside the calls of a side. The seed decides all sizes, bytes and edits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import click

from pagecache.cli.usage import interrupted, print_json
from pagecache.interrupts import leave_on_sigterm, temporary_folder, uninterrupted
from pagecache.quantities import size_text

KIB, MIB = 1024, 1 << 20
PIECES = (509, 4095, 4096, 4097, 16 * KIB, 64 * KIB + 3, 256 * KIB, MIB)
LONGEST_EDIT, LONGEST_HOLE, MOST_EDITS = 48 * KIB, 24 * KIB, 64
ROUNDS = 2
DIRECTORY, OBJECTS = (24 * MIB, 6 * MIB), (4 * MIB, 16 * MIB)  # bytes of the files, capacity of the cache
REQUEST_SECONDS = 0.01
BANDWIDTH = 100e6  # bytes per second


def pieces_of(size: int, draw: Callable[[], int]) -> list[tuple[int, int]]:
    """Return consecutive pieces of drawn lengths that cover `size` bytes, as offset and length."""
    pieces, offset = list[tuple[int, int]](), 0
    while offset < size:
        pieces.append((offset, min(draw(), size - offset)))
        offset += pieces[-1][1]
    return pieces


def edits_of(rng: Random, content: bytearray) -> list[tuple[int, bytes | None]]:
    """Make edits of a file in its copy, and return them: an offset and bytes; or a new size and None."""
    edits = list[tuple[int, bytes | None]]()
    for _ in range(min(MOST_EDITS, 2 + len(content) // (32 * KIB))):
        kind, size, data = rng.random(), len(content), None
        if kind < 0.06:
            offset = max(0, size + rng.randrange(-LONGEST_HOLE, LONGEST_HOLE // 4))
            del content[offset:]
        else:
            offset = size if kind < 0.14 else rng.randrange(size + LONGEST_HOLE // 4)
            data = rng.randbytes(max(1, int(LONGEST_EDIT ** rng.random())))
        content.extend(bytes(max(0, offset - size)))
        content[offset : offset + len(data or b"")] = data or b""
        edits.append((offset, data))
    return edits


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
    """The calls of a volume, straight on the backend."""

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


class Job:
    """The job on one side of one store; `difference`: the first one, with bytes of both from there on."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("write", "edit", "read back", "sync"), 0.0)
        self.difference: dict[str, Any] | None = None

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
            texts = {"expected": expected[at : at + 16].hex(" "), "found": found[at : at + 16].hex(" ")}
            self.difference = {"key": key, "offset": base + at, **texts, "stage": stage}

    def do(self, side: Any, folder: Path, seed: int, total: int, advance: Callable[[int], None]) -> None:
        """Do the job up to the sync; `side`: a volume, or Direct; `folder`: has its files."""
        rng = Random(seed)
        self.contents = dict[str, bytearray]()
        for number, (_, size) in enumerate(pieces_of(total, lambda: int(2 ** rng.uniform(8, 20)))):
            key, data = f"file-{number}", rng.randbytes(size)
            pieces = pieces_of(size, lambda: rng.choice(PIECES))
            with self.timed("write"), closing(side.open(key, "wb")) as file:
                for offset, length in pieces:
                    file.pwrite(data[offset : offset + length], offset)
            self.contents[key] = bytearray(data)
        advance(1)
        for _ in range(ROUNDS):
            for key in rng.sample(list(self.contents), len(self.contents)):
                edits = edits_of(rng, self.contents[key])
                with self.timed("edit"), closing(side.open(key, "r+b")) as file:
                    for offset, change in edits:
                        file.truncate(offset) if change is None else file.pwrite(change, offset)
            advance(1)
            for key in rng.sample(list(self.contents), len(self.contents)):
                content = self.contents[key]
                pieces = pieces_of(len(content), lambda: rng.choice(PIECES))
                rng.shuffle(pieces)
                with self.timed("read back"), closing(side.open(key, "rb")) as file:
                    found = [file.pread(length, offset) for offset, length in pieces]
                for (offset, length), piece in zip(pieces, found, strict=True):
                    self.compare(key, offset, content[offset : offset + length], piece, "read back")
            advance(1)
        with self.timed("sync"):
            side.sync()


def measure(name: str, root: Path, seed: int, total: int, capacity: int, delay: float, phase: Any) -> dict[str, Any]:
    """Do the job on one store with the cache, and without it, and return figures; `delay`: of each call, in seconds."""
    from pagecache import PageCache
    from pagecache.backends import DirectoryBackend
    from pagecache.testing import LatencyBackend

    jobs, requests, cache = {"cache": Job(), "direct calls": Job()}, {}, PageCache(capacity)
    try:
        for side, job in jobs.items():
            folder = root / name / side
            folder.mkdir(parents=True)
            store: Any = DirectoryBackend(folder)
            if delay:
                store = LatencyBackend(store, read=delay, write=delay, commit=delay, look_up=delay, bandwidth=BANDWIDTH)
            with phase(f"{name}, {side}", 2 + 2 * ROUNDS) as advance:
                job.do(cache.attach(store) if side == "cache" else Direct(store), folder, seed, total, advance)
                if side == "cache":
                    counters = cache.stats().to_dict()
                with job.timed("sync"):
                    cache.close() if side == "cache" else store.close()
                for key, content in job.contents.items():
                    job.compare(key, 0, content, (folder / key).read_bytes(), "in the files after close")
                advance(1)
            requests[side] = store.delayed if delay else 0
    except BaseException:
        with uninterrupted(), suppress(OSError):  # the original error is the one to report
            cache.close(timeout=5.0, on_failed="discard")
        raise
    cached, direct = (sum(job.seconds.values()) for job in jobs.values())
    return {
        "bytes": total,
        "capacity": capacity,
        "hit_rate": counters["hits"] / max(1, counters["hits"] + counters["misses"]),
        "seconds": {side: job.seconds for side, job in jobs.items()},
        "requests": requests,
        "speed_ratio": direct / max(cached, 1e-9),
        "counters": counters,
        "difference": next(filter(None, (job.difference for job in jobs.values())), None),
    }


def print_report(parts: dict[str, dict[str, Any]], different: dict[str, Any] | None, elapsed: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    for name, part in parts.items():
        files, cache = size_text(part["bytes"]), size_text(part["capacity"])
        console.print(f"{name}: files of {files}, cache of {cache}", style="bold")
        table = Table("phase", "cache", "direct calls", "speed", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        cached, direct = ({**seconds, "all": sum(seconds.values())} for seconds in part["seconds"].values())
        for phase, own in cached.items():
            table.add_row(phase, f"{own:.2f} s", f"{direct[phase]:.2f} s", f"{direct[phase] / own:.2f}×")
        table.add_row("hit rate", f"{100 * part['hit_rate']:.1f} %")
        if any(part["requests"].values()):
            table.add_row("requests", *(f"{requests:,}" for requests in part["requests"].values()))
        console.print(table, "", sep="\n")
    verdict = "VERIFIED: every byte is right"
    if different is not None:
        expected, found = (different[name] or "the end of the file" for name in ("expected", "found"))
        place = f"{different['key']} at offset {different['offset']}"
        verdict = f"DIFFERENT: {place}: expected {expected}, found {found} ({different['stage']})"
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
        with temporary_folder("pagecache-demo-") as root, progress_on_stderr() as phase:
            directory = measure("directory", root, seed, *DIRECTORY, 0.0, phase)
            store = measure("object store", root, seed, *OBJECTS, REQUEST_SECONDS, phase)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    elapsed = time.monotonic() - began
    differences = [part.pop("difference") for part in (directory, store)]
    different = differences[0] or differences[1]
    if as_json:
        parts = {"directory": directory, "object_store": store}
        print_json({"verified": different is None, "difference": different, "seed": seed, "elapsed": elapsed, **parts})
    else:
        simulated = f"Simulated object store ({1000 * REQUEST_SECONDS:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s)"
        print_report({"Directory": directory, simulated: store}, different, elapsed)
    sys.exit(1 if different else 0)
