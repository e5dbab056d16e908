"""`pagecache check-backend`: check a backend against the conformance suite, without pytest, and measure it."""
