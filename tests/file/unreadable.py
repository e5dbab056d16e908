"""Exceptions that a backend should never raise: reading them raises, lies, or never ends."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from pagecache import BackendError

__all__ = ["ERRORS", "Odd", "OddError"]


class Odd:
    """An object whose every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is not to be had")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("equal to nothing")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Stop(BaseException):
    """An exception raised in the middle of `str()`; like KeyboardInterrupt it is no subclass of Exception."""


class Loud(str):
    """A text whose methods raise."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no format")


class Code(int):
    """An errno that equals nothing."""

    def __gt__(self, other: int) -> bool:
        raise RuntimeError("greater than nothing")

    __lt__ = __gt__


class OddError(OSError):
    """An error of EIO whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("this str() raises")

    __repr__ = __str__

    @property
    def strerror(self) -> str:  # type: ignore[override]
        raise RuntimeError("this strerror raises")


class OddPlain(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this str() raises")

    __repr__ = __str__


class OddStop(OddPlain):
    def __str__(self) -> str:
        raise Stop

    __repr__ = __str__


class OddText(Exception):
    def __str__(self) -> Any:
        return 7


class LoudText(Exception):
    def __str__(self) -> str:
        return Loud("loud")


class OddAttributes(BackendError):
    """An error of EIO with attributes that raise."""

    def __init__(self) -> None:
        OSError.__init__(self, errno.EIO, "odd attributes")

    @property
    def odd(self) -> Any:
        raise RuntimeError("not to be had")

    retry = retry_after = max_write = kept = odd


class OddValues(BackendError):
    """An error of EIO with attributes of odd types."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "odd values", retry=True)
        self.retry: Any = Odd()
        self.retry_after: Any = float("nan")
        self.max_write: Any = "8192"
        self.kept: Any = Odd()


class HiddenErrno(OSError):
    @property
    def errno(self) -> int:  # type: ignore[override]
        raise RuntimeError("this errno raises")


def with_errno(code: object) -> OSError:
    error = OSError("with an odd errno")
    error.errno = code  # type: ignore[assignment]
    return error


ERRORS: dict[str, Callable[[], Exception]] = {
    "str() raises": OddPlain,
    "str() and strerror of an OSError raise": lambda: OddError(errno.EIO, "x"),
    "str() raises what is no Exception": OddStop,
    "str() answers a number": OddText,
    "str() answers a subclass": LoudText,
    "str() is huge": lambda: RuntimeError("x" * 3_000_000),
    "OSError()": OSError,
    "OSError of a text": lambda: OSError("only a text"),
    "errno None": lambda: with_errno(None),
    "errno is a text": lambda: with_errno("EIO"),
    "errno is a list": lambda: with_errno([5]),
    "errno compares with nothing": lambda: with_errno(Code(5)),
    "errno is odd": lambda: with_errno(Odd()),
    "errno is negative": lambda: with_errno(-5),
    "errno raises": lambda: HiddenErrno("hidden"),
    "attributes raise": OddAttributes,
    "attributes are odd": OddValues,
}
