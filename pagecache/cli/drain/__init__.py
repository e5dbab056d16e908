"""`pagecache drain`: have a running program save everything written so far, and verify it.

    command.py    options, help and exit status
    following.py  one cache: begin a sync, ask for its progress, until it is over or the connection is lost for good
    job.py        several caches side by side, the deadline
    display.py    progress for a person
    report.py     the result, for a person and for a program

The data is in the other process, which also does all the work: this package reads and writes none of it, and a sync
goes on after the command ends. docs/live.md and `pagecache.observe.client` have the requests.
"""
