"""Screens of the live view with known figures, for pictures and snapshots.

Documents, clock, names and size never change; the cache is read twice, two seconds of its own time apart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pagecache.cli.top.model import Model

from .screens import NEVER, View, run_view, screen_text
from .serving import Owner, folder

Steps = Callable[[View, Owner], Awaitable[None]]


async def main(view: View, owner: Owner) -> None:
    """The first screen."""


async def errors(view: View, owner: Owner) -> None:
    await view.press("e")
    await view.shows("ERRORS")


async def waits(view: View, owner: Owner) -> None:
    await view.press("w")
    await view.shows("WAITS")


async def folio_map(view: View, owner: Owner) -> None:
    await view.press("enter")
    await view.shows("letter", "failed 3.0M")


async def folio_map_closer(view: View, owner: Owner) -> None:
    await folio_map(view, owner)
    await view.press("z")
    await view.shows("from 15M to 25M")


async def filtered(view: View, owner: Owner) -> None:
    await view.press("slash", "d", "b", "enter", "s")
    await view.shows("only “db”", "2 of 2, by cached")


async def one_volume(view: View, owner: Owner) -> None:
    await view.press("tab", "down", "enter")
    await view.shows("of scratch  3 of 3")


async def help_page(view: View, owner: Owner) -> None:
    await view.press("question_mark")
    await view.shows("look now")


async def gone(view: View, owner: Owner) -> None:
    owner.die()
    await view.press("r")
    await view.shows("gone")


@dataclass(frozen=True, slots=True)
class Scene:
    """One screen."""

    size: tuple[int, int]
    steps: Steps


SCENES = {
    "main": Scene((120, 36), main),
    "main-80x24": Scene((80, 24), main),
    "main-40x10": Scene((40, 10), main),
    "errors-80x24": Scene((80, 24), errors),
    "waits-80x24": Scene((80, 24), waits),
    "waits-40x10": Scene((40, 10), waits),
    "map": Scene((120, 30), folio_map),
    "map-closer-80x24": Scene((80, 24), folio_map_closer),
    "map-40x10": Scene((40, 10), folio_map),
    "filtered-80x24": Scene((80, 24), filtered),
    "volume-80x24": Scene((80, 24), one_volume),
    "help-80x24": Scene((80, 24), help_page),
    "gone-80x24": Scene((80, 24), gone),
}


class Still(Model):
    """A view that refreshes only on request, whatever interval it shows."""

    def pause_or_interval(self) -> float:
        return NEVER


def show(scene: Scene) -> tuple[str, str]:
    """Play a scene and return its last screen as text and as SVG."""
    found: list[str] = []
    with folder() as place:
        owner = Owner(place / "cache.sock").start()

        async def test(view: View) -> None:
            await view.shows("VOLUME")
            await view.until(lambda: bool(view.app.model.files().rows), "a sample")
            owner.tick = 2.0
            await view.sample(owner)
            await scene.steps(view, owner)
            await view.pilot.pause()
            found.extend((screen_text(view.app), view.app.export_screenshot(title="pagecache top", simplify=True)))

        try:
            run_view(Still([owner.path], lambda: 100.0), test, size=scene.size)
        finally:
            owner.close()
    text, svg = found
    return text, svg
