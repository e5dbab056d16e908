"""A server that is away for a while raises nothing: every call is tried by time."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pagecache import Event, PageCache, Volume
from pagecache.backends import S3Backend

from ..file.rig import Task, eventually
from .servers import Server, new_bucket

OLD, NEW = os.urandom(100_000), os.urandom(100_000)


def written(volume: Volume) -> None:
    with volume.open("new", "wb") as file:
        file.write(NEW)
        file.fsync()


def read(volume: Volume) -> bytes:
    with volume.open("old", "rb") as file:
        return file.read()


CALLS: dict[str, Callable[[Volume], object]] = {
    "open": lambda volume: volume.open("old", "rb").close(),
    "stat": lambda volume: volume.stat("old"),
    "list": lambda volume: list(volume.list()),
    "read": read,
    "write": written,
    "remove": lambda volume: volume.remove("useless"),
    "rename": lambda volume: volume.rename("moved", "there"),
}


@pytest.mark.parametrize("outage", ["short", pytest.param("long", marks=pytest.mark.slow)])
def test_a_server_that_restarts_raises_nothing(new_server: Callable[[str], Server], outage: str) -> None:
    """A short outage ends when every call has failed, a long one when it is reported. [2.14, 2.27]"""
    server = new_server("ministack")
    with new_bucket(server) as bucket, PageCache("64MiB") as cache:
        for key in ("old", "useless", "moved"):
            bucket.put(key, OLD)
        reported: list[Event] = []
        cache.subscribe(lambda event: reported.append(event) if event.kind == "stalled" else None)
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=server.endpoint))
        server.kill()
        tasks = {call: Task(run, volume) for call, run in CALLS.items()}
        if outage == "short":
            one_after_another = {"open", "read"}  # they are for one name
            trying = len(tasks) - len(one_after_another) + 1
            eventually(lambda: sum("next try" in wait.what for wait in cache.waits()) == trying)
        else:
            eventually(lambda: reported)
        early = [call for call, task in tasks.items() if task.finished.is_set()]
        server.start()
        results = {call: task.result(90.0) for call, task in tasks.items()}
        assert early == []
        assert results["read"] == OLD
        assert bucket.keys() == ["new", "old", "there"]
        assert bucket.get("new") == NEW
