"""The name of the distribution: `pagecache` on PyPI is another project, so no text may lead a user to install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecache
from pagecache.distribution import NAME, VERSION

ROOT = Path(__file__).parent.parent
FOLDERS = (".ci", "benchmarks", "docs", "examples", "pagecache", "pagecache_pytest", "tests")
TEXTS = {".c", ".cfg", ".h", ".json", ".md", ".py", ".pyi", ".sh", ".toml", ".txt", ".yml", ""}
OTHERS = re.compile(r"\bpip3? install[^\n#,]*?(?<![\w./-])pagecache(?![\w/-])|(?<![\w.])pagecache\[[a-z]")
"""A command that installs another project, and an extra of it."""


def texts() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXTS)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts:
                yield path


def test_no_text_installs_the_other_project() -> None:
    found = []
    for path in texts():
        if path != Path(__file__):
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if OTHERS.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_name_and_version_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["name"], project["version"]) == (NAME, VERSION) == ("libpagecache", pagecache.__version__)
    extras = project["optional-dependencies"]
    for path in (ROOT / "pagecache").rglob("*.py"):
        for extra in re.findall(r"\bneeds\(.*, \"(\w+)\"\)", path.read_text(encoding="utf-8")):
            assert extra in extras, path


@pytest.mark.parametrize(("program", "is_left_out"), [("/nonexistent/pkg-config", True), ("true", False)])
def test_a_build_that_leaves_out_the_loop_of_mounts_names_the_packages(program: str, is_left_out: bool) -> None:
    """With --help, setuptools reads the options and compiles nothing."""
    command = [sys.executable, "setup.py", "build_ext", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PAGECACHE_FUSE"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"PKG_CONFIG": program}, capture_output=True, text=True, check=True
    )
    assert ("run apt install fuse3 libfuse3-dev pkg-config" in done.stdout) is is_left_out


def test_make_builds_again_when_libfuse_has_come(tmp_path: Path) -> None:
    native = tmp_path / "pagecache" / "_native"
    shutil.copytree(ROOT / "pagecache" / "_native", native, ignore=shutil.ignore_patterns("*.so", "_core.c"))
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in (".created", ".built"):
        (tmp_path / ".venv" / name).touch()
    pkg_config = tmp_path / "bin" / "pkg-config"
    pkg_config.parent.mkdir()

    def is_up_to_date(libfuse: str, **environment: str) -> bool:
        pkg_config.write_text(f"#!/bin/sh\n{libfuse}\n")
        pkg_config.chmod(0o755)
        path = f"{pkg_config.parent}:{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(["make", "-q", "build"], cwd=tmp_path, env=clean | {"PATH": path} | environment)
        assert done.returncode in (0, 1)
        return done.returncode == 0

    assert is_up_to_date("exit 1")
    assert not is_up_to_date("exit 0", PAGECACHE_FUSE="1")
    assert is_up_to_date("exit 0", PAGECACHE_FUSE="0")
    (native / "_fuse.abi3.so").touch()
    assert is_up_to_date("exit 0", PAGECACHE_FUSE="1")
