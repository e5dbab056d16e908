"""Encryption, checksums and the like around any backend: `TransformBackend`.

`backend.py` is the backend and `file.py` one open object. `units.py` computes where the units of an object are stored,
`changes.py` orders overlapping changes.
"""

from .backend import TransformBackend
from .units import Transform

__all__ = ["Transform", "TransformBackend"]
