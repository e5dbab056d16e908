"""The peers do the job that they are measured for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pagecache.bench.plain import BLOCK, make_file
from pagecache.bench.subject import PatternBackend, read_nothing
from tests.bench.backends import CountingBackend, address_of
from tests.bench.peers import (
    CachetoolsPages,
    Copied,
    DiskcachePages,
    FsspecBlocks,
    LmdbPages,
    Mapping,
    PageDict,
    Peer,
    PythonFile,
    SystemCalls,
    Unavailable,
    required,
)

SIZE = 1024 * 1024
PAGE = 4096

MAKERS: dict[str, Callable[[Path], Peer]] = {
    "system calls": lambda folder: SystemCalls(make_file(folder / "file", SIZE)),
    "mapping": lambda folder: Mapping(make_file(folder / "file", SIZE)),
    "unbuffered": lambda folder: PythonFile(make_file(folder / "file", SIZE), buffered=False),
    "buffered": lambda folder: PythonFile(make_file(folder / "file", SIZE), buffered=True),
    "copied": lambda folder: Copied(SIZE),
    "dict": lambda folder: PageDict(SIZE, PAGE),
    "cachetools": lambda folder: CachetoolsPages(SIZE, PAGE),
    "diskcache": lambda folder: DiskcachePages(folder / "disk", SIZE, PAGE),
    "lmdb": lambda folder: LmdbPages(folder / "lmdb", SIZE, PAGE),
    "fsspec": lambda folder: FsspecBlocks(SIZE),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MAKERS)
def test_every_peer_reads_and_overwrites_its_pages(name: str, tmp_path: Path) -> None:
    try:
        peer = MAKERS[name](tmp_path)
    except Unavailable as reason:
        pytest.skip(str(reason))
    try:
        items = peer.items(list(range(0, SIZE, PAGE)))
        assert len(items) == SIZE // PAGE
        peer.reads(PAGE)(items)
        if name in ("copied", "fsspec"):
            with pytest.raises(Unavailable, match="only reads"):
                peer.writes(PAGE)
        else:
            peer.writes(PAGE)(items)
    finally:
        peer.close()


def test_a_peer_that_is_not_installed_says_so_in_one_line() -> None:
    with pytest.raises(Unavailable, match=r"no_such_module is not installed \(extra `bench`\)"):
        required("no_such_module.part")


def test_the_pattern_backend_fills_every_buffer() -> None:
    file = PatternBackend(4 * SIZE).open("key")
    buffers = [memoryview(bytearray(length)) for length in (10, PAGE, 2 * SIZE + 5)]
    assert file.read_into(0, buffers) == sum(len(buffer) for buffer in buffers)
    assert bytes(buffers[1]) == BLOCK[:PAGE]
    assert bytes(buffers[2]) == (BLOCK * 3)[: 2 * SIZE + 5]
    assert file.stat().size == 4 * SIZE


def test_the_empty_backend_claims_everything_and_touches_nothing() -> None:
    buffer = bytearray(b"x" * 10)
    assert PatternBackend(100, read=read_nothing).open("key").read_into(0, [memoryview(buffer)]) == 10
    assert buffer == b"x" * 10


def test_writes_are_forgotten_but_extend_the_object() -> None:
    backend = PatternBackend(0)
    file = backend.open("key", create=True)
    assert file.write_from(50, [memoryview(b"abc"), memoryview(b"de")]) == 5
    assert backend.stat("key").size == 55


def test_the_counting_backend_notes_calls_bytes_and_addresses_of_whole_pages() -> None:
    backend = CountingBackend(PatternBackend(SIZE))
    file = backend.open("key")
    memory = memoryview(bytearray(3 * PAGE))
    file.write_from(PAGE, [memory[:PAGE], memory[PAGE:]])
    file.read_into(0, [memory])
    tally = backend.tally
    assert (tally.writes, tally.write_bytes, tally.reads, tally.read_bytes) == (1, 3 * PAGE, 1, 3 * PAGE)
    base = address_of(memory)
    assert tally.write_addresses == {1: base, 2: base + PAGE, 3: base + 2 * PAGE}
    tally.reset()
    assert (tally.writes, tally.write_addresses) == (0, {})
