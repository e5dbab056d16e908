"""Objects of any fsspec file system as a backend (`fsspec:`).

`backend.py` is the backend, `objects.py` all objects, `object.py` an open one, `fetch.py` reads the missing bytes of a
commit, and only `calls.py` calls fsspec.
"""

from .backend import FsspecBackend, LocalObjects, backend_from_fsspec_url

__all__ = ["FsspecBackend", "LocalObjects", "backend_from_fsspec_url"]
