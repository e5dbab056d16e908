"""Type checkers accept a right program and report the mistakes of a wrong one; the types are those of the options."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from pagecache import BackendLimits, CacheConfig, Volume, VolumeOptions, options
from pagecache.file import cached
from pagecache.volume import modes

from ..test_docs import DOCS, blocks

HERE = Path(__file__).parent
PAGES = ("backend", "asyncio", "transform")
"""How-to pages with classes that people copy."""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, list[str]]]:
    """The report of `mypy --strict` on the programs: file name -> line -> messages."""
    folder = tmp_path_factory.mktemp("mypy")
    pages = [folder / f"page_{name}.py" for name in PAGES]
    for path, name in zip(pages, PAGES, strict=True):
        shown = [block.text for block in blocks(DOCS / "how-to" / f"{name}.md") if block.language == "python"]
        path.write_text("\n".join(shown), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--hide-error-context"]
    command += ["--no-pretty", "--follow-imports=silent", f"--cache-dir={folder / 'cache'}"]
    programs = [HERE / "right.py", HERE / "wrong.py", *pages]
    command += map(str, programs)
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, dict[int, list[str]]] = {path.name: {} for path in programs}
    for line in done.stdout.splitlines():
        place, _, message = line.partition(": error: ")
        if message:
            name, _, number = place.rpartition(":")
            found[Path(name).name].setdefault(int(number), []).append(message)
    return found


def test_a_right_program_has_no_type_errors(reported: dict[str, dict[int, list[str]]]) -> None:
    """Typed backends, tasks, and options that are passed on; each `assert_type` holds."""
    assert reported["right.py"] == {}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_has_no_type_errors(reported: dict[str, dict[int, list[str]]], page: str) -> None:
    assert reported[f"page_{page}.py"] == {}


def test_each_mistake_is_a_type_error(reported: dict[str, dict[int, list[str]]]) -> None:
    """The comment of a line is the beginning of its error, and no other line has one."""
    lines = (HERE / "wrong.py").read_text(encoding="utf-8").splitlines()
    expected = {number: line.partition("  # ")[2] for number, line in enumerate(lines, 1) if "  # " in line}
    assert len(expected) > 20
    found = reported["wrong.py"]
    assert found.keys() == expected.keys()
    for number, start in expected.items():
        assert found[number][0].startswith(start), (lines[number - 1], found[number])


@pytest.mark.parametrize(
    ("dictionary", "kind"),
    [
        (options.CacheOverrides, CacheConfig),
        (options.VolumeOverrides, VolumeOptions),
        (options.LimitsOverrides, BackendLimits),
    ],
)
def test_keywords_have_the_names_and_types_of_the_fields(dictionary: type, kind: type) -> None:
    """A new field of a dataclass is an option of the call as well."""
    fields = {field.name for field in dataclasses.fields(kind)}
    assert typing.get_type_hints(dictionary) == {k: v for k, v in typing.get_type_hints(kind).items() if k in fields}
    assert typing.get_type_hints(dictionary).keys() == fields


def test_configure_takes_what_a_running_cache_can_change() -> None:
    fixed = options.CacheOverrides.__annotations__.keys() - options.CacheChanges.__annotations__.keys()
    assert fixed == {"page_size", "max_folio"}


def test_aio_open_takes_the_keywords_of_open() -> None:
    parameters = inspect.signature(Volume.open).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    assert options.OpenOptions.__annotations__.keys() == keywords


def test_the_type_of_modes_has_all_that_open_accepts() -> None:
    accepted = set()
    for letters in itertools.chain.from_iterable(itertools.product("rwxabt+U", repeat=n) for n in range(5)):
        try:
            modes.mode_flags("".join(letters))
        except ValueError:
            continue
        accepted.add("".join(letters))
    assert set(typing.get_args(options.OpenMode)) == accepted
    assert set(typing.get_args(options.AdviceName)) == {advice.value for advice in cached.Advice}
