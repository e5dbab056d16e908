"""tests/file/test_unreadable_errors.py over asynchronous backends, and functions of the failure path broken there."""

# ruff: noqa: F403
from __future__ import annotations

from typing import Any

import pytest

from ..file.test_faults_of_our_own import FUNCTIONS, RETRIES, Make, name_of
from ..file.test_faults_of_our_own import test_a_wait_ends_whatever_of_the_failure_path_raises as ends
from ..file.test_unreadable_errors import *


@pytest.mark.parametrize("setting", ["writes fail", "commits fail"])
@pytest.mark.parametrize("function", [*FUNCTIONS, *RETRIES], ids=name_of)
def test_a_wait_ends_whatever_of_the_failure_path_raises_on_the_event_loop(
    make: Make, monkeypatch: pytest.MonkeyPatch, function: tuple[Any, str], setting: str
) -> None:
    """Write-back runs as a task there. [2.14, 2.16, K9]"""
    ends(make, monkeypatch, "fsync", function, setting)
