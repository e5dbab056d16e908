"""The documentation is true: code is executed, printed output compared, links and names are checked.

A fence ```python of a page is executed, all of one page in one namespace, in an empty directory. A fence ```output
behind it is its output. A comment `<!-- no-run -->` in the line before a fence says that it is only compiled.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import gc
import importlib
import inspect
import io
import logging
import os
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import pagecache
from examples.own_backend import ZlibBackend
from pagecache.backends.protocol import BackendFile
from pagecache.testing import BackendConformance

from .fuse.mounts import why_no_mounts
from .s3.servers import ENVIRONMENT

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROSE = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
BESIDE = {"object_client", "proxy"}
"""Modules of `examples` that others there import; `proxy` is no example itself."""
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "proxy")

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
NO_RUN = "<!-- no-run -->"


@dataclass(frozen=True, slots=True)
class Block:
    """One fence of a page."""

    language: str
    text: str
    line: int
    run: bool


def blocks(page: Path) -> list[Block]:
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip().rpartition("\n")[2].strip()
        line = text.count("\n", 0, match.start()) + 1
        body = inspect.cleandoc("\n" + match[3]) + "\n" if match[1] else match[3]
        found.append(Block(match[2], body, line, before != NO_RUN))
    return found


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """Pages may set the level of the logger; the next one finds it as it was."""
    log = logging.getLogger("pagecache")
    before = log.level
    yield
    log.setLevel(before)


def open_caches(namespace: dict[str, Any]) -> list[pagecache.PageCache]:
    return [value for value in namespace.values() if isinstance(value, pagecache.PageCache) and not value.closed]


@pytest.mark.smoke("docs")
@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("page", PAGES, ids=label)
def test_code_of_a_page_runs_and_prints_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():  # a page may use a server on this machine
        monkeypatch.setenv(name, value)
    namespace: dict[str, Any] = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    printed = ""
    try:
        for block in blocks(page):
            if block.language == "output":
                assert block.text == printed, f"{label(page)}:{block.line}"
            if block.language != "python":
                continue
            # Blank lines before it make a traceback point at the line of the page.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            if block.run:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, namespace)
                printed = out.getvalue()
        left = open_caches(namespace)
    finally:
        for cache in open_caches(namespace):
            cache.close(timeout=1.0, on_failed="discard")
        namespace.clear()
        gc.collect()  # an unclosed handle is an error here, not in some later test
    assert left == [], f"{label(page)} leaves a cache open"


CORE = {"pagecache", "click", "rich", "cffi", "sortedcontainers"}


def foreign(block: Block) -> set[str]:
    """The top-level modules that a block imports and that neither Python nor pagecache installs."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(block.text)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str() as name, level=0):
                found.add(name.partition(".")[0])
    return found - CORE - set(sys.stdlib_module_names)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_page_says_which_packages_its_code_needs(page: Path) -> None:
    """A sentence with "needs" and the name of the package stands before the first block that imports it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in blocks(page):
        if block.language != "python":
            continue
        said = [line for line in lines[: block.line] if re.search(r"\bneeds?\b", line)]
        missing = {name for name in foreign(block) if not any(f"`{name}`" in line for line in said)}
        assert not missing, f"{label(page)}:{block.line}"


def test_the_page_about_embedding_lists_the_known_urls() -> None:
    """All schemes that an error about an unknown URL lists."""
    text = (DOCS / "how-to" / "embed.md").read_text(encoding="utf-8")
    known = text[text.index("Known URLs are") :].partition(";")[0]
    assert sorted(re.findall(r"(\w+:)", FENCE.sub("", known))) == ["az:", "dir:", "fsspec:", "gs:", "memory:", "s3:"]
    with pytest.raises(ValueError, match=r"known schemes: az:, dir:, fsspec:, gs:, memory:, s3:\)"):
        pagecache.backend_from_url("nosuch:x")


def test_errors_of_a_url_have_no_password() -> None:
    for url in ("nosuch://me:secret@host/x", "fsspec:nosuch://me:secret@host/x", "s3://me:secret@bucket/x?nosuch=1"):
        with pytest.raises(ValueError, match="nosuch") as caught:
            pagecache.backend_from_url(url)
        assert "secret" not in str(caught.value)


def test_pages_show_code() -> None:
    """A mistake in FENCE would find nothing, and everything would pass."""
    tutorial = blocks(DOCS / "tutorial.md")
    assert sum(block.language == "python" for block in tutorial) >= 10
    assert sum(block.language == "output" for block in tutorial) >= 8


SAID_BY_LIBRARIES = (
    "Ignoring invalid max threads value",  # libfuse 3.14, about a number that it computes itself
    "fuse_release(): fuse_reply_* failed",  # pyfuse3, where the mount goes before its answer to a close(2)
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    if example.stem.startswith(("fuse_", "mount_")) and why_no_mounts():
        pytest.skip(why_no_mounts())
    for name in sorted(NEEDED.get(example.stem, ())):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "error", str(example)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert [line for line in said if not line.startswith(SAID_BY_LIBRARIES)] == []
    assert done.stdout.count("\n") >= 1
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"


NEEDED = {
    example.stem: names
    for example in EXAMPLES
    if (names := foreign(Block("python", example.read_text(encoding="utf-8"), 0, True)) - BESIDE)
} | {"mount_programs": {"boto3"}, "disk_tier": {"boto3"}}
"""Example -> the modules of other distributions that it imports, directly or by the example beside it."""

WITHOUT = """
import runpy, sys
path, *names = sys.argv[1:]
sys.argv = [path]
sys.path.insert(0, path.rpartition("/")[0])
sys.modules.update(dict.fromkeys(names))  # an import of one of them fails
runpy.run_path(path, run_name="__main__")
"""


def said_by_example(name: str, without: set[str], folder: Path, **environment: str) -> str:
    """The one line by which an example refuses to run."""
    command = [sys.executable, "-c", WITHOUT, str(ROOT / "examples" / f"{name}.py"), *sorted(without)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    return done.stderr


@pytest.mark.parametrize("name", NEEDED)
def test_an_example_says_which_packages_it_needs_before_it_does_anything(name: str, tmp_path: Path) -> None:
    """One line has the command that installs them, and so does the docstring."""
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert "needs" in (ast.get_docstring(ast.parse(text)) or "")
    for module in sorted(NEEDED[name]):
        said = said_by_example(name, {module}, tmp_path)
        assert said.startswith("this example needs ")
        assert module in said
        assert "run pip install " in said or "and pip install " in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES if path.stem.startswith("fuse_")])
def test_an_example_of_a_mount_says_that_it_needs_the_program_that_mounts(name: str, tmp_path: Path) -> None:
    if why_no_mounts():
        pytest.skip(why_no_mounts())
    if missing := [module for module in NEEDED.get(name, ()) if find_spec(module) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    assert "fusermount3" in said_by_example(name, set(), tmp_path, PATH="")


class TestBackendOfTheExample(BackendConformance):
    """The backend that people will copy keeps the promises."""

    def make_backend(self, tmp_path: Path) -> pagecache.Backend:
        return ZlibBackend(tmp_path)


class TestBackendOfThePage(BackendConformance):
    """The backend of the how-to page keeps them, too."""

    def make_backend(self, tmp_path: Path) -> pagecache.Backend:
        first = next(block for block in blocks(DOCS / "how-to" / "backend.md") if block.language == "python")
        namespace: dict[str, Any] = {"__name__": "page_backend"}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(first.text, namespace)
        backend: pagecache.Backend = namespace["DictBackend"]()
        return backend


def test_readme_is_short_begins_with_an_example_and_names_the_two_commands() -> None:
    readme, makefile = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 155
    first = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    assert len(first.text.splitlines()) <= 10
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def documented_modules() -> list[str]:
    """Modules of the package with a doctest."""
    found = []
    for module in pkgutil.walk_packages(pagecache.__path__, "pagecache."):
        path = ROOT.joinpath(*module.name.split("."))
        source = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
        if source.exists() and ">>> " in source.read_text(encoding="utf-8"):
            found.append(module.name)
    return found


@pytest.mark.parametrize("name", documented_modules())
def test_doctests(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and forges make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading.replace("`", "")))
        found.add(re.sub(r"[-\s]+", "-", plain).strip("-").lower())
    return found


@pytest.mark.parametrize("page", PROSE, ids=label)
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{label(page)} links to {target}"
        if DOCS in page.parents:
            assert there.is_relative_to(DOCS), f"{label(page)} links to {target}, which is outside of the documentation"
        if anchor:
            assert anchor in anchors(there), f"{label(page)} links to {target}; there are {sorted(anchors(there))}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in navigation
    ]
    assert missing == []


SOURCE = re.compile(r"(?<![\w*./<{-])[\w*./-]*\w\.(?:pyi?|[ch])\b(?![*(-]|\.\w)")
FOLDER = re.compile(r"(?<![\w./-])(?:pagecache|tests|examples)(?:/\w+)+(?![\w*]|\.\w)")
MODULE = re.compile(r"(?<![\w./-])pagecache(?:\.[A-Za-z_]\w*)+(?![\w-])(?<!pagecache\.h)")
C_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
TOPS = (ROOT / "pagecache", ROOT / "tests", ROOT)
FILES = [
    path
    for top in ("pagecache", "tests", "examples", "benchmarks")
    for path in (ROOT / top).rglob("*")
    if path.is_file()
]
FILES = [path for path in [*FILES, *ROOT.glob("*.py")] if path.suffix != ".pyc"]
PATHS = [f"/{path.relative_to(ROOT)}" for path in FILES]
BARE = Counter(path.name for path in FILES)
IN_PACKAGE = Counter(path.name for path in FILES if path.is_relative_to(ROOT / "pagecache"))
OF_OTHERS = {"Python.h", "mm/readahead.c", "mybackend.py", "/home/me/mybackend.py", "store.py", "_core.c"}
"""Files of other programs, of a reader, and of a build."""
C_SOURCES = sorted([*(ROOT / "pagecache" / "_native").rglob("*.[ch]"), *(ROOT / "tests" / "native").rglob("*.[ch]")])
COMMENTED = [path for path in C_SOURCES if path.name not in ("_core.c", "_fuse.c")]
PYTHON = sorted((ROOT / "pagecache").rglob("*.py"))


def source_exists(name: str) -> bool:
    """A path begins at the checkout, the package or the tests, or ends at the file; a bare name is that of any file."""
    if "*" in name:
        return any(any(top.glob(name)) for top in TOPS)
    if "/" not in name:
        return bool(BARE[name])
    return any(path.endswith(f"/{name}") or f"/{name}/" in path for path in PATHS)


def missing(text: str) -> list[str]:
    """Files, folders and modules that a text names and that do not exist."""
    names = [name for name in SOURCE.findall(text) if name not in OF_OTHERS and not name.startswith("test_pagecache_")]
    found = [name for name in names if not source_exists(name)]
    found += [name for name in FOLDER.findall(text) if not source_exists(name) and not source_exists(f"{name}.py")]
    return list(dict.fromkeys(found))


def resolves(name: str) -> bool:
    """Whether `pagecache.a.b` is a module, an attribute of one, or a logger."""
    if name in logging.Logger.manager.loggerDict:
        return True
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name and not error.name.startswith("pagecache"):
                return True  # an extra that is not installed
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PROSE, ids=label)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing(text) == []
    assert [name for name in dict.fromkeys(MODULE.findall(text)) if not resolves(name)] == []


def test_files_that_the_comments_of_the_core_name_exist_and_are_unique() -> None:
    """A bare name of a Python file must not be that of several: "file.py" names none of them."""
    found = {}
    for path in COMMENTED:
        comments = "\n".join(C_COMMENT.findall(path.read_text(encoding="utf-8")))
        wrong = missing(comments)
        wrong += [name for name in SOURCE.findall(comments) if name.endswith(".py") and IN_PACKAGE[name] > 1]
        if wrong:
            found[str(path.relative_to(ROOT))] = wrong
    assert found == {}


def test_files_that_the_package_names_exist() -> None:
    found = {str(path.relative_to(ROOT)): missing(path.read_text(encoding="utf-8")) for path in PYTHON}
    assert {path: names for path, names in found.items() if names} == {}


def test_functions_on_the_paths_through_the_core_exist() -> None:
    paths = (DOCS / "native.md").read_text(encoding="utf-8").partition("## 6. Paths")[2].partition("\n## ")[0]
    sources = {
        suffix: [path.read_text(encoding="utf-8") for path in (ROOT / "pagecache").rglob(f"*{suffix}")]
        for suffix in (".c", ".py")
    }
    named = {(bold, name) for bold, name in re.findall(r"(\*\*)?`(\w+)`", paths)}
    assert len(named) > 40
    for bold, name in named:
        defined = (
            rf"^ *(?:def|class) {name}\b" if bold or name in dir(BackendFile) else rf"^\w[^;\n]*\b{name}\([^;]*\n{{"
        )
        assert any(re.search(defined, text, re.MULTILINE) for text in sources[".py" if "def" in defined else ".c"]), (
            name
        )


def test_decisions_that_texts_refer_to_are_written_down() -> None:
    text = (DOCS / "decisions.md").read_text(encoding="utf-8")
    rows = [int(number) for number in re.findall(r"^### (\d+)\. ", text, re.M)]
    assert rows == sorted(set(rows))
    sources = [p for top in ("pagecache", "tests") for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".c", ".h")]
    for path in [*PROSE, *sources]:
        for number in re.findall(r"\bdecisions? (\d+)\b", path.read_text(encoding="utf-8")):
            assert int(number) in rows, f"{label(path)} refers to decision {number}"


CONTRACT_ID = re.compile(r"\[((?:[KMEI]-?\d+[a-z]?|T-\d+[a-z]?)(?:, (?:[KMEIT]-?\d+[a-z]?|\d+\.\d+))*)\]")


def test_ids_in_the_code_are_in_the_contract() -> None:
    """Ids in brackets in the core, the engine and the tests point to docs/contract.md."""
    contract = (DOCS / "contract.md").read_text(encoding="utf-8")
    missing: dict[str, str] = {}
    for folder, pattern in (("pagecache", "**/*.py"), ("pagecache/_native", "**/*.[ch]"), ("tests", "**/*.[pch]*")):
        for path in sorted((ROOT / folder).glob(pattern)):
            if path.suffix not in (".py", ".c", ".h") or path.name in ("_core.c", Path(__file__).name):
                continue
            for found in CONTRACT_ID.findall(path.read_text(encoding="utf-8")):
                for one in found.split(", "):
                    if not re.search(rf"\b{one}\b", contract):
                        missing.setdefault(one, label(path))
    assert missing == {}


@pytest.mark.smoke("docs")
def test_every_behaviour_of_the_contract_is_named_by_a_test() -> None:
    """`PageCache.check()`, which many tests call, verifies the invariants."""
    named = re.compile(r"\bT-\d+[a-z]?\b")
    behaviours = re.findall(r"^\* (T-\d+[a-z]?):", (DOCS / "contract.md").read_text(encoding="utf-8"), re.MULTILINE)
    files = [path for path in (ROOT / "tests").rglob("test_*") if path.suffix in {".py", ".c"}]
    found = {one for path in files for one in named.findall(path.read_text(encoding="utf-8"))}
    assert sorted(set(behaviours) ^ found) == []
