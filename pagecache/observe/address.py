"""The socket of a server: its creation and its removal.

A socket is made under a secret name, with mode 0600 before it has a name at all. It listens before it gets the
requested name, so no client meets it half made, whatever the umask is. The name is taken by a link, which replaces
nothing. A socket without a listener is removed first. If the removed file turns out to be another one, which arrived at
that moment, it is put back. Two processes that want one name take turns by a lock on the directory,
unless another process keeps it.

A name may be as long as the file system allows: sockets are bound and connected to through the directory that holds
them (/proc/self/fd), since an address has room for only 107 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import time
import weakref
from collections.abc import Iterator

__all__ = ["Listener", "checked_path"]

BACKLOG = 128
LOCK_TIMEOUT_S = 1.0
"""Longest wait for the lock in seconds."""
MODE = 0o600


_made: weakref.WeakSet[Listener] = weakref.WeakSet()


def _forsake() -> None:
    for listener in list(_made):
        listener.socket.close()


os.register_at_fork(after_in_child=_forsake)


class Listener:
    """A listening socket with a name. A forked child closes it: after its owner ended, no client may connect."""

    def __init__(self, path: str) -> None:
        """Listen at an absolute path.

        Raises:
            OSError: EADDRINUSE, another server listens there; FileExistsError, another kind of file is there; errors
                of the directory, with the path.
        """
        self.path = path
        self._folder, self._name = os.path.split(path)
        with _opened(self._folder, path) as folder:
            self.socket, temporary = _bound(folder, path)
            _made.add(self)
            try:
                self._identity = _identity(os.stat(temporary, dir_fd=folder, follow_symlinks=False))
                self.socket.listen(BACKLOG)
                with _turn(folder):
                    _take_name(folder, temporary, self._name, path)
            except BaseException:
                self.socket.close()
                raise
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)

    def close(self) -> None:
        """Stop listening."""
        self.remove()
        self.socket.close()

    def remove(self) -> None:
        """Remove the name if it is still this socket. Before the socket closes: until then its inode is unique."""
        with contextlib.suppress(OSError), _opened(self._folder, self.path) as folder:
            if _identity(os.stat(self._name, dir_fd=folder, follow_symlinks=False)) == self._identity:
                os.unlink(self._name, dir_fd=folder)


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


@contextlib.contextmanager
def _opened(folder: str, path: str) -> Iterator[int]:
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _named(error, path) from None
    try:
        yield found
    finally:
        os.close(found)


def _named(error: OSError, path: str) -> OSError:
    """Return the error of a call with the whole path."""
    return OSError(error.errno, error.strerror, path)


def _address(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


def _bound(folder: int, path: str) -> tuple[socket.socket, str]:
    """Make a socket under a secret name."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(made.fileno(), MODE)  # bind makes the name with this mode, minus the umask
        name = f".pagecache-{secrets.token_hex(8)}"
        made.bind(_address(folder, name))
    except OSError as error:
        made.close()
        raise _named(error, path) from None
    except BaseException:
        made.close()
        raise
    return made, name


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _turn(folder: int) -> Iterator[None]:
    """Hold the lock under which one process at a time examines and changes names of sockets in a directory.

    Every user who can read the directory can lock it, too. So the wait has a limit, and the caller goes on without the
    lock: it only spares two processes of one user a race for one name, which one of them loses.
    """
    until = time.monotonic() + LOCK_TIMEOUT_S
    while time.monotonic() < until:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)  # closing is not enough: a child forked in between has it open too


def _take_name(folder: int, temporary: str, name: str, path: str) -> None:
    for _ in range(2):
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            return
        except FileExistsError:
            _clear(folder, name, path)
        except OSError as error:
            raise _named(error, path) from None
    raise OSError(errno.EADDRINUSE, "another process took the path just now", path)


def _clear(folder: int, name: str, path: str) -> None:
    """Remove a socket whose owner is gone.

    Raises:
        OSError: Its owner is there, or it is not a socket.
    """
    try:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return  # its owner removed it
    try:
        if not stat.S_ISSOCK(os.stat(held).st_mode):
            raise FileExistsError(errno.EEXIST, "something is there that is not a socket", path)
        if _alive(held):
            raise OSError(errno.EADDRINUSE, "a server listens at this path already", path)
        aside = f".pagecache-{secrets.token_hex(8)}"
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        # While this descriptor is open, no other file can get its inode number.
        if _identity(os.stat(aside, dir_fd=folder, follow_symlinks=False)) != _identity(os.stat(held)):
            os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(aside, dir_fd=folder)
    finally:
        os.close(held)


def _alive(held: int) -> bool:
    """Return whether a server listens, or the socket of another user cannot be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(f"/proc/self/fd/{held}")
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
