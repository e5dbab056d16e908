"""The programs of `python -m tests.fuse.measure --trees`, on a plain folder, and its wrong arguments."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from . import measure


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here: apt install git")
def test_trees_are_made_read_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("work", "tmpfs"):
        (tmp_path / name).mkdir()
    (tmp_path / "tmpfs" / "data").touch()
    subject = measure.Subject(tmp_path / "tmpfs", None, 1)
    trees = measure.Trees(tmp_path / "work", 5)
    counts = {}
    for work, job in trees.jobs().items():
        counts[work] = job(subject)
        if work == "cp -r":
            found = {name: sorted(each.name for each in subject.top.glob(f"{name}/*/*")) for name in ("tree", "copy")}
            assert found["tree"] == found["copy"] == [f"file{n}" for n in range(5)]
    assert counts == {"tar x": 5, "find | xargs stat": 5, "cp -r": 5, "rm -r": 10, "git clone": 5}
    assert (subject.top / "clone" / "tree" / "0" / "file4").exists()
    trees.clear(subject)
    assert [path.name for path in subject.top.iterdir()] == ["data"]
    measure.measure_trees({"ll": subject}, trees).show()
    assert "tar x: goal of c beside ll 0.7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--trees", "--fio"], "not allowed with argument"),
        (["--files", "0"], "--files: 0 is less than 1"),
        (["--files", "x"], "invalid int value"),
    ],
)
def test_a_wrong_argument_is_one_line(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure", *words])
    with pytest.raises(SystemExit):
        measure.main()
    assert text in capsys.readouterr().err


def test_a_program_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure", "--trees"])
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "git" else f"/usr/bin/{program}")
    with pytest.raises(SystemExit):
        measure.main()
    assert "--trees needs git" in capsys.readouterr().err
