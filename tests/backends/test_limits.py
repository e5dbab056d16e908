"""BackendLimits: permitted values, and the refusal of others where they are set."""

from __future__ import annotations

import math
import pickle
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pagecache import BackendLimits, PageCache
from pagecache.backends import MemoryBackend

from ..file.rig import raises

SIZES = ["max_read", "max_write", "max_vectors", "read_unit", "write_unit", "boundary", "direct_unit", "max_inflight"]
UNITS = ["read_unit", "write_unit", "direct_unit"]
FLAGS = [field.name for field in fields(BackendLimits) if field.type == "bool"]

NONSENSE: list[tuple[str, Any]] = [
    *[(name, value) for name in SIZES for value in (-1, -(1 << 40), "many", None, 1.5, True, 1 << 63)],
    *[(name, 0) for name in SIZES if name != "boundary"],
    *[(name, value) for name in UNITS for value in (1 << 31, "2GiB", 1 << 40, (1 << 63) - 1)],
    *[("max_inflight", value) for value in (1025, 1 << 32)],
    *[(name, value) for name in FLAGS for value in (None, 1, "yes")],
    *[("sync_timeout", value) for value in (-1, math.nan, "soon", True)],
]


@pytest.mark.parametrize(("name", "value"), NONSENSE, ids=[f"{name}={value!r}" for name, value in NONSENSE])
def test_nonsense_is_refused_with_its_name(name: str, value: Any) -> None:
    """A ValueError that names option and value. [2.26]"""
    assert repr(value) in str(raises(ValueError, BackendLimits, **{name: value}, match=name))


@pytest.mark.parametrize(
    ("limits", "name", "value"),
    [
        ({"write_unit": 5000, "max_write": 10_000}, "max_write", 10_000),
        ({"write_unit": "8MiB"}, "max_write", 8 << 20),
        ({"write_unit": (1 << 31) - 1}, "write_unit", (1 << 31) - 1),
        ({"max_inflight": 1024}, "max_inflight", 1024),
        ({"sync_timeout": 0}, "sync_timeout", 0),
        ({"boundary": 0}, "boundary", 0),
        ({"max_read": (1 << 63) - 1}, "max_read", (1 << 63) - 1),
    ],
)
def test_sensible_limits_are_accepted(limits: dict[str, Any], name: str, value: int) -> None:
    """The largest call is whole units, and at least one. [2.12]"""
    assert getattr(BackendLimits(**limits), name) == value


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"write_unit": 3}, "max_write: 1048576 is not a multiple of write_unit .3.; 1048575 is"),
        ({"read_unit": 3}, "max_read: 1048576 is not a multiple of read_unit .3.; 1048575 is"),
        ({"write_unit": "4MiB", "max_write": "1MiB"}, "max_write: 1048576 is not a multiple of write_unit .4194304."),
        ({"write_unit": "4MiB", "max_write": 1 << 20}, "max_write: 1048576 is not a multiple of write_unit .4194304."),
        ({"read_unit": 512, "max_read": 1}, "max_read: 1 is not a multiple of read_unit .512.; 512 is"),
        ({"write_unit": 5000, "max_write": 12_000}, "max_write: 12000 is not a multiple of write_unit"),
        ({"boundary": 4097, "read_unit": 4096}, "boundary: 4097 is not a multiple of read_unit"),
        ({"boundary": 100, "write_unit": 512}, "boundary: 100 is not a multiple of write_unit"),
        ({"boundary": 4096, "write_unit": 8192}, "boundary: 4096 is not a multiple of write_unit"),
    ],
)
def test_limits_that_do_not_fit_together_are_refused_and_not_changed(limits: dict[str, Any], rule: str) -> None:
    """No whole unit could be sent otherwise. [2.12]"""
    raises(ValueError, BackendLimits, **limits, match=rule)
    raises(ValueError, MemoryBackend, **limits, match=rule)


def test_the_largest_call_follows_the_unit_unless_it_was_given() -> None:
    changed = replace(replace(BackendLimits(), write_unit="8MiB"), read_unit="2MiB")
    assert (changed.max_write, changed.max_read) == (8 << 20, 2 << 20)
    assert replace(changed, write_unit=1).max_write == 1 << 20
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert replace(pickle.loads(pickle.dumps(changed)), write_unit="16MiB").max_write == 16 << 20
    raises(ValueError, replace, BackendLimits(max_write="1MiB"), write_unit="8MiB", match="max_write: 1048576")


def test_the_largest_calls_work() -> None:
    """No number of bytes overflows on the way. [2.3, 2.11]"""
    backend = MemoryBackend(limits=BackendLimits(max_read=(1 << 63) - 1, max_write=(1 << 63) - 1))
    with PageCache("1MiB") as cache, cache.attach(backend).open("file", "w+") as file:
        file.pwrite(b"x" * 100_000, 300_000)
        file.fsync()
        cache.volumes()[0].drop_clean()
        assert file.pread(500_000, 0) == bytes(300_000) + b"x" * 100_000


@pytest.mark.parametrize("limits", [None, {}, SimpleNamespace(write_unit=-1)])
def test_limits_of_another_kind_are_refused_at_attach(limits: object) -> None:
    """They would reach the core unchecked. [2.26]"""
    backend = MemoryBackend()
    backend.limits = cast(BackendLimits, limits)
    with PageCache("1MiB") as cache, pytest.raises(TypeError, match="limits"):
        cache.attach(backend)
