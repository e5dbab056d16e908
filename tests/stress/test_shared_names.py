"""Names and objects that all workers share: the model of the names, and mistakes that only they show."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagecache import ConflictError, aio
from pagecache.backends import Backend, BackendFile, MemoryBackend
from pagecache.backends.passing import PassingBackend
from pagecache.errors import Key
from pagecache.stress import Plan, UnusableTarget, run
from pagecache.stress.bindings import Binding, Names, Sight, Value
from pagecache.stress.cached import CachedTarget
from pagecache.stress.history import Broken, Clock, Model, Write
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.objects import Objects
from pagecache.stress.others import Others
from pagecache.stress.profiles import KINDS, PROFILES, Operation
from pagecache.stress.shared import FIRST, HEADER, Grip
from pagecache.stress.steps import Step, Steps
from pagecache.stress.world import World

from ..check_backend.backends import backends, rename_that_copies
from ..file.rig import Task, at_gate, eventually, held, raises
from ..planted.settings import Factory, object_store, store_by_name, whole_objects
from . import clean

SHARED: dict[str, Any] = {"profile": "names", "mix": ("shared",), "size": "64KiB", "files": 1, "rounds": 1}


def binding(name: str, *values: Value, source: str = "") -> Binding:
    return Binding(name, "call", 1, frozenset(values), source)


def renaming(old: str, new: str) -> list[Binding]:
    return [binding(old, None), binding(new, source=old)]


def bound(names: Names, *bindings: Binding) -> None:
    """Bind names by a call that has returned."""
    names.begin(bindings)
    names.finish(bindings)


def found(names: Names, name: str) -> frozenset[Value]:
    return Sight(names).of(name)


@pytest.fixture
def names() -> Names:
    """Names, the first of which has an object."""
    names = Names(("a", "b", "c"), Clock())
    assert found(names, "a") == {None}
    bound(names, binding("a", 1))
    return names


def test_a_name_has_the_value_of_the_last_call_that_returned_and_those_of_running_calls(names: Names) -> None:
    bound(names, binding("a", 2))
    assert found(names, "a") == {2}
    names.begin([binding("a", 3)])
    assert found(names, "a") == {2, 3}


def test_a_failed_call_leaves_both_values_for_good(names: Names) -> None:
    failed = [binding("a", 2)]
    names.begin(failed)
    names.finish(failed, certain=False)
    assert found(names, "a") == {1, 2}
    names.settle("a", frozenset({2}))
    assert found(names, "a") == {2}


def test_a_call_finds_each_value_that_a_name_had_while_it_ran(names: Names) -> None:
    sight = Sight(names)
    for number in range(2, 200):
        bound(names, binding("a", number))
    assert sight.of("a") == set(range(1, 200))


def test_a_rename_moves_each_value_that_its_source_had_while_it_ran(names: Names) -> None:
    rename = renaming("a", "b")
    names.begin(rename)
    bound(names, binding("a", 2))
    assert found(names, "b") == {None, 1, 2}
    names.finish(rename)
    assert found(names, "a") == {None, 2}
    assert found(names, "b") == {1, 2}


def test_renames_in_a_circle_move_what_each_of_the_names_had(names: Names) -> None:
    """Each of many is followed once: their number of orders does not matter."""
    bound(names, binding("b", 2))
    there, back = renaming("a", "b"), renaming("b", "a")
    for call in (names.begin, names.finish):
        call(there)
        call(back)
    assert found(names, "a") == found(names, "b") == {None, 1, 2}
    for _ in range(20):
        for old, new in ("ab", "bc", "ca", "ba"):
            names.begin(renaming(old, new))
    assert found(names, "c") == {None, 1, 2}


def test_a_rename_to_another_name_of_one_object_may_leave_both(names: Names) -> None:
    """The kernel then changes nothing. With links it is unknown which names have one object."""
    bound(names, Binding("b", "link", 1, source="a", links=True))
    bound(names, Binding("a", "rename", 1, frozenset({None}), over="b"), binding("b", source="a"))
    assert found(names, "a") == {None, 1}
    assert found(names, "b") == {1}


def test_an_open_follows_the_links_that_a_name_may_have(names: Names) -> None:
    bound(names, binding("b", "a"))
    bound(names, binding("c", "b"))
    sight = Sight(names)
    assert sight.leading("c") == {1}
    bound(names, binding("a", "c"))
    assert sight.leading("c") == {1, "c"}  # a circle


@pytest.fixture
def world() -> Iterator[World]:
    plan = Plan(seed=1, threads=1, tasks=0, **SHARED)
    world = World(plan, CachedTarget(plan, 0, None, "memory:"), 0)
    world.begin()
    yield world
    ended(world)


def ended(world: World) -> None:
    """End the round; the names are free, as they are in the store."""
    world.shared.grips.clear()
    bound(world.shared.names, *(binding(name, None) for name in world.shared.names))
    world.end()


def saving(world: World, model: Model) -> Step:
    """An fsync of an open object, which has begun."""
    world.shared.grips[1, 0] = Grip("a handle", model, "")
    step = Steps(world, 1).conduct(Operation("held_fsync", 0))
    assert next(step) == ("save", "a handle")
    return step


def objects_of(world: World, count: int = 2) -> list[Model]:
    """Return objects that have their first bytes."""
    models = [model for _ in range(count) if (model := world.shared.make()) is not None]
    world.shared.bare.clear()
    return models


def opening(world: World) -> tuple[Model, Step]:
    """An object that is being made, and an open of its name that has returned; next it reads."""
    model = world.shared.make()
    assert model is not None
    bound(world.shared.names, binding("shared0", model.number))
    step = Steps(world, 1).conduct(Operation("name_open", 0))
    assert next(step)[0] == "enter"
    assert step.send("a handle") == ("act", "a handle", "pread", HEADER, 0)
    return model, step


def header_of(world: World, number: int) -> bytes:
    return Write("first write", "", 1, 1, number, world.tag, 0, HEADER).data(0, HEADER)


def test_an_open_may_find_an_object_whose_first_bytes_come_later(world: World) -> None:
    """They are there when the read is judged, and were not when it began."""
    model, step = opening(world)
    world.shared.bare.discard(model.number)
    assert step.send(b"") == ("act", "a handle", "close")
    raises(StopIteration, step.send, None)


def test_an_open_of_a_name_that_never_had_the_object_is_found(world: World) -> None:
    _model, step = opening(world)
    with pytest.raises(Broken, match=f"shared0: open found object {FIRST + 1}, should be object {FIRST}"):
        step.send(header_of(world, FIRST + 1))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_save_of_a_whole_object_is_judged_by_the_names_that_it_kept(world: World, replaced: bool) -> None:
    """An object whose name a new one has got is not saved any longer; its last version is stored until the new one is
    committed. [2.20]
    """
    world.target.withholds = True
    model, other = objects_of(world)
    bound(world.shared.names, binding("shared0", model.number))
    first = Write("first write", "", 1, 1, model.number, world.tag, 0, HEADER)
    later = Write("held_write", "", 1, 2, model.number, world.tag, HEADER, HEADER)
    for write in (first, later):
        model.begin(write)
        model.finish(write)
    step = saving(world, model)
    if replaced:
        bound(world.shared.names, binding("shared0", other.number))
    assert step.send(None) == ("store", "shared0")
    raises(StopIteration if replaced else Broken, step.send, first.data(0, HEADER))


def test_a_save_of_an_object_is_judged_through_the_links_that_a_name_has(world: World) -> None:
    """A refused hard link may have given the object the name of a symbolic link while the store was read."""
    model, other = objects_of(world)
    names = world.shared.names
    bound(names, binding("shared1", other.number))
    bound(names, binding("shared2", model.number))
    bound(names, binding("shared0", "shared1"))
    refused = [Binding("shared0", "link", 1, source="shared2", links=True)]
    names.begin(refused)
    step = saving(world, model)
    assert step.send(None) == ("store", "shared0")
    names.cancel(refused)
    assert step.send(header_of(world, other.number)) == ("store", "shared2")
    raises(Broken, step.send, None, match="shared2: the store after held_fsync found no object")


def test_an_object_that_was_never_saved_is_not_sought_after_a_refused_rename_to_its_name(world: World) -> None:
    """While that ran, the name may have been that of the object which is saved."""
    world.target.withholds = True
    model, draft = objects_of(world)
    names = world.shared.names
    bound(names, binding("shared0", draft.number))
    refused = renaming("shared2", "shared0")
    bound(names, binding("shared2", model.number))
    names.begin(refused)
    step = saving(world, model)
    assert step.send(None) == ("store", "shared0")
    names.cancel(refused)
    assert step.send(None) == ("store", "shared2")
    raises(Broken, step.send, None, match="shared2: the store after held_fsync found no object")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_link_to_a_symbolic_link_finds_none_only_if_that_loses_its_name(world: World, replaced: bool) -> None:
    """Linux finds no file to link if a rename over its name runs beside the call."""
    names = world.shared.names
    bound(names, binding("shared0", "shared2"))
    step = Steps(world, 1).conduct(Operation("name_link", 0))
    assert next(step) == ("link", "shared0", "shared1")
    create = [Binding("shared0", "create", 1, frozenset({FIRST}), takes=replaced)]
    names.begin(create)
    raises(StopIteration if replaced else Broken, step.throw, FileNotFoundError(errno.ENOENT, "no such file"))
    names.finish(create)


@pytest.mark.parametrize("faults", ["none", "names"])
def test_a_rename_of_a_missing_name_succeeds_only_after_a_lost_answer(faults: str) -> None:
    """The next try then finds no source, as after a try that was carried out [2.14]."""
    plan = Plan(seed=1, threads=1, tasks=0, faults=faults, **SHARED)
    world = World(plan, CachedTarget(plan, 0, None, "memory:"), 0)
    world.begin()
    step = Steps(world, 1).conduct(Operation("name_rename", 0))
    assert next(step) == ("rename", "shared0", "shared1")
    raises(StopIteration if faults == "names" else Broken, step.send, None)
    assert found(world.shared.names, "shared1") == (frozenset({None}) if faults == "names" else frozenset())
    world.target.give_up()


@pytest.mark.parametrize("links", [False, True])
def test_the_operating_system_keeps_the_rules_of_names(tmp_path: Path, links: bool) -> None:
    """So the model of names is right, with hard and symbolic links."""
    mix = ("shared", "links") if links else ("shared",)
    plan = Plan(seed=1, threads=6, tasks=0, operations=200, **SHARED | {"mix": mix, "rounds": 2})
    report = clean(plan, f"path:{tmp_path}")
    done = report.kinds.keys()
    assert {kind for kind in PROFILES["names"].weights if KINDS[kind] in mix} <= done


def test_another_directory_at_the_path_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a mount that comes up while a round runs: its names seem to be gone, all at once."""
    place, folders = tmp_path / "place", [tmp_path / name for name in ("covered", "mounted")]
    for folder in folders:
        folder.mkdir()
    place.symlink_to(folders[0])

    def mounted(target: MountedTarget, leads: str, name: str) -> None:
        (tmp_path / "now").symlink_to(folders[1])
        (tmp_path / "now").replace(place)
        os.symlink(leads, target.key(name))

    monkeypatch.setattr(MountedTarget, "symlink", mounted)
    plan = Plan(seed=1, threads=6, tasks=0, operations=200, **SHARED | {"mix": ("shared", "links")})
    message = r"path:.*place: another directory has this path since the round began.*'pagecache-stress-1-0' is left"
    raises(UnusableTarget, run, plan, f"path:{place}", match=message)
    assert (folders[0] / "pagecache-stress-1-0").is_dir()


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (None, {"threads": 4, "tasks": 4}),
        (None, {"threads": 0, "tasks": 8}),
        (store_by_name, {"threads": 6, "tasks": 0, "capacity": "128KiB"}),
    ],
    ids=["all", "tasks", "by name"],
)
def test_workers_share_names_and_nothing_is_found(make: Callable[[], Factory] | None, fields: dict[str, Any]) -> None:
    """Each operation of the way runs, by threads and tasks. Over a store that finds objects by their names, bytes of
    objects that have lost theirs fill a small cache, and the tester reads an object that is replaced meanwhile again.
    """
    report = clean(Plan(seed=1, operations=100, **SHARED | fields), make and make())
    assert {kind for kind in PROFILES["names"].weights if KINDS[kind] == "shared"} <= report.kinds.keys()


