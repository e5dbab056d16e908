"""The reason of a wait, stated by the waiter before it sleeps.

Waits of C have a kind, a file and a range; those of the engine have a Reason, which the record of the wait refers to.
It is made once for a wait that really blocks and is read by reports only: they call its `owner` with the state at that
moment (wait_snapshot.py).

`during` runs the waiting call: it is on record while it runs, and a slice of a trace. `during` is in C around the call,
so the record ends on every way out, at whatever bytecode an interrupt strikes.
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
    from .wait_snapshot import Owner, WaitSnapshot

__all__ = ["ENDS", "Reason", "during", "of_file"]

T = TypeVar("T")

ENDS = "it goes on when that is over; Volume.abort or an interrupt ends the waiting, and what runs goes on"


@dataclass(slots=True, eq=False)
class Reason:
    """The awaited thing of a wait.

    Attributes:
        what: a noun: "an fsync", "room for 4096 bytes".
        owner: returns its current owner.
        ends: the event that ends the wait without any action.
        named: the flusher reports a hang of the awaited call itself: then the wait needs no line.
        kind: its name in a trace; "reason": `what`.
    """

    what: str
    volume: NativeVolume
    owner: Callable[[WaitSnapshot], Owner | None]
    key: Key | None = None
    file: int = 0
    start: int = 0
    end: int = 0
    ends: str = ENDS
    named: Callable[[], bool] = bool
    kind: int = WAITS["reason"]


def during(reason: Reason, call: Callable[[], T], *, inside: bool = False) -> T:
    """Make a call that waits for this; `inside`: it is a call of the volume's backend."""
    volume, recorder = reason.volume, reason.volume.cache.recorder
    text = recorder.text(reason.what) if recorder.on and reason.kind == WAITS["reason"] else 0
    return native.waiting(
        volume.cache.core,
        volume.address,
        reason.file,
        reason.kind,
        reason.start,
        reason.end,
        text,
        reason,
        call,
        inside,
    )


def of_file(file: EngineFile, what: str, owner: Callable[[WaitSnapshot], Owner | None], **more: Any) -> Reason:
    """Return a reason that concerns one file."""
    return Reason(what, file.volume.native, owner, key=file.key, file=file.native.id, **more)
