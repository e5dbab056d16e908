"""Bugs planted on purpose, one at a time, for testers of storage to find.

    table.py      BUGS and LEGAL: all entries, each with its effect
    core.py       fixes of the C core that the planted extension can take out
    *.patch       for each of these fixes, the change of the sources by which `PC_FIX` can take it out
    sources.py    makes the copy of the sources with all patches; planted.h, planted.c: the switch
    engine.py     mistakes of the Python layers, as patches
    backends.py   stores that break the protocol
    caches.py     small write-back caches as people write them
    legal.py      stores that are nasty and keep the protocol: no alarm
    directed.py   for each bug the shortest way to its effect; run as a program, in forked children

A general tester that searches for the bugs reads the table and nothing else.
"""
