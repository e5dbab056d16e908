"""`pagecache demo`: one job over two stores, with the cache and without it, and a proof that every byte is right.

command.py   options, help and exit status
tree.py      the files, and directories for the copies
plan.py      seeded: pieces of copying and reading, edits of each file
sides.py     the plan carried out through the cache, straight on a store, and by plain Python file operations
verify.py    the first difference of two trees
job.py       the course of a run, with its counters
report.py    the output for people and programs
"""
