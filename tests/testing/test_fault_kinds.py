"""Each kind of fault has its promised effect."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.testing import Call, FaultPlan, FaultyBackend, Gate, Rule

from ..file.rig import Patch, Task, at_gate, held, raises
from ..stores import ObjectBackend
from .stores import DATA, Store


@pytest.fixture
def store() -> Store:
    return Store()


def code(call: Callable[[], object]) -> int | None:
    """The errno that a call raises; None: it raises nothing."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


# -- kinds


def test_requests_that_are_too_large_are_refused_and_others_are_not(store: Store) -> None:
    store.faulty.use([Rule("write", longer=10, error=errno.EFBIG)])
    assert code(lambda: store.write(bytes(11))) == errno.EFBIG
    assert store.write(bytes(10)) == 10


def test_a_call_that_is_done_twice_is_answered_once(store: Store) -> None:
    inside: list[str] = []
    write = type(store.memory.open("a")).write_from

    class Counting(type(store.memory.open("a"))):  # type: ignore[misc]
        def write_from(self, *args: Any) -> int:
            inside.append("write")
            return int(write(self, *args))

    store.memory.open("a").__class__ = Counting
    store.faulty.use([Rule("write", twice=True)])
    assert store.write() == 3
    assert (inside, len(store.faulty.calls_of("write"))) == (["write", "write"], 1)


def test_a_late_answer_is_of_a_call_that_has_done_its_work(store: Store, monkeypatch: Patch) -> None:
    """Later calls return before it."""
    with Gate() as gate:
        monkeypatch.setattr("pagecache.testing.faulty.time.sleep", lambda wait: gate.enter() if wait == 1.0 else None)
        store.faulty.use([Rule("write", nth=1, delay=1.0, done=True)])
        first = Task(store.write)
        gate.wait_entered()
        assert store.content()[:3] == b"new"
        assert store.write(b"second", 50) == 6
        assert not first.finished.is_set()
    assert first.result() == 3


def test_calls_at_a_gate_wait_for_its_release(store: Store) -> None:
    with Gate() as gate:
        store.faulty.use([Rule("write", gate=gate)])
        held = Task(store.write)
        gate.wait_entered()
        assert (store.content(), held.finished.is_set(), gate.waiting) == (bytes(DATA), False, 1)
        store.file.stat()  # other calls pass
        gate.release()
        assert held.result() == 3
        assert store.write() == 3, "it stays open"
        gate.hold()
        both = [Task(store.write) for _ in range(2)]
        gate.wait_entered(calls=4)
        assert ([task.finished.is_set() for task in both], gate.waiting) == ([False, False], 2)
    assert [task.result() for task in both] == [3, 3], "leaving the block releases"
    assert (gate.entered, gate.waiting) == (4, 0)


def test_waits_have_a_long_tail() -> None:
    """Half are less than twice the delay, few are very long, none exceeds the maximum."""
    rule = Rule("write", delay=0.001, longest=0.5)
    waits = [rule.seconds(n / 10_000) for n in range(10_000)]
    assert (min(waits), max(waits)) == (0.001, 0.5)
    assert sum(wait < 0.002 for wait in waits) == 5000
    assert 0 < sum(wait > 0.1 for wait in waits) < 110
    assert Rule("write", delay=0.3).seconds(0.9) == 0.3


def test_spells_are_as_long_and_as_far_apart_as_said(store: Store) -> None:
    """There is slow, then fast; no space, then space again."""
    outcomes = []
    for seed in (1, 1, 2):
        store.faulty.use(FaultPlan([Rule("write", spells=(10, 3), error=errno.ENOSPC)], seed))
        outcomes.append("".join(".x"[code(store.write) == errno.ENOSPC] for _ in range(40)))
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes)) == 2
    for outcome in outcomes:
        assert outcome.count("x") == 12
        assert "xxx......." * 2 in outcome


def test_another_client_may_store_another_version(store: Store) -> None:
    """It has equal bytes, and all later calls report it."""
    before = store.backend.stat("a").version
    store.faulty.use([Rule("read", nth=1, change=True)])
    store.file.read_into(0, [memoryview(bytearray(1))])
    versions = {store.backend.stat("a").version, store.file.stat().version, store.file.commit()}
    assert len(versions) == 1
    assert versions != {before}
    assert store.content() == DATA


