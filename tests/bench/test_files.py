"""The bench of small files: jobs that leave files as they were, exact counts, sizes that are skipped, tables."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pagecache import Backend
from pagecache.bench.files import DATA, JOBS, file_variant
from pagecache.testing import BackendConformance
from tests.bench import cases_many, file_counts, files_table
from tests.bench.cases_streams import filesystem
from tests.bench.dict_backend import DictBackend
from tests.bench.file_stores import PLAIN, STORES, Way, ways

LOG = """\
10 execve("/usr/bin/python3", ["python3"], 0x7ffd) = 0
10 access("pagecache-bench-mark/dir:/create", F_OK) = -1 ENOENT (No such file or directory)
10 openat(3, "file0+", O_RDWR|O_CREAT <unfinished ...>
11 futex(0x7f12, FUTEX_WAIT, 0, NULL <unfinished ...>
10 <... openat resumed>, 0666)       = 4
11 <... futex resumed>)              = 0
10 close(4)                          = 0
10 access("pagecache-bench-mark/end", F_OK) = -1 ENOENT (No such file or directory)
10 close(5)                          = 0
10 access("pagecache-bench-mark/plain file/stat", F_OK) = -1 ENOENT (No such file or directory)
10 newfstatat(AT_FDCWD, "x", {st_mode=S_IFREG|0644}, 0) = 0
10 access("pagecache-bench-mark/end", F_OK) = -1 ENOENT (No such file or directory)
"""


class TestDictBackend(BackendConformance):
    """The store written in Python keeps the protocol."""

    def make_backend(self, tmp_path: Path) -> Backend:
        return DictBackend(prompt=True)


@pytest.fixture
def made_ways(tmp_path: Path) -> Iterator[dict[str, Way]]:
    with ExitStack() as stack:
        yield ways(tmp_path, 4, stack)


@pytest.mark.parametrize("name", [PLAIN, *STORES])
def test_a_job_leaves_the_files_as_they_were(name: str, made_ways: dict[str, Way], tmp_path: Path) -> None:
    way = made_ways[name]
    for job in JOBS:
        variant = file_variant(name, way.jobs, job, way.keys)
        for _ in range(2):
            variant.run(variant.take(3))
            variant.after()
    for key in way.keys:
        way.jobs["stat"](key)
        with pytest.raises(FileNotFoundError):
            way.jobs["stat"](f"{key}+")
    if name == PLAIN:
        assert len(Path(way.keys[0]).read_bytes()) == len(DATA)


def test_calls_are_counted_between_two_marks_on_all_threads() -> None:
    found = file_counts.parsed(LOG.splitlines(), 2)
    assert found["dir:"]["create"]["system calls"] == 1.0
    assert found["dir:"]["create"]["futex"] == 0.5
    assert found["dir:"]["create"]["top"]["system calls"] == {"openat": 0.5, "futex": 0.5, "close": 0.5}
    assert found[PLAIN]["stat"]["system calls"] == 0.5


def test_counts_of_plain_files_have_no_hop_and_no_frame(tmp_path: Path) -> None:
    counts, _ = file_counts.counted(tmp_path, 2)
    assert set(counts) == {PLAIN, *STORES}
    for job in JOBS:
        assert (counts[PLAIN][job]["hops"], counts[PLAIN][job]["store calls"]) == (0, 0)
        assert counts["dir:"][job]["frames"] > counts[PLAIN][job]["frames"]
    assert counts["dict"]["create"]["top"]["store calls"]["open"] == 1


def test_a_machine_without_strace_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(file_counts, "STRACE", "no-such-strace")
    with pytest.raises(file_counts.Uncounted, match="no strace here: apt install strace"):
        file_counts.counted_calls(tmp_path, 1)


def test_a_machine_that_may_not_trace_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "strace"
    fake.write_text("#!/bin/sh\necho 'PTRACE_TRACEME: Operation not permitted' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(file_counts, "STRACE", str(fake))
    with pytest.raises(file_counts.Uncounted, match="strace failed: PTRACE_TRACEME: Operation not permitted"):
        file_counts.counted_calls(tmp_path, 1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "FOLDER"),
        (["/nonexistent"], "/nonexistent is no directory"),
        (["/tmp", "0"], "0 is less than 1"),
        (["/tmp", "x"], "invalid int value: 'x'"),
    ],
)
def test_a_wrong_argument_is_one_line(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["file_counts", *words])
    with pytest.raises(SystemExit):
        file_counts.main()
    assert text in capsys.readouterr().err


def test_a_size_that_would_not_fit_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cases_many.make_objects(tmp_path, 0, 20)
    with ExitStack() as stack:
        filled = cases_many.Filled(tmp_path, 20, stack)
    assert filled.misses == 0
    filled.resident, filled.seconds = 1 << 20, 1e-6
    monkeypatch.setattr(cases_many, "free_memory", lambda: 4 << 30)
    assert cases_many.too_much(filled, 1_000) == ""
    assert cases_many.too_much(filled, 4_096) == ("4,096 objects need 4.0 GiB, and half of the free memory is 2.0 GiB")
    filled.seconds = 1.0
    assert cases_many.too_much(filled, 1_000) == "1,000 objects take 2000 s"


def test_the_file_system_of_a_path_is_that_of_its_mount() -> None:
    assert filesystem(Path("/proc/self")) == "proc"


def test_tables_have_a_line_for_each_job_and_a_column_for_each_store() -> None:
    def row(store: str, case: str = "small-files", suffix: str = "") -> dict[str, Any]:
        goal = {"bound": 4.0} if store == "dir:" else None
        counts = {"cpu": 40.0, "system calls": 12.5, "futex": 90.0, "hops": 1.0, "wake-ups": 9.0, "frames": 100.0}
        metric = f"create, write, close, {store}{suffix}"
        return {"case": case, "metric": metric, "value": 1234.0, "counts": counts, "goal": goal}

    rows = [row(store) for store in STORES]
    threads = [row(store, case="small-files-threads", suffix=", 8 threads") for store in STORES]
    text = files_table.tables(rows + threads)
    assert "| create, write, close | 1234× (40×) | 1234× (40×) | 1234× (40×) | 1234× (40×) | ≤ 4× |" in text
    assert "| create, write, close | 12.5 / 90 / 1 / 9 / 100 |" in text
    assert text.count("create, write, close") == 3
    assert files_table.tables([]) == ""
