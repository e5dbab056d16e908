"""`pagecache bench`: the cost of hits, misses and write-back, measured beside plain files in one run.

    harness.py   slices, rounds, ratios: the measuring itself
    subject.py   the caches under test, warmed and aged, and stores without latency
    plain.py     the opponents: system calls, mmap, Python files
    cases.py     the measurements: each case yields rows
    suite.py     surroundings of a case, rows, and the run of all cases
    report.py    a table, JSON, and the description of the machine

A checkout has the goals (docs/performance.md) and more cases in tests/bench: other caches, threads, direct I/O, the
index, fsspec and S3. Ids of goals (`P1/64K`) are the keys of rows here.
"""
