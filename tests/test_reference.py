"""The API reference shows every promised name with a docstring."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("pdoc")

from .reference import MODULES, described, page, promised, write


def test_every_promised_name_has_a_docstring() -> None:
    paths = defaultdict(list)
    for name in promised():
        paths[name.module].append(name.path)
    assert sum(map(len, paths.values())) > 350
    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # annotations that only type checkers resolve
        for module, names in paths.items():
            shown = page(module)
            missing += [f"{module}: {path}" for path in names if not described(shown, path)]
    assert missing == []


def test_each_module_of_the_promise_has_a_page() -> None:
    assert {name.module for name in promised()} <= set(MODULES)


@pytest.mark.slow
def test_the_pages_show_every_promised_name(tmp_path: Path) -> None:
    """Classes and methods have an entry; an attribute has one, or is described with its class."""
    write(tmp_path)
    pages = {
        module: tmp_path.joinpath(*module.split(".")).with_suffix(".html").read_text("utf-8") for module in MODULES
    }
    missing = []
    for name in promised():
        owner, _, member = name.path.rpartition(".")
        page = pages[name.module]
        of_class = page.partition(f'<section id="{owner}">')[2].partition("</section>")[0]
        if f'id="{name.path}"' not in page and not re.search(rf"<(strong|code)>([^<]*, )*{member}\b", of_class):
            missing.append(name)
    assert missing == []
