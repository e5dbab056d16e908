"""`pagecache stress`: random operations of many workers on a cache, a backend or a directory, with every byte checked.

A run consists of rounds. A round makes its files, then alternates between a stir, in which workers run operations, and
a rest, at which nothing runs and memory, store and model are compared.

plan.py        options of a run; the seed decides every operation
profiles.py    kinds of operations, their weights and ranges
content.py     file contents that name their own origin
history.py     the model of a file: which writes a byte may come from
oracle.py      checks whether an observation is possible; describes a wrong byte in English
targets.py     the interface of a tested system, as verbs; cached.py: a cache over a backend; mounted.py: a directory
objects.py     the objects of a round as the backend alone sees them
faulting.py    faults of a round, the errors that they explain, and their repair
naming.py      makes targets from names on the command line
steps.py       each operation as a generator of verbs
crossing.py    operations on names that all workers share; bindings.py, shared.py: their model
world.py       state of one round: target, models, activity; the checks at rest
player.py      threads and tasks that run operations
crash.py       crashes: forgetting.py, a store that forgets; killed.py, a cache that dies; durable.py: what is left
power.py       power cuts of a disk tier
directed.py    checks at the end of a round
job.py         the course of a run, and options that its target cannot serve
report.py      the result of a run, and the operations around a failure, as sentences
script.py      operations that a test spells out, instead of the seed's
shrinker.py    reduces a failure to a minimum
hang.py        checks progress; reports a hang with all waits, stacks and the end of the trace
"""

from pagecache.stress.job import run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report
from pagecache.stress.script import Script
from pagecache.stress.shrinker import NotFailing, Shrunk, shrink
from pagecache.stress.targets import UnusableTarget

__all__ = ["NotFailing", "Plan", "Report", "Script", "Shrunk", "UnusableTarget", "run", "shrink"]
