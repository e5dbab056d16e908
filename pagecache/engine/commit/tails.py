"""What is stored behind the end, and is no part of the file.

A direct write that fails, or whose caller does not wait for its end, may have stored more than was acknowledged; so may
a hand-over that failed and was given up, where the discard could not cut it off (sizes.py). Where that lies behind what
counts (`remote_size`) it is a *tail*: it would show as soon as something makes the object longer, between the old end
and the new one, where zeros are promised. So it is cut off before that, and before anything counts as saved: the stored
object would be longer than the file. It has three states:

    noted   by CORE, as the write ends and has its lock still (direct.c), or by the discard, which has the token: no
            pass hands anything over, no direct write begins to send, and the engine is entered with the token, behind
            whoever has it
    owed    with the token nothing is in flight: the cut can become what the file owes, which everybody pays first
    cut     paid (owed.py)

Noted tails become owed by whoever has the token next: the commit or truncate that is in line, or the work that CORE has
asked for. A pass that runs ends with what it has sent. A reconnect owes the cut to the next backend: of what is noted,
of what is owed, and where a direct write runs.

Reads do not wait for a cut that is owed: it takes nothing away that they could ask for.

Not owed at once: a request that pays in the middle of a pass would cut off what its neighbours have just stored.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..report.notices import cause
from .owed import Step

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = ["Tails"]


class Tails:
    """The tails of one file."""

    def __init__(self, file: EngineFile) -> None:
        self._file = file

    def __bool__(self) -> bool:
        """Whether one is noted: of those that are owed the debts know."""
        return self._file.native.tail() != 0

    def owe(self) -> bool:
        """The token is held: nothing is in flight. What is noted is owed from here on; whether there was any."""
        file = self._file
        tail = file.native.tail()
        if tail:
            if not file.owed.owes("truncate"):  # the last that is owed leaves what counts, too
                file.owed.add(Step("truncate", (file.native.remote_size,), behind=True))
            file.native.tail_owed(tail)  # last: from here on passes go on, and pay
        return tail != 0

    def settle(self) -> None:
        """The token is held, on a thread of the volume: before anything else that needs it, what is noted is owed and
        paid; or the log says why not.
        """
        file = self._file
        try:
            if self.owe():
                file.owed.pay_now()
        except Exception as error:
            what = f"cutting what is stored from {file.native.remote_size} on, behind the end, failed: {cause(error)}"
            next = "it is made again before the file's next call"
            file.volume.say(logging.WARNING, "calls that are owed", what, next, file.key)

    def outlast(self) -> None:
        """Wait until `settle` has had its turn. For who has just left a tail, and has the inode lock still."""
        self._file.settled(lambda: None)

    def cut(self) -> None:
        """Return once nothing is left behind the end. The caller holds the inode lock, and sends nothing yet.

        Raises:
            OSError: the backend refuses the cut; it stays owed. ShutdownError: the volume was aborted.
        """
        self._file.settled(self._file.owed.pay_now)  # what `settle` could not
