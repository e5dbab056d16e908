"""`pagecache check-backend`: what a backend can do, whether it keeps its promises, and which limits suit it.

    command.py     options, help and exit status
    bounded.py     a call that may hang, and what it was at then
    promises.py    each check of the conformance suite in words for who wrote the backend
    checking.py    the suite, check by check, each under a prefix of its own that is removed again
    measuring.py   times and rates, of calls of different sizes and of several at once
    limits.py      whether the declared limits are true, and which ones to write down
    job.py         the course of it
    report.py      what a person and a program are told

Nothing here needs pytest. The checks are those of pagecache.testing.BackendConformance.
"""
