"""Commits on the imitation of Google: lost answers, refusals, other versions; keys, listings and URLs."""

from __future__ import annotations

import errno
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore import exceptions
from obstore.store import MemoryStore

from pagecache import BackendError, PageCache
from pagecache.backends import backend_from_url
from pagecache.backends.obstore import ObstoreBackend
from pagecache.backends.obstore.errors import RequestError

from ..file.rig import raises, run_program
from .services import Google


def made(google: tuple[Google, str], **options: Any) -> Any:
    return backend_from_url(f"gs://bucket/f?{google[1]}", **options)


def written(backend: Any, key: str, data: bytes) -> Any:
    file = backend.open(key, create=True)
    file.write_from(0, [memoryview(data)])
    return file


def content(backend: Any, key: str) -> bytes:
    file = backend.open(key)
    room = bytearray(100)
    return bytes(room[: file.read_into(0, [memoryview(room)])])


def test_a_commit_whose_answer_is_lost_is_recognised_by_its_mark(google: tuple[Google, str]) -> None:
    backend = made(google)
    written(backend, "a", b"one").commit()
    file = written(backend, "a", b"two")
    google[0].lose_answers = 1
    version = file.commit()
    assert version == backend.stat("a").version
    puts = google[0].asked.count("PUT f/a")
    file.write_from(0, [memoryview(b"3")])
    assert file.commit() == backend.stat("a").version
    assert content(backend, "a") == b"3wo"
    assert google[0].asked.count("PUT f/a") == puts + 1


def test_a_lost_answer_that_cannot_be_looked_up_is_settled_by_the_next_commit(google: tuple[Google, str]) -> None:
    backend = made(google)
    written(backend, "a", b"one").commit()
    file = written(backend, "a", b"two")
    google[0].lose_answers = 1
    head = backend.requests.head

    def fail(name: str) -> Any:
        backend.requests.head = head
        raise OSError(errno.ECONNRESET, "planted")

    google[0].asked.clear()
    backend.requests.head = fail
    assert raises(OSError, file.commit, match="planted").kept  # type: ignore[attr-defined]
    assert file.commit() == backend.stat("a").version
    assert google[0].asked.count("PUT f/a") == 1


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "created"])
def test_a_foreign_version_is_a_conflict_and_stays(google: tuple[Google, str], there: bool) -> None:
    backend, other = made(google), made(google)
    if there:
        written(backend, "a", b"one").commit()
    file = written(backend, "a", b"two")
    written(other, "a", b"foreign").commit()
    assert raises(OSError, file.commit, match="is stored where").errno == errno.ESTALE
    assert content(other, "a") == b"foreign"


@pytest.mark.parametrize("ignores", [False, True])
def test_a_bucket_that_is_missing_for_a_while_is_no_other_version(google: tuple[Google, str], ignores: bool) -> None:
    """Neither in the answer to the PUT, nor in that to a look, which has no body."""
    google[0].ignores = ignores
    backend = made(google)
    written(backend, "a", b"one").commit()
    file = written(backend, "a", b"two")
    google[0].missing = True
    assert raises(OSError, file.commit, match="NoSuchBucket").errno == errno.ENXIO
    for look in (backend.open, backend.stat, backend.remove):
        assert raises(OSError, look, "a", match="NoSuchBucket").errno == errno.ENXIO
    google[0].missing = False
    file.commit()
    assert content(backend, "a") == b"two"


