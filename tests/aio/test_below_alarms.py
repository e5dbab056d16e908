"""tests/file/test_alarms.py over asynchronous backends: the rigs are those of this folder's conftest."""

# ruff: noqa: F403
from ..file.test_alarms import *
