"""ENGINE: takes work from CORE, calls a backend, reports the result to CORE, and wakes waiters.

CORE decides what may happen and keeps every state; the modules here decide which thread does it and when.
docs/architecture.md has their order.
"""