def test_an_object_that_is_replaced_while_it_is_read_by_its_name_is_read_again() -> None:
    """Each call may find another object of the name."""
    backend = store_by_name()()
    objects = Objects(Plan(seed=1, **SHARED), 0, backend, "by name")
    assert objects.by_name()
    objects.put("shared0", 0, bytes(HEADER))
    read = backend.open

    def replaced(key: Any, **more: Any) -> Any:
        file = read(key, **more)
        backend.open = read  # type: ignore[method-assign]
        read_into = file.read_into

        def late(offset: int, buffers: Any) -> int:
            done = read_into(offset, buffers)
            objects.put("shared0", 0, b"x" * (HEADER + 1))
            file.read_into = read_into  # type: ignore[method-assign]
            return done

        file.read_into = late  # type: ignore[method-assign]
        return file

    backend.open = replaced  # type: ignore[method-assign]
    assert objects.read("shared0") == b"x" * (HEADER + 1)


def test_a_rest_leaves_the_conflict_of_an_object_without_a_name() -> None:
    """`resolve` settles the object that has the name now: the rest would settle it without end."""
    plan = Plan(seed=1, threads=1, tasks=0, faults="hell", **SHARED)
    target = CachedTarget(plan, 0, None, "memory:")
    target.faulting.options["on_conflict"] = "fail"
    world = World(plan, target, 0)
    world.begin()
    target.calm()
    key = target.key("shared0")
    file = target.enter("shared0", "buffered", "x+b")
    file.pwrite(b"first", 0)
    target.volume.sync()
    file.pwrite(b"second", 0)
    target.volume.invalidate_remote(key)
    assert any(one.key == key and one.conflict is not None for one in target.volume.engine.files())
    target.remove("shared0")
    target.calm()
    assert file.pread(6, 0) == b"second"
    target.act(file, "close")
    world.end()


