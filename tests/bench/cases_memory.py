"""The memory of the cache in addition to the data: P11, from its own counters, which count nodes and descriptors by
size.
"""

from collections.abc import Iterator

from pagecache import PageCache
from pagecache.bench.plain import MIB
from pagecache.bench.subject import KIB, PAGE, PatternBackend, made, read_nothing
from tests.bench.rows import Bench, Row, case, exact, skipped


@case("memory", "bytes of metadata per page", ("P11/4K", "P11/64K"))
def metadata(bench: Bench) -> Iterator[Row]:
    """P11: a full cache whose frames were never touched, so that it costs its metadata alone."""
    pages = min(bench.settings.most_pages, 262_144)
    size = pages * PAGE // MIB * MIB
    for key, folio in (("P11/4K", PAGE), ("P11/64K", 64 * KIB)):
        with made(PageCache(size + 64 * MIB, max_folio=folio)) as cache:
            file = cache.attach(PatternBackend(size, read=read_nothing), read_ahead=0).open("file", "rb")
            for offset in range(0, size, MIB):
                file.prefetch(offset, MIB, wait=True)
            stats = cache.stats()
            counters = stats.to_dict()
            file.close()
        if "metadata_bytes" not in counters:
            yield skipped("memory", key, "the library does not count it")
            continue
        held = stats.used // PAGE
        note = f"{held:,} pages in {stats.folios:,} folios"
        yield exact("memory", key, counters["metadata_bytes"] / max(held, 1), note)
