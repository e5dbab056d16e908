"""File systems of fsspec below the cache."""
