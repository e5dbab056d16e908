"""`pagecache stress`: random operations of many workers on a cache, a backend or a directory, with every byte checked.

A run consists of rounds. A round makes its files, then alternates between a stir, in which workers run operations, and
a rest, at which nothing runs and memory, store and model are compared.

A plan (plan.py) decides every operation by its seed. Workers (player.py) run operations (steps.py, crossing.py) as
verbs of a target (targets.py); models (history.py, bindings.py) say which bytes and names may be seen, and oracle.py
describes a wrong one. job.py runs it all; shrinker.py reduces a failure.
"""

from pagecache.stress.job import run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report
from pagecache.stress.script import Script
from pagecache.stress.shrinker import NotFailing, shrink
from pagecache.stress.targets import UnusableTarget

__all__ = ["NotFailing", "Plan", "Report", "Script", "UnusableTarget", "run", "shrink"]
