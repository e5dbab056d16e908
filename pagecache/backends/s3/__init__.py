"""Objects of an S3 store as a backend (`s3:`). `backend.py` lists the modules."""

from .backend import S3Backend, backend_from_s3_url

__all__ = ["S3Backend", "backend_from_s3_url"]
