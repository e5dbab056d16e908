"""The objects of a round as the backend alone has them: the tester makes, reads, compares and removes them here.

These calls bypass the cache, the faults, and the layers that check the cache's calls. If objects of an earlier run
cannot be removed, other keys are used.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pagecache.backends.protocol import Backend, BackendLimits, close_backend_file
from pagecache.engine.retryer import is_transient
from pagecache.errors import Key
from pagecache.stress.plan import Plan
from pagecache.stress.profiles import all_names
from pagecache.stress.targets import UnusableTarget
from pagecache.target import place

T = TypeVar("T")

TRIES = 100


def insisting(call: Callable[[], T], passes: Callable[[OSError], bool] = is_transient) -> T:
    """Return the result of a call; retry while its error is one that passes."""
    for _ in range(TRIES):
        try:
            return call()
        except OSError as error:
            if not passes(error):
                raise
    return call()


def counted(taken: object, length: int) -> int:
    """Return the result of write_from, if it is possible; TypeError, ValueError: it is impossible."""
    if isinstance(taken, bool) or not isinstance(taken, int):
        raise TypeError(f"write_from returned {taken!r}, not the number of bytes that it took")
    if not 0 < taken <= length:
        raise ValueError(f"write_from returned {taken!r}: it was given {length} bytes, and has to take 1 at least")
    return taken


def write_whole(file: Any, offset: int, data: bytes | bytearray, most: int, boundary: int = 0) -> None:
    """Write bytes to an object of a backend, at most `most` by one call, and none across a multiple of `boundary`."""
    done = 0
    while done < len(data):
        room = min(most, boundary - (offset + done) % boundary) if boundary else most
        part = memoryview(data)[done : done + room].toreadonly()
        done += counted(insisting(partial(file.write_from, offset + done, [part])), len(part))


def read_whole(file: Any, limits: BackendLimits) -> bytearray:
    """Return the content of an object of a backend."""
    unit, most = int(limits.read_unit), int(limits.max_read)
    content = bytearray()
    while True:
        room = bytearray(max(unit, most))
        count = insisting(partial(file.read_into, len(content), [memoryview(room)]))
        content += room[:count]
        if not count or len(content) % unit:
            return content


class Objects:
    """The objects of a round; see the top of this file.

    Args:
        plan: of the run.
        number: of the round.
        backend: stores the objects.
        label: its name in reports.

    Attributes:
        backend: stores the objects; another one over the store after `follow`.
        cannot: "rename", "remove" -> the error of a backend without that operation.
        skipped: impossible operation -> reason.
    """

    def __init__(self, plan: Plan, number: int, backend: Backend, label: str) -> None:
        self._plan, self._number, self._label = plan, number, label
        self.backend = backend
        self.cannot: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self._looks_up = False  # the backend finds an object by its name at each call
        self._again = 0  # number of runs with this seed and round whose objects exist, and cannot be removed

    # -- keys

    def key(self, what: int | str) -> Key:
        """Return the key of a file, or of a name."""
        name = f"file{what}" if isinstance(what, int) else what
        again = f"-{self._again}" if self._again else ""
        return f"pagecache-stress-{self._plan.seed}-{self._number}{again}-{name}"

    def try_keys(self) -> None:
        """Check that the backend takes the tester's keys, as text; UnusableTarget: it does not."""
        try:
            self.put("probe", 0, b"probe")
            self.remove("probe")
        except Exception as error:
            with contextlib.suppress(Exception):
                self.remove("probe")
            text = f"{type(error).__name__}: {error}{place(error)}"
            raise UnusableTarget(f"{self._label}: no object can be made: {text}") from None
        self._learn_names()

    def _learn_names(self) -> None:
        """Find out which operations on names the backend lacks, with a name that does not exist."""
        missing = self.key("missing")
        calls = {"rename": partial(self.backend.rename, missing, self.key("missing-new"))}
        for what, call in (calls | {"remove": partial(self.backend.remove, missing)}).items():
            try:
                call()
            except io.UnsupportedOperation as error:
                self.cannot[what] = error.args[-1]
            except OSError:  # no such object: the operation exists
                pass

    def follow(self, factory: Callable[[], Backend]) -> None:
        """Continue with another backend over the store if the factory makes one: the old one is closed, or from before
        a crash.
        """
        fresh = factory()
        try:
            fresh.stat(self.key(0))
        except FileNotFoundError:
            fresh.close()
        else:
            self.backend = fresh

    # -- of other runs

    def clear(self) -> None:
        """Remove the objects that an earlier failed run with this seed and round left."""
        left = False
        for number in range(self._plan.files + 2):  # with those of a foreign writer and of a rival
            if self._there(number):
                self.remove(number)
                left = True
        if left and "remove" in self.cannot:
            while self._there(0):
                self._again += 1
        elif left:
            for name in all_names(self._plan.threads + self._plan.tasks):
                self.remove(name)

    def find(self) -> bool:
        """Take the keys of files that were made elsewhere. False: the files do not exist."""
        while "remove" in self.cannot and self._there(0):
            self._again += 1
        self._again = max(0, self._again - 1)
        return self._there(0)

    def _there(self, number: int) -> bool:
        try:
            self.backend.stat(self.key(number))
        except FileNotFoundError:
            return False
        return True

    # -- what is stored

    def make(self, contents: Sequence[bytes]) -> None:
        """Make the files."""
        for number, content in enumerate(contents):
            self.put(number, 0, content)

    def put(self, what: int | str, offset: int, data: bytes, *, whole: bool = False) -> None:
        """Store bytes of an object, and make it if necessary; `whole`: they are its whole content afterwards."""
        key = self.key(what)
        insisting(partial(self.put_once, key, offset, data, whole, self.backend))  # a failed commit may drop all of it

    def put_once(self, key: Key, offset: int, data: bytes, whole: bool, backend: Backend) -> None:
        """Store bytes like `put`, in one try, through a backend."""
        file = backend.open(key, create=True)
        try:
            limits = self.backend.limits
            write_whole(file, offset, data, int(limits.max_write), int(limits.boundary))
            if whole:
                insisting(partial(file.truncate, len(data)))
            file.commit()
        finally:
            close_backend_file(file)

    def read(self, what: int | str) -> bytes | None:
        """Return the content of an object, in one version; None: no such object."""
        for _ in range(TRIES):
            try:
                before = self._version(what)
                found = insisting(partial(self.backend.open, self.key(what)))
                try:
                    content = bytes(read_whole(found, self.backend.limits))
                finally:
                    close_backend_file(found)
                if before == self._version(what):
                    return content
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ESTALE:  # the opened version was replaced before it was read
                    raise
        raise UnusableTarget(f"{self._label}: {self.key(what)!r} is never read in one version")

    def _version(self, what: int | str) -> str | None:
        """Return the version of an object, if a read by several calls may find several objects; None: it does not."""
        return insisting(partial(self.backend.stat, self.key(what))).version if self._looks_up else None

    def remove(self, what: int | str) -> None:
        """Remove an object if it exists and the backend can remove it."""
        try:
            insisting(partial(self.backend.remove, self.key(what)))
        except io.UnsupportedOperation as error:
            self.skipped["removal of the files"] = str(error.args[-1])
        except FileNotFoundError:
            pass

    # -- what the backend does

    def shows(self) -> bool:
        """Return whether a new reader sees bytes that are stored and not committed."""
        file = self.backend.open(self.key("probe"), create=True)
        try:
            taken = file.write_from(0, [memoryview(b"probe")])
            return self.read("probe") == b"probe"[:taken]
        except OSError:  # unknown: assume that it does not
            return False
        finally:
            close_backend_file(file)
            self.remove("probe")

    def creates_unasked(self) -> bool:
        """Return whether an exclusive open asks nothing: if there is an object, its commit is refused."""
        self.put("probe", 0, b"probe")
        try:
            close_backend_file(self.backend.open(self.key("probe"), create=True, exclusive=True))
        except OSError:
            return False
        finally:
            self.remove("probe")
        return True

    def by_name(self) -> bool:
        """Return whether the backend finds an object by its name at each call: an open file reaches a removed one not
        any longer.
        """
        if "remove" in self.cannot:
            return True
        self.put("probe", 0, b"probe")
        file: Any = self.backend.open(self.key("probe"))
        try:
            self.remove("probe")
            self._looks_up = bool(read_whole(file, self.backend.limits) != b"probe")
        except OSError:
            self._looks_up = True
        finally:
            close_backend_file(file)
        return self._looks_up
