"""Objects in a directory, for several processes: read by ranges, stored as a whole, and never changed in place."""

from __future__ import annotations

from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import register_implementation
from fsspec.spec import AbstractFileSystem

__all__ = ["Shelf"]


class Shelf(AbstractFileSystem):
    """A separate file system, whatever stores its files: `shelf:///directory/name`."""

    protocol = "shelf"
    root_marker = "/"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = LocalFileSystem(auto_mkdir=True)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        found: Any = super()._strip_protocol(path)
        return found

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return self._local.ls(self._strip_protocol(path), detail)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._local.info(self._strip_protocol(path))
        return found

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return self._local.open(path, mode)

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        self._local.makedirs(path, exist_ok=True)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._local.makedirs(path, exist_ok=exist_ok)

    def _rm(self, path: str) -> None:
        self._local.rm(path)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        self._local.mv(self._strip_protocol(path1), self._strip_protocol(path2))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self._local.cp_file(path1, path2)


register_implementation("shelf", Shelf, clobber=True)
