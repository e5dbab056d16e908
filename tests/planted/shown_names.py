"""Directed scenarios for the mistakes where names meet objects."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from typing import Any

import pytest

from pagecache import ConflictError, PageCache
from pagecache.backends import DirectoryBackend
from pagecache.backends.directory import DirectoryFile
from pagecache.errors import Key

from ..file.objects import ObjectBackend
from ..file.rig import KEY, ONCE, PAGE, Task, eventually
from ..file.test_dated_looks import LateBackend, saved
from ..file.test_lost_names import StoreOfNames
from ..file.test_unsettled_renames import AnswersLate
from .scenario import NEW, OLD, SOON, Make, shows

LOST = OSError(errno.ECONNRESET, "no answer")
NEWER = NEW[::-1]


@shows("rename_looks_at_the_names_once")
def a_rename_that_waited_moves_the_object_that_has_its_name(make: Make) -> None:
    backend = AnswersLate({KEY: OLD, "new": NEW})
    rig = make(backend=backend, retry=ONCE)
    file, replaced = rig.open(), rig.open(key="new")
    file.pread(PAGE, 0)
    gate = backend.gate("rename answer")
    backend.fault("rename answer", LOST)
    renaming = Task(rig.volume.rename, KEY, "new")
    gate.wait_entered()
    again = Task(rig.volume.rename, "new", "third")
    eventually(lambda: [wait.what for wait in rig.cache.waits()].count("the name") == 1)
    gate.open()
    with suppress(OSError):
        renaming.result(SOON)
    again.result(SOON)
    replaced.pwrite(NEWER, 0)
    replaced.fsync()
    file.pwrite(NEW, 0)
    file.fsync()
    assert (backend.committed("new"), backend.committed("third")) == (None, NEW)


@shows("a_second_name_opens_a_second_file")
def both_names_of_an_object_show_a_write(make: Make) -> None:
    with tempfile.TemporaryDirectory() as folder, PageCache("1MiB") as cache:
        volume = cache.attach(DirectoryBackend(folder))
        with volume.open("a", "xb") as file:
            file.pwrite(OLD, 0)
        os.link(f"{folder}/a", f"{folder}/b")
        with volume.open("a", "r+b") as file, volume.open("b", "rb") as other:
            file.pwrite(NEW, 0)
            assert other.pread(len(NEW), 0) == NEW


@shows("commits_run_beside_a_remove")
def an_object_that_is_removed_beside_its_commit_does_not_come_back(make: Make) -> None:
    rig = make(backend=ObjectBackend({KEY: OLD}), retry=ONCE)
    file = rig.open()
    file.pwrite(NEW, 0)
    gate = rig.backend.gate("commit")
    saving = Task(file.fsync)
    gate.wait_entered()
    removing = Task(rig.volume.remove, KEY)
    eventually(lambda: removing.finished.is_set() or any(wait.what == "the file's token" for wait in rig.cache.waits()))
    gate.open()
    removing.result(SOON)
    with suppress(OSError):
        saving.result(SOON)
    eventually(lambda: rig.backend.nr_running == 0)
    assert rig.backend.committed(KEY) is None


@shows("looks_have_no_date")
def an_open_beside_the_first_commit_finds_the_object(make: Make) -> None:
    late = LateBackend()
    rig = make(backend=late)
    creator = rig.open("x+b")
    creator.pwrite(b"first", 0)
    late.late, late.beside = 1, lambda: Task(saved, creator, b"again").result(SOON)
    other = rig.open()
    saved(creator, b"later")
    assert other.pread(5, 0) == b"later"


class OpenedLate(DirectoryBackend):
    """`beside` runs once, between an open of "link" and its answer."""

    beside: Any = None

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> DirectoryFile:
        file = super().open(key, create=create, exclusive=exclusive)
        if key == "link" and self.beside is not None:
            beside, self.beside = self.beside, None
            Task(beside).result(SOON)
        return file


@shows("an_open_misses_a_removal")
def an_open_that_a_removal_has_overtaken_finds_no_object(make: Make) -> None:
    with tempfile.TemporaryDirectory() as folder, PageCache("1MiB") as cache:
        backend = OpenedLate(folder)
        os.symlink("a", f"{folder}/link")
        volume = cache.attach(backend)
        with volume.open("a", "x+b") as file:
            backend.beside = lambda: volume.remove("a")
            with suppress(FileNotFoundError):
                volume.open("link", "r+b").close()
                raise AssertionError("a removed object was opened")
            file.pwrite(OLD, 0)


@shows("a_removed_object_keeps_its_file")
def bytes_of_a_removed_object_reach_no_other_one(make: Make) -> None:
    rig = make(backend=StoreOfNames({KEY: OLD}), retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    rig.volume.remove(KEY)
    with rig.volume.open(KEY, "xb") as other:
        other.pwrite(NEWER, 0)
    file.flush()
    assert rig.backend.written(KEY) == NEWER


@shows("a_renamed_object_keeps_its_file")
def bytes_of_a_renamed_object_are_stored_under_its_new_name(make: Make) -> None:
    rig = make(backend=StoreOfNames({KEY: OLD}), retry=ONCE)
    file = rig.open()
    rig.volume.rename(KEY, "new")
    with rig.volume.open(KEY, "xb") as other:
        other.pwrite(NEWER, 0)
    file.pwrite(NEW, 0)
    file.fsync()
    assert rig.backend.committed("new") == NEW


@shows("a_missing_source_was_renamed")
def a_rename_of_a_missing_object_leaves_the_one_that_has_the_new_name(make: Make) -> None:
    rig = make({"new": OLD})
    file = rig.open(key="new")
    file.pwrite(NEW, 0)
    rig.backend.fault("rename", LOST)
    with suppress(OSError):
        rig.volume.rename(KEY, "new")
    file.fsync()
    assert rig.backend.committed("new") == NEW


@shows("a_rename_without_an_answer_is_over")
def a_rename_without_an_answer_is_settled_by_the_next_call(make: Make) -> None:
    backend = AnswersLate({KEY: OLD})
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()
    file.pread(PAGE, 0)
    backend.fault("rename answer", LOST)
    with suppress(OSError):
        rig.volume.rename(KEY, "new")
    assert rig.volume.exists("new")
    file.pwrite(NEW, 0)
    file.fsync()
    assert (backend.committed(KEY), backend.committed("new")) == (None, NEW)


@shows("a_removed_object_is_saved")
def an_fsync_of_a_removed_object_ends(make: Make) -> None:
    rig = make(backend=ObjectBackend({KEY: OLD}), retry=ONCE)
    file = rig.open()
    file.pwrite(NEW, 0)
    rig.volume.remove(KEY)
    file.fsync()


@shows("a_replaced_object_keeps_its_name")
def an_open_finds_the_version_that_another_program_has_stored(make: Make) -> None:
    backend = ObjectBackend({KEY: OLD})
    rig = make(backend=backend, retry=ONCE)
    assert rig.open("rb").pread(len(OLD), 0) == OLD
    backend.put(KEY, NEWER)
    assert rig.open("rb").pread(len(NEWER), 0) == NEWER


@shows("handles_of_a_replaced_object_write")
def a_handle_of_a_replaced_object_refuses_a_write(make: Make) -> None:
    backend = ObjectBackend({KEY: OLD})
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()
    assert file.pread(len(OLD), 0) == OLD
    backend.put(KEY, NEWER)
    rig.open("rb")
    with pytest.raises(ConflictError):
        file.pwrite(NEW, 0)
        file.fsync()