def test_an_object_keeps_its_version_of_another_client_under_each_name(store: Store) -> None:
    """Also in files that were opened before a rename; what is changed under the old name later is another object."""
    store.faulty.change("a")
    version = store.file.stat().version
    store.backend.rename("a", "b")
    replaced = store.backend.open("a", create=True)
    before = replaced.stat().version
    store.faulty.change("a")
    assert store.file.stat().version == store.backend.stat("b").version == version
    changed = replaced.stat().version
    assert changed != before
    store.backend.rename("b", "a")
    store.faulty.change("a")
    assert store.file.stat().version == store.backend.stat("a").version != version
    assert replaced.stat().version == changed
    store.backend.remove("a")
    assert store.file.stat().version == store.file.commit()


def test_hard_and_symbolic_links_have_the_version_of_their_object(tmp_path: Path) -> None:
    faulty = FaultyBackend(DirectoryBackend(tmp_path))
    file: Any = faulty.open("a", create=True)
    for change in ("a", "b", "c"):
        faulty.change(change)
        for name in ("b", "c"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "b").hardlink_to(tmp_path / "a")
        (tmp_path / "c").symlink_to("a")
        versions = {faulty.stat(name).version for name in ("a", "b", "c")} | {file.stat().version, file.commit()}
        assert len(versions) == 1
    faulty.rename("a", "b")
    assert {faulty.stat("b").version} == versions
    file.close()


def test_an_object_without_an_identity_has_another_version_under_its_name() -> None:
    faulty = FaultyBackend(ObjectBackend({"a": bytes(DATA), "b": bytes(DATA)}))
    before = faulty.stat("a"), faulty.stat("b")
    assert before[0].identity is None
    faulty.use([Rule("sync", change=True), Rule("stat", nth=1, change=True)])
    faulty.sync()  # of no object
    assert faulty.stat("a").version == f"{before[0].version}+1"
    assert faulty.open("a").stat().version == faulty.stat("a").version
    assert faulty.stat("b") == before[1]
    file: Any = faulty.open("a")
    faulty.rename("a", "c")
    assert faulty.stat("c").version == file.stat().version == f"{before[0].version}+1"
    faulty.rename("b", "a")
    faulty.change("a")  # another object than the open one
    assert faulty.stat("a").version == f"{before[1].version}+1"
    assert faulty.stat("c").version == file.stat().version == f"{before[0].version}+1"
    file.close()


def test_another_client_may_store_other_bytes(store: Store) -> None:
    """The other bytes come right before a call, which finds them."""

    def change(inner: Any, key: Any) -> None:
        assert inner is store.faulty.inner
        store.memory.put(key, b"others")

    store.faulty.use([Rule("read", nth=2, change=change)])
    room = bytearray(6)
    for expected in (bytes(DATA[:6]), b"others"):
        store.file.read_into(0, [memoryview(room)])
        assert room == expected


@pytest.mark.parametrize(("done", "error"), [(False, None), (True, None), (False, errno.ESHUTDOWN)])
def test_a_dead_backend_refuses_everything_until_it_is_revived(store: Store, done: bool, error: int | None) -> None:
    """It does whether the call that it died of was carried out or not, with the error of the rule."""
    store.faulty.use([Rule("write", nth=2, dies=True, done=done, error=error)])
    refused = error or errno.ENOTCONN
    store.write(b"one")
    assert not store.faulty.dead
    assert code(lambda: store.write(b"two")) == refused
    assert store.faulty.dead
    assert store.content()[:3] == (b"two" if done else b"one")
    room = [memoryview(bytearray(1))]
    for call in (store.file.commit, store.file.stat, lambda: store.file.read_into(0, room), store.backend.sync):
        assert code(call) == refused
    assert code(lambda: store.backend.open("a")) == refused
    store.faulty.use([])
    assert code(store.write) == refused, "other rules do not bring it back"
    store.faulty.revive()
    assert (store.write(), store.faulty.dead) == (3, False)


