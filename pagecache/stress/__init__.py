"""`pagecache stress`: random operations of many workers on a cache, a backend or a directory, each byte checked.

plan.py        what a run is asked to do; the seed decides every operation
profiles.py    kinds of operations, how often, where
content.py     bytes that say where they come from
history.py     which writes a byte may be of: the model of a file
oracle.py      whether what was seen could be there
story.py       what was found, for people
targets.py     what is tested, as verbs; cached.py: the cache over a backend; mounted.py: a directory
variant.py     what the cache is tested on; objects.py: its objects as the backend alone has them
stack.py       what lies between the cache and the backend; asynchronous.py: where that has coroutines
witness.py     what the backend is given stays what it is
faulting.py    faults of a round, what they explain, and who repairs
naming.py      from what a person names to targets
steps.py       what an operation does, as a generator of verbs
world.py       one round: target, models, who does what; what has to hold at rest
player.py      threads and tasks
watchdog.py    who waits for what, when nothing goes on
job.py         the course of a run
report.py      what came of it
script.py      operations one by one, in the place of the seed's
shrinker.py    from a failure to the smallest that fails, by reducing.py and rounder.py; pytest_file.py: it as a test
outcome.py     what is left on disk; page.py: the page
coverage.py    which operations met which others
timeline.py    what happened to the bytes that are wrong
hang.py        who waits for what, stacks, the end of the trace
"""

from pagecache.stress.job import run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report
from pagecache.stress.script import Script
from pagecache.stress.shrinker import NotFailing, Shrunk, shrink
from pagecache.stress.targets import UnusableTarget

__all__ = ["NotFailing", "Plan", "Report", "Script", "Shrunk", "UnusableTarget", "run", "shrink"]
