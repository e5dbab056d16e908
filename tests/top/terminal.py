"""A real terminal for tests: a shell in tmux, on a separate tmux server."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .serving import LONG

TMUX = shutil.which("tmux")


class Terminal:
    """A shell in a terminal of a fixed size.

    Attributes:
        raw: all bytes written to the terminal.
    """

    def __init__(self, place: Path, *, size: tuple[int, int], environment: dict[str, str]) -> None:
        assert TMUX is not None
        self._command = [TMUX, "-u", "-S", str(place / "tmux"), "-f", "/dev/null"]
        self.raw = place / "raw"
        clean = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR", "TMUX_PANE")}
        shell = [
            "env",
            "PS1=ready> ",
            "LC_ALL=C.UTF-8",
            *(f"{name}={value}" for name, value in environment.items()),
            "sh",
        ]
        width, height = size
        self._environment = clean
        # tmux runs this in the login shell of the user. Without exec some shells stay, as the parent of the test's
        # shell.
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), f"exec {shlex.join(shell)}")
        self._tmux("set-option", "-g", "status", "off")
        self.resize(width, height)
        self._tmux("pipe-pane", "-o", f"cat > {shlex.quote(str(self.raw))}")
        self.shows("ready>")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, timeout=LONG
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, command: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", command)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys by their names in tmux."""
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    @property
    def text(self) -> str:
        """The text of the screen."""
        return self._tmux("capture-pane", "-p")

    def shows(self, *parts: str) -> None:
        """Wait until all of these are on the screen."""
        self._until(lambda text: all(part in text for part in parts), f"{parts}")

    def hides(self, part: str) -> None:
        """Wait until this is no longer on the screen."""
        self._until(lambda text: part not in text, f"{part!r} to be gone")

    def _until(self, condition: object, what: str) -> None:
        assert callable(condition)
        deadline = time.monotonic() + LONG
        while not condition(text := self.text):
            assert time.monotonic() < deadline, f"waited {LONG:g} s for {what}:\n{text}"
            time.sleep(0.05)

    def pane_process(self) -> int:
        """The process id of the shell."""
        return int(self._tmux("list-panes", "-F", "#{pane_pid}"))

    def close(self) -> None:
        """End the shell, and everything in it."""
        subprocess.run([*self._command, "kill-server"], env=self._environment, capture_output=True, timeout=LONG)


@contextlib.contextmanager
def terminal(place: Path, *, size: tuple[int, int] = (100, 30), **environment: str) -> Iterator[Terminal]:
    """A terminal that is gone at the end."""
    found = Terminal(place, size=size, environment=environment)
    try:
        yield found
    finally:
        found.close()
