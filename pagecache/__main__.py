"""`python -m pagecache` is the `pagecache` command."""

from pagecache.cli import main

if __name__ == "__main__":
    main()
