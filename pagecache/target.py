"""Backends from a name that a person gives: a URL, or a factory in a module; and calls of them with a time limit."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pagecache.backends.passing import PassingBackend
from pagecache.backends.plain import completed, given, why_no_backend
from pagecache.backends.protocol import Backend
from pagecache.backends.url import BUILT_IN, GROUP, backend_from_url, meant_by
from pagecache.engine.blocking import blocking
from pagecache.engine.loop import CacheLoop
from pagecache.engine.runner import Job

T = TypeVar("T")
FRAMES = 3  # of a thread that hangs, in an error
PYTHON = "python"
PACKAGE = os.path.dirname(__file__) + os.sep
LIBRARY = os.path.dirname(os.__file__) + os.sep


def is_ours(path: str) -> bool:
    """Return whether a file is part of this package, or of Python itself."""
    return path.startswith((PACKAGE, "<frozen")) or (path.startswith(LIBRARY) and "-packages" not in path)


def place(error: BaseException) -> str:
    """Return where code raised that belongs neither to this package nor to Python, as " (in name at file:line)"; "" if
    none did. The causes of the error count too.
    """
    found, cause = "", error.__cause__
    for frame in traceback.extract_tb(error.__traceback__):
        if not is_ours(frame.filename):
            found = f" (in {frame.name} at {frame.filename}:{frame.lineno})"
    return found if cause is None else place(cause) or found


class BadTarget(Exception):
    """The name gives no backend; the text is a sentence with the reason."""


def options_of(texts: Sequence[str]) -> dict[str, Any]:
    """Parse options `name=value`; a value is read as Python if it is a number, True, False, None or quoted.

    Raises:
        BadTarget: one is not of that form.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise BadTarget(f"--option {text!r} is not of the form name=value")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


