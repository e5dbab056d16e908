"""What a cache says of itself while it runs: the documents of docs/live.md, who serves and who reads them."""
