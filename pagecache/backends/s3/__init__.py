"""Objects of an S3 store as a backend (`s3:`).

`backend.py` is the backend, `object.py` one open object, `plan.py` and `draft.py` decide what an upload consists of,
`assembly.py` runs it, and only `calls.py` imports boto3.
"""

from .backend import S3Backend, backend_from_s3_url

__all__ = ["S3Backend", "backend_from_s3_url"]
