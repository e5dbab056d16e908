"""The table of all numbers of `CacheStats.to_dict()`: kind, name in metrics, and meaning in one line.

The Prometheus text, `pagecache.metrics.Collector` and docs/counters.md are made from it; docs/counters.md adds advice
for each number.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple


class Counter(NamedTuple):
    """One number.

    Attributes:
        help: One line.
        unit: Empty for a count.
        grows: True: it only grows while the cache lives; False: it is a level.
        memory: True: it belongs to the whole cache, also in the numbers of a volume or file; metrics have it once.
    """

    help: str
    unit: Literal["bytes", "seconds", ""] = ""
    grows: bool = False
    memory: bool = False

    def metric(self, name: str) -> str:
        """Return the name in Prometheus behind `pagecache_`."""
        unit = f"_{self.unit}" if self.unit and not name.endswith(self.unit) else ""
        return f"{name}{unit}{'_total' if self.grows else ''}"


_level = partial(Counter, unit="bytes")
_grows = partial(Counter, grows=True)
_memory = partial(Counter, memory=True)

COUNTERS: dict[str, Counter] = {
    # the state of the bytes
    "capacity": _memory("The memory that the cache may use for cached data.", "bytes"),
    "used": _memory(
        "Memory in use for cached data. In the numbers of a volume or file: its pages, as `cached`.", "bytes"
    ),
    "cached": _level("Pages in memory, in any state."),
    "clean": _level("Pages that storage has too; they can be evicted."),
    "dirty": _level("Pages that are newer than storage and are not in the hands of a backend call."),
    "writeback": _level("Pages in the hands of a backend call."),
    "unstable": _level("Pages that the backend acknowledged and has not committed."),
    "failed": _level("Pages whose last hand-over or commit failed for good."),
    "local": _level("Pages that are dirty, in flight or unstable: they count against the dirty limit."),
    "staged": _level("Uncommitted bytes in spools, whether memory has them or not."),
    "pinned": _level("Pages that views hold in memory."),
    "write_pinned": _level("Pages that writable views may store to at any moment."),
    "folios": Counter("Folios in memory."),
    "size": _level("Sizes of the files that the cache knows, as a reader sees them."),
    "remote_size": _level("Sizes of the same files in storage."),
    # reads
    "hits": _grows("Reads that were answered from memory."),
    "misses": _grows("Reads that had to wait for bytes."),
    "evicted": _grows("Clean folios that were removed because memory was needed."),
    "read_requests": _grows("Backend calls that read."),
    "read_bytes": _grows("Bytes that backend calls read.", "bytes"),
    "fill_requested": _grows("Bytes that fills requested.", "bytes"),
    "fill_validated": _grows("Bytes of them that became valid.", "bytes"),
    "fill_reread": _grows("Bytes of them requested again, since the stored object changed in between.", "bytes"),
    "fill_dropped": _grows("Bytes of them that reached no reader: a failed call, or the end of the object.", "bytes"),
    "fill_zeroed": _grows("Bytes of them behind the stored size: zeros, without a call.", "bytes"),
    # writes
    "write_requests": _grows("Backend calls that wrote."),
    "write_bytes": _grows("Bytes that backend calls took.", "bytes"),
    "commits": _grows("Commits that succeeded."),
    "failed_commits": _grows("Commits that failed."),
    "retries": _grows("Calls that were made again after a failure."),
    "short_writes": _grows("Writes that took less than they were given."),
    "handed_over": _grows("Pages that went from dirty to in flight.", "bytes"),
    "acknowledged": _grows("Pages of them that the backend took.", "bytes"),
    "returned": _grows("Pages of them that came back dirty.", "bytes"),
    "mirror_requests": _grows("Writes in the log of the mirror."),
    "mirror_bytes": _grows("Their bytes.", "bytes"),
    # copies and waits
    "cow_copies": _grows("Folios that were copied because they were written while in flight."),
    "staged_copies": _grows(
        "Copies of a caller's buffer or of pages under a writable view, made before they were used."
    ),
    "throttled_seconds": _grows("Time that writers waited for room, summed over threads.", "seconds"),
    "throttled_ns": _grows("The same in nanoseconds."),
    "lock_waits": _grows("Times that a call had to wait for a folio or for a file's lock."),
    # the disk tier
    "disk_hits": _grows("Calls to read that the disk tier served."),
    "disk_bytes": _memory("Bytes that the disk tier takes, of all volumes and caches that share it.", "bytes"),
    "journal_bytes": _memory("Bytes of the journal of the disk tier; 0 while a store has everything.", "bytes"),
    "disk_errors": _memory("Failures of the disk of the tier, damaged blocks among them.", grows=True),
    # memory of the metadata
    "leaves": _memory("Index leaves in use."),
    "nodes": _memory("Index nodes in use."),
    "exts": _memory("Extensions of folios in use: partly valid, pinned, or local with more than one page."),
    "requests": _memory("Requests to backends that exist now."),
    "shadows": _memory("Frames that calls hold though their folio has another by now."),
    "inodes": _memory("Objects that the cache knows."),
    "hollow": _memory("Objects of them without handles, pages and unsaved data."),
    "metadata_bytes": _memory("Memory of the metadata: the sum of the seven below.", "bytes"),
    "folio_bytes": _memory("Memory of folio descriptors.", "bytes"),
    "index_bytes": _memory("Memory of the indexes.", "bytes"),
    "ext_bytes": _memory("Memory of extensions.", "bytes"),
    "arena_bytes": _memory("Memory of the allocator of frames.", "bytes"),
    "ghost_bytes": _memory("Memory of the identities of what was evicted.", "bytes"),
    "staged_map_bytes": _memory("Memory of the maps of staged and written bytes.", "bytes"),
    "inode_bytes": _memory("Memory of inodes.", "bytes"),
    "mounted_names": _memory("Names of the mount that the kernel knows."),
    # eviction and frames
    "evict_calls": _memory("Searches for memory to evict.", grows=True),
    "evict_examined": _memory("Folios examined by them.", grows=True),
    "evict_examined_max": _memory("The most folios that one search examined."),
    "frames_allocated": _memory("Frames that were taken from the arena.", grows=True),
    "frames_freed": _memory("Frames that were given back.", grows=True),
    "quarantined": _memory("Frames that were put aside because a backend kept a buffer after its call.", grows=True),
}
