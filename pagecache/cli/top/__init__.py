"""`pagecache top`: the work of running caches, live in a terminal, or once as tables or JSON."""
