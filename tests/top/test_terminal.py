"""`pagecache top` in a real terminal, as a user sees it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .serving import Owner, wait_until
from .terminal import TMUX, Terminal, terminal

pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed: apt install tmux")

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str | Path) -> str:
    """The command line, which prints its exit status at its end."""
    words = [sys.executable, "-m", "pagecache", "top", *map(str, arguments)]
    return f"cd {shlex.quote(str(ROOT))}; clear; {shlex.join(words)}; echo status=$?"


@pytest.fixture
def window(place: Path) -> Iterator[Terminal]:
    with terminal(place) as found:
        yield found


def child_of(parent: int) -> int:
    """The only child of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended by now
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    (child,) = found
    return child


def test_start_keys_resize_and_quit(owner: Owner, window: Terminal) -> None:
    window.run(command(owner.path))
    window.shows("48M not saved", "db/main.sqlite", "東京タワー.jpg", "VOLUME photos, MyS3")
    window.press("s")
    window.shows("by cached")
    window.press("/")
    window.press("d", "b", "Enter")
    window.shows("only “db”", "2 of 2")
    window.press("Escape")
    window.shows("9 of 9")
    window.press("Enter")
    window.shows("a letter", "not cached", "FFFF", "DDDD")
    window.resize(40, 10)
    window.shows("320K a letter")
    window.press("Escape")
    window.shows("FILE", "db/main.sqlite")
    window.hides("VOLUME photos, MyS3")
    window.resize(100, 30)
    window.shows("VOLUME photos, MyS3")
    window.press("?")
    window.shows("look more seldom, more often")
    window.press("Escape")
    window.hides("look more seldom")
    window.press("q")
    window.shows("status=0")
    assert "db/main" not in window.text  # the previous screen is back


def test_an_owner_that_is_killed_and_comes_back(place: Path, window: Terminal) -> None:
    """It is a separate process, killed while it is watched."""
    window.resize(160, 40)
    path = place / "own.sock"
    serve = [sys.executable, "-m", "tests.top.serving", str(path)]
    with subprocess.Popen(serve, cwd=ROOT) as first:
        try:
            wait_until(path.exists, "the socket")
            window.run(command(path, "--interval", "0.2"))
            window.shows("48M not saved", f"({first.pid})")
            first.kill()
            first.wait(20)
            window.shows("gone for", "nobody listens")
        finally:
            first.kill()
    with subprocess.Popen(serve, cwd=ROOT) as second:
        try:
            window.shows("48M not saved", f"({second.pid})")
            window.hides("gone for")
        finally:
            second.kill()
    window.press("q")
    window.shows("status=0")


def test_ctrl_c_ends_with_130_and_gives_the_terminal_back(owner: Owner, window: Terminal) -> None:
    window.run(command(owner.path))
    window.shows("48M not saved")
    window.press("C-c")
    window.shows("interrupted: nothing was changed", "status=130")
    window.run("echo still" + "-here")
    window.shows("still-here")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_gives_the_terminal_back(
    owner: Owner, window: Terminal, number: signal.Signals, status: int
) -> None:
    window.run(command(owner.path))
    window.shows("48M not saved")
    os.kill(child_of(window.pane_process()), number)
    window.shows(f"status={status}")
    window.run("echo still" + "-here")
    window.shows("still-here")
    assert "48M not saved" not in window.text


def test_it_ends_with_its_terminal(owner: Owner, window: Terminal) -> None:
    window.run(command(owner.path))
    window.shows("48M not saved")
    process = Path("/proc") / str(child_of(window.pane_process()))
    window.close()
    wait_until(lambda: not process.exists(), "the end of the program")


def test_names_never_reach_the_terminal_raw(owner: Owner, window: Terminal) -> None:
    """The test searches everything written to the terminal, not only the text left on the screen."""
    window.resize(160, 40)
    window.run(command(owner.path))
    window.shows(r"evil\x1b]0;owned")
    window.press("e")
    window.shows(r"the disk said \x1b[31mno")
    window.press("w")
    window.shows(r"writer\x1b[5m-1 waits")
    window.press("End", "Up", "Up", "Up", "Up", "Enter")
    window.shows("a letter", r"evil\x1b")
    window.press("q")
    window.shows("status=0")
    raw = window.raw.read_bytes()
    assert b"owned" in raw
    assert b"\x1b]0;owned" not in raw
    assert b"\x1b[31mno" not in raw
    assert b"\x1b[5m-1" not in raw
    assert b"owned\x07" not in raw
    assert "\u202e".encode() not in raw


def test_no_color_is_kept(owner: Owner, place: Path) -> None:
    with terminal(place, NO_COLOR="1") as window:
        window.run(command(owner.path))
        window.shows("48M not saved", "C---PSUWDF")
        window.press("q")
        window.shows("status=0")
        colours = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", window.raw.read_bytes())
    assert [rgb for rgb in colours if len(set(rgb)) > 1] == [], "something else than grey"


def test_a_tiny_terminal_is_enough(owner: Owner, place: Path) -> None:
    with terminal(place, size=(40, 10)) as window:
        window.run(command(owner.path))
        window.shows("48M not saved", "db/main.sqlite")
        window.resize(12, 3)
        window.hides("db/main.sqlite")
        window.resize(40, 10)
        window.shows("48M not saved", "db/main.sqlite")
        window.press("q")
        window.shows("status=0")


def test_a_dumb_terminal_gets_it_once(owner: Owner, place: Path) -> None:
    with terminal(place, size=(100, 50), TERM="dumb") as window:
        window.run(command(owner.path))
        window.shows("(TERM=dumb) cannot move its cursor: shown once", "48M not saved", "db/main.sqlite", "status=0")
    assert b"\x1b" not in window.raw.read_bytes().partition(b"shown once")[2]


def test_a_pipe_gets_it_once(owner: Owner, window: Terminal) -> None:
    window.run(command(owner.path).replace("; echo", " | tail -n 1; echo"))
    window.shows("pagecache top: not a terminal: shown once", "not cached", "status=0")
