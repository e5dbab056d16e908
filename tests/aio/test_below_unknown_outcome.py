"""tests/file/test_unknown_outcome.py over asynchronous backends: the rigs are those of this folder's conftest."""

# ruff: noqa: F403
from ..file.test_unknown_outcome import *
