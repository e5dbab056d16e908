"""The page of a report: whole, self-contained, with every name escaped as text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from pagecache.stress import Plan, Script, run, shrink
from pagecache.stress.page import page
from pagecache.stress.profiles import Operation

from .planted import BACKENDS

NASTY = "\"'><script>alert(1)</script><img src=x onerror=y> & </pre></style>\x1b[31m\x00\ud800 ünï"
VOID = {"meta", "br", "img"}
SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "duration": 0.2}


class Read(HTMLParser):
    """A page as a browser would read it: its tags, their text, and that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def text(self) -> str:
        return "".join(self.said)


def document(**changes: Any) -> dict[str, Any]:
    """A report in the form printed by --json."""
    return run(Plan(seed=4, threads=3, tasks=2, operations=10, rounds=1, **SMALL)).to_dict() | changes


def alone(read: Read) -> None:
    """Check that the page fetches nothing and runs nothing."""
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "form", "base", "svg"}, tag
        assert not {"src", "href", "srcset", "action", "background"} & attributes.keys(), attributes
        assert not [name for name in attributes if name.startswith("on")], attributes
        style = attributes.get("style") or ""
        assert "url(" not in style
        assert "expression" not in style
    styles = [text for text in read.said if "--back" in text]
    assert "url(" not in "".join(styles)
    assert "@import" not in "".join(styles)


def test_the_page_of_a_clean_run_has_what_was_exercised() -> None:
    report = document()
    read = Read(page(report))
    alone(read)
    assert "Nothing wrong" in read.text()
    assert "Which operation ran beside which" in read.text()
    assert "pagecache stress --seed 4 --profile fsx" in read.text()
    titles = [attributes["title"] or "" for tag, attributes in read.tags if tag == "td" and "title" in attributes]
    kinds = len(report["kinds"])
    assert len([title for title in titles if " beside " in title]) == kinds * kinds
    for name, count in report["coverage"].items():
        kind, met, _state = name.split(" | ")
        if met.startswith("beside "):
            assert any(title.startswith(f"{kind} {met}: ") and not title.endswith(": 0") for title in titles), count


def test_the_page_of_a_finding_shows_the_bytes_and_their_readers() -> None:
    """It needs a write and an fsync of one file; in the other order there would be no finding."""
    write = Operation("write", 0, "buffered", 4096, 700)
    script = Script((0,), (((write, Operation("fsync", 0)),),))
    report = run(Plan(seed=2, rounds=1, script=script, **SMALL), BACKENDS["DropsTail"])
    assert not report.ok
    shown = report.to_dict()
    read = Read(page(json.loads(json.dumps(shown))))
    alone(read)
    assert "Found: data" in read.text()
    assert report.story in read.text()
    bars = [attributes for tag, attributes in read.tags if tag == "b"]
    labels = [attributes["aria-label"] or "" for attributes in bars]
    assert any(label.startswith("wrote 700 bytes at 4096 of file 0 (buffered); ") for label in labels), labels
    marked = [a["aria-label"] or "" for a in bars if "marked" in (a["class"] or "").split()]
    assert len(marked) == 1
    assert marked[0].startswith(("called fsync of file 0", "looked at "))
    wrong = sum(high - low for piece in shown["timeline"]["bytes"] for low, high in piece["wrong"])
    assert wrong
    assert len([tag for tag, _attributes in read.tags if tag == "mark"]) == 2 * wrong


def test_the_page_of_what_was_shrunk_has_its_test_and_its_replay() -> None:
    plan = Plan(seed=1, threads=2, tasks=0, operations=10, **SMALL | {"duration": 20})
    report = run(plan, BACKENDS["DropsTail"])
    shrunk = shrink(report, BACKENDS["DropsTail"], seconds=600)
    shown = report.to_dict() | {"shrunk": shrunk.to_dict() | {"test": "def test_it(): ..."}}
    read = Read(page(json.loads(json.dumps(shown))))
    alone(read)
    assert shrunk.story in read.text()
    assert report.story in read.text()
    assert "def test_it(): ..." in read.text()
    assert '"script": ' in read.text()


@pytest.mark.parametrize("place", ["target", "story", "skipped", "counters", "timeline", "hang", "steps", "test"])
def test_whatever_a_name_has_in_it_is_text(place: str) -> None:
    """The test covers each place that an outside name comes to."""
    bar = {"kind": "write", "sort": "write", "way": "", "file": 0, "start": 0, "end": 9, "begun": 1, "ended": None}
    bar |= {"errors": [NASTY], "text": NASTY, "marked": False}
    lane = {"worker": 1, "name": NASTY, "bars": [bar]}
    timeline = {"file": 0, "ranges": [[0, 1]], "length": NASTY, "bytes": [], "look": None, "clock": [1, 2]}
    wait = {"name": NASTY, "what": NASTY, "key": NASTY, "seconds": 1.0, "owner": {"what": NASTY}}
    wait |= {"chain": [NASTY], "next": NASTY}
    hang = {
        "late": [NASTY],
        "waits": [wait],
        "stacks": {NASTY: [NASTY]},
        "records": [NASTY],
        "transitions": [NASTY],
        "broken": NASTY,
    }
    report = document()
    replay = report["replay"] | {"target": NASTY}
    shrunk = {"report": report, "story": NASTY, "test": NASTY}
    changes: dict[str, dict[str, Any]] = {
        "target": {"replay": replay},
        "story": {"story": NASTY, "ok": False},
        "skipped": {"skipped": {NASTY: NASTY}},
        "counters": {"counters": {NASTY: 7}},
        "timeline": {"ok": False, "kind": NASTY, "timeline": timeline | {"lanes": [lane]}},
        "hang": {"ok": False, "hang": hang},
        "steps": {"ok": False, "steps": [NASTY]},
        "test": {"ok": False, "shrunk": shrunk},
    }
    text = page(report | changes[place])
    assert "\x1b" not in text
    assert "\ud800" not in text
    text.encode("utf-8")
    read = Read(text)
    alone(read)
    shown = read.text() + "".join(value or "" for _tag, attributes in read.tags for value in attributes.values())
    assert "<script>alert(1)</script>" in shown
