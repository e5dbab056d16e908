"""Answers of a backend about names and new files, checked: a wrong one is an error that names the defect."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator

from ..backends.plain import forgotten, missing_in_file
from ..backends.protocol import BackendFile, CheckedKey, ObjectStat, close_backend_file
from ..errors import BackendProtocolError, Key, os_error
from ..native import FOREVER


def checked_open(open: Callable[[], BackendFile], key: Key) -> tuple[BackendFile, ObjectStat]:
    """Return a file of the backend and its status, after checking its methods; it is closed if any are missing.

    Raises:
        BackendProtocolError: names the defect of the result.
        OSError: ESTALE: see `checked_stat`.
    """
    backend_file = open()
    try:
        if missing := missing_in_file(backend_file):
            what = f"open() answered {backend_file!r}, which has no {missing}{forgotten(backend_file)}"
            raise BackendProtocolError(what, key)
        return backend_file, checked_stat(backend_file.stat(), key)
    except BaseException:
        close_backend_file(backend_file)
        raise


def checked_stat(stat: ObjectStat, key: Key) -> ObjectStat:
    """Return a status, after checking it.

    Raises:
        BackendProtocolError: names the defect of the result.
        OSError: ESTALE: a `CheckedKey` leads to another object than its caller has looked up.
    """
    size = getattr(stat, "size", None)
    if not isinstance(size, int) or not 0 <= size <= FOREVER:
        what = f"stat() answered {stat!r}, which has no size of 0 or more{forgotten(stat)}"
        raise BackendProtocolError(what, key)
    # Not every backend compares the object of a key.
    if isinstance(key, CheckedKey) and None not in (key.object, stat.identity) and key.object != stat.identity:
        raise os_error(errno.ESTALE, key)
    return stat


def checked_listing(answer: object) -> Iterator[ObjectStat]:
    """Yield the objects of a result of `list`.

    Raises:
        BackendProtocolError: it is not iterable, or not of ObjectStat.
    """
    if not isinstance(answer, Iterable):
        raise BackendProtocolError(f"list() answered {answer!r}, which is not iterable{forgotten(answer)}")
    for entry in answer:
        if not hasattr(entry, "key") or not isinstance(getattr(entry, "size", None), int):
            raise BackendProtocolError(f"list() answered with {entry!r}, which is not an ObjectStat")
        yield entry
