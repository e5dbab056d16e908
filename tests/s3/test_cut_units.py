"""A truncate or a hole cuts units that were sent: each is sent again with its newest bytes, and no other one is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import CachedFile, RetryPolicy, Volume

from .requests import counted, is_for
from .servers import PART, Bucket

SERVERS = ("moto_small",)
UNITS = 6
OLD = b"old!" * (UNITS * PART // 4)
AT = 2 * PART
"""The unit that is cut."""
CACHE = {
    "capacity": "1MiB", "page_size": 4096, "max_folio": "4KiB", "flush_interval": 3600,
    "retry": RetryPolicy(attempts=60, first_delay=0.01, max_delay=0.05),
}  # fmt: skip
VOLUME = {"read_ahead": 0}
CALM: dict[str, Any] = {"dirty_background": 0.8, "dirty_limit": 0.9}
TIGHT: dict[str, Any] = {"dirty_background": 0.0, "dirty_limit": 1 / 256}


class Model:
    """A file beside the bytes that it must have."""

    def __init__(self, volume: Volume, file: CachedFile, proxy: FaultyProxy, content: bytes) -> None:
        self.volume, self.file, self.proxy = volume, file, proxy
        self.content = bytearray(content)
        self._choose = random.Random(7)

    def _write(self, at: int, length: int) -> None:
        data = self._choose.randbytes(length)
        self.file.pwrite(data, at)
        self.content.extend(bytes(max(0, at + length - len(self.content))))
        self.content[at : at + length] = data

    def whole(self) -> None:
        """The whole unit is acknowledged, and in memory only."""
        self._write(AT, PART)
        self.volume.cache.configure(**CALM)
        self.file.sync_range(AT, PART)

    def staged(self, at: int = AT + 20_000, length: int = 10_000) -> None:
        """Some bytes of it are acknowledged, and in the spool."""
        self._write(at, length)
        self.volume.cache.configure(**TIGHT)
        self.file.sync_range(0, len(self.content))
        self.volume.cache.configure(**CALM)
        self.volume.drop_clean(self.file.key)
        assert self.file.stats().to_dict()["staged"]

    def spooled(self) -> None:
        """The whole unit is acknowledged, and in the spool."""
        self.volume.cache.configure(dirty_background=0.0, dirty_limit=0.1)  # first: a whole unit is sent at once
        self.staged(AT, PART)

    def truncate(self, size: int) -> None:
        self.file.truncate(size)
        self.content[size:] = bytes(max(0, size - len(self.content)))

    def punch(self, at: int, length: int) -> None:
        self.file.punch_hole(at, length)
        end = min(at + length, len(self.content))
        self.content[at:end] = bytes(max(0, end - at))

    def fail(self, request: str, times: int) -> None:
        """Let the next requests of this name fail."""
        self.proxy.rules.append(ProxyRule("status", is_for(request), status=500, times=times))


STEPS: dict[str, Callable[[Model], object]] = {
    "whole": Model.whole,
    "staged": Model.staged,
    "spooled": Model.spooled,
    "cut": lambda model: model.truncate(AT + 50_001),
    "cut_low": lambda model: model.truncate(AT + 10_001),
    "grow": lambda model: model.truncate(UNITS * PART),
    "punch": lambda model: model.punch(AT + 40_001, 10_000),
    "punch_over": lambda model: model.punch(AT - 100, 30_000),
    "failed_commit": lambda model: model.fail("CompleteMultipartUpload", 2),
}


ORDERS = [
    "whole staged cut",
    "whole staged cut grow",
    "whole cut staged",
    "whole cut grow staged",
    "whole staged cut_low grow",
    "whole staged punch",
    "whole staged punch_over",
    "whole punch staged",
    "whole staged cut staged grow",
    "spooled cut grow",
    "spooled punch whole cut grow",
    "spooled cut staged grow punch",
    "whole staged punch failed_commit",
]


@pytest.mark.parametrize("base", [OLD, b""], ids=["stored", "new"])
@pytest.mark.parametrize("fail", [False, True], ids=["", "failing"])
def test_a_cut_unit_is_completed_from_its_newest_bytes(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, fail: bool, base: bytes
) -> None:
    """Some are in memory, some in the spool; the stored ones are older. [2.12, 2.17, 2.23]"""
    for key in ORDERS:
        if base:
            bucket.put(key, base)
        with volume.open(key, "r+" if base else "x+") as file:
            model = Model(volume, file, proxy, base)
            for step in key.split():
                STEPS[step](model)
                volume.cache.check()
            if fail:
                model.fail("UploadPart", 3)
            assert file.pread(len(model.content) + 1, 0) == model.content
            file.fsync()
            assert bucket.get(key) == model.content
            assert file.pread(len(model.content) + 1, 0) == model.content


@pytest.mark.parametrize("at", ["memory", "spool"])
def test_a_cut_sends_the_units_at_its_ends_again(bucket: Bucket, proxy: FaultyProxy, volume: Volume, at: str) -> None:
    """[2.17, 2.23]"""
    content = bytearray(random.Random(1).randbytes(UNITS * PART))
    with volume.open("k", "x+") as file:
        volume.cache.configure(**(CALM if at == "memory" else TIGHT))
        file.pwrite(content, 0)
        file.sync_range(0, len(content))
        volume.cache.configure(**CALM)
        proxy.taken()
        file.punch_hole(PART + 5000, 2 * PART)
        content[PART + 5000 : 3 * PART + 5000] = bytes(2 * PART)
        file.truncate(len(content) - 5000)
        del content[-5000:]
        file.fsync()
    assert counted(proxy.taken())["UploadPart"] == 4  # one of them is zeros
    assert bucket.get("k") == content