def test_a_container_that_cannot_be_asked_for_is_no_proof_of_a_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service answers 404 to the look, and is gone at the next request."""
    backend = ObstoreBackend(MemoryStore())
    monkeypatch.setattr(type(backend), "honours", lambda self, condition: True)
    written(backend, "k", b"old").commit()
    file, requests = written(backend, "k", b"new"), backend.requests
    requests.delete("k")

    class Ending:
        def __getattr__(self, method: str) -> Any:
            return getattr(reads, method)

        def list(self, *_: object, **__: object) -> Any:
            raise exceptions.GenericError("error sending request\n\nDebug source:\nHttpError { kind: Connect }")

    reads, requests._reads = requests._reads, Ending()
    error = raises(BackendError, file.commit, match="error sending request")
    assert (error.errno, error.retry, error.kept) == (errno.EIO, True, True)
    requests._reads = reads
    assert raises(OSError, file.commit, match="no object is stored").errno == errno.ESTALE


def test_a_read_never_mixes_versions_though_the_service_ignores_the_condition(google: tuple[Google, str]) -> None:
    google[0].ignores = True
    backend = made(google)
    google[0].store("f/a", b"one", {})
    file = backend.open("a")
    google[0].store("f/a", b"two", {})
    assert raises(OSError, file.read_into, 0, [memoryview(bytearray(3))], match="another version").errno == errno.ESTALE


def test_a_service_that_ignores_conditions_is_found_out(google: tuple[Google, str]) -> None:
    google[0].ignores = True
    backend = made(google)
    written(backend, "a", b"one").commit()
    assert [" to create " in text or " to replace " in text for text in backend.warnings()] == [True, True]
    file = written(backend, "a", b"two")
    google[0].store("f/a", b"foreign", {})
    raises(OSError, file.commit, match="is stored where")  # a look before the commit finds it
    other = written(made(google, require_conditions=True), "b", b"x")
    assert raises(OSError, other.commit, match="require_conditions").errno == errno.ENOTSUP
    assert sorted(google[0].objects) == ["f/a"]  # nothing is left of the trials


@pytest.mark.parametrize(
    ("status", "code", "retry", "after"),
    [(503, errno.EAGAIN, True, 1.0), (500, errno.EIO, True, None), (403, errno.EACCES, False, None)],
)
def test_an_answer_of_the_service_is_one_error(
    google: tuple[Google, str], status: int, code: int, retry: bool, after: float | None
) -> None:
    backend = made(google)
    google[0].statuses = [status]
    found: Any = raises(OSError, backend.open, "a", match="gs://bucket/f/a")
    assert (found.errno, found.retry, found.retry_after, found.filename) == (code, retry, after, "a")
    assert len(google[0].asked) == 1  # obstore does not retry by itself
    assert "Debug source" not in str(found)


def test_an_edit_keeps_the_properties_of_the_object(google: tuple[Google, str]) -> None:
    google[0].store("f/a", b"one", {"Content-Type": "text/odd", "x-goog-meta-colour": "blue"})
    backend = made(google)
    written(backend, "a", b"two").commit()
    headers = {word.lower(): value for word, value in google[0].objects["f/a"][2].items()}
    assert headers["content-type"] == "text/odd"
    assert headers["x-goog-meta-colour"] == "blue"


def test_a_large_object_is_stored_in_parts_unless_a_condition_is_required(google: tuple[Google, str]) -> None:
    backend = made(google, single_put="1MiB")
    data = bytes(range(256)) * (9 << 12)
    file = written(backend, "a", data)
    assert file.commit() == backend.stat("a").version
    assert google[0].objects["f/a"][0] == data
    file.write_from(0, [memoryview(b"new")])
    google[0].store("f/a", data, {})
    raises(OSError, file.commit, match="is stored where")
    other = written(made(google, single_put="1MiB", require_conditions=True), "b", data)
    raises(OSError, other.commit, match="single_put")


def test_a_copy_of_another_version_renames_nothing(google: tuple[Google, str]) -> None:
    backend = made(google)
    written(backend, "a", b"one").commit()
    copy = backend.requests._writes.copy

    class Replacing:
        def copy(self, old: str, new: str) -> None:
            google[0].store(old, b"two", {})
            copy(old, new)

    backend.requests._writes, writes = Replacing(), backend.requests._writes
    error = raises(OSError, backend.rename, "a", "b", match="another version was stored")
    backend.requests._writes = writes
    assert error.errno == errno.ESTALE
    assert content(backend, "a") == b"two"


def test_a_version_that_is_stored_over_the_copy_of_a_rename_is_mixed_with_nothing(google: tuple[Google, str]) -> None:
    """Of equal size; the copy has the mark of our commit."""
    backend = made(google)
    written(backend, "a", b"one").commit()
    file, writes = backend.open("a"), backend.requests._writes

    class Replaced:
        delete = staticmethod(writes.delete)

        def copy(self, old: str, new: str) -> None:
            writes.copy(old, new)
            google[0].store(new, b"two", {})

    backend.requests._writes = Replaced()
    backend.rename("a", "b", replace=False)
    backend.requests._writes = writes
    assert raises(OSError, file.read_into, 0, [memoryview(bytearray(3))]).errno == errno.ESTALE
    file.write_from(0, [memoryview(b"O")])
    raises(OSError, file.commit)
    assert content(backend, "b") == b"two"


def test_a_listing_is_sorted_and_reads_no_page_without_its_names(google: tuple[Google, str]) -> None:
    """Of 5,000 names, those before the prefix are left out by the service, and no page is fetched after its last.
    Private ones are not in it.
    """
    names = [f"x{number:04}" for number in range(1, 5000)]
    for name in (*names, ".pagecache/try-1"):
        google[0].store(f"f/{name}", b"1", {})
    backend = made(google)
    for prefix, pages in (("x3", 2), ("x4999", 1), ("x2", 2), ("x", 5), ("y", 1), ("", 5)):
        google[0].asked.clear()
        assert [stat.key for stat in backend.list(prefix)] == [name for name in names if name.startswith(prefix)]
        assert google[0].asked == ["GET "] * pages


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_listing_has_all_names_with_its_prefix(by_parts: bool) -> None:
    """Whatever follows the prefix, and whether the service sorts by characters or by the parts of a path."""
    ends = ["", "!", "-", "/", "/a", "0", "x", "\ue000", "\U00010000"]
    names = {f"f/{first}{end}".rstrip("/") for first in ("a", "a-", "a.b", "a/b", "b", "\ue000") for end in ends}
    names = {name for name in names if "//" not in name}

    class Sorted:
        def list(self, folder: str, *, offset: str | None, chunk_size: int) -> Any:
            def place(name: str) -> Any:
                return name.split("/") if by_parts else name

            below = [name for name in names if name.startswith(folder + "/")]
            found = sorted((name for name in below if offset is None or name > offset), key=place)
            now = datetime.now(tz=UTC)
            return [[{"path": name, "size": 1, "e_tag": "x", "version": None, "last_modified": now} for name in found]]

    backend = ObstoreBackend(Sorted(), "f")
    for prefix in ("a", "a-", "a.", "a/", "a/b", "a/b-", "b", "c", "\ue000", ""):
        keys = [stat.key for stat in backend.list(prefix)]
        assert sorted(map(str, keys)) == sorted(name[2:] for name in names if name.startswith("f/" + prefix))


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_what_is_not_signed_is_not_written(google: tuple[Google, str], scheme: str) -> None:
    """Nothing is sent, neither to the service nor to the machine for credentials."""
    google[0].store("f/a", b"one", {})
    where = f"{scheme}://bucket/f?{google[1].partition('&')[0]}&anonymous=yes"
    backend = backend_from_url(where + ("&account=devstoreaccount1" if scheme == "az" else ""))
    why = f"{scheme}://bucket was given with anonymous=yes, and only reads can be unsigned"
    for call in (lambda: backend.open("b", create=True), lambda: backend.remove("a"), lambda: backend.rename("a", "b")):
        raises(io.UnsupportedOperation, call, match=re.escape(why))
    with PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        for mode in ("w", "r+", "a"):
            raises(PermissionError, volume.open, "a", mode, match=re.escape(why))
        assert google[0].asked == []
        if scheme == "gs":
            with volume.open("a") as file:
                assert file.read() == b"one"
            assert [stat.size for stat in volume.list()] == [3]


@pytest.mark.parametrize("key", ["", "a//b", "/a", "a/", "a/../b", ".pagecache/x", "a\nb", "x" * 1030, "\ud800", 7])
def test_a_key_that_is_no_name_is_refused(key: Any) -> None:
    raises(ValueError, ObstoreBackend(MemoryStore(), "f").canonical, key, match="is not a key of an object")


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("az:///x", "not of the form az://"),
        ("az://user:secret@c/x", "credentials come from the environment"),
        ("az://c?colour=blue", "'colour' is not one of endpoint, account"),
        ("gs://b?account=x", "'account' is not one of endpoint, service_account"),
        ("az://c?connect_timeout=no", "connect_timeout: 'no'"),
        ("az://c?emulator=perhaps", "use_emulator: 'perhaps' is not yes or no"),
        ("az://c?emulator=yes&endpoint=http://127.0.0.1:10001/a", "emulator=yes has an endpoint of its own"),
        ("gs://b?service_account=/nowhere.json", "/nowhere.json"),
        ("az://c?emulator=yes&single_put=9GiB", "single_put"),
    ],
)
def test_a_bad_url_is_named_with_its_rule(url: str, rule: str) -> None:
    assert "secret" not in str(raises(ValueError, backend_from_url, url, match=re.escape(rule)))


def test_without_the_package_the_error_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "obstore.py").write_text("raise ModuleNotFoundError('no obstore', name='obstore')")
    code = "from pagecache.backends import backend_from_url; backend_from_url('gs://b')"
    assert "[obstore]" in run_program(tmp_path, code).stderr


def test_a_look_that_does_not_show_a_stored_version_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of the PUT has no version, and the look shows the replaced one."""
    backend = ObstoreBackend(MemoryStore())
    monkeypatch.setattr(type(backend), "honours", lambda self, condition: True)
    written(backend, "k", b"old").commit()
    file, put, head = written(backend, "k", b"new"), backend.requests.put, backend.requests.head
    earlier = head("k")

    def unanswered(*arguments: Any) -> None:
        put(*arguments)
        monkeypatch.setattr(backend.requests, "head", late)

    def late(name: str) -> Any:
        monkeypatch.setattr(backend.requests, "head", head)
        return earlier

    monkeypatch.setattr(backend.requests, "put", unanswered)
    error = raises(BackendError, file.commit)
    assert (error.errno, error.retry, error.kept) == (errno.EIO, True, True)
    file.commit()
    assert content(backend, "k") == b"new"


def test_a_409_over_the_version_that_was_opened_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ObstoreBackend(MemoryStore())
    monkeypatch.setattr(type(backend), "honours", lambda self, condition: True)
    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(b"new")])

    def busy(*arguments: object) -> None:
        error = RequestError(errno.ESTALE, "PUT: status code: 409 (ConditionalRequestConflict)", retry=False)
        error.refused = True  # what `translated` makes of it
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(backend.requests, "put", busy)
        error = raises(BackendError, file.commit)
    assert (error.errno, error.retry) == (errno.EIO, True)  # nothing is stored, as at the open: no conflict
    file.commit()
    assert backend.stat("k").size == 3