def test_a_backend_does_not_die_of_a_call_that_was_under_way_when_it_was_repaired(store: Store) -> None:
    """The call still fails. Without the repair the backend dies."""
    for repaired in (True, False):
        with Gate() as gate:
            store.faulty.use([Rule("write", nth=1, gate=gate, dies=True)])
            held = Task(store.write)
            gate.wait_entered()
            if repaired:
                store.faulty.use([])
            gate.release()
            assert code(held.result) == errno.ENOTCONN
        assert store.faulty.dead is not repaired


def test_a_fence_keeps_held_calls_from_the_store(store: Store) -> None:
    """A file that was opened before it no longer writes; those opened after it are not affected."""
    with Gate() as gate:
        store.faulty.use([Rule("write", nth=1, gate=gate)])
        held = Task(store.write)
        gate.wait_entered()
        store.faulty.fence()
        assert code(store.write) == errno.ENOTCONN
        store.file = store.backend.open("a")
        assert store.write(b"later", 50) == 5
        gate.release()
        assert code(held.result) == errno.ENOTCONN
    assert store.content()[:3] == bytes(DATA[:3])


def test_a_fence_waits_for_calls_in_the_store(store: Store, monkeypatch: Patch) -> None:
    """A call in the store cannot be revoked."""
    gate, committing = at_gate(held(monkeypatch, MemoryFile, "commit"), store.file.commit)
    raises(TimeoutError, store.faulty.fence, 0.001, match="1 calls do not return")
    committing.result(opening=gate)
    store.faulty.fence()


# -- rules


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"spells": (3, 4)}, r"spells: \(3, 4\) is not \(every, length\)"),
        ({"operation": "wirte"}, "operation: 'wirte' is not one of"),
        ({"chance": 2}, "chance: 2 is not a probability"),
        ({"longest": 1.0}, "longest: 1.0 is less than delay"),
        ({"operation": "remove", "twice": True}, "twice: 'remove' is not one of read"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Rule(**options)


def kept(folder: Path) -> Any:
    (folder / "a").write_bytes(b"a")
    return FaultyBackend(DirectoryBackend(folder))


def test_a_look_at_a_name_is_a_call_of_its_operation(tmp_path: Path) -> None:
    """It has the version of foreign changes."""
    faulty = kept(tmp_path)
    faulty.change("a")
    version = faulty.stat("a").version
    (entry,) = faulty.readdir("")
    assert {faulty.lstat("a").version, entry.version, faulty.setattr("a", mode=0o600).version} == {version}
    assert faulty.calls == [Call("stat", "a"), Call("list", ""), Call("stat", "a")]
    faulty.use([Rule(("stat", "list"), error=errno.EIO)])
    raises(OSError, faulty.lstat, "a", match="Input/output")
    raises(OSError, faulty.readdir, "", match="Input/output")
    assert not hasattr(FaultyBackend(MemoryBackend()), "lstat")


NAMING: dict[str, Callable[[Any], Any]] = {
    "lstat": lambda faulty: faulty.lstat("a"),
    "readdir": lambda faulty: [*faulty.readdir("")],
    "mkdir": lambda faulty: faulty.mkdir("new"),
    "rmdir": lambda faulty: faulty.rmdir("d"),
    "link": lambda faulty: faulty.link("a", "new"),
    "symlink": lambda faulty: faulty.symlink("a", "new"),
    "setattr": lambda faulty: faulty.setattr("a", mode=0o600),
    "statfs": lambda faulty: faulty.statfs(),
}


@pytest.mark.parametrize("call", NAMING)
def test_a_dead_backend_changes_no_name(tmp_path: Path, call: str) -> None:
    faulty = kept(tmp_path)
    (tmp_path / "d").mkdir()
    faulty.die(Rule(dies=True).exception)
    raises(OSError, NAMING[call], faulty, match="the backend is gone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
    faulty.revive()
    NAMING[call](faulty)


def test_a_fence_waits_for_a_change_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty, gate, plain = kept(tmp_path), Gate(), DirectoryBackend.mkdir

    def mkdir(self: DirectoryBackend, key: Any) -> None:
        gate.enter()
        plain(self, key)

    monkeypatch.setattr(DirectoryBackend, "mkdir", mkdir)
    making = Task(faulty.mkdir, "new")
    gate.wait_entered()
    raises(TimeoutError, faulty.fence, 0.01)
    fencing = Task(faulty.fence)
    gate.release()
    making.result()
    fencing.result()
    assert (tmp_path / "new").is_dir()
