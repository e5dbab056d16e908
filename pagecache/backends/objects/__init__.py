"""Stores of whole objects: objects become visible by a commit, which replaces one version by another.

    names.py      open files by name; removes and renames
    file.py       one open object, and its commit; for threads, too
    draft.py      the state of its next version
    extents.py    the sources of the bytes of that version
    parallel.py   requests side by side
    store.py      the requests that both need, implemented by each kind of store

Everything that makes requests is a coroutine, for blocking and asynchronous stores. Those of a blocking store never
suspend, so `run` carries them out on the calling thread.
"""
