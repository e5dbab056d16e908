"""What pyproject.toml cannot say: the cffi modules and the tag of the wheel.

One wheel built on 3.11 serves every later CPython (abi3). Free-threaded builds have no limited API, so theirs is per
version. The loop of FUSE servers is made where libfuse is (pagecache/_native/fuse/build.py).
"""

import runpy
import sysconfig

from setuptools import setup

FUSE = "pagecache/_native/fuse/build.py"
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=[
        "pagecache/_native/build.py:ffibuilder",
        *([f"{FUSE}:ffibuilder"] if runpy.run_path(FUSE)["is_wanted"]() else []),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
