"""Hits beside another Python thread: P10.

Cells of a quarter of a second, alone and beside a spinning thread in turn: the interpreter passes its lock on every 5
ms, and shorter cells would measure only that. The other thread's remaining speed is noted.
"""

import threading
import time
from collections.abc import Iterator

from pagecache.bench.cases import pread_hits
from pagecache.bench.harness import Variant
from pagecache.bench.subject import PAGE
from tests.bench.rows import Bench, Row, case, timed


class Spinner:
    """A thread that counts as fast as it can while it is switched on."""

    def __init__(self) -> None:
        self.turns = 0
        self.seconds = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start spinning."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait until the thread has stopped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _spin(self) -> None:
        turns, stopped = 0, self._stop.is_set
        start = time.perf_counter()
        while not stopped():
            turns += 1
        self.seconds += time.perf_counter() - start
        self.turns += turns

    def speed(self) -> float:
        """Turns per second since the last call."""
        speed = self.turns / self.seconds if self.seconds else 0.0
        self.turns, self.seconds = 0, 0.0
        return speed


@case("threads", "4 KiB hits beside a spinning Python thread", ("P10",))
def beside_a_thread(bench: Bench) -> Iterator[Row]:
    """P10: the cache's speed beside the thread relative to its speed alone."""
    subject = bench.subject(64 * 1024)
    read = pread_hits(subject.file, PAGE)
    spinner = Spinner()
    spinner.start()
    time.sleep(bench.settings.cell_seconds)
    spinner.stop()
    alone = spinner.speed()
    result = bench.compare(
        [
            Variant(name="alone", run=read, items=bench.random_offsets(PAGE)),
            Variant(
                name="beside",
                run=read,
                items=bench.random_offsets(PAGE),
                before=spinner.start,
                after=spinner.stop,
            ),
        ],
        wall=True,
        rounds=7,
        seconds=bench.settings.cell_seconds,
    )
    kept = spinner.speed() / alone if alone else 0.0
    yield timed("threads", "P10", result, "beside", "alone", f"the other thread keeps {kept:.2f} of its speed")
