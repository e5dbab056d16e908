"""Exact counts of the jobs on small files: `python -m tests.bench.file_counts FOLDER [FILES]` prints them as JSON.

    system calls    of all threads, for one file, as strace records them between two marks in its log; without futex
    futex           calls of futex: sleeps and wake-ups of threads
    hops            pieces of work that threads of the volume did
    wake-ups        returns of these threads from waiting, with a piece of work or without
    frames          Python functions entered by all threads; the bench's own are not counted
    store calls     calls of a store that is written in Python
    switches        context switches of the whole process

Switches and calls of futex depend on the machine's load; all others do not.

One process runs the jobs under strace, another one with a profile function in every thread. The functions and system
calls of each job, sorted, are in the JSON as well: `top`.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from pagecache.bench import files
from pagecache.native import NativeVolume
from tests.bench import dict_backend
from tests.bench.file_stores import PLAIN, STORES
from tests.bench.file_stores import way as way_of

ROOT = Path(__file__).resolve().parents[2]
MARK = "pagecache-bench-mark"
STRACE = "strace"
LONGEST = 600
"""Seconds after which a count is given up."""
MISSING = "no strace here: apt install strace"
EXISTING = 80
"""Files at least: more than a volume keeps open in its store while no program has them open."""
OWN = {files.__file__}
Counts = dict[str, dict[str, dict[str, Any]]]  # store -> job -> name -> count


class Uncounted(RuntimeError):
    """A count cannot be made on this machine; the text says why."""


class Frames:
    """Counts calls of Python functions in all threads that start after `install`."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[int, CodeType, bool]] = Counter()  # a key belongs to one thread: no lock
        self._work: Counter[tuple[int, bool]] = Counter()  # thread, whether it found work
        self._on = False

    def install(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        if not self._on:
            return
        if event == "return" and frame.f_code is NativeVolume.work.__code__:
            self._work[threading.get_ident(), arg is True] += 1
        elif event == "call":
            back = frame.f_back
            outer = back is None or back.f_code.co_filename != frame.f_code.co_filename
            self._calls[threading.get_ident(), frame.f_code, outer] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        self._calls.clear()
        self._work.clear()
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def result(self, items: int) -> dict[str, Any]:
        """Return the counts for one of `items`."""
        calls, work = dict(self._calls), dict(self._work)
        hops = sum(count for (_, found), count in work.items() if found)
        store = Counter[str]()
        functions = Counter[str]()
        for (_, code, outer), count in calls.items():
            if code.co_filename == dict_backend.__file__ and outer:
                store[code.co_name] += count
            if code.co_filename not in OWN and not code.co_filename.startswith(str(Path(__file__).parent)):
                functions[f"{short(code.co_filename)}:{code.co_qualname}"] += count
        return {
            "hops": round(hops / items, 2),
            "wake-ups": round(sum(work.values()) / items, 2),
            "frames": round(functions.total() / items, 1),
            "store calls": round(store.total() / items, 2),
            "top": {
                "store calls": per_item(store, items),
                "frames": per_item(functions, items),
            },
        }


def short(path: str) -> str:
    """Return the path below the package; of other files the name."""
    below = f"{ROOT}/pagecache/"
    return path.removeprefix(below) if path.startswith(below) else Path(path).name


def per_item(counts: Counter[str], items: int, most: int = 60) -> dict[str, float]:
    return {name: round(count / items, 2) for name, count in counts.most_common(most)}


def each_job(folder: Path, count: int) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yield store, name and a call that does the job on `count` files; the files are restored after it."""
    for store in (PLAIN, *STORES):
        # One cache at a time: threads of another one would be counted too.
        with ExitStack() as stack:
            way = way_of(store, folder, max(EXISTING, 2 * count), stack)
            for job in files.JOBS:
                variant = files.file_variant(store, way.jobs, job, way.keys)
                # A cycle through all files closes those that come next.
                variant.run(variant.take(count if variant.most else len(way.keys)))
                variant.after()
                way.settle()
                items = variant.take(count)
                yield store, job, partial(variant.run, items)
                variant.after()


def switches() -> int:
    """Return the context switches of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw + usage.ru_nivcsw


def counted_inside(folder: Path, count: int) -> Counts:
    """Count hops, frames, store calls and context switches in this process, which has no thread yet."""
    found: Counts = {}
    frames = Frames()
    frames.install()
    for number in (0, 1):
        for store, job, run in each_job(folder / str(number), count):
            if number:
                with frames.counting():
                    run()
                counts = frames.result(count)
            else:
                before = switches()
                run()
                counts = {"switches": round((switches() - before) / count, 2)}
            found.setdefault(store, {}).setdefault(job, {}).update(counts)
    return found


def marked(folder: Path, count: int) -> None:
    """Do each job between two marks: calls that fail and are seen in the log of strace."""
    for store, job, run in each_job(folder, count):
        os.access(f"{MARK}/{store}/{job}", os.F_OK)
        run()
        os.access(f"{MARK}/end", os.F_OK)


CALL = re.compile(r"^\d+\s+(\w+)\(")
BEGIN = re.compile(rf'access\("{MARK}/([^/]+)/(\w+)"')


def counted_calls(folder: Path, count: int) -> Counts:
    """Count system calls in a process under strace.

    Raises:
        Uncounted: strace is missing, or may not trace here.
    """
    if shutil.which(STRACE) is None:
        raise Uncounted(MISSING)
    with tempfile.NamedTemporaryFile("r", prefix="pagecache-bench-") as log:
        options = ["-f", "-qq", "-e", "signal=none", "-s", "96", "-o", log.name]
        done = run_here("--marked", folder, count, [STRACE, *options])
        if done.returncode:
            raise Uncounted(f"strace failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return parsed(log, count)


def parsed(lines: Any, count: int) -> Counts:
    """Return the counts in a log of strace."""
    found: Counts = {}
    calls: Counter[str] = Counter()
    current: tuple[str, str] | None = None
    for line in lines:
        if MARK in line:
            if current is not None:
                store, job = current
                top = {"system calls": per_item(calls, count)}
                futex = calls.pop("futex", 0)
                result = {
                    "system calls": round(calls.total() / count, 2),
                    "futex": round(futex / count, 2),
                    "top": top,
                }
                found.setdefault(store, {})[job] = result
            begin = BEGIN.search(line)
            current = (begin[1], begin[2]) if begin else None
            calls.clear()
        elif current is not None and (call := CALL.match(line)):
            calls[call[1]] += 1
    return found


def run_here(mode: str, folder: Path, count: int, prefix: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [*prefix, sys.executable, "-m", "tests.bench.file_counts", str(folder), str(count), mode]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise Uncounted(f"counting has not ended after {LONGEST} s") from None


def counted(folder: Path, count: int) -> tuple[Counts, str]:
    """Return all counts by store and job, and the reason why system calls are missing, or ""."""
    done = run_here("--inside", folder / "inside", count, [])
    if done.returncode:
        raise RuntimeError(f"counting failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: Counts = json.loads(done.stdout)
    try:
        calls = counted_calls(folder / "strace", count)
    except Uncounted as error:
        return found, str(error)
    for store, jobs in calls.items():
        for job, counts in jobs.items():
            found[store][job] |= counts | {"top": found[store][job]["top"] | counts["top"]}
    return found, ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.file_counts", description="Count for small files.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Existing folder on tmpfs")
    parser.add_argument("files", type=int, nargs="?", default=32, metavar="FILES", help="Files of each job")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--marked", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.files < 1:
        parser.error(f"FILES: {options.files} is less than 1")
    if options.marked:
        marked(options.folder, options.files)
        return
    if options.inside:
        print(json.dumps(counted_inside(options.folder, options.files)))
        return
    if not options.folder.is_dir():
        parser.error(f"FOLDER: {options.folder} is no directory")
    with tempfile.TemporaryDirectory(prefix="pagecache-bench-", dir=options.folder) as place:
        found, missing = counted(Path(place), options.files)
    if missing:
        print(f"system calls are not counted: {missing}", file=sys.stderr)
    print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