class AsksNothing(PassingBackend):
    """An exclusive open finds no object, as in S3: if there is one, its commit is refused."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = self.inner.open(key, create=create)
        if create and exclusive:
            file.draft.take(None)  # type: ignore[attr-defined]
        return file


def asking_nothing() -> Factory:
    """Whole objects, in which an exclusive open asks nothing."""
    make = whole_objects()
    return lambda: AsksNothing(make())


@pytest.mark.parametrize(
    ("make", "mix", "left_out"),
    [
        (None, ("links",), set()),
        (whole_objects, (), {"name_move", "name_drop"}),
        (asking_nothing, (), {"name_move", "name_drop"}),
    ],
)
def test_another_program_changes_shared_names_and_nothing_is_found(
    make: Callable[[], Factory] | None, mix: tuple[str, ...], left_out: set[str], tmp_path: Path
) -> None:
    """Each open finds what is stored, open handles keep their objects, and no byte is laid over the version of another
    program; without `make`, in a directory. [2.19, 2.20]
    """
    plan = Plan(seed=1, threads=4, tasks=2, operations=100, **SHARED | {"mix": ("shared", "others", *mix)})
    report = clean(plan, make() if make else f"dir:{tmp_path}")
    done = report.kinds.keys()
    assert {kind for kind in PROFILES["names"].weights if KINDS[kind] == "others"} - left_out <= done


def test_another_program_needs_objects_that_it_can_share(tmp_path: Path) -> None:
    plan = Plan(seed=1, threads=1, tasks=0, **SHARED | {"mix": ("others", "shared")})
    refused = r"mix: others cannot be on .*: "
    raises(UnusableTarget, run, plan, store_by_name(), match=refused + "its objects have no number of names")
    with pytest.raises(UnusableTarget, match=refused + "the factory makes no second backend over the store"):
        run(plan, object_store())
    with pytest.raises(UnusableTarget, match=refused + "the backend may die, and a reconnect would not find an object"):
        run(replace(plan, faults="hell"), f"dir:{tmp_path}")


def test_a_change_of_another_program_is_not_beside_a_call_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store without conditions compares and stores by two requests."""
    make = whole_objects()
    objects = Objects(Plan(seed=1, **SHARED), 0, make(), "whole")
    objects.put(0, 0, b"first")
    others = Others(objects, make, whole=True)
    inner = objects.backend.open(objects.key(0))
    gate, opening = held(monkeypatch, inner, "commit"), PassingBackend(objects.backend)
    opening.open = lambda key, **more: inner  # type: ignore[method-assign]
    file = others.between(opening).open(objects.key(0))
    _, committing = at_gate(gate, file.commit)
    putting = Task(others.change, "put", "shared0", b"other", "")
    assert putting.waits()
    committing.result(opening=gate)
    putting.result()
    assert objects.read("shared0") == b"other"
    others.close()


