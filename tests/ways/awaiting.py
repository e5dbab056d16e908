"""Shared by the tests of each way in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from pagecache import Volume

PAGE = 4096
BLOCK = bytes(range(256)) * 16


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


def content(volume: Volume, key: str = "f") -> bytes:
    with volume.open(key) as file:
        return file.read()
