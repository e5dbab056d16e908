"""The live view, driven by keys and clicks: its display, its requests, and the faults it survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual import events

from pagecache.cli.top import sampling
from pagecache.cli.top.main_screen import MainScreen
from pagecache.cli.top.rows import SORTS, FileRow
from pagecache.cli.top.states import BY_NAME
from pagecache.observe.client import Client

from . import documents
from .documents import FILE_NAMES
from .screens import NEVER, View, model_of, run_view
from .serving import Owner, as_json


def keys_shown(view: View) -> list[str]:
    """The keys of the files in the table, in order."""
    screen = view.app.screen_stack[1]
    assert isinstance(screen, MainScreen)
    return [row.file.key for row in screen.files.rows]


def current_key(view: View) -> str:
    screen = view.app.screen_stack[1]
    assert isinstance(screen, MainScreen)
    row = screen.files.current
    assert isinstance(row, FileRow)
    return row.file.key


@pytest.mark.smoke("top")
def test_caches_volumes_files_and_calls_are_shown(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("48M not saved, oldest 3.2s, clean in 2.0s", "3.0M FAILED", "2 writers wait")
        owner.tick = 2.0
        await view.sample(owner)
        await view.shows("hit 90.1% of 10k/s")
        assert view.line("photos").split()[2:9] == ["30M", "8.0M", "10M", "3.0M", "5.2s", "2.0s", "2"]
        assert view.line("db/main.sqlite ").split()[2:][:4] == ["12M", "4.0M", "0", "1.0M"]
        assert view.line("write  ").split()[-1] == "10/s"
        await view.shows("2 running  commit 1  integrity 1  background 7  readahead 3", "50M of 128M")

    run_view(model_of(owner), test)


def test_unsaved_bytes_have_the_colour_of_their_state_and_nothing_is_dim(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        screen = view.app.screen
        assert isinstance(screen, MainScreen)
        segments = [segment for segment in screen.volumes.render_line(1) if segment.text.strip()]
        dirty = next(segment for segment in segments if segment.text.strip() == "30M")
        assert dirty.style is not None
        assert dirty.style.color is not None
        assert dirty.style.color.name == BY_NAME["dirty"].colour
        nothing = next(segment for segment in screen.volumes.render_line(2) if segment.text.strip() == "0")
        assert nothing.style is not None
        assert nothing.style.dim

    run_view(model_of(owner), test)


def test_s_sorts_by_the_next_column_and_asks_for_what_is_first_in_it(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        for sort in (*SORTS[1:], SORTS[0]):
            await view.press("s")
            await view.until(lambda sort=sort: f"sort={sort}&" in owner.requests[-2], f"a page by {sort}")  # type: ignore[misc]
            await view.shows(f"by {sort}")
        await view.press("S")
        await view.shows("by key")
        assert keys_shown(view) == sorted(keys_shown(view))

    run_view(model_of(owner), test)


def test_a_click_on_a_heading_sorts_by_it(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.settled()
        heading = view.line("FILE  ")
        await view.pilot.click("#files", offset=(heading.index("FAILED") + 2, 0))
        await view.shows("by failed")
        await view.pilot.click("#files", offset=(2, 0))
        await view.shows("by key")
        await view.pilot.click("#files", offset=(heading.index("SIZE") + 2, 0))  # the server has no such order
        await view.pilot.pause()
        assert view.app.model.sort == "key"

    run_view(model_of(owner), test)


def test_a_filter_shows_what_matches_while_it_is_written(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite", "tmp/0")
        await view.press("slash", "d", "b")
        await view.hides("tmp/0")
        await view.shows("db/main.sqlite-wal", "only “db”")
        await view.press("enter", "down")
        assert current_key(view) == "db/main.sqlite-wal"
        await view.press("escape")
        await view.shows("tmp/0")
        await view.hides("only “")
        await view.press("slash", "q", "s", "enter")  # letters are text there, not keys
        await view.shows("no files")

    run_view(model_of(owner), test)


def test_the_server_is_asked_for_a_filter_when_the_hand_pauses(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not queried for each letter; the rows on the screen are filtered at once."""
    monkeypatch.setattr("pagecache.cli.top.main_screen.FILTER_PAUSE", NEVER)
    owner.count = 5000

    async def test(view: View) -> None:
        await view.shows("of 5,003, by dirty")
        await view.press("slash", *"MANY/0499")
        await view.shows("0 so far, by dirty")
        assert [request for request in owner.requests if "match=" in request] == []
        await view.press("enter")
        await view.shows("10 of 10, by dirty")
        (filtered,) = [request for request in owner.requests if "match=" in request]
        assert filtered.endswith("&match=MANY%2F0499")
        monkeypatch.setattr("pagecache.cli.top.main_screen.FILTER_PAUSE", 0.01)
        await view.press("slash", "9")
        await view.shows("only “9”", "of 1,355, by dirty")  # the old text is selected, and replaced
        await view.press("escape")
        await view.shows("of 5,003, by dirty")

    run_view(model_of(owner), test)


