"""`pagecache drain`: have a running program save what it has written so far, and see that it does.

    command.py    options, help and exit status
    following.py  one cache: begin a sync, ask how far it is, until it is over or nothing can be known any more
    job.py        several caches side by side, the deadline
    display.py    progress for a person
    report.py     what came of it, for a person and for a program

The data is in the other process, and so is all the work: nothing here reads or writes a byte of it, and what was begun
goes on when this ends. What it asks, and how, is in docs/live.md and `pagecache.observe.client`.
"""
