"""Base classes, attributes, and the modules that an import loads. Names and parameters: tests/test_public_api.py."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pagecache
from pagecache import CacheConfig, CachedFile, PageCache, VolumeOptions


def test_base_classes_and_attributes() -> None:
    """Base classes and attributes."""
    assert issubclass(CachedFile, io.RawIOBase)
    with PageCache("1MiB") as cache:
        assert (cache.capacity, cache.config) == (1 << 20, CacheConfig())
        volume = cache.attach("memory:", name="v")
        assert (volume.name, volume.options) == ("v", VolumeOptions())
        assert isinstance(volume.backend, pagecache.Backend)
        assert cache.volumes() == (volume,)
        with volume.open("f", "xb+") as file:
            ticket = volume.begin_sync()
            assert isinstance(ticket.total, int)
            ticket.wait(20)
            assert {"key", "name", "mode", "volume", "size"} <= set(dir(file))


def test_the_c_type_of_handles_has_no_metaclass_that_later_pythons_refuse() -> None:
    """Python 3.12 warns of a type spec with a metaclass that has a constructor, and Python 3.14 refuses it."""
    (native,) = {base for base in CachedFile.__mro__ if base.__module__ == "pagecache._native._core"}
    assert type(native) is type
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import pagecache"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_a_checkout_that_is_not_built_says_what_to_do(tmp_path: Path) -> None:
    """The ImportError is one sentence with the folder, instead of the name of an internal module."""
    package = Path(pagecache.__file__).parent
    shutil.copytree(package, tmp_path / "pagecache", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run([sys.executable, "-c", "import pagecache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: pagecache is imported from the checkout {tmp_path}, whose C extension is not built: "
        "run pip install -e . there, or start Python in another directory to use an installed pagecache"
    )
    assert "During handling" not in done.stderr


def test_importing_the_package_imports_no_extras() -> None:
    """boto3, fsspec, pyfuse3, numpy and the like are loaded by the modules that use them."""
    extras = ["boto3", "botocore", "fsspec", "pyfuse3", "numpy", "matplotlib", "rich", "click"]
    program = f"import sys, pagecache; sys.exit(', '.join({{*{extras}}} & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(pagecache.__file__).parents[1],
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
