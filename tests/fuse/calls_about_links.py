"""Calls about extended attributes of symbolic links, in the name spaces that Linux lets a link have."""

from __future__ import annotations

import os
from pathlib import Path

from .calls import Recorder, check
from .calls_about_attributes import ELSE, recorded_by


def listed(path: Path) -> list[str]:
    """The names without those that a security module adds."""
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.endswith((".a", ".b")))


@check
def attributes_of_links(top: Path, record: Recorder) -> None:
    spaces = ("trusted.", "security.", "user.", "system.", "nothing.") if os.geteuid() == 0 else ("user.", "nothing.")
    (top / "file").touch()
    for target in ("file", "nowhere", "loop", "/outside"):
        link = top / f"to-{target.strip('/')}"
        link.symlink_to(f"to-{target}" if target == "loop" else target)
        for space in spaces:
            what = f"{target}, {space}"

            def get(name: str) -> bytes:
                return os.getxattr(link, name, follow_symlinks=False)

            def set(name: str, value: bytes, flags: int = 0) -> None:
                os.setxattr(link, name, value, flags, follow_symlinks=False)

            record(f"{what}: none", lambda: get(f"{space}a"))
            record(f"{what}: replace what is not there", lambda: set(f"{space}a", b"1", os.XATTR_REPLACE))
            record(f"{what}: create", lambda: set(f"{space}a", b"1", os.XATTR_CREATE))
            record(f"{what}: create again", lambda: set(f"{space}a", b"2", os.XATTR_CREATE))
            record(f"{what}: set", lambda: set(f"{space}b", bytes(range(256))))
            record(f"{what}: found", lambda: (get(f"{space}a"), get(f"{space}b")))
            record(f"{what}: listed", lambda: listed(link))
            record(f"{what}: removed", lambda: os.removexattr(link, f"{space}b", follow_symlinks=False))
            record(f"{what}: removed again", lambda: os.removexattr(link, f"{space}b", follow_symlinks=False))
        record(f"{target}: listed", lambda: listed(link))
        record(f"{target}: renamed", lambda: (link.rename(top / "other"), listed(top / "other"))[1])
        record(f"{target}: of what it leads to", lambda: listed(top / "file"))
        record(f"{target}: unlinked", lambda: (top / "other").unlink())
    if os.geteuid() == 0:
        (top / "link").symlink_to("file")
        program = (
            ELSE
            + """
for space in ("user", "trusted", "security"):
    for call in (os.getxattr, lambda *link, **how: os.setxattr(*link, b"1", **how), os.removexattr):
        tell(f"others, {space}", lambda: call("link", f"{space}.a", follow_symlinks=False))
"""
        )
        recorded_by(program, top, record)
