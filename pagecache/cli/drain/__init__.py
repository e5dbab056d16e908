"""`pagecache drain`: have running programs save everything written so far, and verify it.

    command.py    options, help, the result and exit status
    following.py  a sync of each cache: begin it, and ask for its progress until it is over or cannot be known any more
    display.py    outcomes as text: progress, and the result

The data is in the other process, which also does all the work, and goes on after the command ends.
"""
