"""The deterministic scheduler: all threads of a round, including the cache's, run in one, in an order that a seed
decides.

scheduler.py    simulated threads (greenlets), the virtual clock, the choice of the next thread
oversleeping.py finds a thread that sleeps past the time at which something is due
policies.py     how the choice is drawn: a random walk, or priorities with a few changes (PCT)
threads.py      locks, conditions, events, queues and threads like those of `threading`, for simulated threads
substitution.py replaces `threading`, `time` and others in the modules of the product during a round
stepped.py      a backend whose calls begin, take virtual time, and end
job.py          a run of the tester under the scheduler
"""
