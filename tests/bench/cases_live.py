"""The cost of being watched: P37.

One cache is served. A separate process requests /metrics and /v1/stats every 100 ms while it is switched on, so that
only the server's share counts. In between, the server sleeps and costs nothing: that is the variant without a server.
The clock is the processor time of the whole process, hits and server together: they share the interpreter's lock, so
the server's time is missing from the hits, and other processes on the machine do not count. A slice has as many scrapes
as fit into its processor time, so a busy machine, on which it lasts longer, has no more of them.
"""

import subprocess
import sys
import time
from collections.abc import Iterator

from pagecache.bench.cases import pread_hits
from pagecache.bench.harness import Variant, compare
from pagecache.bench.subject import PAGE
from tests.bench.rows import Bench, Row, case, comparison_row, timed

PERIOD = 0.1

SCRAPER = """
import select, socket, sys, time
def scrape(path, period, most):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    answers = connection.makefile("rb")
    count = 0
    due = time.monotonic()
    while count < most and not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        for target in ("/metrics", "/v1/stats"):
            connection.sendall(f"GET {target} HTTP/1.1\\r\\n\\r\\n".encode())
            assert answers.readline().split()[1] == b"200"
            length = 0
            while (line := answers.readline()) != b"\\r\\n":
                name, _, value = line.partition(b": ")
                length = int(value) if name == b"Content-Length" else length
            assert len(answers.read(length)) == length
        count += 1
        due += period
    answers.close()
    connection.close()
    return count
while sys.stdin.readline() == "go\\n":
    print("gone", flush=True)
    count = scrape(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    sys.stdin.readline()
    print(count, flush=True)
"""


class Scraper:
    """A process that scrapes while it is switched on, with a bounded number of scrapes each time."""

    def __init__(self, path: str, most: int) -> None:
        self.scrapes = 0
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", SCRAPER, path, str(PERIOD), str(most)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def _tell(self, word: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def start(self) -> None:
        """Scrape from now on."""
        if self._tell("go") != "gone\n":
            raise RuntimeError("the scraper has ended")

    def stop(self) -> None:
        """Stop scraping; wait until the process has stopped."""
        self.scrapes += int(self._tell("stop") or 0)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@case("live", "4 KiB hits of a cache that is scraped every 100 ms", ("P37",))
def watched(bench: Bench) -> Iterator[Row]:
    """P37: hits of one cache, scraped and not, in turn."""
    subject = bench.subject(64 * 1024)
    path = str(bench.folder / "socket")
    subject.cache.serve_stats(path)
    seconds = 2 * bench.settings.cell_seconds
    scraper = Scraper(path, max(1, round(seconds / PERIOD)))
    read = pread_hits(subject.file, PAGE)
    variants = [
        Variant(name="alone", run=read, items=bench.random_offsets(PAGE)),
        Variant(name="served", run=read, items=bench.random_offsets(PAGE), before=scraper.start, after=scraper.stop),
    ]
    rounds = min(bench.settings.rounds, 21)
    try:
        ours = compare(variants, rounds=rounds, seconds=seconds, clock=time.process_time, rng=bench.rng)
        note = f"{scraper.scrapes} scrapes"
        wall = bench.compare(variants, wall=True, rounds=rounds, seconds=seconds)
    finally:
        scraper.close()
    yield timed("live", "P37", ours, "served", "alone", note)
    yield comparison_row("live", "the same by the clock on the wall", "not scraped", wall, "served", "alone")
