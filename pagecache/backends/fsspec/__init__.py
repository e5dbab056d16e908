"""Objects of any fsspec file system as a backend (`fsspec:`).

`backend.py` is the backend, `object.py` and `objects.py` are its open objects, `fetch.py` reads ahead, and only
`calls.py` imports fsspec.
"""

from .backend import FsspecBackend, LocalObjects, backend_from_fsspec_url

__all__ = ["FsspecBackend", "LocalObjects", "backend_from_fsspec_url"]
