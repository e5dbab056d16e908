"""Bugs planted on purpose, one at a time, for the searching tests to find.

*.patch       a bug each: its effect, the searcher that finds it, and the change by which `PC_FIX` can take a fix out
patches.py    makes the copy of the package with all patches; planted.h: the switch in C
settings.py   settings of the stress tester for the bugs
mutations.py  the search: `make mutations`
"""
