"""Bugs planted on purpose, one at a time, for the stress tester to find.

table.py      BUGS: all entries, each with its effect
core.py       fixes of the C core that the planted extension can take out
*.patch       for each of these fixes, the change of the sources by which `PC_FIX` can take it out
sources.py    makes the copy of the sources with all patches; planted.h, planted.c: the switch
engine.py     mistakes of the Python layers, as patches; names.py: of names
backends.py   stores that break the protocol
settings.py   settings of the tester for each bug; failing.py: stores that they run on
mutations.py  the search: `make mutations`
"""
