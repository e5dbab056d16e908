"""Fixes of the C core that the planted extension can take out (NAME.patch). The name is the behaviour with the fix."""

from __future__ import annotations

from pagecache.engine.io import collector

from .planted import Planted, without

__all__ = ["CORE", "UNPLANTED"]

UNPLANTED: dict[str, str] = {
    "wait_number_twice": "only a report of waits shows a wait that is over: tests/native/test_waits.c",
    "inode_keeps_its_cache": "only a lock-free query of a cache's files meets it: tests/native/test_show.c",
    "a_pass_waited_for_moves_up": "a waiter waits longer while other work keeps all threads busy: no call has a"
    " promised time: tests/native/test_writeback.c",
    "a_stuck_queue_gives_way": "memory is found later, when reads that own a whole queue have ended: until then reads"
    " go past the cache and writes wait: tests/native/test_reclaim.c",
}
"""Fixes that are not planted: without them no promise to users is broken. Fix -> the reason, and the place that shows
it.
"""


def core(name: str, rule: str, sentence: str, *changes: tuple[object, str, object]) -> Planted:
    return Planted(name, sentence, rule, "core", without(name, *changes))


CORE = [
    core(
        "failed_bytes_are_dirty_again",
        "K1, E6",
        "Dirty is cleared when a call is sent, before its answer: bytes of a failed call count as saved and are lost.",
    ),
    core(
        "short_answer_is_short",
        "T-17, 2.14",
        "A short answer counts for the whole request: the bytes behind it are never sent.",
    ),
    core(
        "late_answer_only_ends_the_flight",
        "T-75b, 2.22",
        "An answer after an abort counts as success: bytes taken by the old backend are not sent to the new one.",
        (collector, "_late", lambda file, op: False),
    ),
    core(
        "oldest_stamp_stays",
        "1.3, I-19",
        "A page that is written again gets the newer stamp: a sync that began in between does not wait for the page.",
    ),
    core(
        "flight_keeps_its_stamp",
        "1.3, I-18",
        "The epoch is taken when a call is sent, too late: an fsync that caused the call does not wait for it.",
    ),
    core(
        "stamp_stays_to_the_last_answer",
        "1.3, T-18a",
        "The first answer of a page in two requests clears its stamp: fsync returns while the other part is in flight.",
    ),
    core(
        "flight_is_waited_for",
        "2.15, I-18",
        "fsync skips pages in flight: it returns before they are stored.",
    ),
    core(
        "failed_commit_makes_dirty",
        "T-18, K2",
        "A failed commit leaves its bytes clean: they are not sent again, and a crash loses them.",
    ),
    core(
        "commit_failure_between_checks_is_seen",
        "T-18a, 2.15",
        "fsync checks dirty and unstable bytes one after the other: a commit that fails in between hides them.",
    ),
    core(
        "commit_covers_earlier_changes",
        "2.17, T-75a",
        "A commit counts for a direct write or truncate that came while it ran: fsync then commits nothing.",
    ),
    core(
        "token_stays_to_the_last_answer",
        "I-12, T-29",
        "The file is free before the last answer: holes and truncates run beside a call that has old bytes.",
    ),
    core(
        "forgotten_bytes_are_sent_again",
        "2.22, T-75b",
        "After a reconnect, acknowledged bytes that no commit covered are not sent again: fsync calls them safe.",
    ),
    core(
        "flight_is_not_changed",
        "T-11, K7",
        "A write changes bytes that a call is reading: the backend stores a mixture, and checksums do not fit.",
    ),
    core(
        "size_before_unlock",
        "T-43, 2.7",
        "The size is published late: a write-back in between cuts off the end of an extending write as clean.",
    ),
    core(
        "rest_of_a_new_page_is_zeroed",
        "M8, I-9",
        "The rest of a new page keeps its memory's old content: other data of the cache shows behind a short write.",
    ),
    core(
        "cut_bytes_are_zeroed",
        "M8, T-44",
        "The tail of the last page is not zeroed by a truncate: the cut bytes are back when the file grows again.",
    ),
    core(
        "cut_pages_leave_the_cache",
        "E8, T-45",
        "Pages behind the new end stay cached: the bytes that a truncate took are back when the file grows again.",
    ),
    core(
        "reader_checks_again_after_copy",
        "T-07, 2.4",
        "A reader does not check whether its page was recycled while it copied: it returns bytes of another page.",
    ),
    core(
        "writer_checks_again_after_lock",
        "1.4, 2.2",
        "A page is not checked again once it is locked: a write lands in the page that its memory has become.",
    ),
    core(
        "fill_sees_invalidations",
        "K12, T-46",
        "A read in flight when the object changed caches its bytes: old bytes are served from then on.",
    ),
    core(
        "failed_fill_unlocks",
        "2.1.3, K10",
        "A read that fails leaves a partly written page locked: the next call that touches it waits forever.",
    ),
    core(
        "invalidation_keeps_local_bytes",
        "2.19, M4",
        "An announced remote change drops dirty bytes with the clean ones: a write vanishes without an error.",
    ),
    core(
        "unstable_bytes_are_not_evicted",
        "K2, I-8, T-18",
        "Acknowledged bytes are evicted before a commit: nothing commits them, and nothing can send them again.",
    ),
    core(
        "reclaim_never_waits",
        "T-14, 2.23",
        "A call that needs memory waits for a page in flight: one stuck backend stops readers of all others.",
    ),
    core(
        "direct_write_invalidates",
        "T-26, 2.10",
        "A direct write leaves its range cached: buffered readers see the old bytes from then on.",
    ),
    core(
        "direct_write_invalidates_again",
        "T-26, T-75a, 2.10",
        "A direct write does not invalidate once it has landed: readahead beside it leaves the old bytes cached.",
    ),
    core(
        "last_one_out_hands_the_lock_on",
        "K9, 2.10",
        "The last of several parallel direct writes does not wake the file's waiters: a buffered writer hangs.",
    ),
    core(
        "no_budget_while_waiting_for_a_lock",
        "2.24, decision 72",
        "Writers reserve budget and then wait for the file's lock, whose holder needs it: all hang, or seem full.",
    ),
    core(
        "append_keeps_the_lock",
        "T-25, 2.7",
        "A long append releases the file's lock between its pieces: another writer's append there is overwritten.",
    ),
    core(
        "view_of_the_range_is_copied_first",
        "T-04, 2.7",
        "A write whose source is a view of the same range is copied page by page: it reads bytes it has just written.",
    ),
    core(
        "pages_of_writable_view_stay_dirty",
        "M5, T-76",
        "Write-back makes a page clean that a writable view may still store to: later stores are never saved.",
    ),
    core(
        "views_end_with_the_file",
        "T-47, I-9",
        "A writable view is not detached by a truncate: its stores behind the end show when the file grows again.",
    ),
    core(
        "commit_follows_its_bytes",
        "2.15, I-18",
        "An awaited commit goes ahead of bytes that came back: a size or a name is durable without them.",
    ),
    core(
        "settling_commits_nothing",
        "2.22, 2.24",
        "The cache's own work on a file commits all it finds: an object is published with half of its bytes.",
    ),
    core(
        "returned_bytes_are_rolled_back",
        "2.18, 2.19",
        "A discard does not roll back bytes whose answer was lost: a later commit publishes the discarded bytes.",
    ),
    core(
        "discarded_bytes_are_not_kept",
        "2.17, 2.18",
        "Bytes read after a discard stay cached when the commit fails: memory shows bytes that storage forgot.",
    ),
    core(
        "discard_sees_extension",
        "I-10, 2.18",
        "A discard beside an extension uses the old size: the file is longer than its bytes, which read as zeros.",
    ),
    core(
        "rebase_sees_extension",
        "I-10, 2.19",
        "A rebase beside an extension uses the old size: bytes written behind it are cut off, their flush hangs.",
    ),
    core(
        "a_local_end_is_a_byte",
        "M6, I-10, 2.19",
        "Local bytes end with their page, not with the last byte: over a shorter version the file ends in rubbish.",
    ),
]
