"""ENGINE: takes work from CORE, hands it to a backend, reports back, wakes.

CORE decides what may happen and keeps every state; the modules here decide who does it and when:

    park      how a thread waits, and for how long
    runner    the threads of a volume, and the jobs they are given
    reader    fills
    issuer    write requests and commits
    collector what an answer means
    retryer   whether and when to try again; which ranges have failed
    barrier   fsync, sync, tickets
    throttle  writers that have to wait
    flusher   what happens without anybody asking
    file      what the engine knows of one cached object
    volume    what it knows of one backend
"""
