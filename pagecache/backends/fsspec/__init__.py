"""Objects of any fsspec file system as a backend (`fsspec:`).

`backend.py` is the backend, `objects.py` all objects, `object.py` an open one, and only `calls.py` calls fsspec.
"""

from .backend import FsspecBackend, LocalObjects, backend_from_fsspec_url

__all__ = ["FsspecBackend", "LocalObjects", "backend_from_fsspec_url"]
