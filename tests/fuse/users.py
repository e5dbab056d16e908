"""Calls as another user, for tests that run as root: in a forked child without privileges."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["NOBODY", "as_nobody", "needs_root"]

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="calls as another user need root")


def _result(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return "result", call()
    except OSError as error:
        return "errno", error.errno
    except BaseException:
        return "failure", traceback.format_exc()


def as_nobody(call: Callable[[], Any]) -> Any:
    """Return the result of a call by a user without privileges; the errno of its OSError as a negative number."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            with open(theirs, "wb") as file:
                pickle.dump(_result(call), file)
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as file:
        kind, value = pickle.load(file)
    os.waitpid(child, 0)
    assert kind != "failure", value
    return -value if kind == "errno" else value
