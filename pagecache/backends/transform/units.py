"""Transforms, and the layout of their units.

    content   |---- unit ----|---- unit ----|-- rest --|            as the cache sees it
    stored    |---- slot ------|---- slot ------|-- rest ----|      slot = unit + overhead

Unit number i of the content is encoded separately and stored at i * slot, so that a unit can be replaced without
touching its neighbours and either size follows from the other. The last unit may be short; it is encoded short.

A whole slot of zeros is a hole: it was never written, and reads as zeros without being decoded. A short last unit is
never a hole (of a byte or two, some are encoded as zeros by chance), so it is always written.

That is why compression is not offered: a unit that became smaller would leave its slot half empty and save nothing,
and one that did not become smaller would not fit into a smaller slot.
"""

from __future__ import annotations

import errno
import math
from typing import Any, Protocol

from ...config import Size, parse_size, with_overrides
from ...errors import BackendError, Key
from ..protocol import BackendLimits

VECTORS = BackendLimits().max_vectors


class Transform(Protocol):
    """The encoding of a `TransformBackend`, unit by unit. Called by several threads at once.

    Neither method gets the key: an object keeps its content when it is renamed. An exception, or a result of another
    length, becomes an EIO that names key and unit and is not retried. A `BackendError` is raised unchanged, so that a
    transform can decide otherwise.
    """

    @property
    def unit(self) -> Size:
        """Return the bytes of content in one unit; the cache reads and writes whole ones."""
        ...

    @property
    def overhead(self) -> Size:
        """Return the bytes that encoding adds to each unit: a nonce, a tag, a checksum."""
        ...

    def encode(self, index: int, data: bytes) -> bytes:
        """Return the stored form of unit number `index`: `len(data) + overhead` bytes.

        Args:
            index: offset of the unit divided by its size.
            data: `unit` bytes, fewer in the last unit of an object; never empty.
        """
        ...

    def decode(self, index: int, data: bytes) -> bytes:
        """Return the content of a stored unit. Raises if `data` is not the result of `encode` for this unit."""
        ...


def up(number: int, multiple: int) -> int:
    """Return `number`, rounded up."""
    return -(-number // multiple) * multiple


class Units:
    """The arithmetic of one transform, and its two methods with checked results.

    Raises:
        TypeError: it is no transform. ValueError: its sizes.
    """

    def __init__(self, transform: Transform) -> None:
        for method in ("encode", "decode"):
            if not callable(getattr(transform, method, None)):
                raise TypeError(f"transform {transform!r} has no {method}: it is not a Transform")
        for size in ("unit", "overhead"):
            if not hasattr(transform, size):
                raise TypeError(f"transform {transform!r} has no {size}: it is not a Transform")
        self.transform = transform
        self.unit = parse_size(transform.unit, "unit")
        self.overhead = parse_size(transform.overhead, "overhead")
        if self.unit < 1:
            raise ValueError(f"unit: {transform.unit!r} is less than 1")
        self.slot = self.unit + self.overhead
        self._zeros = bytes(self.slot)

    def stored_size(self, size: int) -> int:
        """Return the stored size of an object with so much content."""
        whole, rest = divmod(size, self.unit)
        return whole * self.slot + (rest + self.overhead if rest else 0)

    def content_size(self, stored: int) -> int:
        """Return the content size of a stored size; an incomplete write may leave room for the overhead only."""
        whole, rest = divmod(stored, self.slot)
        return whole * self.unit + max(rest - self.overhead, 0)

    def span(self, *units: Size) -> int:
        """Return the bytes of content in the fewest units whose slots are whole multiples of units below."""
        return self.unit * (math.lcm(self.slot, *map(int, units)) // self.slot)

    def limits(self, inner: BackendLimits) -> BackendLimits:
        """Return the limits of one call above a backend with these limits."""
        read_unit, write_unit = self.span(inner.read_unit), self.span(inner.read_unit, inner.write_unit)
        limits: dict[str, Any] = {
            "max_read": self._whole(inner.max_read, read_unit),
            "max_write": self._whole(inner.max_write, write_unit),
            "max_vectors": VECTORS,  # the buffers of a call become one
            "read_unit": read_unit,
            "write_unit": write_unit,
            "boundary": 0,  # slots cross the boundaries below; calls are cut there
            "direct_unit": 1,
            "parallel_direct_writes": False,
        }
        return with_overrides(inner, limits)

    def _whole(self, stored: Size, unit: int) -> int:
        """Return the content of a call that carries `stored` bytes below, in whole units, at least one."""
        return max(int(stored) // self.slot * self.unit // unit, 1) * unit

    def encode(self, key: Key, first: int, content: bytes | bytearray) -> bytearray:
        """Return the slots of the units from number `first` on; the last one may be short."""
        stored = bytearray()
        for begin in range(0, len(content), self.unit):
            data = bytes(content[begin : begin + self.unit])
            index = first + begin // self.unit
            slot = self._checked("encode", key, index, data, len(data) + self.overhead)
            if slot == self._zeros and data != self._zeros[: self.unit]:
                raise self._broken(key, index, "encode answered zeros, which stand for a hole, for other content")
            stored += slot
        return stored

    def decode(self, key: Key, index: int, slot: bytes) -> bytes:
        """Return the content of one slot, which is longer than the overhead."""
        if slot == self._zeros:
            return self._zeros[: self.unit]
        return self._checked("decode", key, index, slot, len(slot) - self.overhead)

    def _checked(self, method: str, key: Key, index: int, data: bytes, length: int) -> bytes:
        try:
            answer = getattr(self.transform, method)(index, data)
        except BackendError:
            raise
        except Exception as error:
            raise self._broken(key, index, f"{method} raised {type(error).__name__}: {error}") from error
        if not isinstance(answer, bytes | bytearray | memoryview):
            raise self._broken(key, index, f"{method} answered {type(answer).__name__}, not bytes")
        if len(answer) != length:
            raise self._broken(key, index, f"{method} answered {len(answer)} bytes for {len(data)}, not {length}")
        return bytes(answer)

    def _broken(self, key: Key, index: int, what: str) -> BackendError:
        error = BackendError(errno.EIO, f"unit {index} (from byte {index * self.unit} on): {what}", retry=False)
        error.filename = key
        return error
