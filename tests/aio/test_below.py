"""What a cache promises, over asynchronous backends: the tests of tests/file, with the rigs of this folder's conftest."""

# ruff: noqa: F403
from __future__ import annotations

from ..file.test_durability import *
from ..file.test_failures import *
from ..file.test_mirror import *
from ..file.test_passes import *
from ..file.test_reconnect import *
from ..file.test_reentrancy import *
from ..file.test_staging import *
from ..file.test_truncate import *
from ..file.test_unknown_outcome import *
from ..file.test_write_units import *
