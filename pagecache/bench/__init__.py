"""`pagecache bench`: the cost of hits, misses, write-back and small files, measured beside plain files in one run.

    harness.py   slices, rounds, ratios: the measuring itself
    subject.py   the caches under test, warmed and aged, and stores without latency
    plain.py     the opponents: system calls and Python files
    files.py     jobs on small files, by system calls and through a volume
    cases.py     the measurements: each case yields rows
    suite.py     surroundings of a case, rows, and the run of all cases
    report.py    a table, JSON, and the description of the machine

tests/bench of a checkout has the goals and more cases. Ids of goals (`P1/64K`) are the keys of rows here.
"""
