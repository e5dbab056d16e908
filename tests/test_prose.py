"""The lint of texts finds turns of phrase, says where they are, and fails above a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import prose

# An example for each pattern, and a sentence beside it that may stay.
EXAMPLES = {
    "a clause with 'what' as a noun": ("It returns what was read.", "It returns the bytes."),
    "'who' as a noun": ("A timeout ends the wait, for whoever waits longer.", "The user who waits sees it."),
    "'nobody', 'somebody'": ("Nobody reads it.", "No thread reads it."),
    "'tells', 'knows', 'hears' of code": ("The volume tells its waiters.", "The volume reports to its waiters."),
    "'he' of a thread": ("A reader waits until he has the lock.", "A reader waits for the lock."),
    "'any more', 'for ever', 'meanwhile'": ("The file is not open any more.", "The file is no longer open."),
    "'where' for if or when": ("Where there is no room, it waits.", "If there is no room, it waits."),
    "'of its own', 'of ours'": ("Each has a lock of its own.", "Each has its lock."),
    "'The same ...'": ("The same for tasks.", "Tasks do the same."),
}


def patterns(text: str) -> list[str]:
    return [hit.pattern for hit in prose.hits("a.md", [prose.Text(1, text)])]


@pytest.mark.parametrize("pattern", prose.PATTERNS)
def test_a_turn_of_phrase_is_found_and_plain_english_is_not(pattern: str) -> None:
    dialect, plain = EXAMPLES[pattern]
    assert patterns(dialect) == [pattern]
    assert patterns(plain) == []


def test_code_is_no_text(tmp_path: Path) -> None:
    """Comments, docstrings and help are; strings, code and fences are not."""
    sources = {
        "a.py": 'told = "he"  # nobody\ndef f():\n    """Once.\n\n    Nobody."""\noption(help="he", name="him")\n',
        "a.c": 'int told; /* one\n * nobody */\nchar *he = "him"; // he\n',
        "a.md": "nobody\n```python\nhe\n```\n`he` is code\n| he | b |\n<!-- he -->\n",
    }
    wanted = {"a.py": [1, 5, 6], "a.c": [2, 3], "a.md": [1, 6]}
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
        found = prose.hits(name, prose.texts(tmp_path / name))
        assert sorted(hit.line for hit in found) == wanted[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one page of ten words, one of which is counted."""
    (tmp_path / "page.md").write_text("One two three four\nfive six nobody eight nine ten.\n")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("limit", "status"), [(99.0, 1), (100.0, 0)])
def test_more_than_the_limit_is_a_failure_with_file_and_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: float, status: int
) -> None:
    monkeypatch.setitem(prose.LIMITS, "docs", limit)
    monkeypatch.setattr("sys.argv", ["prose", str(project)])
    assert prose.main() == status
    printed = capsys.readouterr().out.splitlines()
    assert printed[:1] == ["page.md:2: 'nobody', 'somebody': ... five six nobody eight nine ten. ..."][:status]
