"""The search for each bug: with a few named settings of the stress tester, each shared by many bugs; or in a world of
the simulated threads of the core.

    SETTINGS   name -> fields of `pagecache.stress.Plan`
    STORES     name of settings -> makes their store, if it is not the backend in memory
    SEARCHED     bug -> name of its settings; a bug that is not listed is searched for with "slow"
    SCHEDULED  bug -> kind of world (`tests/native/schedules/world.c`) in which schedules of the core find it

Files and cache are small: workers meet on shared pages, and pages come and go. Workers are few: with fewer overlapping
calls, the oracle is more exact about the possible content. Over a store that forgets uncommitted bytes: few operations
between two crashes, and commits that often fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .failing import directory, object_store, publishing, store_by_name, whole_objects, without_answers
from .planted import Factory

__all__ = ["SCHEDULED", "SEARCHED", "SETTINGS", "STORES", "WORLDS", "settings_of"]

SMALL: dict[str, Any] = {
    "threads": 4,
    "tasks": 4,
    "files": 2,
    "size": "128KiB",
    "capacity": "128KiB",
    "operations": 60,
    "patience": 10.0,
}

FORGETTING = SMALL | {"crashes": "forgetting", "operations": 30}

CROSSING = SMALL | {"profile": "names", "mix": "shared", "files": 1}

SETTINGS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "slow": SMALL | {"profile": "generic-095", "faults": "slow"},
    "flaky": SMALL | {"faults": "flaky"},
    "short": SMALL | {"faults": "short"},
    "past": SMALL | {"profile": "generic-095", "faults": "slow", "files": 1, "mix": "buffered,direct,parallel"},
    "appends": SMALL
    | {"profile": "crowd", "files": 1, "threads": 6, "tasks": 0, "capacity": "64KiB", "mix": "append,truncate"}
    | {"operations": 25},
    "names": SMALL | {"profile": "metadata", "files": 4},
    "crossing": CROSSING,
    "crossing-faults": CROSSING | {"faults": "names"},
    "crossing-links": CROSSING | {"mix": "shared,links"},
    "crossing-wholes": CROSSING,
    "crossing-others": CROSSING | {"profile": "versions", "mix": "shared,others"},
    "crossing-by-name": CROSSING,
    "crossing-wholes-faults": CROSSING | {"faults": "names"},
    "crossing-wholes-deaths": CROSSING | {"faults": "deaths", "capacity": "64KiB"},
    "crossing-copies-deaths": CROSSING | {"faults": "deaths"},
    "forgetting": FORGETTING | {"faults": "commits"},
    "holes": FORGETTING
    | {"faults": "commits", "mix": "buffered,punch,direct", "threads": 2, "tasks": 0, "operations": 12},
    "cuts": FORGETTING | {"faults": "commits", "mix": "buffered,truncate", "threads": 2, "tasks": 0, "operations": 12},
    "forgetting-names": FORGETTING | {"profile": "metadata"},
    "saving": FORGETTING | {"faults": "commits", "profile": "saving", "files": 1},
    "crowd": SMALL
    | {
        "profile": "crowd",
        "faults": "slow",
        "threads": 12,
        "tasks": 0,
        "files": 1,
        "capacity": "64KiB",
        "operations": 12,
    },
    "late": SMALL | {"profile": "losses", "files": 1, "faults": "late"},
    "replaced": SMALL
    | {
        "profile": "ends",
        "files": 1,
        "mix": "rivals,losses",
        "tasks": 0,
        "operations": 20,
        "size": "64KiB",
        "capacity": "64KiB",
    },
    "withdrawn": SMALL | {"profile": "saving", "files": 1, "mix": "buffered,append", "tasks": 0, "operations": 10},
}

STORES: dict[str, Callable[[], Factory]] = {
    "crossing-links": directory,
    "crossing-wholes": whole_objects,
    "crossing-others": whole_objects,
    "crossing-by-name": store_by_name,
    "crossing-wholes-faults": without_answers,
    "crossing-wholes-deaths": publishing,
    "crossing-copies-deaths": whole_objects,
    "withdrawn": object_store,
}

SEARCHED: dict[str, str] = {
    "forgotten_bytes_are_sent_again": "forgetting",
    "hole_is_forgotten_at_reconnect": "holes",
    "truncate_is_forgotten_at_reconnect": "forgetting",
    "direct_write_checks_once": "past",
    "no_budget_while_waiting_for_a_lock": "crowd",
    "rebase_sees_extension": "replaced",
    "rebase_keeps_uploads": "replaced",
    "returned_bytes_are_rolled_back": "withdrawn",
    "late_answer_only_ends_the_flight": "small",
    "reconnect_does_not_wait": "small",
    "loss_is_not_reported": "late",
    "append_keeps_the_lock": "appends",
    "success_forgets_failures": "short",
    "retry_sends_old_bytes": "flaky",
    "truncate_is_not_committed": "cuts",
    "creation_is_not_committed": "forgetting-names",
    "sync_waits_for_later_writes": "small",
    "sync_leaves_files_to_another_sync": "names",
    "sync_forgets_names": "forgetting-names",
    "remove_leaves_the_cache": "crossing-by-name",
    "rename_holds_one_name": "crossing",
    "open_holds_no_name": "crossing",
    "rename_looks_at_the_names_once": "crossing-wholes-faults",
    "a_second_name_opens_a_second_file": "crossing-links",
    "commits_run_beside_a_remove": "crossing-wholes",
    "looks_have_no_date": "crossing-wholes",
    "a_replaced_object_keeps_its_name": "crossing-others",
    "handles_of_a_replaced_object_write": "crossing-others",
    "an_open_misses_a_removal": "crossing-links",
    "a_removed_object_keeps_its_file": "crossing-by-name",
    "a_renamed_object_keeps_its_file": "crossing-by-name",
    "a_missing_source_was_renamed": "crossing-faults",
    "a_rename_without_an_answer_is_over": "crossing-wholes-faults",
    "a_removed_object_is_saved": "crossing-wholes",
    "a_renamed_draft_has_no_version": "crossing-wholes-deaths",
    "rename_drops_dirty_bytes": "small",
    "close_writes_nothing_back": "names",
    "open_trusts_its_pages": "small",
    "faulting_source_is_copied_in_place": "small",
    "cache_is_clean_before_the_upload": "saving",
}

SCHEDULED: dict[str, str] = {
    "failed_bytes_are_dirty_again": "given-up",
    "short_answer_is_short": "given-up",
    "oldest_stamp_stays": "given-up",
    "flight_keeps_its_stamp": "given-up",
    "stamp_stays_to_the_last_answer": "units",
    "flight_is_waited_for": "given-up",
    "failed_commit_makes_dirty": "given-up",
    "commit_failure_between_checks_is_seen": "given-up",
    "commit_covers_earlier_changes": "direct",
    "token_stays_to_the_last_answer": "given-up",
    "flight_is_not_changed": "given-up",
    "size_before_unlock": "given-up",
    "rest_of_a_new_page_is_zeroed": "given-up",
    "cut_bytes_are_zeroed": "cuts",
    "cut_pages_leave_the_cache": "cuts",
    "reader_checks_again_after_copy": "given-up",
    "writer_checks_again_after_lock": "given-up",
    "fill_sees_invalidations": "direct",
    "failed_fill_unlocks": "given-up",
    "invalidation_keeps_local_bytes": "given-up",
    "unstable_bytes_are_not_evicted": "given-up",
    "reclaim_never_waits": "stuck",
    "direct_write_invalidates": "direct",
    "direct_write_invalidates_again": "direct",
    "last_one_out_hands_the_lock_on": "direct",
    "pages_of_writable_view_stay_dirty": "views",
    "views_end_with_the_file": "views",
    "commit_follows_its_bytes": "given-up",
    "settling_commits_nothing": "given-up",
    "discarded_bytes_are_not_kept": "given-up",
    "discard_sees_extension": "given-up",
    "a_local_end_is_a_byte": "given-up",
}
WORLDS = tuple(dict.fromkeys(SCHEDULED.values()))

FORCED = frozenset({"rebase_sees_extension"})
"""Bugs that the C test of the fix finds at each run (`make run-planted`), and the tester in a part of its hunts: the
writer has to come into a moment in which the rebase has released a leaf lock. `make mutations` hunts them by name only.
"""


def settings_of(bug: str) -> str:
    """The name of the settings for a bug."""
    return SEARCHED.get(bug, "slow")
