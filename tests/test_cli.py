"""The commands as a user calls them: their output, their exit status, and leftover files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pagecache.cli import main
from pagecache.cli.demo import Cached, Direct, Job, Side, calls_of, difference, edits_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Forty files, from empty to larger than the cache."""
    rng = Random(1)
    root = tmp_path / "tree"
    for number in range(40):
        path = root / f"dir{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 4095, 4096, 30_000, 300_000))))
    return root


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
    """The simulated object store answers after a microsecond."""
    monkeypatch.setattr("pagecache.cli.demo.REQUEST_SECONDS", 1e-6)


def call(*arguments: str) -> Result:
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(main, arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


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
def test_the_demo_verifies_a_tree_larger_than_the_cache(tree: Path, temporary: Path) -> None:
    result = call("demo", str(tree), "--capacity", "256KiB")
    assert result.exit_code == 0, result.output
    assert "VERIFIED: 40 files" in result.stdout
    assert "Directory: 40 files" in result.stdout
    assert "Simulated object store" in result.stdout
    assert result.stdout.count("hit rate") == 2
    assert "copy: 40" in result.stderr
    assert is_empty(temporary)


def test_names_that_are_no_text_or_look_like_markup_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "odd?[bold]#%20"
    (root / "sub dir").mkdir(parents=True)
    for name in (b"a\xff.txt", "ünï[red].py".encode(), b"sub dir/new\nline"):
        (Path(os.fsdecode(os.fsencode(root) + b"/" + name))).write_bytes(os.urandom(50_000))
    (root / "link").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe")
    result = call("demo", str(root))
    assert "VERIFIED: 3 files" in result.stdout, result.output
    assert "odd?[bold]#%20" in result.stdout


def test_the_report_as_json_has_every_figure(tree: Path) -> None:
    result = call("demo", str(tree), "--json", "--rounds", "1")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["verified"] is True
    assert report["difference"] is None
    assert report["files"] == 40
    assert report["bytes"] == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert report["capacity"] < report["bytes"]
    assert 0 < report["hit_rate"] <= 1
    assert 0 < report["backend_calls"] < report["page_by_page_calls"]
    assert report["peak_used"] <= report["capacity"]
    assert set(report["seconds"]) == {"cache", "plain files"}
    store = report["object_store"]
    assert 0 < store["files"] <= 40
    assert store["capacity"] > store["bytes"]
    assert set(store["seconds"]) == set(store["requests"]) == {"cache", "direct calls"}


def test_without_the_cache_each_read_and_write_is_a_request(tmp_path: Path) -> None:
    """One file of a page: a piece is read and written, then the look-ups, the commit, and the calls of the plan."""
    root = tmp_path / "one"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 4096)
    report = json.loads(call("demo", str(root), "--json", "--rounds", "1").stdout)
    look_ups, commits = 4, 1  # the source, then the copy to edit, to read and to commit
    planned = calls_of(1, "file", 4096, rounds=1)
    assert report["object_store"]["requests"]["direct calls"] == planned + look_ups + commits


