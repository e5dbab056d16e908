"""`pagecache check-backend`: find out what a backend supports, check its promises, and recommend limits.

    command.py     options, help and exit status
    bounded.py     a call that may hang, and its position at the timeout
    promises.py    each check of the conformance suite in the words of a backend author
    checking.py    the suite, check by check, each under a separate prefix that is removed afterwards
    measuring.py   times and rates of calls of different sizes, and of concurrent calls
    limits.py      checks the declared limits, and recommends others
    job.py         the course of a run
    report.py      the output for people and programs

Nothing here needs pytest. The checks are those of pagecache.testing.BackendConformance.
"""
