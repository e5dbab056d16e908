"""Options: permitted values, refusals and their messages, and the meaning of sizes."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecache import PageCache
from pagecache.backends import BackendLimits
from pagecache.config import CacheConfig, RetryPolicy, VolumeOptions, parse_size, with_overrides

from .file.rig import raises

IEC = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SHORT = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SI = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@given(
    number=st.decimals(min_value=0, max_value=10**5, places=3),
    unit=st.sampled_from([*IEC, *SHORT, *SI]),
    case=st.sampled_from([str, str.lower, str.upper]),
    space=st.sampled_from(["", " "]),
)
def test_size_with_a_unit(number: Any, unit: str, case: Any, space: str) -> None:
    expected = int(Fraction(number) * (IEC | SHORT | SI)[unit])
    assert parse_size(f"{number}{space}{case(unit)}", "size") == expected


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_size_in_bytes(size: int) -> None:
    assert parse_size(size, "size") == parse_size(str(size), "size") == parse_size(f"{size}B", "size") == size


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "MiB", "-1", "1Ki", "1 parsec", "1.5.5MiB", "1e3", "0x10", "1PiB", "inf", "٣MiB", "1,5MiB"),
        *("99999999TiB", -1, 2**63, 1.5, 4096.0, None, True, b"1MiB", [1], object),
    ],
)
def test_anything_else_is_refused_by_name(value: object) -> None:
    raised = raises(ValueError, PageCache, value, match="capacity")
    assert repr(value) in str(raised)
    assert str(raised).count("not a size") == 1


@pytest.mark.parametrize("unit", ["P", "PiB", "parsec", "Ki", "kbx"])
def test_an_unknown_unit_is_refused_with_all_known_units(unit: str) -> None:
    text = str(raises(ValueError, parse_size, f"1{unit}", "capacity", match=r"^capacity: "))
    assert repr(unit) in text
    assert {"B", *SHORT, *IEC, *SI} <= set(re.split(r"[^A-Za-z]+", text))


@given(st.text())
def test_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert 0 <= parse_size(text, "size") < 2**63
    except ValueError as refused:
        text_of_error = str(refused)
        assert repr(text) in text_of_error


BAD: dict[type[Any], dict[str, list[Any]]] = {
    CacheConfig: {
        "page_size": [2048, 4097, "12kB"],
        "max_folio": ["3MiB", 2048, "1GiB"],
        "dirty_background": [1.5, -0.1],
        "dirty_limit": [0.0, "half"],
        "dirty_expire": [-1, float("nan")],
        "flush_interval": [0],
        "failed_limit": [2.0],
        "throttle_timeout": [-1],
        "cow_limit": ["2 MB/s"],
        "gil_release": [-5],
        "retry": ["always"],
        "exit_timeout": [None],
        "stall_warn": [0],
        "poison": ["yes"],
    },
    RetryPolicy: {
        "attempts": [0, 1.5],
        "first_delay": [-1],
        "max_delay": [0.01],
        "deadline": [0],
        "failed_retry": ["30"],
    },
    VolumeOptions: {
        "read_ahead": ["1 parsec"],
        "sync_on_close": [2],
        "on_conflict": ["merge", "rebase"],
        "write_through": [None],
        "read_only": ["no"],
        "dirty_share": [0.0, 1.1],
        "source_may_fault": [True],
    },
}
"""Those of BackendLimits are in tests/backends/test_protocol.py."""


@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls, values in BAD.items() for name in values])
def test_bad_value_is_refused_with_name_and_value(cls: type[Any], name: str) -> None:
    for value in BAD[cls][name]:
        made = raises(ValueError, cls, match=name, **{name: value})
        changed = raises(ValueError, with_overrides, cls(), {name: value}, match=name)
        assert repr(value) in str(made)
        assert repr(value) in str(changed)


@pytest.mark.parametrize(
    ("cls", "wrong", "right"),
    [
        (CacheConfig, "dirty_limt", "dirty_limit"),
        (VolumeOptions, "readahead", "read_ahead"),
        (RetryPolicy, "retries", "failed_retry"),
        (BackendLimits, "maxwrite", "max_write"),
        (CacheConfig, "zzz", "did you mean"),
    ],
)
def test_unknown_option_names_the_nearest(cls: type[Any], wrong: str, right: str) -> None:
    makers: list[Callable[[], Any]] = [lambda: cls(**{wrong: 1}), lambda: with_overrides(cls(), {wrong: 1})]
    for make in makers:
        raised = raises(TypeError, make, match=right)
        assert wrong in str(raised)


@pytest.mark.parametrize(("wrong", "right"), [("spol", "spool"), ("retyr", "retry"), ("readahead", "read_ahead")])
def test_an_unknown_option_of_a_call_names_the_nearest_of_all_its_keywords(wrong: str, right: str) -> None:
    options: dict[str, Any] = {wrong: None}
    with PageCache("1MiB") as cache, pytest.raises(TypeError, match=rf"attach has no option '{wrong}'; .* '{right}'"):
        cache.attach("memory:", **options)
    with pytest.raises(TypeError, match="PageCache has no option 'disc'; did you mean 'disk'"):
        PageCache("1MiB", disc="/tmp")  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", [CacheConfig, VolumeOptions, RetryPolicy, BackendLimits])
def test_an_unknown_option_that_resembles_none_lists_all_of_them(cls: type[Any]) -> None:
    raised = raises(TypeError, cls, qqq=1, match="'qqq'")
    assert all(field.name in str(raised) for field in dataclasses.fields(cls))


@pytest.mark.parametrize("cls", [CacheConfig, VolumeOptions, RetryPolicy, BackendLimits])
def test_options_are_values(cls: type[Any]) -> None:
    assert cls() == cls()
    assert pickle.loads(pickle.dumps(cls())) == cls()
    field = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), field, 1)
    raises(TypeError, cls, 1)


def test_sizes_are_kept_as_ints() -> None:
    config = CacheConfig(max_folio="64KiB", dirty_limit="10MB")
    assert (config.max_folio, config.dirty_limit, config.dirty_background) == (65536, 10**7, 0.25)
    assert VolumeOptions(read_ahead="0B").read_ahead == 0


def test_resolving_for_a_capacity() -> None:
    limits = CacheConfig().resolve("256MiB")
    assert (limits.capacity, limits.page_size, limits.max_folio) == (256 << 20, 4096, 2 << 20)
    assert (limits.dirty_background, limits.dirty_limit, limits.failed_limit) == (64 << 20, 128 << 20, 64 << 20)


def test_folios_are_lowered_to_an_eighth_of_the_capacity() -> None:
    assert CacheConfig().resolve("1MiB").max_folio == 128 << 10
    assert CacheConfig().resolve(65536).max_folio == 8192
    assert CacheConfig(page_size="64KiB").resolve("1MiB").max_folio == 128 << 10


@pytest.mark.parametrize("capacity", [0, 65535, "1kB"])
def test_capacity_below_sixteen_pages_is_refused(capacity: int | str) -> None:
    with pytest.raises(ValueError, match="16 pages"):
        CacheConfig().resolve(capacity)


@pytest.mark.parametrize(
    ("capacity", "page"), [(10**15, 4096), ("2049GiB", 4096), (2**41 + 4096, 4096), ("40TiB", 65536)]
)
def test_a_capacity_above_what_the_core_can_count_is_refused_with_the_largest(capacity: int | str, page: int) -> None:
    largest = f"{page * 2**29 >> 30}GiB"
    with pytest.raises(ValueError, match=f"capacity: {capacity!r} is more than .*{largest}"):
        CacheConfig(page_size=page).resolve(capacity)
    assert CacheConfig(page_size=page).resolve(largest).capacity == page * 2**29


@pytest.mark.parametrize("capacity", ["1TiB", "2TiB"])
def test_a_cache_may_have_a_capacity_beyond_any_memory(capacity: str) -> None:
    """The core's counters bound the reserve for growth. If address space is limited, an error says so."""
    try:
        with PageCache(capacity) as cache:
            assert cache.capacity == parse_size(capacity, "capacity")
    except (OSError, MemoryError):
        pytest.skip("there is not so much address space")


