"""ENGINE: takes work from CORE, calls a backend, reports the result to CORE, and wakes waiters.

CORE decides what may happen and keeps every state; the modules here decide which thread does it and when. From the
bottom up:

    park, foreign               how a thread waits, and for how long; exceptions of a backend, read safely
    report/                     sentences for the log, events, troubles, and the reasons of waits
    retryer                     whether and when to retry
    runner, aside               the threads of a volume; calls for tasks
    blocking, loop              asynchronous backends seen by threads; the event loop of the cache
    attempts, namesync          calls that carry no bytes; a backend's sync of names
    failures                    failed ranges of a file
    commit/                     staged data, lost replies, tails, debts of a file, newer stored versions
    io/                         fills, write requests, results of calls, fsync, direct I/O, sizes
    throttle, mirror            writers that must wait; the second stream
    file, volume                one cached object, one backend
    flusher                     work that no call has requested
"""
