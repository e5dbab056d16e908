"""Check the declared limits of a backend, as far as possible, and recommend others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from pagecache.backends.protocol import Backend, BackendFile, BackendLimits
from pagecache.cli.check_backend.checking import Objects
from pagecache.cli.check_backend.measuring import Measures, saturated
from pagecache.target import Target
from pagecache.testing.conformance_base import content, limits_of, read, write

__all__ = ["Finding", "check_limits", "text_of", "to_write_down"]

GROUP = "limits"
UNITS = tuple(1 << power for power in range(17))
CALL_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding on one limit.

    Attributes:
        limit: its name.
        status: "true" as far as can be checked, "wrong", "hint" (another value would be better), "unknown".
        found: a sentence.
        better: the value to write down instead.
    """

    limit: str
    declared: object
    status: Literal["true", "wrong", "hint", "unknown"]
    found: str
    better: object = None


def check_limits(target: Target, objects: Objects) -> Iterator[Finding]:
    """Yield a finding on every limit that can be checked."""
    backend = target.make()
    try:
        file = backend.open(objects.key(GROUP, "calls"), create=True)
        try:
            yield from _longest(file, limits_of(backend, file), "max_write")
            file.truncate(max(file.stat().size, min(int(backend.limits.max_read), CALL_MAX)))
            file.commit()
            yield from _longest(file, limits_of(backend, file), "max_read")
            yield from _vectors(file, limits_of(backend, file))
            yield from _unit(backend, objects, "write_unit")
            yield from _unit(backend, objects, "read_unit")
            yield from _second_instance(target, backend, objects)
        finally:
            if hasattr(file, "close"):
                file.close()
    finally:
        objects.remove(backend, GROUP)
        backend.close()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _longest(file: BackendFile, limits: BackendLimits, limit: str) -> Iterator[Finding]:
    """Check that one call of the declared length is taken as a whole."""
    declared = int(getattr(limits, limit))
    verb = "write_from" if limit == "max_write" else "read_into"
    length = min(declared, int(limits.boundary) or declared)
    if length > CALL_MAX:
        yield Finding(limit, declared, "unknown", f"more than {CALL_MAX >> 20} MiB in one call is not tried")
        return
    buffer = content(length, 1) if limit == "max_write" else bytearray(length)
    try:
        answer = getattr(file, verb)(0, [memoryview(buffer)])
    except Exception as error:
        yield Finding(
            limit,
            declared,
            "wrong",
            f"{verb} of {length} bytes is refused: {_words(error)}",
            _taken(file, limits, limit),
        )
        return
    if answer == length:
        yield Finding(limit, declared, "true", f"{verb} of {length} bytes is taken in one call")
    elif isinstance(answer, int) and 0 < answer < length:
        unit = int(limits.write_unit if limit == "max_write" else limits.read_unit)
        better = max(unit, answer - answer % unit)
        short = f"{verb} of {length} bytes is answered with {answer}: less in one call is less work"
        yield Finding(limit, declared, "hint", short, better)
    else:
        yield Finding(limit, declared, "wrong", f"{verb} of {length} bytes is answered with {answer!r}")


def _taken(file: BackendFile, limits: BackendLimits, limit: str) -> int | None:
    """Return the longest call that is accepted, found by halving; None: none is."""
    unit = int(limits.write_unit if limit == "max_write" else limits.read_unit)
    length = int(getattr(limits, limit)) // 2
    while length >= unit:
        length -= length % unit
        buffer = bytearray(length)
        try:
            if limit == "max_write":
                file.write_from(0, [memoryview(buffer)])
            else:
                file.read_into(0, [memoryview(buffer)])
            return length
        except Exception:
            length //= 2
    return None


