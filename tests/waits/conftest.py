"""Fixtures: the rigs of tests/file."""

from ..file.conftest import make, rig  # noqa: F401
