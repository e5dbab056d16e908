"""Fault profiles by name, with the frequency of each fault. `FaultPlan.profile` documents the names.

An oversized request fails as with an object store that lowers its limits: with E2BIG and the new limit.
"""

from __future__ import annotations

import errno as codes
from typing import Final

from ..errors import BackendError
from .faults import TOO_MANY, Rule

BYTES: Final = ("read", "write")
WORK: Final = ("read", "write", "commit")
CHANGES: Final = ("write", "commit", "truncate", "punch")
NAMING: Final = ("rename", "remove")
CALLS: Final = ("open", "stat", "read", *CHANGES, *NAMING)
LIMIT: Final = 8192  # the limit in the error of an oversized request


GOES_AWAY: Final = BackendError(codes.EIO, "made up, goes away", retry=True, retry_after=0.0)
TOO_LARGE: Final = BackendError(codes.E2BIG, f"made up, takes {LIMIT} bytes", retry=True, max_write=LIMIT)
STAYS: Final = BackendError(codes.EIO, "made up, does not go away by itself", retry=False)


def _shorter(often: float) -> tuple[Rule, ...]:
    return (
        Rule(BYTES, short="half", chance=often),
        Rule(BYTES, short="all but one", chance=often / 2),
        Rule(BYTES, short=1, chance=often / 4),
    )


def _tails(often: float, longest: float) -> tuple[Rule, ...]:
    return (Rule((*WORK, "truncate", "open", "stat"), delay=0.0005, longest=longest, chance=often),)


def _failing(error: BaseException, often: float) -> tuple[Rule, ...]:
    return (
        Rule(WORK, error=error, chance=often),
        Rule(("write", "commit"), error=error, done=True, chance=often),
        Rule(BYTES, error=codes.EAGAIN, chance=often / 2),
        Rule(BYTES, error=codes.EINTR, chance=often / 4),
    )


_SLOW_SPELLS: Final = Rule(WORK, spells=(400, 20), delay=0.001)
_LEGAL: Final = (
    Rule("write", longer=LIMIT, error=TOO_LARGE, chance=0.05),
    *_shorter(0.1),
    Rule(CHANGES, twice=True, chance=0.05),
    Rule((*BYTES, "commit"), delay=0.0005, longest=0.005, done=True, chance=0.05),
    _SLOW_SPELLS,
    *_tails(0.05, 0.05),
)

PROFILES: Final[dict[str, tuple[Rule, ...]]] = {
    "none": (),
    "mild": (
        Rule(WORK, error=GOES_AWAY, chance=0.02),
        Rule(BYTES, error=codes.EINTR, chance=0.01),
        *_shorter(0.05),
        *_tails(0.03, 0.03),
    ),
    "nasty": (*_failing(GOES_AWAY, 0.05), *_LEGAL),
    "hell": (
        Rule(("read", "write", "commit", "truncate"), dies=True, chance=0.0005),
        Rule(("write", "commit"), dies=True, done=True, chance=0.0005),
        Rule(("write", "truncate"), spells=(500, 25), error=codes.ENOSPC),
        Rule("commit", spells=(60, 4), error=STAYS),
        Rule(CHANGES, error=STAYS, chance=0.01),
        Rule("truncate", error=GOES_AWAY, done=True, chance=0.02),
        Rule(("open", "stat"), error=GOES_AWAY, chance=0.01),
        Rule(
            ("write", "commit"),
            change=True,
            error=OSError(codes.ESTALE, "made up, another version is stored"),
            chance=0.002,
        ),
        Rule(("open", "stat"), change=True, chance=0.02),
        *_failing(GOES_AWAY, 0.08),
        *_LEGAL,
    ),
    "short": (Rule(BYTES, short="half", chance=0.5), Rule(BYTES, short=1, chance=0.1)),
    "slow": (Rule(WORK, delay=0.002, chance=0.3),),
    "late": (Rule("read", delay=0.001, longest=0.01, done=True, chance=0.3),),
    "flaky": (Rule(WORK, error=GOES_AWAY, chance=0.01),),
    "commits": (
        Rule("commit", delay=0.0005, longest=0.01, error=GOES_AWAY, chance=0.3),
        Rule("commit", error=GOES_AWAY, done=True, chance=0.05),
        Rule("write", error=GOES_AWAY, chance=0.01),
    ),
    "names": (
        Rule(("open", "stat", *NAMING), error=GOES_AWAY, chance=0.05),
        Rule(NAMING, error=GOES_AWAY, done=True, chance=0.1),
        Rule(("open", *NAMING), delay=0.0005, longest=0.02, chance=0.1),
    ),
    "deaths": (
        Rule(CALLS, dies=True, chance=0.01),
        Rule((*NAMING, "commit", "truncate"), dies=True, done=True, chance=0.02),
        Rule(CALLS, delay=0.0005, longest=0.01, chance=0.1),
    ),
    "hostile": (
        Rule(BYTES, answer=None, chance=0.02),
        Rule(BYTES, answer=TOO_MANY, chance=0.02),
        Rule(BYTES, answer=-1, chance=0.02),
        Rule(BYTES, answer="17", chance=0.02),
        Rule(BYTES, short=0, chance=0.02),
        Rule((*WORK, "stat"), error=KeyError("made up"), chance=0.02),
    ),
}
