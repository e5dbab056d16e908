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
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self._bind(os.path.dirname(path))
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
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self._path), self._stat):
                os.unlink(self._path)

    def _bind(self, folder: str) -> None:
        os.fchmod(self.socket.fileno(), MODE)  # bind makes the name with this mode, minus the umask
        secret = f".pagecache-{secrets.token_hex(8)}"
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.socket.bind(f"/proc/self/fd/{descriptor}/{secret}")
        finally:
            os.close(descriptor)
        secret = os.path.join(folder, secret)
        try:
            self._stat = os.lstat(secret)
            self.socket.listen(BACKLOG)
            _take_name(secret, self._path)
        finally:
            os.unlink(secret)


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


def _take_name(secret: str, path: str) -> None:
    try:
        os.link(secret, path, follow_symlinks=False)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):  # its owner removed it
            _check_dead(path)
            _remove_dead(path, f"{secret}-old")
        os.link(secret, path, follow_symlinks=False)


def _remove_dead(path: str, aside: str) -> None:
    """Remove the name of a dead socket. If another file has taken it in the meantime, put that back, and raise."""
    os.rename(path, aside)
    try:
        _check_dead(aside)
    except OSError:
        os.link(aside, path, follow_symlinks=False)
        raise
    finally:
        os.unlink(aside)


def _check_dead(path: str) -> None:
    """Raise OSError unless the name is a socket without a listener. A socket of another user may have one."""
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.stat(held).st_mode):
            raise OSError(errno.EEXIST, "something is there that is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(f"/proc/self/fd/{held}") != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, "a server listens at this path already")
    finally:
        os.close(held)
