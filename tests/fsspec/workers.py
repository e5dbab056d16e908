"""Functions that other processes run on their arguments."""

from __future__ import annotations

import os
from typing import Any


def content(fs: Any, path: str) -> tuple[int, bytes]:
    data: bytes = fs.cat_file(path)
    return os.getpid(), data


def rest_of(file: Any) -> tuple[str, int, bytes]:
    with file:
        return file.mode, file.tell(), file.read()


def rest_of_opened(opened: Any) -> bytes:
    with opened as file:
        data: bytes = file.read()
        return data


def patch(fs: Any, path: str, at: int, data: bytes) -> int:
    with fs.open(path, "r+b") as file:
        file.seek(at)
        file.write(data)
    return os.getpid()


def go_on_writing(file: Any, data: bytes) -> None:
    with file:
        file.write(data)
