"""A file system of one file whose pages are served by a thread of the very process that maps it.

It is as small as possible: the kernel's protocol over /dev/fuse, for one regular file with a fixed size. It needs the
right to mount. Every function that touches the file must release the interpreter lock, or it waits forever: that is the
purpose.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable
from enum import IntEnum

NAME = "file"
ROOT, NODE = 1, 2
FOREVER = 3600
HEADER = struct.Struct("=IIQQIIII")
MOST = 1 << 20
FORCE, DETACH = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


class Request(IntEnum):
    """Request codes of the kernel."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


NO_ANSWER = (Request.FORGET, Request.BATCH_FORGET, Request.INTERRUPT)


def unmount(path: str) -> None:
    """Unmount the file system; its waiters get an error."""
    _libc.umount2(os.fsencode(path), FORCE)
    _libc.umount2(os.fsencode(path), DETACH)


class Server:
    """Serves `size` bytes: `read(offset, length)` and `write(offset, data)` are called in a thread of this process."""

    def __init__(
        self, path: str, size: int, read: Callable[[int, int], bytes], write: Callable[[int, bytes], object]
    ) -> None:
        self.size, self._read, self._write = size, read, write
        self.requests = 0
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)  # opened before the file, so that it is closed first
        options = f"fd={self.fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if _libc.mount(b"pagecache", os.fsencode(path), b"fuse", ctypes.c_ulong(0), options.encode()):
            os.close(self.fd)
            raise OSError(ctypes.get_errno(), "mount")
        self.file = os.path.join(path, NAME)
        threading.Thread(target=self._loop, name="fuse", daemon=True).start()

    def _loop(self) -> None:
        while True:
            try:
                request = os.read(self.fd, MOST + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, opcode, unique, node, *_ = HEADER.unpack_from(request)
            if opcode in NO_ANSWER:
                continue
            try:
                code, reply = 0, self._answer(opcode, node, memoryview(request)[HEADER.size :])
            except OSError as error:
                code, reply = error.errno or errno.EIO, b""
            os.write(self.fd, struct.pack("=IiQ", 16 + len(reply), -code, unique) + reply)

    def _answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        match opcode:
            case Request.INIT:
                return struct.pack("=IIIIHHIIHH32x", 7, 31, MOST, 0, 12, 9, MOST, 1, 0, 0)
            case Request.LOOKUP:
                if bytes(body).rstrip(b"\0").decode() != NAME:
                    raise OSError(errno.ENOENT, "lookup")
                return struct.pack("=QQQQII", NODE, 0, FOREVER, FOREVER, 0, 0) + self._attributes(NODE)
            case Request.GETATTR:
                return struct.pack("=QII", FOREVER, 0, 0) + self._attributes(node)
            case Request.OPEN:
                return struct.pack("=QII", 0, 0, 0)
            case Request.READ:
                _, offset, size = struct.unpack_from("=QQI", body)
                self.requests += 1
                return self._read(offset, max(0, min(size, self.size - offset)))
            case Request.WRITE:
                _, offset, size = struct.unpack_from("=QQI", body)
                self._write(offset, bytes(body[40 : 40 + size]))
                return struct.pack("=II", size, 0)
            case Request.RELEASE | Request.FLUSH | Request.DESTROY:
                return b""
        raise OSError(errno.ENOSYS, "not served")

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o040755, 0) if node == ROOT else (0o100644, self.size)
        sizes = (node, size, -(-size // 512), 0, 0, 0)
        return struct.pack("=6Q10I", *sizes, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)