class Target:
    """A source of backends.

    Args:
        name: `SCHEME:REST`, `module:factory` or `python:module:factory`. A factory is anything that can be called for a
            backend (a class, a function), or the backend itself.
        options: keywords of the factory.
        more: schemes of other commands, for the error on an unknown scheme.
        factory: is called in place of the one that the name gives, and makes a backend each time.

    Attributes:
        kind: the class of its backends.

    Raises:
        BadTarget: no such scheme or module, or no such name in it.
    """

    def __init__(
        self, name: str, options: dict[str, Any], more: Collection[str] = (), factory: Callable[[], Any] | None = None
    ) -> None:
        self.name = name
        self.kind = ""
        self.more = frozenset(more)
        self._options = options
        self._loop: CacheLoop | None = None
        self._shared = None if factory is None else False
        self._factory: Callable[[], Any]
        scheme, colon, rest = name.partition(":")
        if factory is not None:
            self._factory = factory
        elif colon and scheme in BUILT_IN.keys() | {point.name for point in entry_points(group=GROUP)}:
            self._factory = lambda: backend_from_url(name, **options)
        elif scheme == PYTHON:
            self._factory = self._from_module(rest)
        else:
            self._factory = self._from_module(name)

    def _from_module(self, text: str) -> Callable[[], Any]:
        module_name, colon, path = text.partition(":")
        if (
            module_name.endswith(".py")
            or not colon
            or not path
            or not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")])
        ):
            raise BadTarget(self._unreadable(module_name, colon, path))
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise BadTarget(f"{module_name} cannot be imported: {error}") from error
            raise BadTarget(f"no module {module_name!r} (looked for in {os.getcwd()} and the Python path)") from None
        except (Exception, SystemExit) as error:
            raise BadTarget(
                f"{module_name} cannot be imported: {type(error).__name__}: {error}{place(error)}"
            ) from error
        for part in path.split("."):
            if not hasattr(found, part):
                raise BadTarget(f"{module_name} has no {path!r}")
            found = getattr(found, part)
        if callable(found):
            return lambda: found(**self._options)
        if self._options:
            raise BadTarget(f"{text} is {found!r}, which takes no --option: it cannot be called")
        return lambda: found

    def _unreadable(self, module_name: str, colon: str, path: str) -> str:
        """Return why the text is no name, and a likely intended one."""
        if module_name.endswith(".py"):
            return f"{self.name!r}: the name of a module is without .py: {module_name.removesuffix('.py')}:{path}"
        if not path and all(part.isidentifier() for part in module_name.split(".")):
            if colon or self.name.startswith(f"{PYTHON}:"):
                return f"{self.name!r}: which factory of {module_name}? Write {PYTHON}:{module_name}:factory"
        known = ", ".join(f"{scheme}:" for scheme in sorted(BUILT_IN.keys() | self.more))
        schemes = [scheme for scheme in ("dir", "path") if scheme == "dir" or scheme in self.more]
        meant = meant_by(self.name) if self.name.startswith(("file:", "/", ".", "~")) else ""
        if os.path.isdir(self.name):
            meant = f"; did you mean {' or '.join(f'{scheme}:{self.name}' for scheme in schemes)}?"
        return f"{self.name!r} is neither a URL ({known} ...) nor module:factory{meant}"

    def make(self) -> Backend:
        """Make a backend, seen by threads. A backend that the factory returns each time is not closed.

        Raises:
            BadTarget: there is none; names the reason.
        """
        made = self._call()
        if self._shared is None:
            self._shared = self._gives(made)
        if self._loop is not None and not self._loop.alive():
            self._loop = None
        backend = blocking(made, self._start_loop)
        return _Unclosed(backend) if self._shared else backend

    def _gives(self, made: Any) -> bool:
        """Return whether the factory returns this backend each time. Another backend that it returns is closed: it
        would be a second user of the store, which may have read the current state, and rely on that later.
        """
        try:
            another = self._call()
        except BadTarget:  # while this backend exists
            return False
        if given(another) is not given(made):
            with contextlib.suppress(Exception):
                blocking(another, self._start_loop).close()
        return given(another) is given(made)

    def _call(self) -> Any:
        try:
            made = self._factory()
        except (Exception, SystemExit) as error:
            raise BadTarget(
                f"{self.name}: no backend could be made: {type(error).__name__}: {error}{place(error)}"
            ) from error
        self.kind = type(made).__name__
        return checked(self.name, made)

    def _start_loop(self) -> CacheLoop:
        if self._loop is None:
            self._loop = CacheLoop("check-backend")
        return self._loop

    def forget_loop(self) -> None:
        """Drop a loop in which a coroutine hangs: the next backend gets another."""
        self._loop = None


def checked(name: str, made: Any) -> Any:
    """Return the backend that a factory gave, with the defaults of `Backend` for missing methods.

    Raises:
        BadTarget: it is no backend; names the missing parts.
    """
    what = f"{name} gave {made!r}"
    if isinstance(made, type):
        raise BadTarget(f"{what}, which is a class: name something that makes an object of it")
    if why := why_no_backend(made):
        raise BadTarget(f"{what}, which is no Backend: it {why}")
    return completed(made, name)


class _Unclosed(PassingBackend):
    """One backend that is used repeatedly."""

    @property
    def name(self) -> Any:
        """Name of the store, if it has one: its bytes are those of the inner backend."""
        return self.inner.name  # type: ignore[attr-defined]

    def close(self) -> None:
        pass


class Hung(Exception):
    """The call has not returned in time; the message has its position."""


def within(
    seconds: float, call: Callable[[], T], name: str, run: Callable[[Callable[[], None]], None] | None = None
) -> T:
    """Return the result of a call, or raise its exception. A thread of this name makes it, through `run` if given.

    Raises:
        Hung: it has not returned after `seconds`.
    """
    job = Job(call)
    thread = threading.Thread(target=job.run if run is None else partial(run, job.run), name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if not job.finished():
        raise Hung(f"no return within {seconds:g} s; it is at {_position(thread)}")
    return job.wait(lambda: None)


def _position(thread: threading.Thread) -> str:
    """Return the innermost frames of a thread, innermost first."""
    frame = sys._current_frames().get(thread.ident or 0)
    found = traceback.extract_stack(frame)[-FRAMES:] if frame is not None else []
    return " < ".join(f"{Path(entry.filename).name}:{entry.lineno} {entry.name}" for entry in reversed(found))
