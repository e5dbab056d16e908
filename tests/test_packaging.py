"""The sdist builds itself into a wheel, and one wheel runs on every supported interpreter of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from .test_docs import blocks

ROOT = Path(__file__).parent.parent
VERSIONS = ((3, 11), (3, 12), (3, 13))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """The output of a command, which must succeed."""
    ours = ("PYTHON", "PAGECACHE_", "MAKE", "MFLAGS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environment
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def answer(interpreter: Path, expression: str) -> str:
    """The output of an interpreter, "" if it cannot run."""
    try:
        done = subprocess.run([interpreter, "-c", f"print({expression})"], capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def interpreters() -> dict[tuple[int, int], Path]:
    """One interpreter with venv for each supported version that is found, this one first."""
    found = {sys.version_info[:2]: Path(getattr(sys, "_base_executable", sys.executable))}
    homes = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    homes += sorted(Path.home().glob(".pyenv/versions/3.*/bin"), reverse=True)
    homes += sorted(Path.home().glob(".local/share/uv/python/*/bin"), reverse=True)
    for version in VERSIONS:
        for home in homes:
            path = home / f"python{version[0]}.{version[1]}"
            if version not in found and path.exists():
                if answer(path, "[__import__('ensurepip'), __import__('sys').version_info[:2]][1]") == str(version):
                    found[version] = path
    return {version: found[version] for version in sorted(found)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of a clean copy of the tree, and the wheel made from that sdist."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, copied(tree))  # no choice given: the wheel comes from the sdist
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `make wheel` makes."""
    out = tmp_path_factory.mktemp("repaired")
    run("make", "-C", ROOT, "wheel", f"DIST={out}", f"PYTHON={getattr(sys, '_base_executable', sys.executable)}")
    (wheel,) = out.glob("*.whl")
    return wheel


def test_sdist_has_all_that_is_needed_to_build_and_to_test(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tracked = [*ROOT.glob("pagecache/_native/**/*.[ch]"), *ROOT.glob("pagecache/**/*.py"), *ROOT.glob("tests/**/*.py")]
    wanted = {str(path.relative_to(ROOT)) for path in tracked if path.name != "_core.c"}
    wanted |= {"Makefile", "LICENSE", "README.md", "setup.py", "pyproject.toml", "pagecache/py.typed"}
    assert wanted <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_has_the_extension_the_types_and_no_sources(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    assert "pagecache/py.typed" in names
    assert len([name for name in names if name.startswith("pagecache/_native/_core") and name.endswith(".so")]) == 1
    assert not [name for name in names if name.endswith((".c", ".h")) or name.startswith("tests/")]
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert "-cp311-abi3-" in built[1].name


def run_first_program(python: Path, folder: Path, **environment: str) -> None:
    """Run that of the README."""
    (folder / "empty").mkdir()
    program = next(block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    run(python, "-W", "error", "-c", program, cwd=folder / "empty", **environment)
    assert (folder / "empty" / "data" / "log").read_bytes() == b"first line\n"


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"{version[0]}.{version[1]}")
def test_wheel_runs(built: tuple[Path, Path], tmp_path: Path, version: tuple[int, int]) -> None:
    interpreter = interpreters().get(version)
    if interpreter is None:
        pytest.skip(f"no python{version[0]}.{version[1]} with venv here")
    if "abi3" not in built[1].name and version != sys.version_info[:2]:
        pytest.skip("the wheel is for one version")
    run(interpreter, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", built[1])
    run_first_program(python, tmp_path)
    run(tmp_path / "venv" / "bin" / "pagecache", "--help", cwd=tmp_path)
    print(f"the wheel runs on {interpreter} ({version[0]}.{version[1]})")


def test_a_repaired_wheel_installs_without_a_compiler(repaired: Path, tmp_path: Path) -> None:
    """It does in a fresh environment whose path has nothing else."""
    assert "manylinux" in repaired.name
    assert repaired.name.startswith("libpagecache-")
    run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", tmp_path / "venv")
    python, only = tmp_path / "venv" / "bin" / "python", str(tmp_path / "venv" / "bin")
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", repaired, PATH=only, CC="/nonexistent/cc")
    run_first_program(python, tmp_path, PATH=only)


def copied(folder: Path) -> Path:
    """A clean copy of the tree, without any build results."""
    unwanted = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "*.egg-info", "*.so", ".*_cache", "__pycache__"
    )
    return Path(shutil.copytree(ROOT, folder / "checkout", ignore=unwanted))


def test_a_build_leaves_no_objects_in_the_checkout(tmp_path: Path) -> None:
    """A later build would reuse them, whatever they were compiled from."""
    tree = copied(tmp_path)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "out", tree)
    assert len(list((tmp_path / "out").glob("*.whl"))) == 1
    assert not (tree / "build").exists()
    assert not [path for path in tree.rglob("*") if path.suffix in (".o", ".so")]


NO_PYTHON_H = '#!/bin/sh\nfor word; do case $word in -I*) exit 1;; esac; done\nexec cc "$@"\n'
"""A compiler that finds all headers but those of Python."""
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize(
    ("compiler", "expected"),
    [
        ("/nonexistent/cc", "there is no C compiler (/nonexistent/cc): run apt install gcc libc6-dev, or set CC"),
        ("cc -nostdinc", "the C compiler (cc) cannot build a program: run apt install gcc libc6-dev"),
        ("", f"Python {VERSION} has no Python.h: run apt install python3-dev (or python{VERSION}-dev)"),
    ],
    ids=["no compiler", "no libc", "no Python.h"],
)
def test_a_build_without_what_it_needs_ends_with_one_sentence(tmp_path: Path, compiler: str, expected: str) -> None:
    path = tmp_path / "cc"
    path.write_text(NO_PYTHON_H)
    path.chmod(0o755)
    tree = copied(tmp_path)
    command = [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"CC": compiler or str(path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pagecache cannot be built: {expected}\n"
    assert not (tree / "build").exists()
