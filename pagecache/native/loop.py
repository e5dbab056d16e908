"""The FUSE loop in C: see `_native/fuse/loop.h`. In a build without it the classes exist, but cannot be made."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Iterable
from typing import Any

from .extension import Handle, ffi, lib

_fuse: Any
try:
    _fuse = importlib.import_module("pagecache._native._fuse")
    LOOP_MISSING = ""
    """Why there is no loop in C; "": there is one."""
except ImportError as error:
    _fuse = None
    LOOP_MISSING = f"the loop in C was not built here, or libfuse is gone ({error})"

REQUEST_KINDS: dict[int, str] = {}
"""Requests to handlers, by their number."""
if _fuse is not None:
    REQUEST_KINDS = {
        int(getattr(_fuse.lib, name)): name.removeprefix("PC_FUSE_").lower()
        for name in dir(_fuse.lib)
        if name.startswith("PC_FUSE_")
    }

NO_FH = NOT_KNOWN = 2**64 - 1
FIELDS = ("mode", "uid", "gid", "size", "atime_ns", "mtime_ns")


class FuseRequest:
    """A request for a handler, with the fields of `struct pc_fuse_request`. Valid until the handler's next one.

    Attributes:
        again: its program makes it again after an error.
    """

    __slots__ = ("_a", "again")

    def __init__(self) -> None:
        self.again = False
        self._a = _fuse.ffi.new("struct pc_fuse_request *")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._a, name)

    @property
    def op(self) -> str:
        return REQUEST_KINDS[self._a.op]

    @property
    def fh(self) -> int | None:
        fh = int(self._a.fh)
        return None if fh == NO_FH else fh

    @property
    def owner(self) -> tuple[int, int]:
        """Return user and group of the requesting process."""
        return int(self._a.uid), int(self._a.gid)

    @property
    def name(self) -> str:
        return os.fsdecode(_fuse.ffi.string(self._a.name))

    @property
    def name2(self) -> str:
        return os.fsdecode(_fuse.ffi.string(self._a.name2))

    @property
    def data(self) -> bytes:
        return bytes(_fuse.ffi.buffer(self._a.data, self._a.size)) if self._a.size else b""

    @property
    def changes(self) -> dict[str, int]:
        """Return the attributes to set, of setattr."""
        set_ = self._a.fields
        return {name: int(getattr(self._a, name)) for bit, name in enumerate(FIELDS) if set_ >> bit & 1}


def _mark(number: int) -> Any:
    """Return a property with a mark of an open file, which C writes too."""

    def get(self: NativeOpened) -> int:
        return int(_fuse.lib.pc_opened_mark(self._o, number))

    def set(self: NativeOpened, value: int) -> None:
        _fuse.lib.pc_opened_set_mark(self._o, number, value)

    return property(get, set)


class NativeOpened:
    """An open file of a loop, with the marks of its writes (`OpenFile`): see `_native/fuse/attributes.c`."""

    # In the order of enum pc_opened_mark.
    written_ns, wrote, was_read, reported = (_mark(number) for number in range(4))

    def __init__(self, fh: int) -> None:
        opened = _fuse.lib.pc_opened_new(fh)
        if opened == _fuse.ffi.NULL:
            raise MemoryError
        self._o = _fuse.ffi.gc(opened, _fuse.lib.pc_opened_free)
        self._loop: NativeLoop | None = None
        self._file: Handle | None = None

    def begin(self, loop: NativeLoop, number: int, file: Handle) -> None:
        """Connect it, before the kernel gets its number, to the node's number and the handle with its bytes."""
        self._hit = file._open_hit()
        self._loop, self._file = loop, file
        _fuse.lib.pc_opened_begin(loop._l, self._o, number, self._hit)

    def end(self) -> None:
        """Disconnect it: the kernel sends no more requests for it. Idempotent."""
        loop, file, self._loop, self._file = self._loop, self._file, None, None
        if loop is not None and file is not None:
            _fuse.lib.pc_opened_end(loop._l, self._o)
            file._close_hit(self._hit)

    def take_wrote(self) -> bool:
        return bool(_fuse.lib.pc_opened_set_mark(self._o, _fuse.lib.PC_WROTE, 0))

    def clear_written(self, written_ns: int) -> None:
        _fuse.lib.pc_opened_clear_written(self._o, written_ns)


class Dirents:
    """Entries of a directory, as a reply of `size` bytes at most. `plus`: with attributes, and lookups of the nodes."""

    __slots__ = ("_bytes", "_loop", "_size", "_used", "plus")

    def __init__(self, loop: NativeLoop, size: int, plus: bool) -> None:
        self._loop, self.plus = loop, plus
        self._bytes, self._size, self._used = _fuse.ffi.new("char[]", size), size, 0

    def add(self, name: str, attributes: Iterable[int], certain: bool, next: int) -> bool:
        """Add an entry. False: there is no room for it."""
        to, room, values = self._bytes + self._used, self._size - self._used, _attributes(attributes)
        used = _fuse.lib.pc_dirent(self._loop._l, to, room, os.fsencode(name), values, self.plus, certain, next)
        self._used += used
        return bool(used)

    def reply(self, token: int) -> bool:
        return bool(_fuse.lib.pc_reply_data(self._loop._l, token, self._bytes, self._used) == 0)


