"""The table of behaviours and their tests is complete, and so is the page that shows it."""

from __future__ import annotations

import re

from .catalogue import LATER, behaviours, c_claims, page, proofs, python_claims

# The catalogue of the contract has no holes: T-01 to T-82, and the inserted ones.
CATALOGUE = {f"T-{number:02}" for number in range(1, 83)} | {"T-18a", "T-45a", "T-75a", "T-75b"}


def test_every_behaviour_has_a_test() -> None:
    """Every built behaviour has a proof; the others are listed as later."""
    later = {one for ids in LATER.values() for one in ids}
    built = {one for one in behaviours() if one.startswith("T-")} - later
    assert sorted(built - set(proofs())) == []
    assert sorted(CATALOGUE - built - later) == []
    assert sorted(built | later) == sorted(CATALOGUE)


def test_tests_name_ids_that_exist() -> None:
    """A typing error would be a proof of nothing."""
    assert sorted(set(proofs()) - set(behaviours())) == []


def test_the_page_has_each_behaviour_with_its_tests() -> None:
    """`make docs` writes it."""
    text = page()
    assert re.findall(r"^### (\S+)$", text, re.MULTILINE) == [
        *(one for one in behaviours() if one.startswith("T-")),
        *(one for one in behaviours() if one.startswith("I-")),
    ]
    assert "`tests/test_catalogue.py`" not in text, "the ids in a test's strings are no claims"


def test_ids_are_found_where_tests_name_them() -> None:
    """They are found in docstrings, markers, comments and headings; a mere mention in a text does not count."""
    python = '''
@pytest.mark.contract("T-67")
def test_a(): """Not T-01. [T-02, I-3, 2.1]"""
def helper(): """[T-03]"""
class Machine:
    """[T-04]"""
    def sums(self): """Sums. [I-25,
        I-26]"""
'''
    assert sorted(python_claims(python)) == [
        ("I-25", "sums"),
        ("I-26", "sums"),
        ("I-3", "test_a"),
        ("T-02", "test_a"),
        ("T-04", "Machine"),
        ("T-67", "test_a"),
    ]
    c = """/* All of it (T-18). */
/* ---------------------- sizes (T-43) */
/* T-44: a tail. */
static int helper(void)
static void check_a(void)
static void check_b(void)
/* ---------------------- others */
static void check_c(void)
"""
    assert list(c_claims(c)) == [("T-18", ""), ("T-43", "check_a"), ("T-44", "check_a"), ("T-43", "check_b")]
