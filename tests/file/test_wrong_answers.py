"""Every error about a wrong answer of a backend contains the answer."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache import BackendLimits, BackendProtocolError, PageCache, RetryPolicy
from pagecache.backends import MemoryBackend

from ..plain import AsyncWrong, Wrong

ONCE = RetryPolicy(attempts=1, failed_retry=None)
MISSING = "; a `return` is missing?"


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


ANSWERS: list[tuple[Any, str]] = [
    (None, f"it returned None{MISSING}"),
    (-1, "it returned -1"),
    (10**9, "it returned 1000000000"),
    ("5", "it returned '5'"),
    (5.0, "it returned 5.0"),
    (Odd(), "it returned "),
]
IDS = ["None", "negative", "too much", "text", "float", "no repr"]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kind", [Wrong, AsyncWrong])
@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=IDS)
def test_a_wrong_answer_of_write_from_is_shown(kind: Any, answer: Any, words: str, direct: bool) -> None:
    with PageCache("1MiB", retry=ONCE) as cache:
        volume = cache.attach(kind(write_from=answer))
        rule = r"write_from\(0, 3 bytes\) did not answer with the number of bytes taken"
        with pytest.raises(OSError, match=rule) as raised, volume.open("key", "r+", direct=direct) as file:
            file.pwrite(b"abc", 0)
        assert words in str(raised.value)
        cache.close(on_failed="discard")


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kind", [Wrong, AsyncWrong])
@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=IDS)
def test_a_wrong_answer_of_read_into_is_shown(kind: Any, answer: Any, words: str, direct: bool) -> None:
    with PageCache("1MiB", retry=ONCE) as cache:
        volume = cache.attach(kind(read_into=answer))
        rule = r"read_into\(0, \d+ bytes\) did not answer with the number of bytes read"
        with pytest.raises(OSError, match=rule) as raised, volume.open("key", direct=direct) as file:
            file.pread(5, 0)
        assert words in str(raised.value)


@pytest.mark.parametrize("kind", [Wrong, AsyncWrong])
def test_an_end_that_comes_too_early_is_shown_with_the_size(kind: Any) -> None:
    with PageCache("1MiB", retry=ONCE) as cache:
        volume = cache.attach(kind(read_into=0))
        with pytest.raises(OSError, match="did not answer") as raised, volume.open("key") as file:
            file.pread(5, 0)
        assert "(0 is for the end of the object, at 5): it returned 0" in str(raised.value)


def test_a_wrong_answer_to_the_read_for_a_write_unit_is_shown() -> None:
    backend: Any = Wrong(read_into=None)
    backend.limits = BackendLimits(write_unit=4096)
    with PageCache("1MiB", retry=ONCE) as cache:
        volume = cache.attach(backend)
        with pytest.raises(OSError, match=r"read_into\(.* it returned None"), volume.open("key", "r+") as file:
            file.pwrite(b"abc", 1)
        cache.close(on_failed="discard")


@pytest.mark.parametrize("kind", [Wrong, AsyncWrong])
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"stat": None}, f"stat() answered None, which has no size of 0 or more{MISSING}"),
        ({"stat": (5, "v")}, "stat() answered (5, 'v'), which has no size of 0 or more"),
        (
            {"open": None},
            f"open() answered None, which has no stat, no read_into, no write_from, no truncate, no commit{MISSING}",
        ),
    ],
)
def test_a_wrong_answer_of_open_or_stat_is_shown(kind: Any, answers: dict[str, Any], words: str) -> None:
    with PageCache("1MiB") as cache, pytest.raises(BackendProtocolError) as raised:
        cache.attach(kind(**answers)).open("key")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, f"list() answered None, which is not iterable{MISSING}"),
        (["key"], "list() answered with 'key', which is not an ObjectStat"),
    ],
)
def test_a_wrong_answer_of_list_is_shown(answer: Any, words: str) -> None:
    with PageCache("1MiB") as cache, pytest.raises(BackendProtocolError) as raised:
        list(cache.attach(Wrong(list=answer)).list())
    assert words in str(raised.value)


def test_a_wrong_answer_of_a_mirror_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with PageCache("1MiB") as cache:
        volume = cache.attach(MemoryBackend(), mirror=Wrong(write_from=None))
        with volume.open("new", "w") as file:
            file.write(b"content")
    assert "write_from did not answer with the number of bytes taken: it returned None" in caplog.text
