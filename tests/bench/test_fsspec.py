"""The far store counts its requests, and each way makes the requests that its promise costs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecache.bench.plain import BLOCK, make_file
from tests.bench.fsspec_ways import OWN, Way, ways
from tests.bench.slow import SlowFileSystem

MIB = 1024 * 1024
SIZE = 12 * MIB
PAGE = 4096

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # fsspec's block cache leaves them


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(make_file(tmp_path / "object", SIZE))


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Callable[[str], Way]]:
    """A way by its name, without latency, before its first request."""
    found = {way.name: way for way in ways(tmp_path / "ways", SIZE, latency=0)}

    def fresh(name: str) -> Way:
        found[name].fresh()
        return found[name]

    yield fresh
    for each in found.values():
        each.close()


def read_all(way: Way, path: str) -> bytes:
    """Open, read to the end, close; the store's requests are in `way.traffic`."""
    way.begin()
    with way.open(path) as file:
        pieces = [*iter(lambda: file.read(MIB), b"")]
    way.end()
    return b"".join(pieces)


@pytest.mark.parametrize("name", [way.name for way in ways(Path(), SIZE)])
def test_every_way_reads_the_same_bytes_the_first_time_and_again(
    name: str, way: Callable[[str], Way], path: str
) -> None:
    one = way(name)
    assert read_all(one, path) == BLOCK * 12
    assert one.traffic.bytes_read >= SIZE
    assert read_all(one, path) == BLOCK * 12


def test_the_second_read_asks_for_the_version_and_reads_nothing(way: Callable[[str], Way], path: str) -> None:
    cache = way(OWN)
    read_all(cache, path)
    for _ in range(2):
        read_all(cache, path)
        assert dict(cache.traffic.by_name) == {"info": 1}
        assert cache.traffic.bytes_moved == 0


def test_without_checks_the_second_read_asks_for_nothing(way: Callable[[str], Way], path: str) -> None:
    cache = way(f"{OWN}, unchecked")
    read_all(cache, path)
    assert cache.traffic.by_name["info"] == 1
    read_all(cache, path)
    assert cache.traffic.calls == 0


def test_a_file_that_another_program_replaced_is_read_again(way: Callable[[str], Way], path: str) -> None:
    cache = way(OWN)
    read_all(cache, path)
    cache.store.pipe_file(path, b"another")
    assert read_all(cache, path) == b"another"


def test_the_first_read_moves_each_byte_once(way: Callable[[str], Way], path: str) -> None:
    """One extra byte shows whether ranges can be read at all; each read is followed by a check of the version."""
    cache = way(OWN)
    read_all(cache, path)
    assert cache.traffic.bytes_read == SIZE + 1
    assert cache.traffic.by_name["info"] == cache.traffic.by_name["cat_file"] <= 2 + SIZE // MIB


def test_peers_ask_for_what_their_promise_costs(way: Callable[[str], Way], path: str) -> None:
    """This makes the ratios beside them meaningful."""
    requests = {}
    for name in ("readahead", "blockcache", "filecache", "filecache, checked", "simplecache"):
        peer = way(name)
        read_all(peer, path)
        read_all(peer, path)
        requests[name] = peer.traffic.bytes_read, peer.traffic.by_name["info"] > 0
    assert requests.pop("readahead")[0] >= SIZE
    assert requests == {
        "blockcache": (0, False),
        "filecache": (0, False),
        "filecache, checked": (0, True),
        "simplecache": (0, False),
    }


def test_the_far_store_counts_calls_and_bytes(tmp_path: Path) -> None:
    store, path = SlowFileSystem(latency=0), str(tmp_path / "object")
    store.pipe_file(path, b"0123456789")
    first = store.info(path)
    assert store.cat_file(path, 2, 5) == b"234"
    assert store.cat_file(path, -3) == b"789"
    with store.open(path, cache_type="none") as file:
        file.seek(8)
        assert file.read(100) == b"89"
    store.get_file(path, str(tmp_path / "copy"))
    store.put_file(str(tmp_path / "copy"), path)
    store.mv(path, f"{path}.moved")
    assert store.ls(str(tmp_path), detail=False) == sorted([str(tmp_path / "copy"), f"{path}.moved"])
    assert store.info(f"{path}.moved")["ETag"] != first["ETag"]
    traffic = store.reset()
    assert (traffic.bytes_read, traffic.bytes_written, traffic.calls) == (3 + 3 + 2 + 10, 10 + 10, 11)
    assert store.reset().calls == 0


def test_the_far_store_takes_objects_as_a_whole_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'r\\+b' is not 'rb': objects are stored by pipe_file and put_file"):
        SlowFileSystem(latency=0).open(str(tmp_path / "object"), "r+b")
