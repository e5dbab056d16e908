"""Answers of a file system's calls, call by call, so that two file systems can be compared: a mount and tmpfs.

    def check(top, record):    top     an empty folder of the file system
                               record  takes the answer of each call: the name of an errno, or a value

A check makes the same calls on both. If they answer differently, one of them is wrong, or the difference is a known one
(test_calls.py lists those with their reasons). Inode numbers and times are not compared directly: the checks record
whether they are equal, or have moved. The checks are in calls_about_names.py, calls_about_attributes.py and
calls_about_bytes.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["CHECKS", "LIBC", "Check", "Recorder", "answers", "check", "libc", "long", "opened"]

LIBC = ctypes.CDLL(None, use_errno=True)


class Recorder:
    """The answers, in the order of the calls."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}

    def __call__(self, what: str, call: Callable[[], object]) -> object:
        """Make a call, and keep its answer."""
        try:
            answer = call()
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, error.errno)
        except ValueError as error:
            answer = type(error).__name__
        number = sum(known == what or known.startswith(f"{what} #") for known in self.answers)
        self.answers[f"{what} #{number + 1}" if number else what] = answer
        return answer

    def nothing(self, what: str, call: Callable[[], object]) -> None:
        """Make a call whose answer is irrelevant, such as the number of a descriptor, which is closed."""

        def quiet() -> object:
            answer = call()
            if isinstance(answer, int) and not isinstance(answer, bool):
                os.close(answer)
            return None

        self(what, quiet)


Check = Callable[[Path, Recorder], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def answers(name: str, top: Path) -> dict[str, object]:
    """The answers of a check's calls in an empty folder."""
    record = Recorder()
    before = os.umask(0o022)
    try:
        CHECKS[name](top, record)
    finally:
        os.umask(before)
    return record.answers


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def libc(name: str, *arguments: object) -> int:
    """Make a call that Python has no name for.

    Raises:
        OSError: of the call.
    """
    result: int = getattr(LIBC, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def long(number: int) -> ctypes.c_longlong:
    return ctypes.c_longlong(number)