@pytest.fixture
def whole() -> Iterator[World]:
    """A round over whole objects that another program changes."""
    plan = Plan(seed=1, threads=1, tasks=0, **SHARED | {"mix": ("shared", "others")})
    world = World(plan, CachedTarget(plan, 0, whole_objects(), "whole"), 0)
    world.begin()
    yield world
    ended(world)
    world.target.discard()


def put_over(world: World) -> tuple[Model, Model]:
    """A saved object of a shared name, and one that another program has stored in its place."""
    shared, names = world.shared, world.shared.names
    model, other = objects_of(world)
    bound(names, binding("shared0", model.number))
    shared.saves(model.number, world.clock.tick())
    put = Binding("shared0", "put", 1, frozenset({other.number}), takes=True, foreign=True)
    names.begin([put])
    assert shared.contested() == {model.number}
    names.finish([put])
    shared.store_over(put)
    return model, other


def test_an_fsync_of_bytes_over_the_version_of_another_program_is_a_conflict(whole: World) -> None:
    """Its success would be a loss that no call reports [2.19]. Bytes that were written before may be stored already."""
    model, _other = put_over(whole)
    raises(StopIteration, saving(whole, model).throw, ConflictError("shared0", base="1", remote="2", ranges=[]))
    write = Steps(whole, 1).conduct(Operation("held_write", 0, length=1))
    assert next(write)[:3] == ("act", "a handle", "pwrite")
    raises(StopIteration, write.send, 1)
    told = "shared0: the store after held_fsync of object 2048, should be a conflict"
    raises(Broken, saving(whole, model).send, None, match=told)


