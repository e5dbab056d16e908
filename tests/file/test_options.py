"""Nonsense configuration: refused by name, with the rule, and nothing is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from pagecache import CacheConfig, PageCache, VolumeOptions

from .rig import KEY, PAGE, Make, Rig, pattern, raises

DATA = pattern(3 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    """A file of three pages with three dirty bytes."""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(b"xyz", 100)
    return rig


@pytest.mark.parametrize("options", [{"dirty_limit": float("nan")}, {"gil_release": "some"}, {"retry": 5}], ids=str)
def test_nonsense_is_a_value_error_that_names_the_option(options: dict[str, Any]) -> None:
    """tests/test_config.py has the values that each option refuses. [T-59]"""
    raises(ValueError, PageCache, "1MiB", **options, match=next(iter(options)))


@pytest.mark.parametrize(
    ("wrong", "nearest", "call"),
    [
        ("dirty_limt", "dirty_limit", lambda _, name: PageCache("1MiB", **cast(Any, {name: 0.5}))),
        ("read_ahaed", "read_ahead", lambda cache, name: cache.attach("memory:", **{name: 0})),
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
        assert cache.volumes() == ()


def test_config_object_and_overrides_together() -> None:
    """Overrides win over the object; a capacity is a whole number of pages. [T-59]"""
    with PageCache("1MB", config=CacheConfig(dirty_expire=7.0, flush_interval=3.0), flush_interval=1.0) as cache:
        assert cache.capacity == 10**6 // PAGE * PAGE
        assert (cache.config.dirty_expire, cache.config.flush_interval) == (7.0, 1.0)
        volume = cache.attach("memory:", options=VolumeOptions(read_only=True), read_ahead=0)
        assert volume.options.read_only
        assert volume.options.read_ahead == 0
