"""Views: cache memory without a copy.

A view pins the folios that hold its range: they are not evicted or used for anything else until the last memoryview,
slice or array over them is gone, whatever happens to the file. Truncate, invalidate and discard cut a pinned folio off
(`detached`); its memory keeps its content. Reads through a view see later writes to the file, as a mapping would, but
never another file's bytes.

Memory of a writable view is dirty while it is referenced, because stores cannot be detected; calls of a backend get a
copy of it. Stores after it was cut off are lost. A pin ends with its last slice, in any thread, even when the garbage
collector runs inside a call of the cache: that briefly takes a lock of CORE and runs no Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..volume.inode import Inode


class View:
    """Pinned cache memory of [offset, offset + length). A context manager.

    Attributes:
        segments: memoryviews, ascending, together exactly the range; one if one folio holds it.

    >>> import pagecache
    >>> with pagecache.PageCache("1MiB") as cache, cache.attach("memory:").open("k", "w+") as f:
    ...     n = f.pwrite(b"hello", 0)
    ...     with f.view(0, 5) as view:
    ...         view.tobytes()
    b'hello'
    """

    segments: tuple[memoryview, ...]

    def __init__(self, inode: Inode, offset: int, length: int, *, writable: bool = False) -> None:
        self._inode = inode  # it stays as long as the view
        self._length = length
        self._released = self._was_detached = False
        self._pins: list[Any] = inode.pin(offset, length, writable) if length else []
        self.segments = tuple(memoryview(pin) for pin in self._pins)

    @property
    def detached(self) -> bool:
        """Whether truncate, invalidate or discard cut the memory off from the file."""
        return self._was_detached or any(pin.detached for pin in self._pins)

    def tobytes(self) -> bytes:
        """Return the current bytes. ValueError: the view is released."""
        if self._released:
            raise ValueError("the view is released")
        return b"".join(self.segments)

    def release(self) -> None:
        """Release the memory, except parts that are still exported. Idempotent; never raises."""
        for segment in self.segments:
            try:
                segment.release()
            except BufferError:
                continue  # an array or slice still refers to it: its last release unpins
        self._was_detached = self.detached
        self._pins = []
        self._released = True

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
