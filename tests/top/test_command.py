"""`pagecache top` as a command: output of a single run, options, exit status."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console

from pagecache.cli import main
from pagecache.cli.top import sampling, start
from pagecache.cli.top.columns import VOLUME_COLUMNS
from pagecache.cli.top.command import top
from pagecache.cli.top.once import WIDE, fitting, observe, print_tables
from pagecache.cli.top.rows import SORTS
from pagecache.observe.client import Client

from .documents import FILE_NAMES, NASTY
from .serving import Owner, as_json, wait_until


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caches of this machine."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("PAGECACHE_SOCKET", raising=False)


def call(*arguments: str | Path) -> Result:
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(main, ["top", *map(str, arguments)])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_help_does_not_import_what_only_the_live_view_needs() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from pagecache.cli import main;"
        "print(CliRunner().invoke(main, ['top', '--help']).exit_code,"
        " [m for m in ('rich', 'textual', 'http.client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_once_does_not_import_textual(owner: Owner) -> None:
    code = "import sys; from pagecache.cli import main; main(standalone_mode=False)"
    code = f"import sys, atexit; atexit.register(lambda: print('textual' in sys.modules)); {code}"
    command = [sys.executable, "-c", code, "top", "--once", str(owner.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.smoke("top")
def test_once_prints_tables(owner: Owner) -> None:
    result = call(owner.path, "--once")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cache-1  48M not saved, oldest 3.2s, clean in 2.0s  3.0M FAILED")
    assert next(line for line in lines if " photos " in line).split()[2:6] == ["30M", "8.0M", "10M", "3.0M"]
    assert "9 of 9 files, by dirty" in lines
    assert "→ tried again in 3.2 s" in result.stdout
    assert "MainThread waits for a fill of [0, 4096) of photos db/main.sqlite" in result.stdout
    assert result.stderr == ""


def test_a_narrow_terminal_gets_the_columns_that_matter() -> None:
    def headings(width: int) -> list[str]:
        return [column.heading for column in fitting(VOLUME_COLUMNS, width)]

    assert headings(80) == ["VOLUME", "MEMORY", "DIRTY", "FLIGHT", "UNSTAB", "FAILED", "OLDEST"]
    assert headings(5) == ["VOLUME"]
    assert len(headings(WIDE)) == len(VOLUME_COLUMNS)


def test_tables_fit_the_terminal(owner: Owner) -> None:
    console = Console(width=60, file=io.StringIO(), force_terminal=False)
    question = sampling.Question(limit=5)
    print_tables(observe([owner.path], question, None), question, console)
    assert isinstance(console.file, io.StringIO)
    tables = [line for line in console.file.getvalue().splitlines() if " VOLUME " in line or " FILE " in line]
    assert len(tables) == 2
    assert all(len(line.rstrip()) <= 60 for line in tables)


def test_once_off_a_terminal_fits_a_hundred_columns(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the omitted columns. $COLUMNS or --wide give more."""
    monkeypatch.delenv("COLUMNS", raising=False)
    plain = call(owner.path, "--once").stdout
    assert max(map(cell_len, plain.splitlines())) <= 100
    assert "not shown (--wide shows all): SAVED/S" in plain
    wide = call(owner.path, "--once", "--wide").stdout
    assert "not shown" not in wide
    assert all(f" {name}" in wide for name in ("CLEAN IN", "QUEUE", "COMMIT/S", "BACKEND"))
    monkeypatch.setenv("COLUMNS", "130")
    assert 100 < max(map(cell_len, call(owner.path, "--once").stdout.splitlines())) <= 130


def test_once_with_an_interval_gives_rates(owner: Owner) -> None:
    ticks = iter(range(0, 1000, 2))
    looks: list[str] = []

    def tick() -> float:
        if len(asked := [target for target in owner.requests if target == "/v1/stats"]) > len(looks):
            looks.append(asked[-1])
            next(ticks)
        return 2.0 * (len(looks) - 1)

    owner.tick = tick
    result = call(owner.path, "--once", "--interval", "0.1")
    assert "hit 90.1% of 10k/s" in result.stdout
    assert len(looks) == 2


def test_json_has_everything_and_no_rates_of_one_look(owner: Owner) -> None:
    result = call(owner.path, "--json", "--files", "5", "--sort", "key")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    (cache,) = document["caches"]
    assert (cache["name"], cache["error"], cache["local"], cache["clean_in"]) == ("cache-1", None, 48 << 20, 2.0)
    assert cache["per_second"] == {"accesses": None, "reads": None, "writes": None, "commits": None}
    assert [volume["name"] for volume in document["volumes"]] == ["photos", "scratch"]
    assert [file["key"] for file in document["files"]] == sorted([*FILE_NAMES, "tmp/0", "tmp/1", "tmp/2"])[:5]
    assert document["waits"][1]["key"] == NASTY
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout


