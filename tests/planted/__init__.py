"""Bugs planted on purpose, one at a time, for testers of storage to find.

    table.py      BUGS and LEGAL: all entries, each with its effect
    core.py       fixes of the C core that a debug build can switch off
    engine.py     mistakes of the Python layers, as patches
    backends.py   stores that break the protocol
    caches.py     small write-back caches as people write them
    legal.py      stores that are nasty and keep the protocol: no alarm
    directed.py   for each bug the shortest way to its effect; run as a program, in forked children

A general tester that searches for the bugs reads the table and nothing else.
"""