@pytest.mark.parametrize("unasked", [False, True])
def test_an_exclusive_open_of_a_taken_name_is_found_unless_the_store_is_not_asked(whole: World, unasked: bool) -> None:
    """The commit of the new object may be refused, and then the name has the stored one again."""
    shared, model = whole.shared, whole.shared.make()
    assert model is not None
    bound(shared.names, binding("shared0", model.number))
    whole.target.creates_unasked = unasked
    step = Steps(whole, 1).conduct(Operation("name_create", 0, length=1, extra=1 << 8))
    assert next(step) == ("enter", "shared0", "", "x+b")
    if not unasked:
        raises(Broken, step.send, "a handle", match=f"shared0: name_create succeeded, should be object {model.number}")
    else:
        assert step.send("a handle")[:3] == ("act", "a handle", "pwrite")
        assert found(shared.names, "shared0") == {model.number, model.number + 1}
        assert shared.contested() == {model.number + 1}
        step.close()


@pytest.mark.parametrize("make", [asking_nothing, whole_objects])
def test_the_tester_finds_out_what_an_exclusive_open_asks(make: Callable[[], Factory]) -> None:
    objects = Objects(Plan(seed=1, **SHARED), 0, make()(), "whole")
    assert objects.creates_unasked() == (make is asking_nothing)
    assert objects.read("probe") is None


def test_a_conflict_without_another_program_is_found(whole: World) -> None:
    _model, other = put_over(whole)
    conflict = ConflictError("shared0", base="1", remote="2", ranges=[])
    raises(Broken, saving(whole, other).throw, conflict, match="held_fsync")


@pytest.mark.parametrize("compared", [False, True])
def test_an_open_of_an_object_that_another_program_has_replaced_is_found(whole: World, compared: bool) -> None:
    """Only beside own changes of the object, an open takes it as it is [2.19]."""
    model, _other = put_over(whole)
    whole.target.has_compared = lambda handle: compared  # type: ignore[method-assign]
    step = Steps(whole, 1).conduct(Operation("name_open", 0))
    assert next(step)[0] == "enter"
    assert step.send("a handle") == ("act", "a handle", "pread", HEADER, 0)
    raises(Broken if compared else StopIteration, step.send, header_of(whole, model.number))


def test_an_open_may_find_a_replaced_object_whose_write_ran_beside_the_last_save(whole: World) -> None:
    """The save may have left it out."""
    shared, clock, (model, _other) = whole.shared, whole.clock, put_over(whole)
    assert not shared.outlasting(True)
    shared.grips[1, 0] = Grip("a handle", model, "")
    write = Steps(whole, 1).conduct(Operation("held_write", 0, length=1))
    next(write)
    shared.saves(model.number, clock.tick())
    assert shared.outlasting(True) == {model.number}
    raises(StopIteration, write.send, 1)
    assert shared.outlasting(True) == {model.number}
    shared.saves(model.number, clock.tick())
    assert not shared.outlasting(True)


