"""The live view in a test: driven by keys, read as plain text."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from textual.pilot import Pilot

from pagecache.cli.top.app import TopApp
from pagecache.cli.top.model import Model

from .serving import LONG, Owner

SIZE = (120, 36)
# Never, in a test: a key makes each refresh.
NEVER = 3600.0


def screen_text(app: TopApp) -> str:
    """The text of the screen, without trailing blanks."""
    width, height = app.size
    console = Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor", record=True,
        legacy_windows=False, safe_box=False,
    )  # fmt: skip
    # As App.export_screenshot does, which cannot make text.
    console.print(app.screen._compositor.render_update(full=True, screen_stack=app._background_screens))
    return "\n".join(line.rstrip() for line in console.export_text(styles=False).splitlines()).rstrip() + "\n"


class View:
    """A running live view.

    Attributes:
        pilot: of textual.
    """

    def __init__(self, pilot: Pilot[None]) -> None:
        self.pilot = pilot
        app = pilot.app
        assert isinstance(app, TopApp)
        self.app = app

    @property
    def text(self) -> str:
        return screen_text(self.app)

    def line(self, part: str) -> str:
        """The first line with a text in it."""
        return next((line for line in self.text.splitlines() if part in line), "")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let the view run until something holds."""
        deadline = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < deadline, f"waited {LONG:g} s for {what}:\n{self.text}"
            await self.pilot.pause(0.01)

    async def shows(self, *parts: str) -> None:
        """Wait until all of these are on the screen."""
        await self.until(lambda: all(part in self.text for part in parts), f"{parts} on the screen")

    async def comes_to_show(self, *parts: str, key: str = "r") -> None:
        """Press a key again and again until all of these are on the screen: a refresh may give up too early, and a key
        may come before its target.
        """
        deadline = time.monotonic() + LONG
        while not all(part in self.text for part in parts):
            assert time.monotonic() < deadline, f"pressed {key} for {LONG:g} s for {parts} on the screen:\n{self.text}"
            await self.press(key)
            await self.pilot.pause(0.1)

    async def settled(self) -> None:
        """Wait until nothing moves: a click has to hit the place that was read."""
        seen: list[str] = []

        def still() -> bool:
            seen.append(self.text)
            return len(seen) > 5 and len(set(seen[-5:])) == 1

        await self.until(still, "a screen that stays as it is")

    async def hides(self, part: str) -> None:
        """Wait until this is no longer on the screen."""
        await self.until(lambda: part not in self.text, f"{part!r} to be gone")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def sample(self, owner: Owner) -> None:
        """Refresh now, and wait for the result."""
        before = self.good_samples(owner.path)
        await self.press("r")
        await self.until(lambda: self.good_samples(owner.path) is not before, "another sample")
        await self.pilot.pause()

    def good_samples(self, path: Path) -> object:
        return self.app.model.watches[path].good


def run_view(model: Model, test: Callable[[View], Awaitable[None]], *, size: tuple[int, int] = SIZE) -> TopApp:
    """Run the live view, and the test in it. No thread of it is left behind."""

    async def run() -> TopApp:
        app = TopApp(model)
        async with app.run_test(size=size) as pilot:
            await test(View(pilot))
        return app

    app = asyncio.run(run())
    deadline = time.monotonic() + LONG
    for thread in threading.enumerate():
        if thread.name.startswith("top-"):
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} goes on"
    return app


def model_of(*owners: Owner | Path, **options: Any) -> Model:
    """A model that refreshes only on request."""
    options.setdefault("interval", NEVER)
    clock = options.pop("clock", lambda: 100.0)
    return Model([one.path if isinstance(one, Owner) else one for one in owners], clock, **options)
