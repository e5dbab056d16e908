"""Check the result type of each method of a file once, before the suite: a missing `return` breaks most checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pagecache.backends.plain import returned
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.cli.check_backend.checking import Kept, Objects
from pagecache.cli.check_backend.promises import COUNT, METHODS, VERSIONS, Promise
from pagecache.target import Target

__all__ = ["is_stat", "wrong_answer"]

GROUP = "answers"
READS = Promise("read and write", "read_into answers with the number of bytes that it has read.", COUNT)
WRITES = Promise("read and write", "write_from answers with the number of bytes that it has taken.", COUNT)
STATS = Promise("open and stat", "stat answers with an ObjectStat.", METHODS)
COMMITS = Promise("versions", "commit answers with the new version, a text, or with None.", VERSIONS)

Step = tuple[str, Promise, Callable[[], Any], Callable[[Any], bool]]


def wrong_answer(target: Target, objects: Objects) -> Kept | None:
    """Return the first result of a wrong type; None if there is none. Exceptions are left to the checks."""
    backend = target.make()
    try:
        key = objects.key(GROUP, "object")
        file = backend.open(key, create=True)
        for what, promise, call, is_right in _steps(backend, file, key):
            try:
                answer = call()
            except Exception:
                continue
            if not is_right(answer):
                return Kept(what, promise, "broken", f"{what}: {returned(answer)}")
        return None
    finally:
        objects.remove(backend, GROUP)
        backend.close()


def _steps(backend: Backend, file: BackendFile, key: str) -> Iterator[Step]:
    read, written = max(int(backend.limits.read_unit), 5), max(int(backend.limits.write_unit), 5)
    yield "file.stat()", STATS, file.stat, is_stat
    data, space = memoryview(bytes(written)), memoryview(bytearray(read))
    yield f"write_from(0, {written} bytes)", WRITES, lambda: file.write_from(0, [data]), _up_to(written)
    yield f"read_into(0, {read} bytes)", READS, lambda: file.read_into(0, [space]), _up_to(read)
    yield "commit()", COMMITS, file.commit, lambda answer: answer is None or isinstance(answer, str)
    yield "stat()", STATS, lambda: backend.stat(key), is_stat


def is_stat(answer: Any) -> bool:
    """Return whether a result of `stat` has a size."""
    size = getattr(answer, "size", None)
    return isinstance(size, int) and size >= 0


def _up_to(most: int) -> Callable[[Any], bool]:
    return lambda answer: isinstance(answer, int) and 0 <= answer <= most
