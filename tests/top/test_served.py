"""`pagecache top` and a real cache, in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pagecache.cli import main
from pagecache.observe.client import Client

from .owner_process import PAGE
from .screens import View, model_of, run_view

ROOT = Path(__file__).parent.parent.parent
KEY = r"dir/\x1b[31mred"


class Program:
    """The owner process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.top.owner_process", str(path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, line: str) -> str:
        """Send a command, and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture
def program(place: Path) -> Iterator[Program]:
    found = Program(place / "real.sock")
    try:
        yield found
    finally:
        found.kill()


def test_unsaved_bytes_are_shown_and_then_that_they_are_saved(program: Program) -> None:
    async def test(view: View) -> None:
        await view.shows("all saved", "store")
        program.do("write 0 3")
        await view.press("r")
        await view.shows("12K not saved", KEY)
        assert view.line(KEY).split()[2] == "12K"
        program.do("fsync")
        await view.press("r")
        await view.shows("all saved")
        await view.hides("not saved")

    run_view(model_of(program.path), test)


def test_a_map_shows_the_state_of_every_page(program: Program) -> None:
    program.do("write 0 4")
    program.do("fsync")
    program.do("write 2 1")
    program.do("write 6 2")

    async def test(view: View) -> None:
        await view.shows(KEY)
        await view.press("enter")
        await view.shows("4.0K a letter, 32K", "CCDC··DD", "dirty 12K", "clean 12K")
        program.do("fsync")
        await view.press("r")
        await view.shows("CCCC··CC")

    run_view(model_of(program.path), test)


def test_a_filter_is_answered_by_the_cache(program: Program) -> None:
    async def test(view: View) -> None:
        await view.shows(KEY, "of 1, by dirty")
        await view.press("slash", *"none", "enter")
        await view.shows("0 of 0, by dirty")
        await view.press("escape", "slash", *"DIR/", "enter")
        await view.shows("1 of 1, by dirty", KEY)

    run_view(model_of(program.path), test)


def test_a_failure_is_seen_with_what_happens_next(program: Program) -> None:
    program.do("write 0 1")
    program.do("fail ENOSPC")
    assert program.do("fsync") == "ENOSPC"

    async def test(view: View) -> None:
        await view.shows("4.0K FAILED")
        await view.press("e")
        await view.shows("ENOSPC", KEY, "[0, 4096)", "→")
        program.do("mend")
        assert program.do("fsync") == "done"
        await view.press("r")
        await view.shows("all saved")

    run_view(model_of(program.path), test)


def test_hits_and_calls_have_rates(program: Program) -> None:
    program.do("write 0 1")

    async def test(view: View) -> None:
        await view.shows(KEY)
        await view.pilot.pause(0.3)  # rates cover a quarter of a second at least
        program.do("read 1000")
        program.do("fsync")
        await view.press("r")
        await view.shows("hit 100% of", "commit")
        await view.until(lambda: "p50      -" not in view.line("write  "), "the time of the write")

    run_view(model_of(program.path), test)


def test_a_killed_program_is_gone_and_its_successor_is_seen(program: Program) -> None:
    async def test(view: View) -> None:
        await view.shows("all saved")
        program.kill()
        await view.shows("gone for", "nobody listens")
        successor = Program(program.path)
        try:
            await view.shows("all saved", str(successor.process.pid))
        finally:
            successor.kill()

    run_view(model_of(program.path, interval=0.1), test, size=(160, 36))


def test_a_cache_that_closes_is_gone(program: Program) -> None:
    async def test(view: View) -> None:
        await view.shows("all saved")
        program.do("close")
        await view.shows("gone for", "no such socket")

    run_view(model_of(program.path, interval=0.1), test)


def test_only_a_page_of_many_files_is_shown(program: Program) -> None:
    program.do("many 3000")

    async def test(view: View) -> None:
        await view.shows("of 3,001, by dirty")
        await view.press("s", "s", "s", "s", "s", "s")
        await view.shows("by key", "many/00001")
        shown = view.app.model.files().rows
        assert len(shown) < 200
        assert [row.file.key for row in shown] == sorted(row.file.key for row in shown)
        await view.press("slash", *"many/0009")
        await view.shows("many/00099")

    run_view(model_of(program.path), test)


def test_once_prints_a_real_cache(program: Program) -> None:
    program.do("write 0 3")
    result = CliRunner().invoke(main, ["top", "--once", str(program.path)])
    assert result.exit_code == 0, result.output
    assert "12K not saved" in result.stdout
    assert KEY in result.stdout
    document = json.loads(CliRunner().invoke(main, ["top", "--json", str(program.path)]).stdout)
    assert document["files"][0]["counters"]["dirty"] == 3 * PAGE
    assert document["files"][0]["key"] == "dir/\x1b[31mred"


def test_every_document_is_read(program: Program) -> None:
    """The reader's types have every field that the server sends."""
    program.do("write 0 3")
    program.do("fail ENOSPC")
    program.do("fsync")
    with Client(program.path) as client:
        stats = client.stats()
        (file,) = client.files(volume="store", sort="failed").files
        assert client.all_folios(file.id).runs == ((0, 3 * PAGE, "failed"),)
        assert client.waits().waits == ()
        assert client.failed("store").failed[0].errno == 28
        program.do("mend")
        ticket = client.begin_sync()
        assert client.sync(ticket.ticket).ticket == ticket.ticket
    assert stats.volumes[0].counters["failed"] == 3 * PAGE
