"""Worlds that can be killed, for the tests of unsaved bytes."""

from .test_durability import make, world  # noqa: F401
