"""The live view: threads that sample the sockets, the model of the samples, and the screens that show it.

Each socket has a separate thread (`sampling.Sampler`), which posts its samples to this program's loop; everything else
happens in the loop. So a socket whose owner hangs delays nothing, and quitting waits for no thread.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message

from pagecache.cli.top.help_screen import HelpScreen
from pagecache.cli.top.main_screen import MainScreen
from pagecache.cli.top.map_screen import MapScreen
from pagecache.cli.top.model import Model
from pagecache.cli.top.rows import FileRow, Sample
from pagecache.cli.top.sampling import Sampler, socket_sampler
from pagecache.interrupts import INTERRUPTED

# Seconds between updates of the ages of lost sockets and searches for new sockets.
TURN = 1.0


class Sampled(Message):
    """One sample of a socket."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.sample = sample


class TopApp(App[None]):
    """The program."""

    TITLE = "pagecache top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause"),
        Binding("plus", "interval(1)", "Slower", key_display="+", show=False),
        Binding("minus", "interval(-1)", "Faster", key_display="-", show=False),
        Binding("r", "sample", "Look now", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True),
    ]

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self._samplers: dict[Path, Sampler[Sample]] = {}

    def on_mount(self) -> None:
        """Start sampling."""
        self.push_screen(MainScreen())
        for path in self.model.watches:
            self.watch_socket(path)
        self.set_interval(TURN, self.turn)
        if not self.is_headless:
            # A signal handler of Python would raise in the middle of the loop and leave the terminal in a raw state.
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.leave, 128 + number)

    def on_unmount(self) -> None:
        """Stop sampling."""
        for sampler in self._samplers.values():
            sampler.stop()

    def leave(self, status: int) -> None:
        """End with this status."""
        self.exit(return_code=status)

    def watch_socket(self, path: Path) -> None:
        """Start to sample one socket."""
        sampler = socket_sampler(path, lambda: self.model.question(path), self.deliver, self.model.pause_or_interval)
        self._samplers[path] = sampler
        sampler.start()

    def deliver(self, sample: Sample) -> None:
        """Post a sample. Called by samplers, in their threads."""
        try:
            self.post_message(Sampled(sample))
        except RuntimeError:
            pass  # the program is ending: its loop is closed

    def on_sampled(self, event: Sampled) -> None:
        """Show a sample."""
        self.model.take(event.sample)
        self.update_all()

    def turn(self) -> None:
        """Search for new sockets, and update the ages of lost ones."""
        new, lost = self.model.refresh_sockets()
        for path in new:
            self.watch_socket(path)
        for path in lost:
            self._samplers.pop(path).stop()
        if new or lost or any(row.gone is not None for row in self.model.caches()):
            self.update_all()

    def update_all(self) -> None:
        """Show the model; the main screen only while it is in sight."""
        for screen in self.screen_stack:
            if isinstance(screen, MainScreen) and (screen.is_current or isinstance(self.screen, HelpScreen)):
                screen.update_all()

    def sample_now(self) -> None:
        """Sample every socket now; in a pause as well, once."""
        for sampler in self._samplers.values():
            sampler.wake()
        if isinstance(self.screen, MapScreen):
            self.screen.sample_now()

    def show_map(self, row: FileRow) -> None:
        """Show the map of a file."""
        self.push_screen(MapScreen(row, self.model))

    def action_pause(self) -> None:
        """Stop sampling, or go on."""
        self.model.paused = not self.model.paused
        self.shown_differently()

    def action_interval(self, step: int) -> None:
        """Lengthen or shorten the interval."""
        self.model.change_interval(step)
        self.shown_differently()

    def shown_differently(self) -> None:
        """Wake the samplers, so that they use the new interval at once."""
        if not self.model.paused:
            self.sample_now()
        self.update_all()
        if isinstance(self.screen, MapScreen):
            self.screen.update_all()

    def action_sample(self) -> None:
        """Sample now."""
        self.sample_now()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(HelpScreen())

    def action_interrupt(self) -> None:
        """End by Ctrl-C, which is a key while the program controls the terminal."""
        self.leave(INTERRUPTED)


def run(
    sockets: Sequence[Path],
    *,
    find: Callable[[], Sequence[Path]] | None,
    interval: float,
    sort: str,
    files: int | None,
) -> int:
    """Run until the user quits; return the exit status of the program."""
    model = Model(sockets, time.monotonic, find=find, interval=interval, sort=sort, most=files)
    app = TopApp(model)
    app.run()
    return app.return_code or 0
