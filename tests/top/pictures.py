"""The pictures of docs/how-to/top.md, and the screens that test_snapshots.py compares with.

`python -m tests.top.pictures` makes them again; check the changes before a commit.
"""

from __future__ import annotations

import re
from pathlib import Path

from .scenes import SCENES, show

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "docs" / "pictures"
EXPECTED = Path(__file__).parent / "expected"

# Scene -> picture.
DRAWN = {"main": "top.svg", "map": "top-map.svg"}


def without_fonts(svg: str) -> str:
    """The picture without fonts of other servers: the reader's own monospaced one is as good."""
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")


def main() -> None:
    """Play every scene."""
    PICTURES.mkdir(exist_ok=True)
    EXPECTED.mkdir(exist_ok=True)
    for name, scene in SCENES.items():
        text, svg = show(scene)
        (EXPECTED / f"{name}.txt").write_text(text, encoding="utf-8")
        if name in DRAWN:
            (PICTURES / DRAWN[name]).write_text(without_fonts(svg), encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
