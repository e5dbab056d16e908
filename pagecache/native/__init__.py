"""The only package that imports the extension: typed calls, buffer lifetimes, addresses.

CORE's interface has structs, negative errno values and `need`s. Three small classes (`NativeCache`, `NativeVolume`,
`NativeInode`) wrap the functions that the engine calls, one method per C function, so that no module above this package
handles a pointer. Objects that are hot or own something are C types of the extension itself and pass through unchanged:
`Handle` (the hot verbs), `Op` (owner of an operation's locks and memory), `Core` (owner of the memory).
"""

from __future__ import annotations

from .cache import *
from .extension import *
from .inode import *
