"""Nonsense configuration: refused by name, with the rule, and nothing is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

import pagecache
from pagecache import CacheConfig, PageCache, RetryPolicy, VolumeOptions

from ..stores import RecordingBackend
from .rig import KEY, PAGE, Make, Rig, pattern, raises

DATA = pattern(3 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    """A file of three pages with three dirty bytes."""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(b"xyz", 100)
    return rig


BAD_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"capacity": "12 parsecs"}, "12 parsecs"),
    ({"capacity": "MiB"}, "MiB"),
    ({"capacity": ""}, ""),
    ({"capacity": -1}, "-1"),
    ({"capacity": 0}, "0"),
    ({"capacity": "60KiB"}, "16"),
    ({"capacity": "1.5.5MiB"}, "1.5.5MiB"),
    ({"capacity": "nan MiB"}, "nan"),
    ({"capacity": "1 1MiB"}, "1 1MiB"),
    ({"capacity": "-5MiB"}, "-5MiB"),
    ({"page_size": 5000}, "5000"),
    ({"page_size": 2048}, "2048"),
    ({"page_size": 0}, "0"),
    ({"page_size": "big"}, "big"),
    ({"page_size": "1MiB", "capacity": "8MiB"}, "16"),
    ({"max_folio": 1024}, "1024"),
    ({"dirty_background": -0.1}, "-0.1"),
    ({"dirty_background": 1.5}, "1.5"),
    ({"dirty_limit": 1.5}, "1.5"),
    ({"dirty_limit": float("nan")}, "nan"),
    ({"dirty_expire": -1.0}, "-1"),
    ({"flush_interval": -1.0}, "-1"),
    ({"failed_limit": -0.5}, "-0.5"),
    ({"failed_limit": 2.0}, "2"),
    ({"throttle_timeout": -1.0}, "-1"),
    ({"cow_limit": "much"}, "much"),
    ({"gil_release": "some"}, "some"),
    ({"exit_timeout": -1.0}, "-1"),
    ({"stall_warn": -1.0}, "-1"),
    ({"flush_interval": float("nan")}, "nan"),
]


@pytest.mark.parametrize(("options", "named"), BAD_CONFIG, ids=str)
def test_nonsense_configuration_is_a_value_error_that_names_it(options: dict[str, Any], named: str) -> None:
    """The value and the rule are in the text. [T-59]"""
    options = dict(options)
    caught = raises(ValueError, lambda: PageCache(options.pop("capacity", "1MiB"), **options).close())
    assert named in str(caught)
    assert len(str(caught)) > len(named) + 10


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": None},
        {"capacity": [1]},
        {"page_size": None},
        {"dirty_limit": "half of it"},
        {"flush_interval": "often"},
        {"retry": 5},
        {"poison": "perhaps"},
        {"capacity": 1.5},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_refused(options: dict[str, Any]) -> None:
    """TypeError or ValueError. [T-59]"""
    options = dict(options)
    raises((TypeError, ValueError), lambda: PageCache(options.pop("capacity", "1MiB"), **options).close())


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"first_delay": -1.0},
        {"max_delay": -1.0},
        {"deadline": -1.0},
        {"failed_retry": -1.0},
        {"attempts": 2, "first_delay": float("nan")},
    ],
    ids=str,
)
def test_a_nonsense_retry_policy_is_a_value_error(wrong: dict[str, Any]) -> None:
    """The error comes when the policy is made, or when a cache is made with it. [T-59]"""
    raises(ValueError, lambda: PageCache("1MiB", retry=RetryPolicy(**wrong)).close())


@pytest.mark.parametrize(
    ("size", "value"),
    [
        ("64KiB", 65_536),
        ("1MiB", 1 << 20),
        ("1.5MiB", 3 << 19),
        ("0.25MiB", 1 << 18),
        ("1MB", 1_000_000),
        ("200kB", 200_000),
        ("1mib", 1 << 20),
        ("1MIB", 1 << 20),
        ("1 MiB", 1 << 20),
        ("100KB", 100_000),
        (1 << 20, 1 << 20),
        ("1048576", 1 << 20),
    ],
)
def test_sizes_are_numbers_or_text(size: str | int, value: int) -> None:
    """IEC and SI units, any case, decimals; a capacity is a whole number of pages. [T-59]"""
    try:
        cache = PageCache(size)
    except ValueError:
        assert size in ("1 MiB", "1048576"), "a space or a bare number in text may be refused"
        return
    with cache:
        assert value - PAGE < cache.capacity <= value
        assert isinstance(cache.capacity, int)


@pytest.mark.parametrize(
    ("wrong", "nearest", "call"),
    [
        ("dirty_limt", "dirty_limit", lambda _, name: PageCache("1MiB", **cast(Any, {name: 0.5}))),
        ("flush_intervall", "flush_interval", lambda _, name: PageCache("1MiB", **cast(Any, {name: 0.5}))),
        ("read_ahaed", "read_ahead", lambda cache, name: cache.attach("memory:", **{name: 0})),
        ("sync_onclose", "sync_on_close", lambda cache, name: cache.attach("memory:", **{name: True})),
        ("dirty_exipre", "dirty_expire", lambda cache, name: cache.configure(**{name: 5.0})),
    ],
)
def test_an_unknown_option_is_a_type_error_with_the_nearest_match(
    wrong: str, nearest: str, call: Callable[[PageCache, str], Any]
) -> None:
    """Both names are in the text. [T-59]"""
    with PageCache("1MiB") as cache, pytest.raises(TypeError) as caught:
        call(cache, wrong)
    assert wrong in str(caught.value)
    assert nearest in str(caught.value)


def test_the_block_size_of_a_running_cache_cannot_change(stored: Rig) -> None:
    """ValueError; everything else goes on as before. [T-53]"""
    with pytest.raises(ValueError, match="page_size"):
        stored.cache.configure(**cast(Any, {"page_size": 8192}))
    assert stored.cache.config.page_size == PAGE
    assert stored.handles[0].pread(4 * PAGE, 0) == DATA[:100] + b"xyz" + DATA[103:]
    stored.cache.check()


def test_a_refused_change_changes_nothing(stored: Rig) -> None:
    """Good values in the same call are not taken either. [T-59]"""
    before = stored.cache.config
    raises(ValueError, stored.cache.configure, flush_interval=1.0, dirty_limit=7.5)
    assert stored.cache.config == before
    stored.cache.configure(flush_interval=1.25, dirty_expire=2.5)
    assert (stored.cache.config.flush_interval, stored.cache.config.dirty_expire) == (1.25, 2.5)


def test_options_of_a_volume_are_checked() -> None:
    """Nonsense is refused at attach and leaves no volume behind. [T-59]"""
    with PageCache("1MiB") as cache:
        for wrong in (
            {"read_ahead": "lots"},
            {"read_ahead": -1},
            {"on_conflict": "shrug"},
            {"dirty_share": 0.0},
            {"dirty_share": 1.5},
            {"source_may_fault": "maybe"},
        ):
            with pytest.raises(ValueError) as caught:
                cache.attach("memory:", **wrong)
            assert str(next(iter(wrong.values()))) in str(caught.value)
        for limit in ("max_write", "max_vectors", "max_inflight", "write_unit"):
            raises(ValueError, lambda: cache.attach(RecordingBackend(**{limit: 0})))  # type: ignore[arg-type]  # noqa: B023
        assert cache.volumes() == ()


@pytest.mark.parametrize("url", ["", "nothing", "gopher://hole", "dir", ":memory:"])
def test_an_unknown_url_is_a_value_error_that_lists_the_schemes(url: str) -> None:
    """The known ones are in the text. [T-59]"""
    with PageCache("1MiB") as cache:
        assert "dir" in str(raises(ValueError, cache.attach, url, match="memory"))
        raises(ValueError, pagecache.backend_from_url, url)


def test_config_object_and_overrides_together() -> None:
    """Overrides win over the object. [T-59]"""
    with PageCache("1MiB", config=CacheConfig(dirty_expire=7.0, flush_interval=3.0), flush_interval=1.0) as cache:
        assert (cache.config.dirty_expire, cache.config.flush_interval) == (7.0, 1.0)
        volume = cache.attach("memory:", options=VolumeOptions(read_only=True), read_ahead=0)
        assert volume.options.read_only
        assert volume.options.read_ahead == 0
