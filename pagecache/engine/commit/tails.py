"""Tails: stored bytes past the end that are not part of the file.

A failed direct write, or one whose caller does not wait for its end, may have stored more than was acknowledged; so may
a failed write-back of discarded bytes, if the discard could not cut them off (sizes.py). Such bytes past the valid end
(`remote_size`) are a *tail*: they would appear as soon as something extends the object, between the old end and the new
one, where zeros are promised. So the tail is cut off before that, and before anything counts as saved: otherwise the
stored object would be longer than the file. It has three states:

    noted   by CORE, as the write ends and still has its lock (direct.c), or by the discard, which has the token: no
            pass writes anything back, no direct write begins to send, and the engine is entered with the token, after
            its current holder
    owed    with the token nothing is in flight: the cut becomes a debt of the file, which every call pays first
    cut     paid (owed.py), or left there by a backend that cannot cut

The next holder of the token turns noted tails into debts: a queued commit or truncate, or the work that CORE requested.
A running pass ends with the requests it has sent. A reconnect owes the cut to the next backend: of noted and owed
tails, and while a direct write runs.

A tail is not owed at once: a request that pays in the middle of a pass would cut off bytes that its neighbours have
just stored.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..report.notices import cause
from .owed import Step

if TYPE_CHECKING:
    from ..file import EngineFile


def owe(file: EngineFile) -> bool:
    """Turn a noted tail into a debt; return whether there was one. The token is held: nothing is in flight."""
    tail = file.tail()
    if tail:
        if not file.owed.owes("truncate"):  # the last owed truncate ends at the valid end, too
            file.owe(Step("truncate", (file.remote_size,), behind=True, tail=True))
        file.tail_owed(tail)  # last: from now on passes run, and pay
    return tail != 0


def settle(file: EngineFile) -> None:
    """Owe and pay noted tails, before any other work under the token; log a failure. The token is held, on a thread
    of the volume.
    """
    try:
        if owe(file):
            file.owed.pay_now()
    except Exception as error:
        what = f"cutting stored bytes from {file.remote_size} on, behind the end, failed: {cause(error)}"
        next = "it is made again before the file's next call"
        file.volume.say(logging.WARNING, "calls that are owed", what, next, file.key)


def outlast(file: EngineFile) -> None:
    """Wait until `settle` has run. For a caller that has just left a tail, and still has the inode lock."""
    file.settled(lambda: None)


def cut(file: EngineFile) -> None:
    """Wait until no bytes are left past the end. The caller holds the inode lock, and sends nothing yet.

    Raises:
        OSError: the backend refuses the cut; it stays owed. ShutdownError: the volume was aborted.
    """
    file.settled(lambda: file.owed.pay_now())  # raises the error that `settle` only logs