def test_an_open_compares_unless_the_cache_changes_the_object(whole: World, monkeypatch: pytest.MonkeyPatch) -> None:
    target = whole.target
    assert isinstance(target, CachedTarget)
    target.act(target.enter("shared0", "buffered", "x+b"), "close")
    first = target.enter("shared0", "buffered", "r+b")
    assert target.has_compared(first)
    monkeypatch.setattr(target, "quiet", lambda name: (None, None))
    again = target.enter("shared0", "buffered", "r+b")
    assert not target.has_compared(again)
    for handle in (first, again):
        target.act(handle, "close")
    target.remove("shared0")


def test_a_file_that_has_lost_its_name_does_not_say_whether_an_open_compares(
    whole: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same number of changes, and is quiet while the file that has the name is committed."""
    target = whole.target
    assert isinstance(target, CachedTarget)
    old = target.enter("shared0", "buffered", "x+b")
    old.pwrite(b"old", 0)
    old.fsync()
    target.elsewhere("put", "shared0", b"other", "shared-other")
    target.act(target.enter("shared0", "buffered", "r+b"), "close")  # which finds the other object
    target.remove("shared0")
    new = target.enter("shared0", "buffered", "x+b")
    new.pwrite(b"new", 0)
    gate, task = at_gate(held(monkeypatch, new._inode.backend_file, "commit", after=True), new.fsync)
    target.elsewhere("put", "shared0", b"third", "shared-other")
    before = target.quiet("shared0")
    again = target.volume.open(target.key("shared0"), "r+b")
    task.result(opening=gate)
    eventually(lambda: old._inode.versions.quiet() == new._inode.versions.quiet())
    target.entered(again, before)
    assert again.pread(5, 0) == b"new"
    assert not target.has_compared(again)
    for handle in (old, new, again):
        target.act(handle, "close")
    target.remove("shared0")


def test_a_rest_gives_up_what_is_unsaved_over_the_version_of_another_program(whole: World) -> None:
    model, other = put_over(whole)
    target = whole.target
    assert isinstance(target, CachedTarget)
    handle = target.enter("shared0", "buffered", "x+b")
    whole.shared.grips[1, 0] = Grip(handle, model, "")
    handle.pwrite(header_of(whole, model.number), 0)
    target.elsewhere("put", "shared0", header_of(whole, other.number), "shared-other")
    write = Write("put", "", 1, 1, other.number, whole.tag, 0, HEADER)
    other.begin(write)
    other.finish(write)
    whole.rest(cold=False)
    assert whole.shared.grips == {}
    assert handle.closed
    target.remove("shared0")


class Forgets(MemoryBackend):
    """Every third remove does nothing."""

    count = 0

    def remove(self, key: Any) -> None:
        self.stat(key)
        self.count += 1
        if self.count % 3:
            super().remove(key)


class Refuses(MemoryBackend):
    """A rename over an object finds no source."""

    def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        try:
            self.stat(dst)
        except FileNotFoundError:
            super().rename(src, dst, replace=replace)
        else:
            raise FileNotFoundError(errno.ENOENT, "no such object", src)


@pytest.mark.parametrize("make", [backends(rename=rename_that_copies), Forgets, Refuses])
def test_a_store_that_confuses_names_is_found(make: Callable[[], Backend]) -> None:
    """The story has the name and the calls that bound it, unless bytes of a confused object are found before."""
    report = run(Plan(seed=1, threads=4, tasks=0, operations=100, **SHARED), make)
    assert not report.ok
    if (wrong := re.search(r"^file (\d+)", report.story, re.MULTILINE)) is None:
        assert "shared" in report.story
        assert "before: " in report.story
    else:
        assert int(wrong[1]) >= FIRST


def test_handles_of_tasks_on_shared_names_outlive_their_loop() -> None:
    """A task opens and uses them by coroutines; at rest there is no loop, and their bytes are checked all the same."""
    plan = Plan(seed=1, threads=1, tasks=1, **SHARED)
    target = CachedTarget(plan, 0, None, "memory:")
    target.start([b""])

    async def made() -> Any:
        handle = await target.tasks.call("enter", ("shared0", "buffered", "x+b"))
        await target.tasks.call("act", (handle, "pwrite", b"mine", 0))
        return handle

    handle = asyncio.run(made())
    assert isinstance(handle, aio.AsyncCachedFile)
    assert target.act(handle, "pread", 4, 0) == b"mine"
    target.act(handle, "close")
    target.close()
