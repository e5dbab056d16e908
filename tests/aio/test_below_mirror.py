"""tests/file/test_mirror.py and test_mirror_ends.py over asynchronous backends: this folder's conftest has the rigs."""

# ruff: noqa: F403
from ..file.test_mirror import *
from ..file.test_mirror_ends import *
