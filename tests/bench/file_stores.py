"""The stores whose files are measured, and the volumes above them."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pagecache import PageCache
from pagecache.bench import files
from pagecache.bench.files import Jobs
from pagecache.bench.harness import nothing
from pagecache.bench.subject import made
from tests.bench.dict_backend import DictBackend

PLAIN = "plain file"
DIR, MEMORY, PROMPT, OTHER = "dir:", "memory:", "prompt dict", "dict"


def folder_url(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return f"dir:{folder}"


STORES: dict[str, Callable[[Path], Any]] = {
    DIR: folder_url,
    MEMORY: lambda folder: "memory:",
    PROMPT: lambda folder: DictBackend(prompt=True),
    OTHER: lambda folder: DictBackend(prompt=False),
}


class Way:
    """One way to do the jobs: plain files, or a volume; and `count` files that exist."""

    def __init__(self, jobs: Jobs, keys: list[str], settle: Callable[[], object] = nothing) -> None:
        self.jobs, self.keys = jobs, keys
        self.settle = settle  # before a job: commits of the job before it would run beside it
        for key in keys:
            jobs["create"](key)


def ways(folder: Path, count: int, stack: ExitStack) -> dict[str, Way]:
    """Return plain files below `folder` (on tmpfs), and one volume of each store, by name."""
    return {name: way(name, folder, count, stack) for name in (PLAIN, *STORES)}


def way(name: str, folder: Path, count: int, stack: ExitStack) -> Way:
    """Return plain files below `folder`, or a volume of the named store in a separate cache."""
    names = [f"file{n}" for n in range(count)]
    if name == PLAIN:
        plain = folder / "plain"
        plain.mkdir(parents=True)
        return Way(files.by_system_calls(), [f"{plain}/{key}" for key in names])
    cache = stack.enter_context(made(PageCache("64MiB")))
    volume = cache.attach(STORES[name](folder / "store"))
    return Way(files.through(volume), names, volume.sync)
