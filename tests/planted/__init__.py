"""Bugs planted on purpose, one at a time: what a tester of storage has to find.

    table.py      BUGS and LEGAL: everything that there is, each with what it breaks
    core.py       fixes of the C core that a debug build can go without
    engine.py     mistakes of the Python layers, as patches
    backends.py   stores that break the protocol
    caches.py     small write-back caches as people write them
    legal.py      stores that are nasty and keep the protocol: no alarm
    directed.py   for each bug the shortest way to what it does; run as a program, in forked children

Who looks for the bugs with a general tester reads the table and nothing else.
"""
