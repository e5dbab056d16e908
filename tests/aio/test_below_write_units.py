"""tests/file/test_write_units.py over asynchronous backends: the rigs are those of this folder's conftest."""

# ruff: noqa: F403
from ..file.test_write_units import *
