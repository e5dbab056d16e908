"""tests/file/test_reconnect.py over asynchronous backends: the rigs are those of this folder's conftest."""

# ruff: noqa: F403
from ..file.test_reconnect import *
