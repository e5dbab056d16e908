"""Fixtures, parameters and skips of the conformance suite, so that it runs under pytest and without it.

A backend author has pytest and subclasses the suite; `pagecache check-backend` runs these checks without pytest. All
marks for pytest (fixtures, parameters, skips) are set through this module, which implements them as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

pytest: Any
try:
    import pytest
except ModuleNotFoundError:
    pytest = None

Function = TypeVar("Function", bound=Callable[..., Any])

Skipped: type[BaseException]
"""Exception of `skip`: the backend does not offer the feature under check."""
if pytest is not None:
    Skipped = pytest.skip.Exception
else:

    class _Skipped(Exception):
        pass

    Skipped = _Skipped

_fixtures: dict[str, Callable[..., Any]] = {}


def fixture(function: Function) -> Function:
    """Mark a method that returns, or yields and then cleans up, a value that checks request by name."""
    _fixtures[function.__name__] = function
    return pytest.fixture(function) if pytest is not None else function


def each(name: str, values: Sequence[object]) -> Callable[[Function], Function]:
    """Run the check once with each of the values."""

    def decorate(function: Function) -> Function:
        vars(function)["each"] = (name, tuple(values))
        return pytest.mark.parametrize(name, values)(function) if pytest is not None else function

    return decorate


def promise(capability: str, rule: str) -> Callable[[Function], Function]:
    """Mark a check: the feature of a backend that it belongs to, and the source of the promise in its docstring."""

    def decorate(function: Function) -> Function:
        vars(function)["promise"] = (capability, rule)
        return function

    return decorate


def skip(reason: str) -> NoReturn:
    """End a check that does not apply, with the reason."""
    raise Skipped(reason)


class Raised:
    """The exception from the body of `raises`, once raised."""

    value: Any = None


@contextmanager
def raises(expected: type[BaseException]) -> Iterator[Raised]:
    """Check that the body raises this exception."""
    raised = Raised()
    try:
        yield raised
    except expected as error:
        raised.value = error
        return
    raise AssertionError(f"{expected.__name__} was not raised")


def same(found: object, expected: object) -> None:
    """Check that both are equal; for bytes, report the first difference."""
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
    """One check of a suite, with its value.

    Attributes:
        name: of the method.
        label: distinguishes the values of one method; "" if there is only one.
        capability: the feature of a backend that it belongs to.
        sentence: the promise, the first paragraph of the docstring.
        rule: the source of the promise.
    """

    name: str
    label: str
    values: tuple[tuple[str, object], ...]
    capability: str
    sentence: str
    rule: str


def checks_of(suite: type) -> Iterator[Check]:
    """Yield all checks of a suite, in the order of their definition, base classes first."""
    names = [name for cls in reversed(suite.__mro__) for name in vars(cls) if name.startswith("test_")]
    for name in dict.fromkeys(names):
        method = getattr(suite, name)
        sentence = " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())
        capability, rule = getattr(method, "promise", ("", ""))
        parameter, values = getattr(method, "each", ("", ()))
        if not values:
            yield Check(name, "", (), capability, sentence, rule)
        for value in values:
            yield Check(name, str(value), ((parameter, value),), capability, sentence, rule)


def run_check(suite: Any, check: Check, **given: object) -> None:
    """Run a check with its fixtures: made before the check, and cleaned up at the end.

    Raises:
        Skipped: it does not apply.
    """
    made: dict[str, Any] = {**given, **dict(check.values)}

    def value(name: str) -> Any:
        if name not in made:
            made[name] = called(partial(_fixtures[name], suite))
            if inspect.isgenerator(running := made[name]):
                made[name] = next(running)
                stack.callback(next, running, None)
        return made[name]

    def called(function: Callable[..., Any]) -> Any:
        return function(**{name: value(name) for name in inspect.signature(function).parameters})

    with ExitStack() as stack:
        called(getattr(suite, check.name))
