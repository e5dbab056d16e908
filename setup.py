"""What pyproject.toml cannot say: the cffi module and the tag of the wheel.

One wheel built on 3.11 serves every later CPython (abi3). Free-threaded builds have no limited API, so theirs is per
version.
"""

import sysconfig

from setuptools import setup

LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["pagecache/_native/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
