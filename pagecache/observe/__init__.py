"""What a cache reports while it runs: the documents of docs/live.md, their server and reader, metrics, and traces."""
