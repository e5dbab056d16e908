"""Traces: the ring, the file, its arrows."""
