"""`python -m tests.planted` prints the table; with the name of a bug, a module and its arguments it runs the module so.

python -m tests.planted
PAGECACHE_EXTENSION=build/planted/pagecache/_native python -m tests.planted flight_is_waited_for pagecache demo
"""

from __future__ import annotations

import runpy
import sys

from .table import BUGS, LEGAL


def main(arguments: list[str]) -> None:
    if not arguments:
        for bug in BUGS:
            print(f"{bug.kind:8}{bug.name} ({bug.rule})\n        {bug.sentence}")
        for store in LEGAL:
            print(f"legal   {store.name}\n        {store.sentence}")
        return
    name, module, *rest = arguments
    found = [bug for bug in BUGS if bug.name == name]
    if not found:
        sys.exit(f"{name!r} is no planted bug; without arguments this prints them all")
    sys.argv = [module, *rest]
    with found[0].on():
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
