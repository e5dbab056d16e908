"""The command `pagecache mount`: makes a mount from its arguments, and an exit status from the result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..target import BadTarget, options_of
from .daemon import Started
from .options import MountOptions, WrongOption, with_words

log = logging.getLogger("pagecache.fuse")

NOT_MOUNTED, WRONG_USAGE = 1, 2


def options_from(
    url: str, directory: str, words: Sequence[str], backend_options: Sequence[str], given: dict[str, Any]
) -> MountOptions:
    """Return the options of a mount, with defaults for missing ones.

    Raises:
        ValueError: names the option and its rule.
    """
    try:
        more = options_of(backend_options)
    except BadTarget as error:
        raise WrongOption(str(error)) from None
    scheme, colon, path = url.partition(":")
    if colon and scheme == "dir" and path:
        url = f"dir:{os.path.abspath(path)}"  # a background server has another working directory
    options = with_words(MountOptions(url=url, mountpoint=os.path.abspath(directory)), words)
    fields = {name: value for name, value in given.items() if value is not None and value is not False}
    # All at once: single checks would refuse combinations that are valid together.
    known = {name: getattr(options, name) for name in MountOptions.__dataclass_fields__}
    return MountOptions(**{**known, **fields, "backend_options": more})


def mount_and_serve(options: MountOptions, started: Started | None, report: Callable[[str], object]) -> NoReturn:
    """Mount, serve and save; ends the process.

    Args:
        options: of the mount.
        started: messenger to the waiting parent, if in the background.
        report: receives complaints and progress.
    """
    from .mount import Mount
    from .mountpoint import CannotMount

    if started is None:
        logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    ready = False

    def mounted() -> None:
        nonlocal ready
        ready = True
        if started is not None:
            started.mounted()

    def failed(status: int, why: str) -> int:
        if started is None:
            report(why)
        else:
            started.failed(status, why)
        return status

    try:
        # In the background stderr is /dev/null by then: complaints go to the log.
        status = Mount(options, report, report if started is None else log.error).run(mounted)
    except (BadTarget, ValueError) as error:
        status = failed(WRONG_USAGE, str(error))
    except (CannotMount, OSError) as error:
        if ready:
            raise
        status = failed(NOT_MOUNTED, str(error))
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may be in a backend call that never returns: do not wait for it.
    os._exit(status)
