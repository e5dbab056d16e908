"""All planted bugs and stores, for testers to find.

for bug in BUGS:
    factory = bug.target() if bug.target else ...    # a backend factory; called again after a crash
    with bug.on():                                   # kind "core": in a process with planted.planted_environment()
        ...                                          # run the tester; it has to complain
"""

from __future__ import annotations

from .backends import BACKENDS
from .core import CORE
from .engine import ENGINE
from .names import NAMES
from .planted import Factory, Planted, planted_environment

__all__ = ["BUGS", "Factory", "Planted", "planted_environment"]

BUGS: list[Planted] = [*CORE, *ENGINE, *NAMES, *BACKENDS]
