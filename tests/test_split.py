"""The first part of the tests proves each id of the contract, and uses the cache in each way."""

from __future__ import annotations

from pathlib import Path

import pytest

from .catalogue import behaviours, proofs
from .split import BACKENDS, ELSEWHERE, NAMED, RULES, WAYS, first, found_in

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
FIRST = first(HERE)

SAMPLE = '''
import pytest

def test_names_an_id():
    """It holds. [T-11, 2.4]"""

@pytest.mark.long
def test_takes_long():
    """[T-12]"""

@pytest.mark.slow
def test_is_slow():
    """[T-13]"""

@pytest.mark.contract("I-14")
def test_marked():
    pass

def test_names_a_section():
    """[2.4]"""

def test_mentions_an_id():
    """T-15 is another matter."""

@pytest.mark.smoke("S3")
def test_of_a_way():
    pass

@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.long), 2])
def test_of_two(n):
    """[T-16]"""

@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.smoke("top")), 2])
def test_one_of_two_is_a_smoke_test(n):
    pass

class TestTogether:
    """[T-17]"""

    def test_a(self):
        pass

    def test_b(self):
        """[T-18]"""

class Suite:
    def test_inherited(self):
        pass

@pytest.mark.smoke("fsspec")
class TestInherits(Suite):
    pass
'''


@pytest.mark.parametrize("one", sorted(behaviours()))
def test_each_id_is_proved_by_a_test_that_does_not_take_long(one: str) -> None:
    """By a test of Python, if such tests prove it at all; `make test` runs all tests of C."""
    files = proofs().get(one, {})
    if any(file.endswith(".py") for file in files):
        assert FIRST["ids"].get(one), f"each test that names {one} is marked with one of {sorted(ELSEWHERE)}"
    else:
        assert files or one.startswith("I-")  # PageCache.check() verifies it


@pytest.mark.parametrize("way", [*WAYS, *BACKENDS])
def test_each_way_in_and_each_backend_has_a_smoke_test(way: str) -> None:
    assert FIRST["ways"].get(way)


def test_smoke_tests_are_of_ways_that_are_known() -> None:
    assert set(FIRST["ways"]) <= {*WAYS, *BACKENDS}


def test_files_of_rules_exist() -> None:
    assert [name for name in RULES if not (HERE.parent / name).is_file()] == []


def test_only_tests_that_name_an_id_are_marked_long() -> None:
    """All others are left to `make test-all` as they are."""
    needless = [
        f"{path.relative_to(HERE)}::{test.name}"
        for path in sorted(HERE.rglob("test_*.py"))
        if NAMED.search(text := path.read_text(encoding="utf-8")) and path.name != Path(__file__).name
        for test in found_in(text)
        if "long" in test.marks and not test.ids
    ]
    assert needless == []


def test_an_id_without_a_test_that_is_not_long_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    found = first(tmp_path)
    assert {one: sorted(tests) for one, tests in found["ids"].items()} == {
        "T-11": ["test_sample.py::test_names_an_id"],
        "I-14": ["test_sample.py::test_marked"],
        "T-16": ["test_sample.py::test_of_two"],
        "T-17": ["test_sample.py::TestTogether::test_a", "test_sample.py::TestTogether::test_b"],
        "T-18": ["test_sample.py::TestTogether::test_b"],
    }
    assert {way: sorted(tests) for way, tests in found["ways"].items()} == {
        "S3": ["test_sample.py::test_of_a_way"],
        "top": ["test_sample.py::test_one_of_two_is_a_smoke_test"],
        "fsspec": ["test_sample.py::TestInherits"],
    }


def test_each_test_is_in_one_part(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that pytest runs are those that the files show."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers =\n  long\n  slow\n  contract\n  smoke\n")
    pytester.makepyfile(test_sample=SAMPLE, test_no_ids="raise AssertionError('imported')")
    parts = []
    for part, files in (("first", ()), ("rest", ("test_sample.py",))):
        done = pytester.runpytest_subprocess("-p", "tests.split", "--part", part, "-v", *files)
        assert done.ret == 0
        parts.append({line.split()[0].partition("::")[2] for line in done.outlines if " PASSED " in line})
    assert parts[0] == {
        "test_names_an_id",
        "test_marked",
        "test_of_a_way",
        "test_of_two[2]",
        "test_one_of_two_is_a_smoke_test[1]",
        "TestTogether::test_a",
        "TestTogether::test_b",
        "TestInherits::test_inherited",
    }
    assert parts[1] == {
        "test_takes_long",
        "test_names_a_section",
        "test_mentions_an_id",
        "test_of_two[1]",
        "test_one_of_two_is_a_smoke_test[2]",
    }
