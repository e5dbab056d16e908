"""The version that storage gives a file after the cache's own writes is known when a flush, fsync or close returns.

    worker 1   write_from ... acknowledged, wakes the waiters
    closer                                  nothing is left .......... asks for the version
    worker 2                                   finds that the pass is over         file.stat()

While one of the cache's own calls may still change the file, an answer is inconclusive. An unknown version then hides
another client's change from the next open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache.engine.io import collector

from ..stores import WAIT_LIMIT_S
from .rig import KEY, PAGE, Rig, Task, pattern

Make = Callable[..., Rig]
DATA, OTHER = pattern(4 * PAGE), pattern(4 * PAGE, seed=9)


@pytest.mark.parametrize("call", ["close", "flush"])
def test_the_version_is_queried_though_the_thread_of_the_last_request_does_nothing_more(
    make: Make, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The pass has the token until some thread finds that nothing is left of it: the call waits for that.
    [T-30, 2.19]
    """
    rig = make({KEY: DATA}, limits={"durable_writes": True})
    returned = threading.Event()
    acknowledged = collector.acknowledged

    def sent(*answer: Any) -> None:
        acknowledged(*answer)
        assert returned.wait(WAIT_LIMIT_S)

    monkeypatch.setattr(collector, "acknowledged", sent)
    file = rig.open("r+b")
    file.pwrite(DATA[:PAGE], PAGE)
    rig.backend.forget_calls()
    try:
        Task(getattr(file, call)).result()
        assert len(rig.backend.seen("file_stat")) == 1
        file.close()
    finally:
        returned.set()
    rig.backend.change_remotely(KEY, OTHER)
    with rig.volume.open(KEY) as late:
        assert late.pread(len(OTHER), 0) == OTHER
