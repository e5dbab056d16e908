"""Why somebody waits, said by himself before he sleeps.

Waits of C have a kind, a file and a range; those of the engine have a Reason, which the record of the wait refers to.
It is made once for a wait that really blocks and is looked at by reports alone: they ask for its `owner`, with the
state of things at that moment (look.py).

`during` runs what waits: on record while it does, and a slice of a trace. It stands in C around the call, so the record
goes on every way out, whatever an interrupt strikes between two bytecodes.
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
    from .look import Look, Owner

__all__ = ["ENDS", "Reason", "during", "of_file"]

T = TypeVar("T")

ENDS = "it goes on when that is over; Volume.abort or an interrupt ends the waiting, and what runs goes on"


@dataclass(slots=True, eq=False)
class Reason:
    """What somebody waits for.

    Attributes:
        what: a noun: "an fsync", "room for 4096 bytes".
        owner: who has it, when somebody asks.
        ends: what happens without anybody doing anything.
        named: whether the flusher names what hangs by itself, should it: then the wait is not worth a line more.
        kind: what a trace calls it; "reason": `what`.
    """

    what: str
    volume: NativeVolume
    owner: Callable[[Look], Owner | None]
    key: Key | None = None
    file: int = 0
    start: int = 0
    end: int = 0
    ends: str = ENDS
    named: Callable[[], bool] = bool
    kind: int = WAITS["reason"]


def during(reason: Reason, call: Callable[[], T]) -> T:
    """Call what waits for this."""
    volume, recorder = reason.volume, reason.volume.cache.recorder
    text = recorder.text(reason.what) if recorder.on and reason.kind == WAITS["reason"] else 0
    return native.waiting(
        volume.cache.core, volume.address, reason.file, reason.kind, reason.start, reason.end, text, reason, call
    )


def of_file(file: EngineFile, what: str, owner: Callable[[Look], Owner | None], **more: Any) -> Reason:
    """A reason that concerns one file."""
    return Reason(what, file.volume.native, owner, key=file.key, file=file.native.id, **more)
