"""`pagecache demo`: the main job of the cache on real files, with a proof that the result is right.

    command.py   options, help and exit status
    tree.py      the files, and directories for the copies
    plan.py      seeded: pieces of copying and reading, edits of each file
    sides.py     the plan carried out through the cache, and by plain Python file operations
    verify.py    the first difference of two trees
    job.py       the course of a run, with its counters
    report.py    the output for people and programs

Both sides work batch by batch in turn, so that disturbances of the machine affect both; only the calls themselves are
timed.
"""
