"""Every way into a file at once, checked byte by byte: `python -m tests.mix --help`."""
