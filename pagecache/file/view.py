"""Views: cache memory without a copy.

A view pins the folios that hold its range: they are not evicted or used for anything else until the last memoryview,
slice or array over them is gone, whatever happens to the file. Truncate, invalidate and discard cut a pinned folio off
(`detached`); its memory stays as it was. Reads through a view see later writes to the file, as a mapping would, but
never another file's bytes.

Memory of a writable view is dirty as long as anybody holds it, because nobody sees a store; calls of a backend get a
copy of it. What is stored after it was cut off is lost. A pin ends with its last slice, in any thread, also from the
garbage collector inside a call of ours: that takes a moment's lock of CORE and runs no Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..volume.inode import Inode

__all__ = ["View"]


class View:
    """Pinned cache memory of [offset, offset + length). A context manager.

    Attributes:
        segments: memoryviews, ascending, together exactly the range; one where one folio holds it.

    >>> import pagecache
    >>> with pagecache.PageCache("1MiB") as cache, cache.attach("memory:").open("k", "w+") as f:
    ...     n = f.pwrite(b"hello", 0)
    ...     with f.view(0, 5) as view:
    ...         view.tobytes()
    b'hello'
    """

    segments: tuple[memoryview, ...]

    def __init__(self, inode: Inode, offset: int, length: int, *, writable: bool = False) -> None:
        self._inode = inode
        self._length = length
        self._released = self._was_detached = False
        self._pins: list[Any] = inode.native.pin(offset, length, writable) if length else []
        self.segments = tuple(memoryview(pin) for pin in self._pins)
        inode.pins.add(self)

    @property
    def detached(self) -> bool:
        """True when truncate, invalidate or discard cut the memory off from the file."""
        return self._was_detached or any(pin.detached for pin in self._pins)

    def tobytes(self) -> bytes:
        """The bytes as they are now. ValueError: the view is released."""
        if self._released:
            raise ValueError("the view is released")
        return b"".join(self.segments)

    def release(self) -> None:
        """Give the memory back as far as nobody else exports it. Idempotent; never raises."""
        for segment in self.segments:
            try:
                segment.release()
            except BufferError:
                continue  # an array or slice still looks at it: its last release unpins
        self._was_detached = self.detached
        self._pins = []
        self._released = True
        self._inode.pins.discard(self)

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
