"""`PageCache.trace`: a record of a cache's work for a while, as a file for Perfetto or chrome://tracing.

    records (C, native/recording.py) ──► flows.py   the way of bytes: the arrows
                                    └──► chrome.py  the file: tracks, slices, arrows, written while records are read
    trace.py                             the context manager: begin, end, file and errors

docs/how-to/trace.md explains how to read the file.
"""

from .trace import Trace

__all__ = ["Trace"]
