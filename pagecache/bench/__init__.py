"""`pagecache bench`: what the cache costs beside the other ways to do the same, measured side by side in one run.

    harness.py    slices, rounds, ratios: pure measurement
    goals.py      the numbers to reach
    subject.py    the caches under test, warmed and aged
    peers.py      the opponents: system calls, mmap, Python files, dictionaries, other caches
    backends.py   stores without latency, with a known latency, and one that counts
    cases_*.py    what is measured: each case gives rows
    suite.py      which cases run, in which order, how often; the goals they reach
    traces.py     what the caches did, as files for Perfetto
    report.py     tables and JSON; plot.py: a picture; machine.py: where it ran

Everything goes through the public interface of the package.
"""

from pagecache.bench.rows import Settings
from pagecache.bench.suite import Outcome, UnknownCase, run, select, settings_for

__all__ = ["Outcome", "Settings", "UnknownCase", "run", "select", "settings_for"]
