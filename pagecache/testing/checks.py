"""How the conformance suite is written, so that it runs under pytest and without it.

A backend author has pytest and subclasses the suite; `pagecache check-backend` runs the same checks where there is
none. What pytest has to be told (fixtures, parameters, skips) is told through this module, and is known here as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Self, TypeVar

pytest: Any
try:
    import pytest
except ModuleNotFoundError:
    pytest = None

__all__ = ["Check", "CheckRun", "Skipped", "checks_of", "each", "fixture", "raises", "same", "skip"]

Function = TypeVar("Function", bound=Callable[..., Any])

Skipped: type[BaseException]
"""What `skip` raises: the backend does not offer what the check is about."""
if pytest is not None:
    Skipped = pytest.skip.Exception
else:

    class _Skipped(Exception):
        pass

    Skipped = _Skipped

_fixtures: dict[str, Callable[..., Any]] = {}


def fixture(function: Function) -> Function:
    """Something that checks ask for by name: a method that returns it, or yields it and then cleans up."""
    _fixtures[function.__name__] = function
    return pytest.fixture(function) if pytest is not None else function


def each(name: str, values: Sequence[object]) -> Callable[[Function], Function]:
    """The check is made once with each of the values."""

    def decorate(function: Function) -> Function:
        vars(function)["each"] = (name, tuple(values))
        return pytest.mark.parametrize(name, values)(function) if pytest is not None else function

    return decorate


def skip(reason: str) -> NoReturn:
    """End a check that does not apply, and say why."""
    raise Skipped(reason)


class Raised:
    """What the body of `raises` raised, once it has."""

    value: Any = None


@contextmanager
def raises(expected: type[BaseException]) -> Iterator[Raised]:
    """The body has to raise this exception."""
    raised = Raised()
    try:
        yield raised
    except expected as error:
        raised.value = error
        return
    raise AssertionError(f"{expected.__name__} was not raised")


def same(found: object, expected: object) -> None:
    """Both are equal; bytes are said by where they differ first."""
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        found, expected = sorted(map(repr, found.items())), sorted(map(repr, expected.items()))
    if isinstance(found, list) and isinstance(expected, list):
        missing, more = ([x for x in a if x not in b] for a, b in ((expected, found), (found, expected)))
        raise AssertionError(f"missing: {_short(missing)}; too much: {_short(more)}; {len(expected)} are right")
    if not isinstance(found, bytes | bytearray) or not isinstance(expected, bytes | bytearray):
        raise AssertionError(f"{_short(found)} where {_short(expected)} is right")
    at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    sizes = "" if len(found) == len(expected) else f"{len(found)} bytes where {len(expected)} are right"
    if at is None:
        raise AssertionError(sizes)
    wrong = sum(a != b for a, b in zip(found, expected, strict=False))
    first = f"{wrong} wrong bytes, the first at {at}: {found[at]:#04x} where {expected[at]:#04x} is right"
    raise AssertionError(f"{sizes}; {first}" if sizes else first)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a suite, with the value that it is made with.

    Attributes:
        name: of the method.
        label: what tells it from the same check with other values; "" where there is one only.
    """

    name: str
    label: str
    values: tuple[tuple[str, object], ...]


def checks_of(suite: type) -> Iterator[Check]:
    """All checks of a suite, in the order in which they are written, base classes first."""
    names = [name for cls in reversed(suite.__mro__) for name in vars(cls) if name.startswith("test_")]
    for name in dict.fromkeys(names):
        parameter, values = getattr(getattr(suite, name), "each", ("", ()))
        if not values:
            yield Check(name, "", ())
        for value in values:
            yield Check(name, str(value), ((parameter, value),))


class CheckRun:
    """One check, with what it asks for: made from the fixtures of the suite, and cleaned up at the end."""

    def __init__(self, suite: Any, check: Check, **given: object) -> None:
        self._suite = suite
        self._check = check
        self._made = {**given, **dict(check.values)}
        self._running: list[Iterator[Any]] = []

    def call(self) -> None:
        """Make the check.

        Raises:
            Skipped: it does not apply.
        """
        method = getattr(self._suite, self._check.name)
        method(**{name: self._make(name) for name in inspect.signature(method).parameters})

    def _make(self, name: str) -> Any:
        if name not in self._made:
            function = _fixtures[name]
            wanted = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            made = function(self._suite, **{parameter: self._make(parameter) for parameter in wanted})
            if inspect.isgenerator(made):
                self._running.append(made)
                made = next(made)
            self._made[name] = made
        return self._made[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._running:
            next(self._running.pop(), None)
