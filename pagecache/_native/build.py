"""Builds the extension `pagecache._native._core` from the C core.

`pagecache.h` is the only declaration source: the part between its markers `/* cdef-begin */` and `/* cdef-end */`
goes to cffi, the whole header to the C compiler, to the core's files and to the C tests. Nothing is declared twice,
so nothing can drift.

setuptools runs this file with `exec` from the root of the project (`cffi_modules` in setup.py). Hence sources are
paths relative to the root (an sdist refuses absolute ones) and every file of the core is listed in `depends`: an edit
rebuilds, and an sdist carries it. Variants come from the environment, because PEP 517 gives no other way in:

    PAGECACHE_DEBUG=1                      checks of the hot paths and sync points compiled in (-DPC_DEBUG=1)
    PAGECACHE_SANITIZE=address,undefined   instrumented; also: thread

The objects of a variant must not meet those of another: `rm -rf build` between them.
"""

import glob
import os
import re
import sysconfig

from cffi import FFI

FOLDER = os.path.join("pagecache", "_native")
FOLDERS = ("base", "memory", "state", "file", "io", "types")  # from the bottom up: includes and calls go down only
HEADER = os.path.join(FOLDER, "pagecache.h")
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"]
LANGUAGE = ["-std=c11", "-D_GNU_SOURCE", "-fvisibility=hidden", "-pthread"]


def declarations(path: str) -> str:
    """The part of a header that cffi can parse.

    Raises:
        ValueError: the header has not exactly one marked part; mark it.
    """
    with open(path, encoding="utf-8") as header:
        parts = re.findall(r"/\* cdef-begin \*/(.*?)/\* cdef-end \*/", header.read(), re.DOTALL)
    if len(parts) != 1:
        raise ValueError(f"{path}: {len(parts)} parts between /* cdef-begin */ and /* cdef-end */, expected 1")
    return str(parts[0])


def flags(sanitize: str, debug: bool) -> tuple[list[str], list[str]]:
    """Compiler and linker flags of a variant; no -march and no LTO, so that a wheel runs where it was not built."""
    optimise = ["-O1", "-g", "-fno-omit-frame-pointer"] if sanitize or debug else ["-O2", "-g0"]
    instrument = [f"-fsanitize={sanitize}"] if sanitize else []
    check = ["-DPC_DEBUG=1"] if debug else []
    return LANGUAGE + WARNINGS + optimise + check + instrument, ["-pthread", *instrument]


def builder() -> FFI:
    """The cffi builder for the variant that the environment selects."""
    sources = sorted(path for folder in FOLDERS for path in glob.glob(os.path.join(FOLDER, folder, "*.c")))
    headers = sorted(path for folder in FOLDERS for path in glob.glob(os.path.join(FOLDER, folder, "*.h")))
    compile_args, link_args = flags(os.environ.get("PAGECACHE_SANITIZE", ""), os.environ.get("PAGECACHE_DEBUG") == "1")
    ffi = FFI()
    ffi.cdef(declarations(HEADER))
    ffi.set_source(
        "pagecache._native._core",
        '#include "pagecache.h"',
        sources=sources,
        include_dirs=[FOLDER],
        depends=[*glob.glob(os.path.join(FOLDER, "*.h")), *headers, os.path.join(FOLDER, "build.py"), "pyproject.toml"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        py_limited_api=not sysconfig.get_config_var("Py_GIL_DISABLED"),
    )
    return ffi


ffibuilder = builder()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
