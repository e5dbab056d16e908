"""Output of the commands for people: sizes, counts, times, and foreign text.

    in a sentence   12.5 MiB     3.2s     with the unit as it is written in options
    in a column     13M    12k   3.2s     five or six cells, whatever the number is; on a screen of such columns
                                          in its sentences too

Names come from the keys of a backend, messages from any failed call: both may hold escape sequences, line ends or
letters that reverse the direction of writing. All foreign text passes through `printable`. None is "not known".
"""

import math

UNKNOWN = "-"


def printable(text: str) -> str:
    """Return foreign text in a form that cannot move the cursor of a terminal, nor break its encoding.

    An invisible character becomes an escape; an invalid byte of a file name becomes the escape of that byte.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else escape(one) for one in text)


def escape(one: str) -> str:
    r"""One character as Python writes it: `\n`, `\x1b`, `\u202e`. The byte behind `\udcff` is `\xff`."""
    return f"\\x{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else ascii(one)[1:-1]


def size_text(size: float) -> str:
    """Format bytes for a sentence."""
    value, power = scaled(size, 1024, 1023.95)
    return f"{value:.1f} {'KMGTP'[power - 1]}iB" if power else f"{size:.0f} B"


def short_size(size: float | None) -> str:
    """Format bytes in at most five columns; K, M, G, ... are powers of 1024."""
    if size is None:
        return UNKNOWN
    value, power = scaled(size, 1024, 1023.5)
    return short(value, "KMGTP"[power - 1]) if power else f"{size:.0f}B" if size else "0"


def count_text(count: float | None) -> str:
    """Format a number in at most five columns; k, M, G are powers of 1000."""
    if count is None:
        return UNKNOWN
    if 0 < count < 9.95 and count != int(count):
        return f"{count:.1f}"
    value, power = scaled(count, 1000, 999.5)
    return short(value, "kMGTP"[power - 1]) if power else f"{count:.0f}"


def scaled(value: float, base: int, most: float) -> tuple[float, int]:
    """Return the value in the smallest power of `base`, up to the fifth, in which it is below `most`; and that
    power.
    """
    power = 0
    while value >= most and power < 5:
        value /= base
        power += 1
    return value, power


def short(value: float, unit: str) -> str:
    """Format at most four digits, one of them after the point if there is one before it."""
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def percent_text(share: float | None) -> str:
    """Format a fraction of 1 as percent. 100 % appears only for exactly 1."""
    if share is None:
        return UNKNOWN
    if share < 1:
        share = min(share, 0.999)
    return f"{100 * share:.1f}" if share < 1 else "100"


def duration_text(seconds: float | None) -> str:
    """Format a time with a fitting unit, from microseconds to days, in at most six columns."""
    if seconds is None:
        return UNKNOWN
    if seconds < 59.95:
        for unit, factor in (("µs", 1e6), ("ms", 1e3)):
            value = seconds * factor
            if 0 < value < 999.5:
                return short(value, unit)
        return f"{seconds:.1f}s" if seconds else "0s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def clean_in_text(clean_in: float | None, *, local: float) -> str:
    """Format the time until everything is saved: "clean" if there is nothing to save, "?" if unknown."""
    if clean_in is None:
        return "?"
    return duration_text(clean_in) if clean_in or local else "clean"


def range_text(offset: int | None, length: int | None) -> str:
    """Format a range of bytes as an interval."""
    return "" if offset is None or length is None else f"[{offset}, {offset + length})"
