"""One file's folios in the live view: its display, its requests, and the faults it survives."""

from __future__ import annotations

from pagecache.cli.top.map_screen import MapScreen

from . import documents
from .screens import View, model_of, run_view
from .serving import Owner, as_json


def test_enter_on_a_file_shows_its_folios_as_a_map(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("enter")
        await view.shows("12K a letter, 40M in 1.8k folios", "failed 3.0M", "not cached 12M")
        assert owner.requested("/v1/folios")[0] == "/v1/folios?file=100&offset=0"
        for letter in "FWDSURPC":
            assert letter * 20 in view.text
        await view.press("escape")
        await view.shows("FILES")

    run_view(model_of(owner), test)


def test_a_second_click_on_a_file_shows_its_map(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.settled()
        await view.pilot.click("#files", offset=(2, 2))
        await view.pilot.click("#files", offset=(2, 2))
        await view.until(lambda: isinstance(view.app.screen, MapScreen), "the map")

    run_view(model_of(owner), test)


def test_a_map_can_be_seen_closer_and_moved(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("enter")
        await view.shows("folios")
        await view.press("z")
        await view.shows("from 15M to 25M")
        await view.press("right")
        await view.shows("from 20M to 30M")
        await view.comes_to_show("from 30M to 40M", key="right")
        await view.press("right")  # and no further
        await view.shows("from 30M to 40M")
        await view.press("left")
        await view.shows("from 25M to 35M")
        await view.press("x")
        await view.hides("from")
        await view.press("z")
        await view.shows("from 15M to 25M")
        await view.press("home")
        await view.hides("from")
        await view.comes_to_show("4.0K a letter", key="z")
        await view.press("z")  # never closer than a page
        await view.shows("4.0K a letter")

    run_view(model_of(owner), test)


def test_a_map_of_a_file_that_went_says_so_and_goes_on(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("enter")
        await view.shows("failed 3.0M")
        owner.changed["/v1/folios"] = as_json({"schema": 1, "error": "no such file"}, 404)
        await view.press("r")
        await view.shows("no longer in memory")
        owner.changed.clear()
        await view.press("r")
        await view.shows("failed 3.0M")
        owner.die()
        await view.press("r")
        await view.shows("nobody listens: what is shown is old", "failed 3.0M")

    run_view(model_of(owner), test)


def test_a_map_of_a_file_that_became_shorter_shows_all_of_it(owner: Owner) -> None:
    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("enter")
        await view.shows("failed 3.0M")
        await view.press("z")
        await view.shows("from 15M")
        owner.size = documents.MIB
        await view.press("r")
        await view.shows("1.0M in", "failed 1.0M")
        await view.hides("from")

    run_view(model_of(owner), test)


def test_a_map_does_not_show_the_file_of_another_process(owner: Owner) -> None:
    """An id belongs to a file of one process: after a restart it may be another one's."""

    async def test(view: View) -> None:
        await view.shows("db/main.sqlite")
        await view.press("enter")
        await view.shows("failed 3.0M")
        owner.pid = 9999
        await view.press("r")
        await view.until(lambda: view.app.model.pid(owner.path) == 9999, "the other process")
        await view.press("r")
        await view.shows("the cache was started again")

    run_view(model_of(owner), test)
