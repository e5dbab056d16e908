"""A directory on a local disk that keeps clean data across restarts."""
