"""The listening socket of a server: its creation and its removal.

A socket is bound under a secret name, with mode 0600, and listens before a link gives it the requested name: no client
meets it half made, and nothing is replaced but a socket without a listener.

A name may be as long as the file system allows: sockets are reached through /proc/self/fd, since an address has room
for only 107 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterator

BACKLOG = 128
MODE = 0o600


class Listener:
    """A listening socket with a name."""

    def __init__(self, path: str) -> None:
        """Listen at an absolute path.

        Raises:
            OSError: EADDRINUSE, another server listens there; FileExistsError, another kind of file is there; errors
                of the directory, with the path.
        """
        self._folder, self._name = os.path.split(path)
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            with self._opened() as folder:
                self._bind(folder)
        except BaseException as error:
            self.socket.close()
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, path) from None
            raise

    def close(self) -> None:
        """Stop listening."""
        self.remove()
        self.socket.close()

    def remove(self) -> None:
        """Remove the name if it is still this socket. Before the socket closes: until then its inode is unique."""
        with contextlib.suppress(OSError), self._opened() as folder:
            if os.path.samestat(os.stat(self._name, dir_fd=folder, follow_symlinks=False), self._stat):
                os.unlink(self._name, dir_fd=folder)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        found = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield found
        finally:
            os.close(found)

    def _bind(self, folder: int) -> None:
        os.fchmod(self.socket.fileno(), MODE)  # bind makes the name with this mode, minus the umask
        secret = f".pagecache-{secrets.token_hex(8)}"
        self.socket.bind(f"/proc/self/fd/{folder}/{secret}")
        try:
            self._stat = os.stat(secret, dir_fd=folder, follow_symlinks=False)
            self.socket.listen(BACKLOG)
            _take_name(folder, secret, self._name)
        finally:
            os.unlink(secret, dir_fd=folder)


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a socket.

    Raises:
        TypeError, ValueError: It cannot be the path of a socket.
    """
    found = os.fspath(path)
    if not isinstance(found, str):
        raise TypeError(f"path must be a str or os.PathLike of one, not {type(found).__name__}")
    if "\0" in found or not os.path.basename(found):
        raise ValueError(f"path: {found!r} is not the path of a socket")
    return os.path.join(os.path.realpath(os.path.dirname(found) or "."), os.path.basename(found))


def _take_name(folder: int, secret: str, name: str) -> None:
    try:
        os.link(secret, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):  # its owner removed it
            _check_dead(folder, name)
            _remove_dead(folder, name, f"{secret}-old")
        os.link(secret, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)


def _remove_dead(folder: int, name: str, aside: str) -> None:
    """Remove the name of a dead socket. If another file has taken it in the meantime, put that back, and raise."""
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        _check_dead(folder, aside)
    except OSError:
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        raise
    finally:
        os.unlink(aside, dir_fd=folder)


def _check_dead(folder: int, name: str) -> None:
    """Raise OSError unless the name is a socket without a listener. A socket of another user may have one."""
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
    try:
        if not stat.S_ISSOCK(os.stat(held).st_mode):
            raise OSError(errno.EEXIST, "something is there that is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(f"/proc/self/fd/{held}") != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, "a server listens at this path already")
    finally:
        os.close(held)
