"""The run: a first object, the conformance suite check by check, and a measurement of about a second.

Every call may hang, and a thread cannot be killed: each step runs on a thread that is left behind at the timeout. Each
check has a fresh backend and its own key prefix; its objects are removed afterwards.
"""

from __future__ import annotations

import contextlib
import secrets
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import click

import pagecache.testing
from pagecache.backends.plain import missing_in_file
from pagecache.backends.protocol import Backend
from pagecache.errors import Key
from pagecache.target import BadTarget, Hung, Target, within
from pagecache.testing.checks import Check, Skipped, checks_of, run_check
from pagecache.testing.conformance import BackendConformance
from pagecache.testing.conformance_bytes import content, limits_of, transfer

T = TypeVar("T")
THREAD = "check-backend"
HUNG_MAX = 3  # hanging checks after which the run stops
REMOVING_MAX = 20.0  # seconds for the removal of leftover objects
SUITE = Path(pagecache.testing.__file__).parent
SIZES = (4096, 256 << 10, 8 << 20)  # bytes of the measured calls, as far as the limits allow
SLICE = 0.1  # seconds to spend on each figure; at least one call is made
LATENCY_CALLS = 30
CHECKS = list(checks_of(BackendConformance))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check.

    Attributes:
        check: its name, without `test_`, and its value.
        capability, sentence, rule: of its promise, as in `Check`.
        status: "not offered": the backend reports that it lacks the feature.
        found: the violation, or why the feature is missing.
        where: the line of the suite, and of the backend if that raised.
    """

    check: str
    capability: str
    sentence: str
    rule: str
    status: Literal["kept", "broken", "hangs", "not offered"]
    found: str = ""
    where: str = ""


@dataclass(slots=True)
class Measures:
    """Figures of this machine at this moment; they are never judged.

    Attributes:
        latency: median seconds of "write", "commit" and "read", for the smallest call.
        rates: bytes per second of "read" and "write" by bytes of a call.
    """

    latency: dict[str, float] = field(default_factory=dict)
    rates: dict[int, dict[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """The findings of a run.

    Attributes:
        server: properties of the store's server: name, whether it has it, its meaning, the cost if not.
        stopped: why the run is incomplete; empty if it is complete.
        left: keys of objects that still exist.
        hung: a thread was left behind in a call.
        unfinished: a step beside the checks failed.
    """

    target: str
    backend: str
    prefix: str
    checks: list[Result] = field(default_factory=list)
    server: list[tuple[str, bool, str, str]] = field(default_factory=list)
    measures: Measures = field(default_factory=Measures)
    stopped: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    hung: bool = False
    unfinished: bool = False

    @property
    def broken(self) -> list[Result]:
        return [result for result in self.checks if result.status in ("broken", "hangs")]

    @property
    def ok(self) -> bool:
        """Return whether all promises were checked and kept."""
        return not (self.broken or self.unfinished)

    def capabilities(self) -> dict[str, str]:
        """Return for each capability: yes, no, FAILED or hangs."""
        counts: dict[str, Counter[str]] = {}
        for result in self.checks:
            counts.setdefault(result.capability, Counter())[result.status] += 1
        words = {"broken": "FAILED", "hangs": "hangs", "kept": "yes", "not offered": "no"}
        return {name: next(word for status, word in words.items() if count[status]) for name, count in counts.items()}


class Objects:
    """The objects of a run: all keys have one prefix, and are removed again.

    Attributes:
        left: keys of objects that still exist.
    """

    def __init__(self, *, keep: bool) -> None:
        self.prefix = f"pagecache-check-{secrets.token_hex(4)}-"
        self._keep = keep
        self._made: dict[str, set[str]] = {}  # keys by group

    @property
    def left(self) -> list[str]:
        return sorted(key for keys in self._made.values() for key in keys)

    def key(self, group: str, name: str) -> str:
        """Return a key of a group, and register it for removal."""
        key = f"{self.prefix}{group}-{name}"
        self._made.setdefault(group, set()).add(key)
        return key

    def remove(self, backend: Backend, group: str) -> None:
        """Remove the objects of a group, durably; failed removals are repeated at the end."""
        if not self._keep:
            left = {key for key in self._made.get(group, ()) if not _removed(backend, key)}
            with contextlib.suppress(Exception):  # then they may come back
                backend.sync()
                self._made[group] = left

    def finish(self, target: Target, timeout: float) -> None:
        """Remove all remaining objects, with a fresh backend."""

        def remove() -> None:
            with contextlib.closing(target.make()) as backend:
                for group in list(self._made):
                    self.remove(backend, group)

        if self.left and not self._keep:
            with contextlib.suppress(Exception):
                within(min(timeout, REMOVING_MAX), remove, THREAD)


@contextlib.contextmanager
def _fresh(target: Target, objects: Objects, group: str) -> Iterator[Backend]:
    """Make a backend, and remove the objects of the group with it at the end."""
    with contextlib.closing(target.make()) as backend:
        try:
            yield backend
        finally:
            objects.remove(backend, group)


def _removed(backend: Backend, key: str) -> bool:
    """Remove an object; return whether the store confirms that none has the key."""
    for name in ("remove", "rmdir", "stat"):
        try:
            getattr(backend, name)(key)
        except FileNotFoundError:
            return True
        except Exception:
            pass
    return False


@dataclass
class _Suite(BackendConformance):
    """The suite, with keys of this run."""

    objects: Objects
    group: str

    def make_key(self, i: int) -> Key:
        return self.objects.key(self.group, f"object-{i}")

    @property
    def prefix(self) -> str:
        return f"{self.objects.prefix}{self.group}-"


def check_all(target: Target, objects: Objects, timeout: float) -> Iterator[Result]:
    """Run every check; end early if too many hang."""
    hung = 0
    for number, check in enumerate(CHECKS):
        result = _check(target, objects, str(number), check, timeout)
        yield result
        if result.status == "hangs":
            target.forget_loop()
            if (hung := hung + 1) == HUNG_MAX:
                return


def _check(target: Target, objects: Objects, group: str, check: Check, timeout: float) -> Result:
    def call() -> None:
        with _fresh(target, objects, group) as backend:
            run_check(_Suite(objects, group), check, backend=backend)

    status: Literal["kept", "broken", "hangs", "not offered"] = "broken"
    found = where = ""
    try:
        within(timeout, call, THREAD)
        status = "kept"
    except KeyboardInterrupt:
        raise
    except Hung as error:
        status, found = "hangs", str(error)
    except Skipped as error:
        status, found = "not offered", str(error)
    except BaseException as error:
        found, where = f"{type(error).__name__}: {error}", _line(error.__traceback__)
        if isinstance(error, AssertionError):
            found = str(error) or "the assertion fails"
    name = check.name.removeprefix("test_") + (f"[{check.label}]" if check.label else "")
    return Result(name, check.capability, check.sentence, check.rule, status, found, where)


def _line(trace: TracebackType | None) -> str:
    """Return the line of the suite that found it, and the line of the backend that raised, if any."""
    entries = traceback.extract_tb(trace)
    suite = [entry for entry in entries if Path(entry.filename).parent == SUITE]
    places = [f"{Path(at.filename).name}:{at.lineno}: {at.line}" for at in suite if at.name.startswith("test_")][-1:]
    places += [f"{at.filename}:{at.lineno} {at.name}" for at in entries[-1:] if at not in suite]
    return "; ".join(places)


def _make_object(name: str, backend: Backend, objects: Objects) -> None:
    """Make an object, as each check does.

    Raises:
        BadTarget: it cannot be made.
    """
    key = objects.key("first", "object")
    what = f"canonical({key!r})"
    try:
        backend.canonical(key)
        what = f"open({key!r}, create=True)"
        file = backend.open(key, create=True)
        if missing := missing_in_file(file):
            raise BadTarget(f"{name}: {what} gave {file!r}, which has no {missing}")
        what = "commit of a new object"
        file.commit()
    except BadTarget:
        raise
    except Exception as error:
        # Keys of the suite are text; a suite for a backend with other keys defines make_key.
        raise BadTarget(f"{name}: {what} raises {type(error).__name__}: {error}") from error
    if hasattr(file, "close"):
        file.close()
    objects.remove(backend, "first")


def measure(target: Target, objects: Objects, measures: Measures) -> None:
    """Fill in `measures` step by step, so that a hang keeps the earlier figures."""
    with _fresh(target, objects, "measures") as backend:
        file = backend.open(objects.key("measures", "object"), create=True)
        limits = limits_of(backend, file)
        most = int(limits.boundary) or sys.maxsize
        reads = _sizes(int(limits.read_unit), min(most, int(limits.max_read)))
        writes = _sizes(int(limits.write_unit), min(most, int(limits.max_write)))
        data = memoryview(bytearray(content(max(*reads, *writes), 1)))
        transfer(backend, file, "write_from", 0, data)
        file.commit()

        def timed(verb: str, size: int, turn: int = 0) -> float:
            at, began = turn % (len(data) // size) * size, time.perf_counter()
            if verb == "commit":
                file.commit()
            else:
                transfer(backend, file, "read_into" if verb == "read" else "write_from", at, data[:size])
            return time.perf_counter() - began

        smallest = {"write": writes[0], "commit": 1, "read": reads[0]}
        times: dict[str, list[float]] = {verb: [] for verb in smallest}
        until = time.perf_counter() + 3 * SLICE
        while not times["read"] or (len(times["read"]) < LATENCY_CALLS and time.perf_counter() < until):
            for verb, taken in times.items():
                taken.append(timed(verb, smallest[verb]))
        measures.latency = {verb: statistics.median(taken) for verb, taken in times.items()}
        for verb, sizes in ("write", writes), ("read", reads):
            for size in sizes:
                turns, seconds = 0, 0.0
                while seconds < SLICE:
                    seconds += timed(verb, size, turns)
                    turns += 1
                measures.rates.setdefault(size, {})[verb] = turns * size / seconds
            file.commit()
        if hasattr(file, "close"):
            file.close()


def _sizes(unit: int, most: int) -> list[int]:
    """Return the sizes of calls that are multiples of the unit and at most `most`."""
    return sorted({max(unit, min(size, most) // unit * unit) for size in SIZES})


def run(target: Target, timeout: float, *, keep: bool) -> Report:
    """Check a backend, with `timeout` seconds for each step and progress on stderr; `keep`: leave its objects behind.

    Raises:
        BadTarget: there is none, or a new object cannot be made.
        Hung: the factory hangs, or one of the first calls.
    """
    backend = within(timeout, target.make, THREAD)
    objects = Objects(keep=keep)
    report = Report(target.name, target.kind, objects.prefix)
    if backend.limits.read_only:
        report.stopped.append("read_only=True: there is no way to put something in, so nothing was checked or measured")
        return report
    try:
        within(timeout, lambda: _make_object(target.name, backend, objects), THREAD)
        if (properties := getattr(backend, "server_properties", None)) is not None:
            report.server = _attempt(report, target, "the query of the server", timeout, properties) or []
        _attempt(report, target, "close", timeout, backend.close)
        results = check_all(target, objects, timeout)
        with click.progressbar(results, length=len(CHECKS), label="checks", file=sys.stderr) as progress:
            for result in progress:
                report.checks.append(result)
                report.hung |= result.status == "hangs"
        if missing := len(CHECKS) - len(report.checks):
            report.stopped.append(f"too many checks hang: {missing} of {len(CHECKS)} were not made")
        _attempt(report, target, "measuring", timeout, lambda: measure(target, objects, report.measures))
        return report
    finally:
        objects.finish(target, timeout)
        report.left = objects.left


def _attempt(report: Report, target: Target, what: str, timeout: float, call: Callable[[], T]) -> T | None:
    """Return the result of a step beside the checks; if it fails, note why and return None."""
    try:
        return within(timeout, call, THREAD)
    except Hung as error:
        report.hung = True
        target.forget_loop()
        report.stopped.append(f"{what} hangs: {error}")
    except Exception as error:
        report.stopped.append(f"{what} was ended by {type(error).__name__}: {error}")
    report.unfinished = True
    return None
