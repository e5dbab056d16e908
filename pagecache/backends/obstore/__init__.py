"""Objects of Google Cloud Storage (`gs:`) and Azure Blob Storage (`az:`) as a backend, by the package obstore."""

from .backend import ObstoreBackend, backend_from_az_url, backend_from_gs_url

__all__ = ["ObstoreBackend", "backend_from_az_url", "backend_from_gs_url"]
