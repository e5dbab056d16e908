"""The promised names, parameters and defaults are there."""

from __future__ import annotations

import enum
import inspect
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pagecache
from pagecache import (
    BackendLimits,
    CacheConfig,
    CachedFile,
    PageCache,
    RetryPolicy,
    SyncTicket,
    View,
    Volume,
    VolumeOptions,
)

CLASSES = """PageCache Volume CachedFile View SyncTicket Advice RetryPolicy CacheConfig VolumeOptions Event
    BackendLimits ObjectStat FileStat CacheStats VolumeStats FileStats LostRange FailedRange"""
BACKENDS = "Backend BackendFile NamespaceBackend AsyncBackend AsyncBackendFile BackendError backend_from_url"
ERRORS = """PageCacheError WritebackError CommitError UnsavedDataError ConflictError DataLossError ShutdownError
    DeadlockError ForkedError BackendProtocolError"""
SIGNATURES: dict[type, dict[str, str]] = {
    PageCache: {
        "attach": "backend, *, name=None, options=None, backend_options=None, mirror=None, **overrides",
        "volumes": "",
        "configure": "**changes",
        "resize": "capacity, *, timeout=None",
        "sync": "timeout=None",
        "subscribe": "callback",
        "stats": "",
        "check": "",
        "close": "*, timeout=None, on_failed='raise'",
    },
    Volume: {
        "open": "key, mode='rb', *, flags=None, direct=False, write_through=None, keep_cache=False, read_ahead=None, "
        "parallel_direct_writes=False",
        "stat": "key",
        "exists": "key",
        "list": "prefix=''",
        "remove": "key",
        "rename": "src, dst, *, replace=True",
        "truncate": "key, size",
        "sync": "timeout=None",
        "begin_sync": "",
        "resolve": "key, how",
        "invalidate": "key=None, offset=0, length=None",
        "drop_clean": "key=None, offset=0, length=None",
        "invalidate_remote": "key, offset=0, length=None, *, version=None",
        "discard": "key, offset=0, length=None",
        "failed": "",
        "retry_failed": "key=None",
        "dirty_ranges": "key",
        "abort": "reason=None",
        "reconnect": "backend, *, fenced=False",
        "detach": "*, timeout=None, on_failed='raise'",
        "stats": "",
    },
    CachedFile: {
        "pread": "size, offset, /",
        "pread_into": "buffer, offset, /",
        "pwrite": "data, offset, /",
        "preadv": "buffers, offset, /",
        "pwritev": "buffers, offset, /",
        "try_pread": "size, offset, /",
        "try_pwrite": "data, offset, /",
        "append": "data",
        "truncate": "size=None",
        "punch_hole": "offset, length",
        "zero_range": "offset, length",
        "prefetch": "offset=0, length=None, *, wait=False",
        "prefetch_ranges": "ranges, *, wait=False",
        "advise": "advice, offset=0, length=None",
        "view": "offset, length, *, writable=False",
        "flush": "",
        "fsync": "*, data_only=False, timeout=None",
        "sync_range": "offset, length",
        "close": "",
        "abandon": "",
        "stats": "",
    },
    SyncTicket: {"done": "", "wait": "timeout=None"},
    View: {"tobytes": "", "release": ""},
}

METHODS = [(owner, method) for owner, methods in SIGNATURES.items() for method in methods]

DEFAULTS: dict[type, dict[str, Any]] = {
    RetryPolicy: {"attempts": 5, "first_delay": 0.05, "max_delay": 10.0, "deadline": 120.0, "failed_retry": 30.0},
    CacheConfig: {
        "page_size": 4096,
        "max_folio": 2 << 20,
        "dirty_background": 0.25,
        "dirty_limit": 0.5,
        "dirty_expire": 30.0,
        "flush_interval": 5.0,
        "failed_limit": 0.5,
        "throttle_timeout": None,
        "cow_limit": 2 << 20,
        "gil_release": 1 << 20,
        "retry": RetryPolicy(),
        "exit_timeout": 5.0,
        "stall_warn": 10.0,
        "poison": False,
    },
    VolumeOptions: {
        "read_ahead": 1 << 20,
        "sync_on_close": None,
        "on_conflict": "fail",
        "write_through": False,
        "read_only": False,
        "dirty_share": 1.0,
        "source_may_fault": "auto",
    },
    BackendLimits: {
        "max_read": 1 << 20,
        "max_write": 1 << 20,
        "max_vectors": 512,
        "read_unit": 1,
        "write_unit": 1,
        "boundary": 0,
        "direct_unit": 1,
        "max_inflight": 8,
        "durable_writes": False,
        "commit_on_close": False,
        "ordered_writes": False,
        "parallel_direct_writes": False,
        "read_only": False,
        "trusted": True,
        "sync_timeout": None,
    },
}


@pytest.mark.parametrize("name", f"{CLASSES} {BACKENDS} {ERRORS}".split())
def test_a_promised_name_is_public(name: str) -> None:
    """`from pagecache import ...` finds it."""
    assert hasattr(pagecache, name)


@pytest.mark.parametrize(
    ("owner", "method"), [(owner, method) for owner, table in SIGNATURES.items() for method in table]
)
def test_a_promised_method_takes_what_it_should(owner: type, method: str) -> None:
    """Names, kinds, order and defaults of the parameters; more options may follow."""
    promised = inspect.signature(eval(f"lambda self, {SIGNATURES[owner][method]}: None")).parameters
    real = inspect.signature(getattr(owner, method)).parameters
    assert [(p.name, p.kind, p.default) for p in list(real.values())[: len(promised)]][1:] == [
        (p.name, p.kind, p.default) for p in promised.values()
    ][1:]
    assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in list(real.values())[len(promised) :])


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_promised_options_and_defaults(kind: type) -> None:
    """Sizes compare as bytes."""
    value = kind()
    for name, default in DEFAULTS[kind].items():
        assert getattr(value, name) in (
            default,
            {1 << 20: "1MiB", 2 << 20: "2MiB"}.get(default) if default else default,
        )


def test_what_is_what() -> None:
    """Base classes and attributes."""
    assert issubclass(CachedFile, io.RawIOBase)
    assert issubclass(pagecache.Advice, enum.Enum)
    assert {advice.value for advice in pagecache.Advice} == {
        "normal",
        "sequential",
        "random",
        "willneed",
        "dontneed",
        "noreuse",
    }
    with PageCache("1MiB") as cache:
        assert (cache.capacity, cache.config) == (1 << 20, CacheConfig())
        volume = cache.attach("memory:", name="v")
        assert (volume.name, volume.options) == ("v", VolumeOptions())
        assert isinstance(volume.backend, pagecache.Backend)
        assert cache.volumes() == (volume,)
        with volume.open("f", "xb+") as file:
            ticket = volume.begin_sync()
            assert isinstance(ticket.total, int)
            ticket.wait(20)
            assert {"key", "name", "mode", "volume", "size"} <= set(dir(file))


def test_importing_the_package_imports_no_extras() -> None:
    """boto3, fsspec, pyfuse3, textual, numpy and the like are loaded by those who use them."""
    extras = ["boto3", "botocore", "fsspec", "pyfuse3", "textual", "numpy", "matplotlib", "rich", "click"]
    program = f"import sys, pagecache; sys.exit(', '.join({{*{extras}}} & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(pagecache.__file__).parents[1],
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
