"""Modes of `open()` and flags of `os.open`, from one to the other."""

from __future__ import annotations

import operator
import os

MODES = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "x+": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "a+": os.O_RDWR | os.O_CREAT | os.O_APPEND,
}


def mode_flags(mode: str) -> int:
    """Return the flags of `os.open` for a mode of `open()`.

    Raises:
        ValueError: names the mode and the rule.
    """
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, not {type(mode).__name__}")
    if "t" in mode:
        raise ValueError(f"mode {mode!r}: cached files are binary; wrap the handle in io.TextIOWrapper for text")
    plain = mode.replace("b", "", 1)
    if plain not in MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}, with or without 'b'")
    return MODES[plain]


def checked_flags(flags: int) -> int:
    """Return valid flags of `os.open`, with one of the three access modes."""
    bits = operator.index(flags)
    if bits < 0 or bits & os.O_ACCMODE not in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        raise ValueError(f"flags {flags!r} have none of os.O_RDONLY, os.O_WRONLY, os.O_RDWR")
    return bits


def flags_mode(flags: int) -> str:
    """Return the mode of `open()` for these flags."""
    access = flags & os.O_ACCMODE
    if access == os.O_RDONLY:
        return "rb"
    letter = "a" if flags & os.O_APPEND else "x" if flags & os.O_EXCL else "w"
    if access == os.O_WRONLY:
        return f"{letter}b"
    return "rb+" if letter == "w" else f"{letter}b+"
