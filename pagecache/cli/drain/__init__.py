"""`pagecache drain`: have running programs save everything written so far, and verify it.

The data is in the other process, which also does all the work, and goes on after the command ends.
"""
