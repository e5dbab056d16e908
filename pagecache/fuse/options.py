"""Options of a mount, and the words after -o: those of mount(8), of libfuse, and of this command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from ..config import Durability, Policy, Size, VolumeOptions, parse_size
from ..disk.tier import DiskTier
from .attributes import ServerOptions


class WrongOption(ValueError):
    """An unknown option, or an invalid value; the text is a sentence that names both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions(ServerOptions):
    """Those of the server, and more.

    Attributes:
        url: of the backend: a URL, or module:factory.
        mountpoint: a directory.
        backend_options: go to the backend's constructor.
        capacity: bytes of memory of the cache.
        direct_io: the kernel keeps no pages.
        kernel_cache: the kernel keeps pages from one open to the next, while the version is unchanged.
        read_only: nothing can be changed.
        allow_other: other users than the mounting one may use it.
        attr_timeout: seconds for which the kernel caches attributes. An open of an object in a store of whole objects
            asks the store nothing for as long.
        entry_timeout: seconds for which the kernel caches names.
        timeout: seconds after which a program gets EIO in place of a reply; None or 0: it waits.
        drain_timeout: seconds for saving everything at the end; None: unlimited.
        read_ahead: largest readahead window; None: 4 MiB, or what a far backend takes at once.
        policy: which clean pages go when memory is short, as for `PageCache.attach`.
        disk: directory of a disk tier, which keeps data from one mount to the next; None: none.
        disk_size: most bytes of that.
        durability: what fsync and the end of the mount wait for, as for `PageCache.attach`.
        stats: path of a socket with live statistics; None: none.
        name: the source in the output of mount(8); None: the URL.
        flags: words for the kernel and libfuse.
    """

    url: str
    mountpoint: str
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    capacity: Size = "256MiB"
    direct_io: bool = False
    kernel_cache: bool = False
    read_only: bool = False
    allow_other: bool = False
    attr_timeout: float = 1.0
    entry_timeout: float = 1.0
    timeout: float | None = 60.0
    drain_timeout: float | None = 60.0
    read_ahead: Size | None = None
    policy: Policy = "adaptive"
    disk: str | None = None
    disk_size: Size = "10GiB"
    durability: Durability = "backend"
    stats: str | None = None
    name: str | None = None
    flags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.direct_io and self.kernel_cache:
            raise WrongOption("direct_io and kernel_cache: with the first the kernel has no pages to keep")
        parse_size(self.capacity, "capacity")
        if self.read_ahead is not None:
            parse_size(self.read_ahead, "read_ahead")
        VolumeOptions(policy=self.policy)  # checks it
        if self.disk is not None:
            DiskTier(self.disk, size=self.disk_size)  # so does this
        if self.durability not in get_args(Durability):
            raise WrongOption(f"durability: {self.durability!r} is not backend or disk")
        if self.durability == "disk" and self.disk is None:
            raise WrongOption("durability: disk needs the option disk, a directory")
        for name, (base, largest, rule) in NUMBERS.items():
            number = getattr(self, name)
            if number is not None and not 0 <= number <= largest:
                raise WrongOption(f"{name}: {number:{'o' if base == 8 else 'd'}} is not {rule}")
        for name in SECONDS:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= SECONDS_MAX:
                raise WrongOption(f"{name}: {value!r} is not {SECONDS_RULE}")


SWITCHES = {"direct_io": "direct_io", "kernel_cache": "kernel_cache", "ro": "read_only", "allow_other": "allow_other"}
ID_MAX = 2**32 - 2  # the next one means "unchanged" to chown(2)
MODE = (8, 0o7777, "a mode: octal digits, from 0 to 7777")
NUMBERS = {
    "uid": (10, ID_MAX, f"the number of a user, from 0 to {ID_MAX} (`id -u NAME` says it)"),
    "gid": (10, ID_MAX, f"the number of a group, from 0 to {ID_MAX} (`getent group NAME` says it)"),
    "file_mode": MODE,
    "directory_mode": MODE,
}
"""Bases, largest values and rules of numeric options."""
SECONDS = ("attr_timeout", "entry_timeout", "timeout", "drain_timeout")
SECONDS_MAX = 10**9
SECONDS_RULE = "a number of seconds, from 0 to 10**9"
SIZES = ("capacity", "read_ahead", "disk_size")
PASSED_ON = frozenset(
    {"nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "nodiratime", "relatime", "strictatime"}
    | {"sync", "async", "dirsync", "auto_unmount"}
)
IGNORED = frozenset(
    {"rw", "defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev", "default_permissions"}
)
"""Words with no effect: always in force, or meant for mount(8) itself."""


def with_words(options: MountOptions, words: Iterable[str]) -> MountOptions:
    """Return the options with those after -o; each may be several words, with commas.

    Raises:
        WrongOption: an unknown word, or a word with an invalid value; lists the known ones.
    """
    for word in (word for text in words for word in text.split(",") if word):
        options = _with_word(options, word)
    return options


def _with_word(options: MountOptions, word: str) -> MountOptions:
    name, equals, value = word.partition("=")
    changes: dict[str, Any] | None = None
    try:
        if not equals and name in SWITCHES:
            changes = {SWITCHES[name]: True}
        elif not equals and name in PASSED_ON:
            changes = {"flags": options.flags | {name}}
        elif (not equals and name in IGNORED) or name.startswith("x-"):
            changes = {}
        elif equals and name in NUMBERS:
            changes = {name: int(value, NUMBERS[name][0])}
        elif equals and name in SECONDS:
            changes = {name: float(value)}
        elif equals and name in (*SIZES, "policy", "disk", "durability"):
            changes = {name: value}
        elif equals and name == "fsname":
            changes = {"name": value}
    except ValueError:
        rule = NUMBERS[name][2] if name in NUMBERS else SECONDS_RULE
        raise WrongOption(f"-o {word}: {value!r} is not {rule}") from None
    if changes is not None:
        return replace(options, **changes)
    valued = (*NUMBERS, *SECONDS, *SIZES, "policy", "disk", "durability", "fsname")
    known = ", ".join(sorted({*SWITCHES, *PASSED_ON, *IGNORED, *(f"{name}=" for name in valued)}))
    raise WrongOption(f"-o {word}: no such option, or not {'with' if equals else 'without'} a value; there are {known}")