@pytest.mark.parametrize("name", ["dirty_limit", "dirty_background"])
@pytest.mark.parametrize("size", ["1GiB", (8 << 20) + 4096])
def test_a_dirty_limit_above_the_capacity_is_refused(name: str, size: int | str) -> None:
    too_much: Any = {name: size}
    all_of_it: Any = {name: "8MiB"}
    rule = f"^{name}: {parse_size(size, name)} is more than the capacity .{8 << 20}"
    raises(ValueError, PageCache, "8MiB", match=rule, **too_much)
    raises(ValueError, PageCache, "8MiB", match=rule, config=CacheConfig(**too_much))
    with PageCache("8MiB", **all_of_it) as cache:
        before = cache.config
        raises(ValueError, cache.configure, match=rule, **too_much)
        assert cache.config is before


def test_a_cache_with_a_dirty_limit_in_bytes_may_shrink_below_it_and_be_configured_then() -> None:
    with PageCache("8MiB", dirty_limit="4MiB") as cache:
        cache.resize("2MiB")
        assert cache.limits.dirty_limit == 2 << 20
        cache.configure(flush_interval=1.0)
        cache.resize("8MiB")
        assert cache.limits.dirty_limit == 4 << 20


def test_background_stays_below_the_limit() -> None:
    assert CacheConfig(dirty_limit=0.1).resolve(1 << 20).dirty_background == int(0.1 * (1 << 20)) // 2
    assert CacheConfig(dirty_limit="8KiB").resolve(1 << 20).dirty_background == 4096
    assert CacheConfig(dirty_limit=1e-9).resolve(1 << 20).dirty_limit == 4096
    assert CacheConfig(dirty_limit="1TiB").resolve(1 << 20).dirty_limit == 1 << 20


def test_overrides_leave_the_rest() -> None:
    config = CacheConfig(dirty_expire=1.0)
    changed = with_overrides(config, {"flush_interval": 2, "retry": RetryPolicy(attempts=1)})
    assert (changed.dirty_expire, changed.flush_interval, changed.retry.attempts) == (1.0, 2, 1)
    assert with_overrides(config, {}) is config