def _vectors(file: BackendFile, limits: BackendLimits) -> Iterator[Finding]:
    """Check that one call takes as many buffers as declared."""
    declared = int(limits.max_vectors)
    unit = int(limits.write_unit)
    wanted = -(-declared // unit) * unit  # a byte for each buffer, in whole units
    length = min(wanted, int(limits.max_write), int(limits.boundary) or wanted)
    count = min(declared, length)
    cuts = [length * k // count for k in range(count + 1)]
    data = memoryview(content(length, 2))
    parts = [data[begin:end] for begin, end in pairwise(cuts)]
    try:
        answer = file.write_from(0, parts)
    except Exception as error:
        yield Finding("max_vectors", declared, "wrong", f"write_from of {count} buffers is refused: {_words(error)}")
        return
    if answer == length:
        yield Finding("max_vectors", declared, "true", f"write_from of {count} buffers is taken in one call")
    elif isinstance(answer, int) and 0 < answer < length:
        better = sum(cut < answer for cut in cuts[:-1])
        found = f"write_from of {count} buffers takes {better} of them: fewer in one call is less work"
        yield Finding("max_vectors", declared, "hint", found, better)
    else:
        yield Finding("max_vectors", declared, "wrong", f"write_from of {count} buffers is answered with {answer!r}")


def _unit(backend: Backend, objects: Objects, limit: str) -> Iterator[Finding]:
    """Find the smallest accepted unit, and check the declared one."""
    declared = int(getattr(backend.limits, limit))
    takes = _takes_write if limit == "write_unit" else _takes_read
    words: str | None = None
    for unit in sorted({*UNITS, declared}):
        if unit < declared:
            continue
        refusal = takes(backend, objects, unit)
        if refusal is None:
            break
        words = words or refusal
    else:
        yield Finding(limit, declared, "wrong", f"no unit up to {UNITS[-1]} is taken: {words}")
        return
    if unit == declared:
        yield Finding(limit, declared, "true", f"pieces of {unit} bytes are taken at any multiple of it")
    else:
        yield Finding(limit, declared, "wrong", f"pieces of {declared} bytes: {words}; {unit} is taken", unit)


def _takes_write(backend: Backend, objects: Objects, unit: int) -> str | None:
    """Return why writes of one unit, at odd multiples of it, are refused; None: they are accepted."""
    file = backend.open(objects.key(GROUP, f"write-{unit}"), create=True)
    try:
        data = bytearray(content(16 * max(unit, int(backend.limits.write_unit)), 3))
        write(backend, file, 0, bytes(data))
        for place in (1, 5, 6):
            data[place * unit : (place + 1) * unit] = piece = content(unit, place)
            write(backend, file, place * unit, piece)
        file.commit()
        found = read(backend, file, 0, len(data))
        return None if found == data else "what is stored is not what was written"
    except Exception as error:
        return _words(error)
    finally:
        if hasattr(file, "close"):
            file.close()


def _takes_read(backend: Backend, objects: Objects, unit: int) -> str | None:
    """Return why reads of one unit, at odd multiples of it, are refused; None: they are accepted."""
    file = backend.open(objects.key(GROUP, f"read-{unit}"), create=True)
    try:
        data = content(16 * max(unit, int(backend.limits.write_unit), int(backend.limits.read_unit)), 4)
        write(backend, file, 0, data)
        file.commit()
        for place in (1, 5, 6):
            if read(backend, file, place * unit, unit) != data[place * unit : (place + 1) * unit]:
                return "what is read is not what was written"
        return None
    except Exception as error:
        return _words(error)
    finally:
        if hasattr(file, "close"):
            file.close()


def _second_instance(target: Target, backend: Backend, objects: Objects) -> Iterator[Finding]:
    """Check what a second backend sees: after a commit everything, with durable_writes before it too."""
    limits = backend.limits
    key = objects.key(GROUP, "seen")
    file = backend.open(key, create=True)
    other = target.make()
    try:
        write(backend, file, 0, b"committed")
        file.commit()
        if _seen(other, key) != b"committed":
            found = "a second backend of the same kind sees other objects, so nothing can be seen of it from outside"
            yield Finding("durable_writes", limits.durable_writes, "unknown", found)
            return
        write(backend, file, 0, b"published")
        early = _seen(other, key) == b"published"
        file.commit()
        late = _seen(other, key) == b"published"
    finally:
        other.close()
        if hasattr(file, "close"):
            file.close()
    if limits.durable_writes and not early:
        found = "what write_from has taken is not there for a second backend before commit"
        yield Finding("durable_writes", True, "wrong", found, False)
    else:
        seen = "seen by a second backend at once" if early else "seen by a second backend after commit"
        yield Finding("durable_writes", limits.durable_writes, "true", f"what write_from has taken is {seen}")
    if limits.commit_on_close and early:
        found = "what was written is seen by a second backend before commit"
        yield Finding("commit_on_close", True, "wrong", found, False)
    elif not late:
        found = "what was committed is not seen by a second backend that had read the object before"
        yield Finding("commit_on_close", limits.commit_on_close, "wrong", found)
    elif not limits.commit_on_close and not early:
        found = "others see bytes by commit only: say True if an object may only ever change as a whole"
        yield Finding("commit_on_close", False, "hint", found)
    else:
        yield Finding("commit_on_close", limits.commit_on_close, "true", "others see what was committed")


def _seen(backend: Backend, key: str) -> bytes | None:
    try:
        file = backend.open(key)
    except FileNotFoundError:
        return None
    try:
        return read(backend, file, 0, 100)
    finally:
        if hasattr(file, "close"):
            file.close()


# ------------------------------------------------------------------------------------------------ recommended limits


def to_write_down(declared: BackendLimits, measures: Measures, findings: list[Finding]) -> BackendLimits:
    """Return the declared limits, corrected, with the fastest sizes and number of concurrent calls."""
    better: dict[str, Any] = {finding.limit: finding.better for finding in findings if finding.better is not None}
    best = {
        "max_read": saturated(measures.sizes, "read"),
        "max_write": saturated(measures.sizes, "write"),
        "max_inflight": max(saturated(measures.parallel, verb) or 0 for verb in ("read", "write")) or None,
    }
    for name, value in best.items():
        if value is not None:
            most = better.get(name)
            better[name] = min(value, most) if isinstance(most, int) else value
    for kind in ("read", "write"):
        unit = int(better.get(f"{kind}_unit", getattr(declared, f"{kind}_unit")))
        most = int(better.get(f"max_{kind}", getattr(declared, f"max_{kind}")))
        better[f"max_{kind}"] = max(most - most % unit, unit)
    return dataclasses.replace(declared, **better)


def text_of(limits: BackendLimits) -> str:
    """Return the limits as Python code: those that differ from the defaults."""
    plain = BackendLimits()
    parts = []
    for field in dataclasses.fields(limits):
        value = getattr(limits, field.name)
        if value != getattr(plain, field.name):
            parts.append(f"{field.name}={_size(value) if field.type == 'Size' else repr(value)}")
    return f"BackendLimits({', '.join(parts)})"


def _size(value: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor and value % factor == 0:
            return f'"{value // factor}{unit}"'
    return repr(value)
