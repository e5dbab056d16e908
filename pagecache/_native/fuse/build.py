"""Builds the extension `pagecache._native._fuse`, the loop of a FUSE server, where libfuse 3 and its headers are.

Only `pagecache mount` needs it, and names the missing library without it. So it is an optional extension: setuptools
goes on if it cannot be compiled, and setup.py leaves it out if pkg-config does not find libfuse.

    PAGECACHE_FUSE=0    leave it out although libfuse is here: for wheels that go elsewhere
    PAGECACHE_FUSE=1    an error in its compilation ends the build, if libfuse is here: for development

Variants as in the builder of CORE (`_native/build.py`), which this shares.
"""

import glob
import os
import shutil
import subprocess
import sysconfig

from cffi import FFI

FOLDER = os.path.join("pagecache", "_native", "fuse")
CORE = os.path.join("pagecache", "_native")
OLDEST = "3.10"
PARALLEL_WRITES = "3.14.1"
"""The first libfuse whose open files can allow parallel direct writes."""


def pkg_config(*words: str) -> str | None:
    """What pkg-config says of libfuse; None: it is not here, or says no."""
    program = shutil.which(os.environ.get("PKG_CONFIG", "pkg-config"))
    if program is None:
        return None
    done = subprocess.run([program, *words, "fuse3"], capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def is_wanted() -> bool:
    return os.environ.get("PAGECACHE_FUSE") != "0" and pkg_config(f"--atleast-version={OLDEST}") is not None


def builder() -> FFI:
    """The cffi builder for the variant that the environment selects."""
    core: dict[str, object] = {"__name__": "build"}
    with open(os.path.join(CORE, "build.py"), encoding="utf-8") as file:
        exec(compile(file.read(), file.name, "exec"), core)
    debug = os.environ.get("PAGECACHE_DEBUG") == "1"
    compile_args, link_args = core["flags"](os.environ.get("PAGECACHE_SANITIZE", ""), debug)  # type: ignore[operator]
    compile_args += (pkg_config("--cflags") or "").split()
    if pkg_config(f"--atleast-version={PARALLEL_WRITES}") is not None:
        compile_args += ["-DPC_PARALLEL_WRITES=1"]
    headers = sorted([*glob.glob(os.path.join(FOLDER, "*.h")), os.path.join(CORE, "pagecache.h")])
    ffi = FFI()
    ffi.cdef(core["declarations"](os.path.join(FOLDER, "loop.h")))  # type: ignore[operator]
    ffi.set_source(
        "pagecache._native._fuse",
        '#include "loop.h"',
        sources=sorted(path for path in glob.glob(os.path.join(FOLDER, "*.c"))),
        include_dirs=[FOLDER, CORE],
        depends=[*headers, os.path.join(FOLDER, "build.py"), "pyproject.toml"],
        extra_compile_args=compile_args,
        extra_link_args=[*link_args, *(pkg_config("--libs") or "-lfuse3").split()],
        py_limited_api=not sysconfig.get_config_var("Py_GIL_DISABLED"),
        optional=os.environ.get("PAGECACHE_FUSE") != "1",
    )
    return ffi


ffibuilder = builder()
