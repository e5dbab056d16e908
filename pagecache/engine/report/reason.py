"""What a caller of the engine waits for, stated before it sleeps.

Waits of C have a kind, a file and a range; those of the engine have a Reason, which the record of the wait refers to.
It is made once for a wait that really blocks, and is read by reports only (waits.py). A new wait needs one.

`during` runs the waiting call: it is on record while it runs. It is in C around the call, so the record ends on every
way out, at whatever bytecode an interrupt strikes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ... import native
from ...errors import Key
from ...native import WAITS

if TYPE_CHECKING:
    from ...native import NativeVolume
    from ..file import EngineFile

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Reason:
    """The awaited thing of a wait.

    Attributes:
        what: a noun: "an fsync", "room for 4096 bytes".
        timed: a time has to pass, and no call.
        own: the method of the volume's backend that the waiter is in itself.
        kind: its name in a trace; "reason": `what`.
    """

    what: str
    volume: NativeVolume
    key: Key | None = None
    file: int = 0
    start: int = 0
    end: int = 0
    timed: bool = False
    own: str | None = None
    kind: int = WAITS["reason"]


def during(reason: Reason, call: Callable[[], T]) -> T:
    """Make a call that waits for this."""
    volume = reason.volume
    result: T = native.waiting(
        volume.cache.core,
        volume.address,
        reason.file,
        reason.kind,
        reason.start,
        reason.end,
        reason,
        call,
        reason.own is not None,
    )
    return result


def of_file(file: EngineFile, what: str, **more: Any) -> Reason:
    """Return a reason that concerns one file."""
    return Reason(what, file.volume.native, key=file.key, file=file.id, **more)
