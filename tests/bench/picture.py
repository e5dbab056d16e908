"""The picture of README.md: some measured ratios of docs/performance.md as bars.

`python -m tests.bench.picture` draws it from the table of that page, and `tests.bench.table` draws it after each run.
Bars have a logarithmic scale: a bar to the right of the line is faster than its peer, one to the left is slower.
"""

import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "pictures" / "measured.svg"

LABELS = {
    "P1/64K": "4 KiB read at random, cached",
    "P3/pread": "4 KiB read in sequence, cached",
    "P8": "512 B read in sequence, cached",
    "P4/1M": "1 MiB read at random, cached",
    "P27": "1 MiB view, every page touched",
    "P5/64K": "4 KiB overwrite at random",
    "P6/1M": "1 MiB overwrite at random",
    "P17": "4 KiB overwrites, then fsync",
    "P16/disk": "256 scattered pages in one call, disk",
    "P18": "8 calls of a 1 ms backend at once",
    "P9/read-lmdb": "4 KiB read at random, cached",
    "P9/write-lmdb": "4 KiB write at random",
    "P9/read-diskcache": "4 KiB read at random, cached",
    "P2/64K": "4 KiB read at random, cached",
    "P14/copy": "4 KiB read, not cached",
}
"""Goal -> label of its bar, in the order of the bars."""

ROW, TOP, LEFT, OCTAVE = 25, 56, 490, 62
LOWEST, HIGHEST = -1.2, 4
"""Powers of two at both ends of the scale. A longer bar is cut; its number is not."""
WIDTH = LEFT + (HIGHEST + 1) * OCTAVE
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .paper { fill: #ffffff } .quiet { fill: #59636e } .grid { stroke: #d1d9e0 } .one { stroke: #59636e }
    .faster { fill: #2f7d5b } .slower { fill: #b3541e }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .paper { fill: #0d1117 } .quiet { fill: #9198a1 } .grid { stroke: #3d444d } .one { stroke: #9198a1 }
      .faster { fill: #4fb286 } .slower { fill: #e08a4f }
    }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One measured ratio: `speed` is that of the cache, with the peer's as 1."""

    label: str
    against: str
    speed: float


def bars(page: str) -> list[Bar]:
    """Read the measured goals from the table of the page, in the order of `LABELS`."""
    pattern = r"^\| (P\S+) \| .+? \| (.+?) \| [≥≤] [\d.]+ (× speed|× time) \| ([\d.]+) \|"
    found = {key: (against, unit, float(value)) for key, against, unit, value in re.findall(pattern, page, re.M)}
    return [
        Bar(label, found[key][0], found[key][2] if found[key][1] == "× speed" else 1 / found[key][2])
        for key, label in LABELS.items()
        if key in found
    ]


def position(speed: float) -> float:
    """Return the x of a ratio."""
    return LEFT + min(max(math.log2(speed), LOWEST), HIGHEST) * OCTAVE


def drawn(shown: list[Bar]) -> str:
    """Draw the bars as an SVG document that is readable on light and dark pages."""
    height = TOP + ROW * len(shown) + 12
    described = "; ".join(f"{bar.label} against {bar.against}: {bar.speed:.2f}" for bar in shown)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        "  <title>Speed of pagecache as a multiple of the speed of its peers</title>",
        f"  <desc>{escape(described)}</desc>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        '  <text x="16" y="20">Speed of pagecache, peer = 1 (logarithmic scale)</text>',
    ]
    for power in range(math.ceil(LOWEST), HIGHEST + 1):
        x, name = LEFT + power * OCTAVE, f"{2**power}×" if power >= 0 else f"1/{2**-power}×"
        lines += [
            f'  <text class="quiet" x="{x}" y="42" text-anchor="middle">{name}</text>',
            f'  <line class="{"grid" if power else "one"}" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{height - 10}"/>',
        ]
    for number, bar in enumerate(shown):
        y, end = TOP + ROW * number, position(bar.speed)
        begin, width = min(end, LEFT), abs(end - LEFT)
        beside, anchor = (end + 6, "start") if bar.speed >= 1 else (end - 6, "end")
        label, against = escape(bar.label), escape(bar.against)
        lines += [
            f'  <text x="16" y="{y + 14}">{label} <tspan class="quiet">vs {against}</tspan></text>',
            f'  <rect class="{"faster" if bar.speed >= 1 else "slower"}" x="{begin:.1f}" y="{y + 2}" '
            f'width="{width:.1f}" height="{ROW - 9}"/>',
            f'  <text x="{beside:.1f}" y="{y + 14}" text-anchor="{anchor}">{bar.speed:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Draw the picture from the table."""
    PICTURE.write_text(drawn(bars(TABLE.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