def _attributes(values: Iterable[int]) -> Any:
    """Return the fields of `struct pc_attributes`, in order; `allocated`: NOT_KNOWN if equal to the size."""
    return _fuse.ffi.new("struct pc_attributes *", tuple(values))


class NativeLoop:
    """One `struct pc_loop`. Reply methods return whether the reply was delivered; if not, the caller undoes its
    effects.

    Raises:
        OSError: EINVAL: libfuse has printed the reason on stderr.
    """

    __slots__ = ("_l", "_options")

    def __init__(self, options: dict[str, int], words: str) -> None:
        self._options = _fuse.ffi.new("struct pc_loop_options *", options)
        calls = _fuse.ffi.cast("void *", int(ffi.cast("uintptr_t", lib.pc_hit_calls())))
        loop = _fuse.lib.pc_loop_new(calls, self._options, os.fsencode(words))
        if loop == _fuse.ffi.NULL:
            code = int(_fuse.ffi.errno)
            raise OSError(code, f"no loop: {os.strerror(code)}")
        self._l = _fuse.ffi.gc(loop, _fuse.lib.pc_loop_free)

    def mount(self, path: str) -> None:
        if _fuse.lib.pc_loop_mount(self._l, os.fsencode(path)):
            raise OSError(errno.EINVAL, "it could not be mounted", path)

    def start(self) -> None:
        if err := _fuse.lib.pc_loop_start(self._l):
            raise OSError(-err, os.strerror(-err))

    def ended_fd(self) -> int:
        """Return a descriptor that is readable once the kernel sends no more requests."""
        return int(_fuse.lib.pc_loop_ended_fd(self._l))

    def attributes_known(self, attributes: Iterable[int]) -> None:
        """Set the last known attributes of a file that is being opened."""
        _fuse.lib.pc_attributes_known(self._l, _attributes(attributes))

    def drain(self, timeout_ns: int, only_saving: bool) -> bool:
        """Wait until every requested call is over, or those that save files; False: timed out."""
        return bool(_fuse.lib.pc_loop_drain(self._l, timeout_ns, only_saving))

    def stop(self, unmount: bool) -> None:
        """Stop serving. The memory is freed with the last reference, and the last handler."""
        _fuse.lib.pc_loop_stop(self._l, unmount)

    def counts(self) -> dict[str, int]:
        out = _fuse.ffi.new("struct pc_loop_counts *")
        _fuse.lib.pc_loop_counts(self._l, out)
        counts = {field: int(getattr(out, field)) for field, _ in _fuse.ffi.typeof(out).item.fields}
        counts["asked"] = counts.pop("submitted")
        return counts

    # -- handlers

    def enter(self) -> bool:
        """Register a handler thread; False: the loop has stopped."""
        return bool(_fuse.lib.pc_loop_enter(self._l))

    def next(self, request: FuseRequest) -> bool:
        """Wait for a request; False: the loop has stopped, and no release is left."""
        return bool(_fuse.lib.pc_loop_next(self._l, request._a))

    def forgotten(self, count: int) -> list[tuple[int, int]]:
        """Return up to `count` nodes that the kernel has forgotten, with their lookup counts; empty: no more."""
        found = _fuse.ffi.new("struct pc_forgotten[]", count)
        return [(found[k].number, found[k].times) for k in range(_fuse.lib.pc_loop_forgotten(self._l, found, count))]

    def done(self, token: int) -> None:
        _fuse.lib.pc_loop_done(self._l, token)

    def leave(self, request: FuseRequest) -> None:
        _fuse.lib.pc_loop_leave(self._l, request._a)

    # -- replies

    def reply_error(self, token: int, code: int) -> bool:
        return bool(_fuse.lib.pc_reply_error(self._l, token, code) == 0)

    def reply_attributes(self, token: int, attributes: Iterable[int]) -> bool:
        return bool(_fuse.lib.pc_reply_attributes(self._l, token, _attributes(attributes)) == 0)

    def reply_open(self, token: int, opened: NativeOpened, kept: bool, made: Iterable[int] | None = None) -> bool:
        """`made`: attributes of a file that the request has made."""
        attributes = _fuse.ffi.NULL if made is None else _attributes(made)
        return bool(_fuse.lib.pc_reply_open(self._l, token, attributes, opened._o, kept) == 0)

    def reply_data(self, token: int, data: bytes) -> bool:
        return bool(_fuse.lib.pc_reply_data(self._l, token, data, len(data)) == 0)

    def reply_number(self, token: int, number: int) -> bool:
        return bool(_fuse.lib.pc_reply_number(self._l, token, number) == 0)

    def reply_statfs(self, token: int, fields: Iterable[int]) -> bool:
        return bool(_fuse.lib.pc_reply_statfs(self._l, token, tuple(fields)) == 0)

    # -- the kernel's caches

    def notify(self, what: str, *arguments: int | bytes) -> int:
        """Call a function of notify.c. Return 0, or a negative errno; ENOENT: the kernel does not have the inode."""
        return int(getattr(_fuse.lib, f"pc_notify_{what}")(self._l, *arguments))
