"""Calls of the backend that carry bytes or order them: fills, writes, barriers, direct I/O, sizes and holes."""
