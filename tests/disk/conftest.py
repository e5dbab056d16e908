"""Worlds that can be killed, for the tests of unsaved bytes, and tiers for those of clean data."""

from .test_durability import ended, make, world  # noqa: F401
from .test_tier import folder, tier  # noqa: F401
