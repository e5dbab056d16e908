"""Draw docs/pictures/trace.svg: `python -m tests.trace.picture [FILE.svg]`.

A small run is traced (two writers, a backend of 8 ms a call and 15 ms a commit, an fsync), the file is read again, and
its content is drawn as a trace viewer would: a track for each thread, slices, arrows. No part of it is drawn by hand.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from pagecache import BackendLimits, PageCache
from pagecache.backends import MemoryBackend
from pagecache.testing import LatencyBackend

from .reading import Slice, TraceFile

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "trace.svg"
COLOURS = {"call": "#4c78a8", "wait": "#c9d5e3", "backend": "#f58518", "commit": "#54a24b", "engine": "#b8b0ac"}
PAGE = 4096
NARROW = 0.4  # ms: a shorter slice gets no text


def run(path: Path) -> None:
    """Run two writers, then an fsync, traced to `path`."""
    store = LatencyBackend(MemoryBackend(limits=BackendLimits(max_write=4 * PAGE)), write=0.008, commit=0.015)
    with PageCache("4MiB", flush_interval=600) as cache, cache.attach(store, name="store").open("file", "w+") as file:

        def write(first: int) -> None:
            for k in range(4):
                file.pwrite(bytes([first]) * PAGE, (4 * first + k) * PAGE)
                time.sleep(0.002)  # gives the slices a visible distance

        with cache.trace(path):
            writers = [threading.Thread(target=write, args=(k,), name=f"writer {k + 1}") for k in range(2)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            file.fsync()


def draw(trace: TraceFile, picture: Path) -> None:
    """Draw the slices of all tracks but those of the engine, and the arrows of the first and of the last write."""
    shown = [s for s in trace.slices if s.category != "engine"]
    tracks = sorted({s.track for s in shown}, key=lambda track: (not trace.tracks[track].startswith("writer"), track))
    rows = {track: len(tracks) - k for k, track in enumerate(tracks)}
    mpl.rcParams.update({"svg.hashsalt": "trace", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=(11, 0.75 * len(tracks) + 1.2))
    axes = figure.subplots()
    for one in sorted(shown, key=lambda s: s.start - s.end):
        _slice(axes, one, rows[one.track])
    writes = trace.named("pwrite")
    for write in (writes[0], writes[-1]):
        for way in write.following:
            _arrows(axes, way, rows)
    for commit in trace.named("commit"):
        for way in commit.following:
            _arrows(axes, way, rows)
    axes.set_yticks(list(rows.values()), [trace.tracks[track] for track in rows])
    axes.set_xlabel("ms")
    axes.set_ylim(0.4, len(tracks) + 0.7)
    axes.margins(x=0.01)
    axes.autoscale_view(scaley=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.tight_layout()
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, metadata={"Date": None, "Creator": None})


def _slice(axes: Axes, one: Slice, row: int) -> None:
    start, width = one.start / 1e6, max((one.end - one.start) / 1e6, 0.12)
    inner = one.category == "wait"
    height, bottom = (0.25, row - 0.3) if inner else (0.6, row - 0.3)
    axes.add_patch(Rectangle((start, bottom), width, height, color=COLOURS.get(one.category, "#888888"), lw=0))
    if width > NARROW and not inner:
        text = (
            one.name if "offset" not in one.args or one.name == "fsync" else f"{one.name} {one.args['offset'] // 1024}K"
        )
        axes.text(
            start + width / 2, row + 0.12, text, ha="center", va="center", fontsize=8, color="white", clip_on=True
        )


def _arrows(axes: Axes, way: list[Slice], rows: dict[int, int]) -> None:
    for k, (one, other) in enumerate(pairwise(way)):
        start = one.start if k == 0 and one.name == "pwrite" else one.end
        axes.add_patch(
            FancyArrowPatch(
                (start / 1e6, rows[one.track]),
                ((other.start if other.name != "fsync" else other.end) / 1e6, rows[other.track]),
                arrowstyle="-|>",
                mutation_scale=9,
                color="#222222",
                lw=0.9,
                connectionstyle="arc3,rad=0.08",
            )
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        run(path)
        trace = TraceFile(path)
    assert trace.faults == []
    draw(trace, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)


if __name__ == "__main__":
    main()
