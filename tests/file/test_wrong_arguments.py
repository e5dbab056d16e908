"""Errors about a call of a handle name the object, the argument and the rule."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import PageCache, Volume, aio

SWAPPED: dict[str, tuple[Callable[[Any], object], str]] = {
    "pwrite": (lambda f: f.pwrite(0, b"abc"), "pwrite(data, offset)"),
    "pwritev": (lambda f: f.pwritev(0, [b"abc"]), "pwritev(buffers, offset)"),
    "pread_into": (lambda f: f.pread_into(0, bytearray(3)), "pread_into(buffer, offset)"),
    "preadv": (lambda f: f.preadv(0, [bytearray(3)]), "preadv(buffers, offset)"),
    "try_pwrite": (lambda f: f.try_pwrite(0, b"abc"), "try_pwrite(data, offset)"),
}


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("verb", SWAPPED)
def test_swapped_arguments_are_named(verb: str, direct: bool) -> None:
    call, signature = SWAPPED[verb]
    with PageCache("1MiB") as cache, cache.attach("memory:").open("key", "w+", direct=direct) as file:
        file.pwrite(b"12345", 0)
        with pytest.raises(TypeError, match="the arguments are swapped") as raised:
            call(file)
        assert signature in str(raised.value)
        assert file.pread(10, 0) == b"12345"


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: f.pread(b"abc", 0), "size must be an int, not bytes"),
        (lambda f: f.pread(5, "0"), "offset must be an int, not str"),
        (lambda f: f.pwrite(b"abc", None), "offset must be an int, not NoneType"),
        (lambda f: f.pwrite(b"abc", 0.0), "offset must be an int, not float"),
    ],
)
def test_an_argument_that_is_no_int_is_named(call: Callable[[Any], object], words: str, direct: bool) -> None:
    with (
        PageCache("1MiB") as cache,
        cache.attach("memory:").open("key", "w+", direct=direct) as file,
        pytest.raises(TypeError, match=words),
    ):
        call(file)


def test_swapped_arguments_of_a_task_are_named() -> None:
    async def run(volume: Volume) -> None:
        async with aio.open(volume, "key", "w+") as file:
            with pytest.raises(TypeError, match="the arguments are swapped"):
                await file.pwrite(0, b"abc")  # type: ignore[arg-type]

    with PageCache("1MiB") as cache:
        asyncio.run(run(cache.attach("memory:")))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("verb", ["pread", "read", "try_pread"])
def test_a_read_without_memory_says_of_how_many_bytes(verb: str, direct: bool) -> None:
    with PageCache("1MiB") as cache, cache.attach("memory:").open("key", "w+", direct=direct) as file:
        file.truncate(1 << 61)
        with pytest.raises(MemoryError, match=f"{1 << 60} bytes at offset 0"):
            file.read(1 << 60) if verb == "read" else getattr(file, verb)(1 << 60, 0)
        assert file.pread(3, 0) == bytes(3)


def test_a_read_takes_memory_for_what_the_object_has() -> None:
    with PageCache("1MiB") as cache, cache.attach("memory:").open("key", "w+") as file:
        file.write(b"abc")
        assert file.pread(1 << 60, 0) == b"abc"


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    ("mode", "call", "words"),
    [
        ("r", lambda f: f.pwrite(b"a", 0), "File not open for writing: 'the key'"),
        ("r", lambda f: f.write(b"a"), "File not open for writing: 'the key'"),
        ("r", lambda f: f.truncate(0), "File not open for writing: 'the key'"),
        ("a", lambda f: f.pread(1, 0), "File not open for reading: 'the key'"),
        ("a", lambda f: f.read(), "File not open for reading: 'the key'"),
    ],
)
def test_a_handle_of_the_wrong_mode_names_the_object(
    mode: Any, call: Callable[[Any], object], words: str, direct: bool
) -> None:
    with PageCache("1MiB") as cache:
        volume = cache.attach("memory:")
        volume.open("the key", "w").close()
        with volume.open("the key", mode, direct=direct) as file, pytest.raises(io.UnsupportedOperation, match=words):
            call(file)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    "call", [lambda f: f.pread(1, 0), lambda f: f.write(b"a"), lambda f: f.fsync(), lambda f: f.truncate(0)]
)
def test_a_closed_handle_names_the_object(call: Callable[[Any], object], direct: bool) -> None:
    with PageCache("1MiB") as cache:
        file = cache.attach("memory:").open("the key", "w+", direct=direct)
        file.close()
        with pytest.raises(ValueError, match="I/O operation on closed file: 'the key'"):
            call(file)