def test_a_socket_that_cannot_be_read_is_named_and_the_others_are_shown(owner: Owner, place: Path) -> None:
    result = call(owner.path, place / "none.sock", "--once")
    assert result.exit_code == 1
    assert "48M not saved" in result.stdout
    assert f"pagecache top: {place}/none.sock: no such socket: not served, or the cache is closed" in result.stderr
    document = json.loads(call(owner.path, place / "none.sock", "--json").stdout)
    assert [cache["error"] and cache["error"]["kind"] for cache in document["caches"]] == [None, "NoSocket"]


def test_an_owner_that_hangs_is_named_after_the_timeout(
    owner: Owner, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Owner(place / "other.sock")
    other.open_gate.clear()
    other.start()

    def client(path: Path, timeout: float) -> Client:
        assert timeout > 1
        return Client(path, timeout=0.1 if path == other.path else timeout)

    monkeypatch.setattr("pagecache.cli.top.once.Client", client)
    try:
        result = call(other.path, owner.path, "--once")
    finally:
        other.open_gate.set()
        other.close()
    assert result.exit_code == 1
    assert "48M not saved" in result.stdout
    assert "no answer within 0.1 s" in result.stderr


def test_a_newer_cache_says_which_program_has_to_be_updated(owner: Owner) -> None:
    owner.changed["/v1/stats"] = as_json({"schema": 2})
    result = call(owner.path, "--once")
    assert result.exit_code == 1
    assert "update pagecache here" in result.stderr


def test_without_sockets_it_says_how_to_serve_one() -> None:
    result = call("--once")
    assert result.exit_code == 2
    assert result.stderr.startswith("main top: no socket found: serve one by cache.serve_stats(path)")
    assert len(result.stderr.splitlines()) == 1


def test_sockets_are_found_by_the_environment(owner: Owner, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGECACHE_SOCKET", str(owner.path))
    assert "48M not saved" in call("--once").stdout
    monkeypatch.delenv("PAGECACHE_SOCKET")
    (place / "pagecache").mkdir()
    (place / "pagecache" / "a.sock").symlink_to(owner.path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    assert "48M not saved" in call("--once").stdout


def test_a_socket_named_twice_is_shown_once(owner: Owner) -> None:
    assert call(owner.path, owner.path, "--once").stdout.count("48M not saved") == 1


def test_output_off_a_terminal_comes_once_with_a_note(owner: Owner) -> None:
    result = call(owner.path)
    assert result.exit_code == 0
    assert result.stderr == "pagecache top: not a terminal: shown once\n"
    assert "48M not saved" in result.stdout


def test_without_textual_the_live_view_says_what_to_install(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "why_not_live", lambda: None)
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    result = call(owner.path)
    assert result.exit_code == 2
    assert "pip install '.[tui]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "options", [("--interval", "0"), ("--interval", "x"), ("--files", "-1"), ("--files", "1001"), ("--sort", "size")]
)
def test_options_that_make_no_sense_are_wrong_usage(owner: Owner, options: tuple[str, ...]) -> None:
    assert call(owner.path, *options).exit_code == 2


def test_the_orders_of_the_option_are_those_of_the_server() -> None:
    option = next(one for one in top.params if one.name == "sort")
    assert tuple(option.to_info_dict()["type"]["choices"]) == SORTS


def test_no_files_are_asked_for_where_none_are_wanted(owner: Owner) -> None:
    assert "FILE" not in call(owner.path, "--once", "--files", "0").stdout.splitlines()
    assert not [target for target in owner.requests if target.startswith("/v1/files")]


def test_ctrl_c_does_not_wait_for_an_owner_that_hangs(owner: Owner) -> None:
    owner.open_gate.clear()
    code = "from pagecache.cli.top import once; once.TIMEOUT = 1000.0; from pagecache.cli import main; main()"
    command = [sys.executable, "-c", code, "top", "--once", str(owner.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: bool(owner.requests), "the request")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "interrupted: nothing was changed\n"


def test_a_reader_that_closes_the_pipe_is_no_failure(owner: Owner) -> None:
    command = f"{sys.executable} -m pagecache top --once {owner.path} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
