"""`PageCache.trace`: what a cache did for a while, as a file for Perfetto or chrome://tracing.

    records (C, native/recording.py) ──► flows.py   which bytes went where: the arrows
                                    └──► chrome.py  the file: tracks, slices, arrows, written as it is read
    trace.py                             the context manager: when, where to, and what if not

How to read such a file: docs/how-to/trace.md.
"""

from .trace import Trace

__all__ = ["Trace"]
