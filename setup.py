"""What pyproject.toml cannot say: the cffi modules, the tag of the wheel, and a check of what the build needs.

One wheel built on 3.11 serves every later CPython (abi3). Free-threaded builds have no limited API, so theirs is per
version. The loop of FUSE servers is made where libfuse is (pagecache/_native/fuse/build.py).

`pip install .` builds in a temporary directory: objects that stay in the checkout would become part of a later build,
with other flags or from other sources. Editable builds keep theirs in build/, so that an edit compiles one file.
"""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from setuptools import setup

FUSE = "pagecache/_native/fuse/build.py"
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")
BUILDS = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}
"""Commands that compile."""


def missing() -> str:
    """Return what the build needs and does not find, and how to get it; "" where everything is here."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler ({compiler[0]}): run apt install gcc libc6-dev, or set CC"
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "probe")

        def compiles(text: str, *options: str) -> bool:
            with open(f"{program}.c", "w", encoding="ascii") as source:
                source.write(text)
            command = [*compiler, *options, f"{program}.c", "-o", program]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        if not compiles("#include <stdio.h>\nint main(void) { return 0; }\n"):
            return f"the C compiler ({compiler[0]}) cannot build a program: run apt install gcc libc6-dev"
        headers = {sysconfig.get_path(name) for name in ("include", "platinclude")}
        if not compiles("#include <Python.h>\n", "-E", *(f"-I{path}" for path in sorted(headers))):
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            return f"Python {version} has no Python.h: run apt install python3-dev (or python{version}-dev)"
    return ""


def run(build_base: str | None) -> None:
    has_loop = runpy.run_path(FUSE)["is_wanted"]()
    if not has_loop and BUILDS & set(sys.argv[1:]):  # pip shows this with -v only; `pagecache mount` reports it again
        print(
            "pagecache is built without mounts, for want of libfuse 3.10 or pkg-config: "
            "run apt install fuse3 libfuse3-dev pkg-config, then build again"
        )
    options = {"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {}
    if build_base is not None:
        options["build"] = {"build_base": build_base}
    setup(
        cffi_modules=["pagecache/_native/build.py:ffibuilder", *([f"{FUSE}:ffibuilder"] if has_loop else [])],
        options=options,
    )


if BUILDS & set(sys.argv[1:]) and (lack := missing()):
    sys.exit(f"pagecache cannot be built: {lack}")
try:
    import cffi as cffi
except ModuleNotFoundError:
    sys.exit(
        "pagecache cannot be built: there is no cffi: run pip install 'cffi>=2.0', or leave out --no-build-isolation"
    )
if "bdist_wheel" in sys.argv[1:]:
    with tempfile.TemporaryDirectory(prefix="pagecache-build-") as folder:
        run(folder)
else:
    run(None)
