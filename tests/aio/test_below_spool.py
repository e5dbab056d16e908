"""tests/file/test_spool.py over asynchronous backends: the rigs are those of this folder's conftest."""

# ruff: noqa: F403
from ..file.test_spool import *
