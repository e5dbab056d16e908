"""The commands as a user calls them: their output, their exit status, and leftover files."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pagecache import Volume
from pagecache.cli.demo import DirectFile, Job
from tests.commands import call


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place for temporary files; empty again after every command."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo has few files, and its object store answers after a microsecond."""
    monkeypatch.setattr("pagecache.cli.demo.REQUEST_SECONDS", 1e-6)
    monkeypatch.setattr("pagecache.cli.demo.DIRECTORY", (2 << 20, 256 << 10))
    monkeypatch.setattr("pagecache.cli.demo.OBJECTS", (256 << 10, 1 << 20))


def is_empty(place: Path) -> bool:
    return not list(place.iterdir())


def test_help_and_version_need_nothing_but_click() -> None:
    code = "import sys; from pagecache.cli import main; print([m for m in ('rich', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "demo" in call("--help").output
    assert "bench" in call("-h").output


@pytest.mark.smoke("command line")
def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pagecache", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout


@pytest.mark.smoke("command line")
def test_the_demo_verifies_files_larger_than_the_cache(temporary: Path) -> None:
    result = call("demo")
    assert result.exit_code == 0, result.output
    assert "VERIFIED: every byte is right" in result.stdout
    assert "Directory: files of 2.0 MiB, cache of 256.0 KiB" in result.stdout
    assert "Simulated object store" in result.stdout
    assert result.stdout.count("hit rate") == 2
    assert "directory, cache: 6" in result.stderr
    assert is_empty(temporary)


def test_the_report_as_json_has_every_figure() -> None:
    result = call("demo", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["verified"], report["difference"]) == (True, None)
    assert 0 < report["directory"]["hit_rate"] <= 1
    store = report["object_store"]
    assert set(store["seconds"]) == set(store["requests"]) == {"cache", "direct calls"}
    assert 0 < store["requests"]["cache"] < store["requests"]["direct calls"]


def test_a_wrong_byte_on_the_disk_is_found_and_named(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The byte is changed behind the cache after it synced: only the last comparison can see it."""
    sync = Volume.sync

    def sync_and_spoil(self: Volume, timeout: float | None = None) -> None:
        sync(self, timeout)
        monkeypatch.undo()
        path = max(temporary.glob("*/directory/cache/*"), key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[12_345] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(Volume, "sync", sync_and_spoil)
    result = call("demo")
    assert result.exit_code == 1
    assert "DIFFERENT: file-" in result.stdout
    assert "at offset 12345: expected" in result.stdout
    assert "in the files after close" in result.stdout
    assert is_empty(temporary)


def test_a_wrong_byte_is_found_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last byte of each piece of 4,097 bytes is wrong."""
    pread = DirectFile.pread

    def spoiled(self: DirectFile, length: int, offset: int) -> bytes:
        data = pread(self, length, offset)
        return data[:-1] + b"?" if len(data) == 4097 else data

    monkeypatch.setattr(DirectFile, "pread", spoiled)
    report = json.loads(call("demo", "--json").stdout)
    assert report["verified"] is False
    assert (report["difference"]["stage"], report["difference"]["found"]) == ("read back", b"?".hex())


@pytest.mark.parametrize(
    ("expected", "found", "at"), [(b"abcd", b"abxd", 2), (b"abc", b"ab", 2), (b"", b"a", 0), (b"same", b"same", None)]
)
def test_the_first_difference_is_found(expected: bytes, found: bytes, at: int | None) -> None:
    job = Job()
    job.compare("key", 100, expected, found, "stage")
    assert (job.difference and job.difference["offset"]) == (None if at is None else 100 + at)


def test_a_disk_that_fails_is_one_line_and_status_1(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Volume, timeout: float | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Volume, "sync", fail)
    result = call("demo")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert is_empty(temporary)


def wrong_usage(*arguments: str) -> str:
    """Call, expect status 2 and one line; return it."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"main {arguments[0]}: ")
    return result.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals, status: int, temporary: Path) -> None:
    """The interrupt comes as soon as the first files exist."""
    command = [sys.executable, "-m", "pagecache", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(temporary.glob("*/directory/cache/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == status
    assert stdout == ""
    assert "Traceback" not in stderr
    if number == signal.SIGINT:
        assert stderr.splitlines()[-1] == "interrupted: temporary files are removed"
    assert is_empty(temporary)


def test_bench_measures_what_was_chosen(temporary: Path) -> None:
    result = call("bench", "--quick", "P5", "P14", "--json")
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert {row["key"] for row in outcome["rows"]} == {"P5/64K", "P5/4K", "P14/dir"}
    assert outcome["machine"]["python"].startswith("CPython")
    assert is_empty(temporary)


def test_bench_prints_a_table_and_its_conditions() -> None:
    lines = call("bench", "writeback", "--quick").stdout.splitlines()
    assert any("os.pwrite + fsync" in line and "× speed" in line for line in lines)
    assert any("differences below" in line for line in lines)


def test_what_bench_does_not_measure_is_one_line_that_names_what_it_does() -> None:
    assert "P99: no such case; cases are P1, hits, P5, P14, P17, writeback, F1, files" in wrong_usage("bench", "P99")
