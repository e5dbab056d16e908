"""The deterministic scheduler: all threads of a round, the cache's too, in one, in an order that a seed decides.

scheduler.py    simulated threads (greenlets), the virtual clock, who runs next
oversleeping.py a thread that sleeps past the time at which something is due
policies.py     how that is drawn: a random walk, or priorities with a few changes (PCT)
threads.py      locks, conditions, events, queues and threads as `threading` has them, of simulated threads
substitution.py what the modules of the product find in place of `threading`, `time` and others during a round
stepped.py      a backend whose calls begin, take virtual time, and end
job.py          a run of the tester under it
"""
