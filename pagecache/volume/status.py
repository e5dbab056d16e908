"""Size, times and unsaved bytes of objects, as readers of the cache see them.

The backend reports the stored object; local bytes add to it: the size with local extensions, the bytes that are dirty
and cached. Space that the store does not use yet is counted for them, by whole pages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

from ..engine.attempts import Attempts
from ..engine.commit.owed import FOLLOWING, NOTHING_OWED
from ..errors import Key
from ..native import names
from ..objects import FileStat, ObjectStat
from . import answers, opening
from .inode import Inode

if TYPE_CHECKING:
    from .volume import Volume

LISTED_AT_ONCE = 1000
"""Objects in one reply of an object store."""
LOOKS = 2
"""How often a name is looked at whose objects change."""


def of_name(volume: Volume, name: Key, key: Key, tries: Attempts) -> FileStat:
    """Return the status of the object that has a name."""
    known, quiet, unstored = _shown(volume, name), None, 0
    if known is not None and (found := _at_rest(known, key, tries)) is not None:
        return found
    for _ in range(LOOKS):
        began, seen = volume.engine.clock.now(), None
        facts = known is not None and known.finds_by_name()
        if known is not None and facts:
            if known.backend_file is None:
                seen = _seen(known, name, key)
            elif _stands_for(known, name):
                try:
                    return of_open(known, key, tries)
                except FileNotFoundError:
                    if known.has_local():
                        return of_cached(known)
                    raise
        if known is not None:
            quiet, unstored = known.versions.quiet(), known.number("unstored")
        stat = seen or answers.checked_stat(tries.repeated(partial(volume.engine.backend.stat, key)), key)
        inode = _shown(volume, name, stat)
        if inode is None or inode is known:
            break
        known, quiet, unstored = inode, inode.versions.quiet(), inode.number("unstored")
        if quiet is None or (stat.version is not None and stat.version == inode.versions.base):
            break  # otherwise it may have been written back after that look, which did not know it
    else:
        quiet = None
    if inode is not known:
        facts = inode is not None and inode.finds_by_name()
    if inode is not None and facts and stat.version is not None:
        inode.versions.confirm(name, stat.version, began if seen is None else None)
    found = _combined(stat, inode, unstored)
    if inode is None:
        return found
    found = _sized(found, inode, quiet)
    if not inode.freed:
        return found
    # It has no size any longer, and the store has all.
    return _combined(answers.checked_stat(tries.repeated(partial(volume.engine.backend.stat, key)), key), None)


def _at_rest(inode: Inode, key: Key, tries: Attempts) -> FileStat | None:
    """Return the status of what a name leads to if that is this object, and the store has it as readers see it, before
    and after the look.
    """
    if inode.identity is None or inode.owed is not NOTHING_OWED or type(key) is not str:
        return None
    before = inode.at_rest()
    if not before:
        return None
    volume = inode.owner
    stat = answers.checked_stat(tries.repeated(partial(volume.engine.backend.stat, key)), key)
    cached = inode.unchanged()
    if cached is None or inode.at_rest() != before or inode.owed is not NOTHING_OWED or type(stat) is not ObjectStat:
        return None
    with volume.inodes_lock:
        shown = volume.inodes.objects.get(stat.identity) is inode and not inode.abandoned
    return names.file_status(stat, cached) if shown else None


def _stands_for(inode: Inode, name: Key) -> bool:
    """Return whether an open file that its store finds by its name stands for what has the name: it has unsaved bytes,
    or the store was asked a short time ago. Otherwise another program may have removed or replaced the object since.
    """
    stored = inode.versions.base is not None or not inode.limits().commit_on_close
    recent = inode.versions.is_recent(name, inode.owner.options.revalidate)
    return bool(inode.has_local()) or (stored and recent)


def _seen(inode: Inode, name: Key, key: Key) -> ObjectStat | None:
    """Return the status of an object whose backend file was closed, without a request, if the store was asked a short
    time ago.
    """
    volume = inode.owner
    opened = opening.as_seen(inode, name, key, volume.options.revalidate)
    if opened is None:
        return None
    volume.engine.close_later(opened.backend_file, key)
    return opened.stat


def _shown(volume: Volume, name: Key, stat: ObjectStat | None = None) -> Inode | None:
    """Return the inode that a name led to when it was last known, or that of an object that the store has found by it,
    if its local data counts: none of an abandoned one does.
    """
    with volume.inodes_lock:
        inode = volume.inodes.at(name) if stat is None else volume.inodes.found(name, stat)
    return None if inode is None or inode.abandoned else inode


def of_open(inode: Inode, key: Key, tries: Attempts | None = None) -> FileStat:
    """Return the status of an object that is open in the backend, even under another name since. Without `tries` the
    backend's call is made on this thread.
    """
    engine = inode.owner.engine

    def query() -> ObjectStat:
        if inode.owed.owes(FOLLOWING) and inode.unnaming is None:
            inode.owed.pay()
        found = inode.stat_open()
        return engine.backend.stat(key) if found is None else found

    quiet = inode.versions.quiet()
    unstored = inode.number("unstored")
    stat = Attempts(engine, "stat", key).here(query) if tries is None else tries.repeated(query)
    return _sized(_combined(answers.checked_stat(stat, key), inode, unstored), inode, quiet)


def _sized(found: FileStat, inode: Inode, quiet: int | None) -> FileStat:
    """Return the status with the size in the cache, if the cache wrote back since `quiet` was read: the result may be
    older than the stored bytes.
    """
    if inode.backend_file is None or (quiet is not None and inode.versions.quiet() == quiet):
        return found
    return dataclasses.replace(found, size=inode.size)


def of_cached(inode: Inode) -> FileStat:
    """Return the status of a cached object, without a call of the backend."""
    found = ObjectStat(key=inode.key, size=inode.size, identity=inode.identity)
    return _combined(found, inode)


def listed(volume: Volume, prefix: str, timeout: float | None) -> Iterator[FileStat]:
    """Yield the stored objects whose key starts with `prefix`, a page of the backend's listing at a time."""
    rest: Iterator[ObjectStat] | None = None
    page: list[ObjectStat] = []
    began = volume.engine.clock.now()

    def first_page() -> tuple[Iterator[ObjectStat], list[ObjectStat]]:
        found = answers.checked_listing(volume.engine.backend.list(prefix))
        return found, list(islice(found, LISTED_AT_ONCE))

    while rest is None or len(page) == LISTED_AT_ONCE:
        tries = volume._attempts("list", prefix or None, timeout)
        if rest is None:
            rest, page = tries.repeated(first_page)
        else:
            # Only the backend could continue its listing after an error.
            page = tries.repeated(partial(list, islice(rest, LISTED_AT_ONCE)), again=False)
        for stat in page:
            if stat.key is None or stat.key == "" or stat.kind != "file":
                yield _combined(stat, None)
                continue
            name = volume._canonical(stat.key)
            inode = _shown(volume, name, stat)
            found = _combined(stat, inode, 0 if inode is None else inode.number("unstored"))
            if inode is not None and inode.versions.committed >= began and found.size != inode.size:
                try:  # the page may be older than that commit
                    found = of_name(volume, name, stat.key, volume._attempts("stat", stat.key, timeout))
                    found = dataclasses.replace(found, key=stat.key)
                except FileNotFoundError:
                    continue
            if volume.recovery is not None and (size := volume.recovery.size(name, stat.identity)) is not None:
                found = dataclasses.replace(found, size=size)
            yield found
        volume._check_alive()


def _combined(stat: ObjectStat, inode: Inode | None, unstored: int = 0) -> FileStat:
    """Combine the stored status with the cached state. `unstored`: bytes that may have been missing in the store at the
    time of `stat`, counted before it.
    """
    if inode is not None and not unstored and type(stat) is ObjectStat:
        unchanged = inode.unchanged()
        if unchanged is not None:
            return names.file_status(stat, unchanged)
    slots = ObjectStat.__slots__
    fields: dict[str, Any] = dict(zip(slots, map(getattr, repeat(stat), slots, repeat(None)), strict=True))
    if inode is None:
        return FileStat(**fields)
    dirty = 0
    size, cached, local = inode.extent()
    if local:
        usage = inode.usage()
        fields["size"] = size = usage["size"]
        dirty = min(usage["local"], size)
        if usage["staged"]:
            dirty = sum(length for _, length in inode.local_ranges())
    if (allocated := fields["allocated"]) is not None:
        page = int(inode.owner.cache.config.page_size)
        pages = -(-max(fields["size"], size) // page)
        fields["allocated"] = min(allocated + unstored, max(allocated, pages * page))
    return FileStat(**fields, dirty=dirty, cached=min(cached, size))