def test_the_same_seed_makes_the_same_copies_and_the_tree_is_only_read(tree: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    contents = []
    for name in ("one", "two"):
        assert call("demo", str(tree), "--keep", str(tmp_path / name)).exit_code == 0
        cached = tmp_path / name / "cached"
        contents.append({str(path.relative_to(cached)): path.read_bytes() for path in cached.rglob("file*")})
    assert contents[0] == contents[1]
    assert before == {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_a_wrong_byte_on_the_disk_is_found_and_named(
    tree: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The byte is changed behind the cache after it synced: only the last comparison can see it."""
    sync = Cached.sync

    def sync_and_spoil(self: Cached) -> None:
        sync(self)
        path = max(temporary.glob("*/cached/*/*"), key=lambda path: path.stat().st_size)
        with open(path, "r+b") as file:
            file.seek(12_345)
            byte = file.read(1)
            file.seek(12_345)
            file.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(Cached, "sync", sync_and_spoil)
    result = call("demo", str(tree))
    assert result.exit_code == 1
    assert "DIFFERENT: dir" in result.stdout
    assert "at offset 12345: expected" in result.stdout
    assert "in the files after close" in result.stdout
    assert is_empty(temporary)


def spoil_reads(monkeypatch: pytest.MonkeyPatch, side: type[Side]) -> None:
    """One byte of each piece of 4,097 bytes is wrong."""
    target = side.target

    class Spoiled:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def pread(self, length: int, offset: int) -> bytes:
            data: bytes = self.file.pread(length, offset)
            return data[:-1] + b"?" if len(data) == 4097 else data

    monkeypatch.setattr(side, "target", lambda self, key, mode: Spoiled(target(self, key, mode)))


def test_a_wrong_byte_out_of_the_cache_is_found_when_it_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_reads(monkeypatch, Cached)
    result = call("demo", str(tree), "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["difference"]["stage"] == "read through the cache"
    assert report["difference"]["found"] == b"?".hex()


def test_a_wrong_byte_in_the_object_store_is_found_and_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_reads(monkeypatch, Direct)
    result = call("demo", str(tree))
    assert result.exit_code == 1
    assert "(object store, direct: read back)" in result.stdout


@pytest.mark.parametrize("size", [0, 1, 4095, 100_000, 5_000_000])
def test_edits_of_the_demo_stay_in_the_size_that_they_make(size: int) -> None:
    for seed in range(20):
        edits, after = edits_of(seed, "key", size)
        content = bytearray(size)
        for offset, data in edits:
            if data is None:
                content[offset:] = b""
            content.extend(bytes(max(0, offset - len(content))))
            if data is not None:
                content[offset : offset + len(data)] = data
        assert len(content) == after
        assert edits_of(seed, "key", size) == (edits, after)


@pytest.mark.parametrize(
    ("expected", "found", "at"), [(b"abcd", b"abxd", 2), (b"abc", b"ab", 2), (b"", b"a", 0), (b"same", b"same", None)]
)
def test_the_first_difference_is_found(expected: bytes, found: bytes, at: int | None) -> None:
    different = difference("key", 100, expected, found, "stage")
    assert (different and different.offset) == (None if at is None else 100 + at)


def test_a_disk_that_fails_is_one_line_and_status_1(
    tree: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Cached) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cached, "sync", fail)
    result = call("demo", str(tree))
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


def test_a_tree_that_cannot_be_used_is_one_line_and_status_2(tree: Path, tmp_path: Path, temporary: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no such directory" in wrong_usage("demo", str(tmp_path / "missing"))
    assert "not a directory" in wrong_usage("demo", str(tree / "dir0" / "file0"))
    assert "no regular file in it" in wrong_usage("demo", str(empty))
    (empty / "nothing").touch()
    assert "every file is empty" in wrong_usage("demo", str(empty))
    assert is_empty(temporary)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_in_the_tree_is_named_before_anything_starts(tree: Path) -> None:
    (tree / "dir0" / "file0").chmod(0)
    assert "file0: cannot be read: Permission denied" in wrong_usage("demo", str(tree))


def test_a_file_that_fails_when_read_is_named_before_anything_starts(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk reports an error, which root gets too."""
    monkeypatch.setattr("pagecache.cli.demo.open", broken_open, raising=False)
    assert "cannot be read: Input/output error" in wrong_usage("demo", str(tree))


def broken_open(path: Path, *arguments: object, **options: object) -> object:
    raise OSError(5, "Input/output error", str(path))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--capacity", "4KiB"), "--capacity 4KiB: at least 64KiB"),
        (("--capacity", "many"), "--capacity: 'many' is not a size"),
        (("--limit", "x"), "--limit: 'x' is not a size"),
        (("--rounds", "0"), "--rounds 0: at least 1"),
    ],
)
def test_options_that_make_no_sense_are_named(tree: Path, options: tuple[str, ...], text: str) -> None:
    assert text in wrong_usage("demo", str(tree), *options)


def test_a_directory_to_keep_has_to_be_empty_and_outside(tree: Path) -> None:
    assert "not empty" in wrong_usage("demo", str(tree), "--keep", str(tree))
    assert "lies in the tree" in wrong_usage("demo", str(tree), "--keep", str(tree / "dir0" / "new"))


def test_a_source_that_changes_during_the_run_is_not_called_a_difference(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Cached.source

    def change_and_open(self: Cached, key: str) -> Any:
        (tree / "dir1" / "file1").write_bytes(b"changed" * 1000)
        return source(self, key)

    (tree / "dir1" / "file1").write_bytes(b"before" * 1000)
    monkeypatch.setattr(Cached, "source", change_and_open)
    monkeypatch.setattr(Job, "in_turn", lambda self: (self.plain, self.side))
    assert "changed while the demo read it" in call("demo", str(tree)).stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals, status: int, tree: Path, temporary: Path) -> None:
    """The interrupt comes as soon as the first copies exist."""
    command = [sys.executable, "-m", "pagecache", "demo", str(tree), "--rounds", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(temporary.glob("*/cached/*/*")):
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


def test_bench_lists_its_cases() -> None:
    assert "small-files" in call("bench", "--list").output
    cases = json.loads(call("bench", "--list", "--json").stdout)["cases"]
    assert {"name": "reads", "group": "hits", "id": "P1"} in cases
    assert "reads" not in call("bench", "files", "--list").output


def test_bench_measures_what_was_chosen(temporary: Path) -> None:
    result = call("bench", "--quick", "--only", "P5,misses", "--json")
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
    assert "--only P99: no such case; cases are reads (P1)" in wrong_usage("bench", "--only", "P99")
