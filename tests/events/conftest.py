"""Rigs for the tests of events."""

from ..file.conftest import clock, make

__all__ = ["clock", "make"]
