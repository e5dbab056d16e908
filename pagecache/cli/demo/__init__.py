"""`pagecache demo`: the main job on real files, and the proof that it came out right.

    command.py   options, help and exit status
    tree.py      which files, and where the copies go
    plan.py      seeded: pieces of copying and reading, edits of each file
    sides.py     the same plan carried out through the cache, and by plain Python file operations
    verify.py    the first difference of two trees
    job.py       the course of a run; what it counted
    report.py    what a person and a program are told

Both sides work batch by batch in turn, so that what disturbs the machine disturbs both; only the calls themselves are
timed.
"""
