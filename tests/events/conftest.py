"""Rigs, for the tests of what is told."""

from ..file.conftest import clock, make

__all__ = ["clock", "make"]
