"""The type of handles, and what the import of a checkout that is not built says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pagecache
from pagecache import CachedFile


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
