"""Mistakes where names meet objects, as patches: a repair of `pagecache.volume` or of a file's names is taken back.

Some show only over a store of one kind, which is in `settings.py`: a directory with links, objects that are found by
their names, objects that are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pagecache.backends import BackendFile, ObjectStat
from pagecache.engine.commit.versions import Versions
from pagecache.engine.file import EngineFile
from pagecache.errors import Key
from pagecache.volume import answers, namespace, opening
from pagecache.volume.inode import Inode, InodeTable
from pagecache.volume.namespace import NameChange

from .planted import Planted, patched

__all__ = ["NAMES"]


def names(name: str, rule: str, sentence: str, *changes: tuple[object, str, object]) -> Planted:
    return Planted(name, sentence, rule, "engine", lambda: patched(*changes))


look, checked_open, was_done = NameChange.look, answers.checked_open, NameChange.was_done


def look_once(self: NameChange) -> None:
    look(self)
    self.tried = True


def opened_by_name(open: Callable[[], BackendFile], key: Key) -> tuple[BackendFile, ObjectStat]:
    """Take the name for the object."""
    backend_file, stat = checked_open(open, key)
    return backend_file, replace(stat, identity=None)


def done_if_gone(self: NameChange, backend: Any, **more: Any) -> bool | None:
    """Take a missing source for a rename that was carried out."""
    found = was_done(self, backend, **more)
    return True if found is None and namespace._stat(backend, self.src, ask=True) is None else found


def lose_the_flag(self: EngineFile) -> None:
    """Keep the backend's file."""
    self.set_aside(removed=True)
    self.bind_calls()


NAMES = [
    names(
        "rename_looks_at_the_names_once",
        "2.14, 2.20",
        "A rename that waited for an unsettled one uses its first look: the bytes of another object are dropped.",
        (NameChange, "look", look_once),
    ),
    names(
        "a_second_name_opens_a_second_file",
        "2.20",
        "Opens go by the name, not by the object: two hard links have two caches, and each misses the other's bytes.",
        (opening, "checked_open", opened_by_name),
    ),
    names(
        "commits_run_beside_a_remove",
        "2.20",
        "A remove does not keep commits out: an object that is stored a moment later comes back after it.",
        (NameChange, "found_by_name", lambda self: []),
    ),
    names(
        "looks_have_no_date",
        "2.19, 2.20",
        "An answer from before a change is used after it: an own commit counts as a foreign one, and an end goes back.",
        (Versions, "quiet", lambda self: 0),
    ),
    names(
        "a_replaced_object_keeps_its_name",
        "2.19, 2.20",
        "An open does not give up the cached version of a whole object: it misses a newer one of another program.",
        (opening, "_replaced", lambda *more: False),
    ),
    names(
        "handles_of_a_replaced_object_write",
        "2.19",
        "Handles do not learn that another version has their name: an fsync of later bytes succeeds, and saves none.",
        (Inode, "replaced", lambda self: None),
    ),
    names(
        "an_open_misses_a_removal",
        "2.20",
        "An open that a removal has overtaken uses its file: a removed object has two caches, and its bytes come back.",
        (InodeTable, "lose", InodeTable.remove),
    ),
    names(
        "a_removed_object_keeps_its_file",
        "2.20, I-24",
        "An object found by its name is not cut off with it: its old handles write into the next object of that name.",
        (EngineFile, "lose_name", lose_the_flag),
    ),
    names(
        "a_renamed_object_keeps_its_file",
        "2.20",
        "An object found by its name is not opened by its new one: its bytes go to the next object of the old name.",
        (opening, "follow", lambda *_: None),
    ),
    names(
        "a_missing_source_was_renamed",
        "2.14",
        "A missing source counts as renamed after a transient error: the object that has the new name loses its bytes.",
        (NameChange, "was_done", done_if_gone),
    ),
    names(
        "a_rename_without_an_answer_is_over",
        "2.14, 2.20",
        "Names are not asked for after a lost answer: later bytes are stored under a name that the object has lost.",
        (NameChange, "ended", lambda self, tries: self.release_names()),
    ),
    names(
        "a_removed_object_is_saved",
        "2.20, I-23",
        "An fsync of a removed object waits for a commit that nothing makes: it never returns.",
        (EngineFile, "is_unpublishable", lambda self: False),
    ),
    names(
        "a_renamed_draft_has_no_version",
        "2.20, 2.22",
        "After a reconnect the object that a draft's rename has replaced counts as another client's version.",
        (Versions, "may_be_copied", lambda self, copied: None),
    ),
]
