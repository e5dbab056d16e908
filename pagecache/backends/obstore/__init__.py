"""Objects of Google Cloud Storage (`gs:`) and Azure Blob Storage (`az:`) as a backend, by the package obstore.

`backend.py` is the backend, `object.py` an open object and its commit, `requests.py` has each request, `conditions.py`
the trial of a service, and `errors.py` converts what obstore raises.
"""

from .backend import ObstoreBackend, backend_from_az_url, backend_from_gs_url

__all__ = ["ObstoreBackend", "backend_from_az_url", "backend_from_gs_url"]