def test_letters_typed_at_once_reach_the_filter(owner: Owner) -> None:
    """The keys of a fast typist are there before the first of them has had its effect."""

    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        for key, letter in (("slash", "/"), ("l", "l"), ("o", "o"), ("g", "g"), ("s", "s"), ("slash", "/")):
            view.app.post_message(events.Key(key, letter))
        await view.shows("only “logs/”")
        assert keys_shown(view) == ["logs/2025-11-20.log"]

    run_view(model_of(owner), test)


def test_only_the_page_shown_of_thousands_of_files_is_asked_for(owner: Owner) -> None:
    owner.count = 5000

    async def test(view: View) -> None:
        await view.shows("of 5,003, by dirty")
        limits = [int(target.rpartition("=")[2]) for target in owner.requested("/v1/files")]
        assert max(limits) <= 60
        shown = len(keys_shown(view))
        await view.press("end")
        await view.until(lambda: len(keys_shown(view)) > shown, "more files, as they come near")
        assert len(keys_shown(view)) < 200
        await view.press("slash", *"many/049")
        await view.shows("of 100, by dirty")
        assert keys_shown(view)[0].startswith("many/049")

    run_view(model_of(owner), test)


def test_the_option_for_the_number_of_files_is_kept(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("2 of 9, by dirty")
        assert keys_shown(view) == FILE_NAMES[:2]
        assert owner.requested("/v1/files") == ["/v1/files?sort=dirty&limit=2"] * len(owner.requested("/v1/files"))

    run_view(model_of(owner, most=2), test)


def test_the_cursor_stays_with_its_file(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("down", "down")
        assert current_key(view) == FILE_NAMES[2]
        document = documents.files(0.0, volume=None, sort="dirty", limit=100)
        document["files"].reverse()
        for number, file in enumerate(document["files"]):
            file["counters"]["dirty"] = 100 - number
        owner.changed["/v1/files"] = as_json(document)
        await view.sample(owner)
        await view.until(lambda: keys_shown(view)[-1] == FILE_NAMES[0], "the other order")
        assert current_key(view) == FILE_NAMES[2]
        await view.press("home")
        owner.changed.clear()
        await view.sample(owner)
        assert current_key(view) == FILE_NAMES[0]  # on the first line it stays at the top

    run_view(model_of(owner), test)


def test_enter_on_a_volume_shows_only_its_files(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("tab", "down", "enter")
        await view.shows("FILES of scratch  3 of 3", "VOLUME scratch, DirectoryBackend")
        assert "volume=scratch&" in owner.requested("/v1/files")[-1]
        await view.press("enter")
        await view.shows("9 of 9")
        await view.press("enter", "escape")
        await view.shows("9 of 9")

    run_view(model_of(owner), test)


def test_panels_of_errors_and_waits_say_what_happens_next(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("2 errors", "2 waits")
        await view.press("e")
        await view.shows("1.2s ago failed photos db/main.sqlite [0, 4096): EIO", "→ tried again in 3.2 s")
        await view.press("w")
        await view.shows("1.5s MainThread waits for a fill of [0, 4096) of photos db/main.sqlite")
        await view.shows("↳ pagecache-photos-1 is in read_into of 'db/main.sqlite' for 1.5 s")
        await view.press("w")
        await view.hides("WAITS")
        await view.press("v")
        await view.shows("VOLUME photos, MyS3")

    run_view(model_of(owner), test)


def test_an_owner_that_dies_is_shown_as_gone_and_comes_back(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("48M not saved")
        owner.die()
        await view.shows("cache-1  gone for 0s", "its owner died", "no volumes", "no files")
        owner.come_back()
        await view.shows("48M not saved", "db/main.sqlite")
        await view.hides("gone")

    run_view(model_of(owner, interval=0.1), test)


def test_a_cache_that_closes_is_shown_as_gone(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("48M not saved")
        owner.changed["/v1/stats"] = as_json({"schema": 1, "error": "the cache is closed"}, 503)
        await view.shows("gone for 0s  the cache is closed")
        owner.close()
        await view.shows("gone for 0s  no such socket: not served, or the cache is closed")

    run_view(model_of(owner, interval=0.1), test)


def test_a_volume_that_is_detached_between_two_requests_is_no_failure(owner: Owner) -> None:
    owner.changed["/v1/files"] = as_json({"schema": 1, "error": "no such volume"}, 404)
    owner.changed["/v1/waits"] = as_json({"schema": 1, "error": "no such path"}, 404)

    async def test(view: View) -> None:
        await view.shows("48M not saved", "no files", "0 waits")

    run_view(model_of(owner), test)


def test_a_volume_in_trouble_says_why(owner: Owner) -> None:
    document = documents.busy()
    document["volumes"][0] |= {"state": "aborted", "reason": "pulled the plug\x1b[2J"}
    owner.changed["/v1/stats"] = as_json(document)

    async def test(view: View) -> None:
        await view.shows("! photos", r"aborted: pulled the plug\x1b[2J")

    run_view(model_of(owner), test)


def test_an_owner_that_hangs_delays_no_other(owner: Owner, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Owner(place / "other.sock")

    def client(path: Path, timeout: float) -> Client:
        return Client(path, timeout=0.2 if path == other.path else timeout)

    monkeypatch.setattr(sampling, "Client", client)
    other.name = "cache-2"
    other.open_gate.clear()
    other.start()

    async def test(view: View) -> None:
        await view.shows("cache-1  48M not saved", "other.sock  not reached for 0s  no answer within 0.2 s")
        owner.tick = 1.0
        await view.sample(owner)
        await view.shows("hit 90.1% of 10k/s")
        other.open_gate.set()
        await view.comes_to_show("cache-2  48M not saved")

    try:
        run_view(model_of(owner, other), test)
    finally:
        other.open_gate.set()
        other.close()


def test_a_pause_stops_looking_and_a_key_looks_once(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("48M not saved")
        await view.press("p")
        await view.shows("PAUSED")
        before = len(owner.requests)
        await view.pilot.pause(0.8)
        assert len(owner.requests) <= before + 3  # of eight refreshes one, which had been due before
        await view.sample(owner)
        before = len(owner.requests)
        await view.press("p")
        await view.hides("PAUSED")
        await view.until(lambda: len(owner.requests) > before + 6, "looks again")

    run_view(model_of(owner, interval=0.1), test)


def test_plus_and_minus_change_the_interval_at_once(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("every 1m00s")
        await view.press("minus")
        await view.shows("every 30.0s")
        for _ in range(8):
            await view.press("minus")
        await view.shows("every 100ms")
        before = len(owner.requests)
        await view.until(lambda: len(owner.requests) > before + 9, "looks in a short time")
        await view.press("plus")
        await view.shows("every 200ms")

    run_view(model_of(owner, interval=60.0), test)


def test_sockets_that_are_served_later_are_found(owner: Owner, place: Path) -> None:
    other = Owner(place / "other.sock")
    other.name = "cache-2"

    async def test(view: View) -> None:
        await view.shows("cache-1  48M not saved")
        other.start()
        await view.shows("cache-2  48M not saved")

    try:
        run_view(model_of(owner, find=lambda: sorted(place.glob("*.sock"))), test)
    finally:
        other.close()


def test_help_names_the_keys(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("48M not saved")
        await view.press("question_mark")
        await view.shows("look more seldom, more often", "in flight", "not cached")
        await view.press("escape")
        await view.hides("look more seldom")

    run_view(model_of(owner), test)


def test_q_quits_and_ctrl_c_interrupts_from_everywhere(owner: Owner) -> None:
    def ended_by(*keys: str) -> int | None:
        async def test(view: View) -> None:
            await view.shows("db/main.sqlite")
            await view.press(*keys)

        return run_view(model_of(owner), test).return_code

    assert ended_by("q") == 0
    assert ended_by("enter", "q") == 0
    assert ended_by("question_mark", "q") == 0
    assert ended_by("ctrl+c") == 130
    assert ended_by("enter", "ctrl+c") == 130
    assert ended_by("slash", "ctrl+c") == 130
    assert ended_by("question_mark", "ctrl+c") == 130


def test_an_owner_that_hangs_does_not_keep_the_program(owner: Owner) -> None:
    owner.open_gate.clear()

    async def test(view: View) -> None:
        await view.shows("connecting")
        await view.until(lambda: bool(owner.requests), "a request that hangs")
        await view.press("q")
        owner.open_gate.set()  # for the thread, which the test waits for

    run_view(model_of(owner), test)


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (20, 5), (10, 3), (1, 1), (300, 100)])
def test_every_size_of_a_terminal_is_survived(owner: Owner, size: tuple[int, int]) -> None:
    async def test(view: View) -> None:
        await view.until(lambda: bool(view.app.model.files().rows), "a sample")
        for keys in (("e",), ("w",), ("v",), ("slash", "d", "escape"), ("tab", "down"), ("tab", "down", "enter")):
            await view.press(*keys)
            await view.pilot.pause()
        await view.press("z", "left", "question_mark", "escape", "escape", "escape")
        await view.pilot.pause()
        assert view.text

    run_view(model_of(owner), test, size=size)


@pytest.mark.parametrize("number", [0, 1, 2**63, 1e100, -1e100, 5e-324])
def test_numbers_that_make_no_sense_are_survived(owner: Owner, number: float) -> None:
    """A document may be wrong; the view goes on."""

    def spoiled(value: Any, *, counters: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                key: one if key == "schema" else spoiled(one, counters=counters or key == "counters")
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [spoiled(one, counters=counters) for one in value]
        if type(value) is int and not counters:
            return int(max(0, min(number, 2**63)))
        return number if type(value) in (int, float) else value

    owner.changed["/v1/stats"] = as_json(spoiled(documents.busy()))
    owner.changed["/v1/files"] = as_json(spoiled(documents.files(0.0, volume=None, sort="dirty", limit=9)))
    owner.changed["/v1/folios"] = as_json(spoiled(documents.folios(1, 0, None)))
    owner.changed["/v1/waits"] = as_json(spoiled(documents.waits()))

    async def test(view: View) -> None:
        await view.shows("cache-1", "db/main.sqlite")
        for key in ("e", "w", "v", "r", "enter", "z", "right", "x", "home"):
            await view.press(key)
            await view.pilot.pause()

    run_view(model_of(owner), test)


def test_a_resize_finds_another_layout(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("VOLUME photos, MyS3", "clean 119M")
        await view.pilot.resize_terminal(40, 10)
        await view.hides("VOLUME photos, MyS3")
        await view.shows("db/main.sqlite", "photos")
        await view.press("enter")
        await view.shows("320K a letter")
        await view.pilot.resize_terminal(120, 36)
        await view.shows("12K a letter")
        await view.press("escape")
        await view.shows("VOLUME photos, MyS3", "clean 119M")

    run_view(model_of(owner), test)


def test_a_small_terminal_shows_a_panel_in_place_of_the_files(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("w")
        await view.shows("MainThread")
        assert "FILE  " not in view.text
        await view.press("escape")
        await view.shows("db/main.sqlite")

    run_view(model_of(owner), test, size=(40, 10))


def test_names_that_a_terminal_would_act_on_are_never_shown_raw(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("evil", "[bold]markup[/bold]", "東京タワー.jpg")
        for keys in (("e",), ("w",), ("s", "s"), ("end", "home", "down", "down", "down", "down", "enter")):
            await view.press(*keys)
            await view.pilot.pause(0.05)
            assert [one for one in view.text if not one.isprintable() and one != "\n"] == []
        await view.shows("evil")

    run_view(model_of(owner), test)


def test_columns_to_the_right_are_reached_and_the_name_stays(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        assert "STATE" not in view.line("FILE  ")
        for _ in range(16):
            await view.press("right")
        await view.shows("STATE", "scratch")
        assert view.line("db/main.sqlite ").split()[-1] == "photos"
        for _ in range(16):
            await view.press("left")
        assert "STATE" not in view.line("FILE  ")

    run_view(model_of(owner), test, size=(80, 24))
