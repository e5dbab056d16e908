"""The requests and the display of the live view, without a terminal."""

from __future__ import annotations

from pathlib import Path

from pagecache.cli.top.model import FILES_MAX, FORGOTTEN, INTERVALS, Model
from pagecache.cli.top.rows import SORTS, Sample
from pagecache.cli.top.sampling import Question
from pagecache.observe.answers import Files, Stats, decode
from pagecache.observe.client import NoSocket

from . import documents

ONE, TWO = Path("/run/one.sock"), Path("/run/two.sock")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sample(socket: Path, *, limit: int = 100, sort: str = "dirty", count: int = 0, match: str = "") -> Sample:
    files = documents.files(0.0, volume=None, sort=sort, limit=limit, match=match, count=count)
    stats = documents.busy(name=socket.stem)
    return Sample(socket, stats=decode(Stats, stats), files=decode(Files, files), match=match)


def model(*sockets: Path, **options: object) -> Model:
    return Model(sockets, Clock(), **options)  # type: ignore[arg-type]


def test_only_the_page_that_is_shown_is_asked_for() -> None:
    shown = model(ONE)
    assert shown.question(ONE) == Question("dirty", 50)
    assert not shown.want(30)
    assert shown.question(ONE).limit == 50
    assert shown.want(80)
    assert shown.question(ONE).limit == 80
    assert not shown.want(10**6)
    assert shown.question(ONE).limit == FILES_MAX


def test_no_more_files_than_asked_for_by_the_option() -> None:
    shown = model(ONE, most=3)
    shown.want(500)
    assert shown.question(ONE).limit == 3
    shown.take(sample(ONE))
    assert len(shown.files().rows) == 3
    shown.filter = "m"
    assert len(shown.files().rows) == 3


def test_a_filter_is_asked_of_the_server_which_sees_all_files() -> None:
    shown = model(ONE, TWO)
    for socket in (ONE, TWO):
        shown.take(sample(socket, limit=50, count=5000))
    shown.filter = "MANY/04"
    assert shown.question(ONE) == Question("dirty", 50, match="MANY/04")
    assert (shown.files().rows, shown.files().total) == ([], None)
    shown.take(sample(ONE, limit=50, count=5000, match="MANY/04"))
    assert (len(shown.files().rows), shown.files().total) == (50, None)
    shown.take(sample(TWO, limit=50, count=5000, match="MANY/04"))
    assert (len(shown.files().rows), shown.files().total) == (50, 2000)
    assert {row.file.key[:7] for row in shown.files().rows} == {"many/04"}


def test_an_answer_for_another_filter_shows_what_it_has_of_this_one() -> None:
    shown = model(ONE)
    shown.take(sample(ONE, match="db"))
    shown.filter = "wal"
    assert [row.file.key for row in shown.files().rows] == ["db/main.sqlite-wal"]
    shown.filter = ""
    assert (len(shown.files().rows), shown.files().total) == (2, None)


def test_a_chosen_volume_is_asked_for_at_its_socket_only() -> None:
    shown = model(ONE, TWO)
    shown.volume = (ONE, "photos")
    assert shown.question(ONE) == Question("dirty", 50, "photos")
    assert shown.question(TWO).limit == 0
    shown.take(sample(ONE))
    shown.take(sample(TWO))
    assert {(row.socket, row.file.volume) for row in shown.files().rows} == {(ONE, "photos")}


def test_pages_of_several_sockets_are_one_list() -> None:
    shown = model(ONE, TWO)
    shown.page = 4
    shown.take(sample(ONE, limit=4))
    shown.take(sample(TWO, limit=4))
    found = shown.files()
    keys = ("db/main.sqlite", "db/main.sqlite-wal")
    assert [(row.file.key, row.cache) for row in found.rows] == [(key, name) for key in keys for name in ("one", "two")]
    assert found.total == 18


def test_a_pause_asks_nothing() -> None:
    shown = model(ONE)
    assert shown.pause_or_interval() == 1.0
    shown.paused = True
    assert shown.pause_or_interval() is None


def test_intervals_have_ends() -> None:
    shown = model(ONE)
    for _ in INTERVALS:
        shown.change_interval(1)
    assert shown.interval == INTERVALS[-1]
    for _ in INTERVALS:
        shown.change_interval(-1)
    assert shown.interval == INTERVALS[0]
    shown.interval = 0.7  # by the option
    shown.change_interval(1)
    assert shown.interval == 1.0


def test_orders_come_round() -> None:
    shown = model(ONE)
    seen = []
    for _ in SORTS:
        seen.append(shown.sort)
        shown.next_sort(1)
    assert tuple(seen) == SORTS
    shown.next_sort(-1)
    assert shown.sort == SORTS[-1]


def test_found_sockets_come_and_are_forgotten_named_ones_stay() -> None:
    there = [ONE]
    clock = Clock()
    shown = Model([ONE], clock, find=lambda: list(there))
    there.append(TWO)
    assert shown.refresh_sockets() == ([TWO], [])
    gone = Sample(TWO, error=NoSocket(TWO, "no such socket"))
    shown.take(sample(TWO))
    there.remove(TWO)
    shown.take(gone)
    assert shown.refresh_sockets() == ([], [])
    clock.now = FORGOTTEN + 1.0
    assert shown.refresh_sockets() == ([], [TWO])
    shown.take(gone)  # a refresh that was in flight
    assert [row.socket for row in shown.caches()] == [ONE]
    named = Model([TWO], clock)
    named.take(gone)
    clock.now *= 2
    assert named.refresh_sockets() == ([], [])
    assert len(named.caches()) == 1
