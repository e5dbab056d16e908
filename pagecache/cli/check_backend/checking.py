"""The conformance suite, check by check: each with a fresh backend, under a separate prefix, and with a time limit."""

from __future__ import annotations

import contextlib
import linecache
import secrets
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import pagecache.testing
from pagecache.backends.protocol import Backend
from pagecache.cli.check_backend.bounded import Hung, within
from pagecache.cli.check_backend.promises import PROMISES, Promise
from pagecache.errors import Key
from pagecache.target import Target
from pagecache.testing.checks import Check, CheckRun, Skipped, checks_of
from pagecache.testing.conformance import BackendConformance

__all__ = ["Kept", "Objects", "check_all", "checks"]

HUNG_MAX = 3
"""Number of hanging checks after which the run stops."""
REMOVING_MAX = 20.0
"""Time limit in seconds for removing leftover objects."""
SUITE = Path(pagecache.testing.__file__).parent


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of one check.

    Attributes:
        check: its name, without `test_`, and its value.
        status: "not offered": the backend reports that it lacks the feature.
        found: the violation, or why the feature is missing.
        where: the line of the suite, and of the backend if that raised.
    """

    check: str
    promise: Promise
    status: Literal["kept", "broken", "hangs", "not offered"]
    found: str = ""
    where: str = ""


class Objects:
    """The objects that checks and measurements make: all keys have one prefix, and are removed again.

    Attributes:
        left: keys that could not be removed, after `finish`.
    """

    def __init__(self, target: Target, timeout: float, *, keep: bool) -> None:
        self.prefix = f"pagecache-check-{secrets.token_hex(4)}-"
        self.left: list[str] = []
        self._target = target
        self._timeout = timeout
        self._keep = keep
        self._made: dict[str, set[str]] = {}

    def group(self, name: str) -> str:
        """Return the key prefix of a group."""
        return f"{self.prefix}{name}-"

    def key(self, group: str, name: str) -> str:
        """Return a key of a group, and register it for removal."""
        key = f"{self.group(group)}{name}"
        self._made.setdefault(group, set()).add(key)
        return key

    def remove(self, backend: Backend, group: str) -> None:
        """Remove the objects of a group, durably; failed removals are repeated at the end."""
        if self._keep:
            return
        left = {key for key in self._made.get(group, ()) if not _removed(backend, key)}
        with contextlib.suppress(Exception):  # then they may come back
            backend.sync()
            self._made[group] = left

    def finish(self) -> None:
        """Remove all remaining objects, with a fresh backend."""
        if any(self._made.values()) and not self._keep:
            with contextlib.suppress(Exception):
                within(min(self._timeout, REMOVING_MAX), self._remove_anew)
        self.left = sorted(key for keys in self._made.values() for key in keys)

    def _remove_anew(self) -> None:
        backend = self._target.make()
        for group in list(self._made):
            self.remove(backend, group)
        backend.close()


def _removed(backend: Backend, key: str) -> bool:
    """Return whether no object has that key."""
    try:
        backend.remove(key)
        return True
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        rmdir: Callable[[str], None] | None = getattr(backend, "rmdir", None)
        if rmdir is not None:
            with contextlib.suppress(Exception):
                rmdir(key)
    except Exception:
        pass  # remove is missing, or fails: then only existence matters
    try:
        backend.stat(key)
    except FileNotFoundError:
        return True
    except Exception:
        pass
    return False


class _Suite(BackendConformance):
    """The suite, with keys of this run."""

    def __init__(self, objects: Objects, group: str) -> None:
        self._objects = objects
        self._group = group

    def make_key(self, i: int) -> Key:
        return self._objects.key(self._group, f"object-{i}")

    @property
    def prefix(self) -> str:
        return self._objects.group(self._group)


def checks() -> list[Check]:
    """Return all checks."""
    return list(checks_of(BackendConformance))


def check_all(target: Target, objects: Objects, timeout: float) -> Iterator[Kept]:
    """Run every check; end early if too many hang."""
    hung = 0
    for number, check in enumerate(checks()):
        result = _outcome(target, objects, str(number), check, timeout)
        yield result
        if result.status == "hangs":
            hung += 1
            target.forget_loop()
            if hung == HUNG_MAX:
                return


def _outcome(target: Target, objects: Objects, group: str, check: Check, timeout: float) -> Kept:
    name = check.name.removeprefix("test_") + (f"[{check.label}]" if check.label else "")
    promise = PROMISES[check.name]
    try:
        within(timeout, lambda: _make(target, objects, group, check))
    except KeyboardInterrupt:
        raise
    except Hung as error:
        return Kept(name, promise, "hangs", str(error))
    except Skipped as error:
        return Kept(name, promise, "not offered", str(error))
    except AssertionError as error:
        return Kept(name, promise, "broken", str(error) or "it is not so", _line(error.__traceback__))
    except BaseException as error:
        return Kept(name, promise, "broken", f"{type(error).__name__}: {error}", _line(error.__traceback__))
    return Kept(name, promise, "kept")


def _make(target: Target, objects: Objects, group: str, check: Check) -> None:
    backend = target.make()
    try:
        with CheckRun(_Suite(objects, group), check, backend=backend) as run:
            run.call()
    finally:
        objects.remove(backend, group)
        backend.close()


def _line(trace: TracebackType | None) -> str:
    """Return the line of the suite that found it, and the line of the backend that raised, if any."""
    entries = traceback.extract_tb(trace)
    suite = [entry for entry in entries if Path(entry.filename).parent == SUITE and entry.name.startswith("test_")]
    places = []
    if suite:
        text = linecache.getline(suite[-1].filename, suite[-1].lineno or 0).strip()
        places.append(f"{Path(suite[-1].filename).name}:{suite[-1].lineno}: {text}")
    if entries and Path(entries[-1].filename).parent != SUITE:
        places.append(f"{entries[-1].filename}:{entries[-1].lineno} {entries[-1].name}")
    return "; ".join(places)
