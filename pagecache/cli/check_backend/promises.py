"""The promise behind each check of the conformance suite, in the words of a backend author.

Checks are grouped into capabilities, the rows of the table; each has one sentence on the promise that the cache relies
on, and its source: `rule` is a number of "What you have to keep" in docs/how-to/backend.md, or a section there, and 2.x
is of docs/contract.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CAPABILITIES", "PROMISES", "Promise"]


@dataclass(frozen=True, slots=True)
class Promise:
    """One sentence.

    Attributes:
        capability: a row of the table.
        sentence: the promise that the cache relies on.
        rule: its source.
    """

    capability: str
    sentence: str
    rule: str


HOW_TO = "docs/how-to/backend.md"
COUNT = f"{HOW_TO}, rule 2 (count honestly)"
REPEAT = f"{HOW_TO}, rule 3 (repeating is harmless)"
END = f"{HOW_TO}, rule 4 (past the end)"
REFLECT = f"{HOW_TO}, rule 5 (reads reflect)"
COMMIT = f"{HOW_TO}, rule 6 (commit makes durable)"
VERSIONS = f"{HOW_TO}, rule 7 (versions)"
ONE = f"{HOW_TO}, rule 8 (one object)"
BUFFERS = f"{HOW_TO}, rule 1 (buffers are borrowed)"
RELY = f"{HOW_TO}, what you may rely on"
LIMITS = f"{HOW_TO}, limits"
METHODS = "pagecache.backends.protocol, Backend"
NAMES = "docs/contract.md 2.20"

CAPABILITIES = (
    "limits",
    "open and stat",
    "read and write",
    "units and places",
    "buffers",
    "truncate",
    "commit",
    "versions",
    "several at once",
    "publish by commit",
    "recognises",
    "punch_hole",
    "next_data",
    "rollback",
    "remove",
    "rename",
    "list",
    "canonical",
    "identity",
    "sync",
    "directories",
    "links",
    "attributes",
)
"""The rows, in their order."""


def _of(capability: str, rule: str, **sentences: str) -> dict[str, Promise]:
    return {f"test_{name}": Promise(capability, sentence, rule) for name, sentence in sentences.items()}


PROMISES: dict[str, Promise] = {
    **_of("limits", LIMITS, limits_are_limits="`limits` is a BackendLimits."),
    **_of(
        "open and stat",
        METHODS,
        missing_object_is_not_found="open and stat of an object that does not exist raise FileNotFoundError.",
        created_object_is_empty="open(create=True) makes an object of no bytes, which stat finds once it is committed.",
        create_keeps_an_existing_object="open(create=True) of an object that exists changes nothing of it.",
        exclusive_create_refuses_an_existing_object=(
            "open(create=True, exclusive=True) of an object that exists raises FileExistsError and changes nothing."
        ),
        one_of_many_exclusive_creators_wins="Of several who create an object exclusively at once, exactly one does.",
    ),
    **_of(
        "read and write",
        COUNT,
        bytes_come_back="read_into gives back, byte by byte, what write_from took; a read is short only at the end.",
        read_ends_at_the_end="read_into answers 0 at and past the end, and nothing else there.",
        read_leaves_neighbours_alone="read_into fills the buffers that it was given, and no more.",
        write_changes_its_range_only="write_from changes the bytes of its range, and no others.",
    ),
    **_of(
        "read and write",
        REPEAT,
        repeating_a_write_is_harmless="The same write_from may be made again, at any time, and changes nothing more.",
    ),
    **_of(
        "read and write",
        END,
        write_past_the_end_leaves_zeros="write_from past the end extends the object, and the gap reads as zeros.",
    ),
    **_of(
        "read and write",
        REFLECT,
        reads_follow_commits="read_into shows what has been committed, also to who has read the old content before.",
        random_operations_match_a_model="Writes, truncates, holes, commits, opens in any order give the right bytes.",
    ),
    **_of(
        "units and places",
        LIMITS,
        any_place_that_the_units_allow=(
            "Every offset and length that read_unit and write_unit allow is taken; where they are 1, every one."
        ),
        longest_call="Calls of max_read and max_write bytes are taken, and their bytes come back.",
    ),
    **_of(
        "buffers",
        BUFFERS,
        buffers_are_taken_in_order="Up to max_vectors buffers are filled, or stored, in their order.",
        buffers_are_not_changed_and_not_kept="Buffers are not changed by write_from, and not kept after a call.",
    ),
    **_of(
        "truncate",
        REFLECT,
        truncate_cuts="truncate to less cuts the object there, for every reader.",
        truncate_extends_by_zeros="truncate to more extends the object by zeros.",
        cut_bytes_do_not_come_back="Bytes that were cut off read as zeros when the object grows again.",
    ),
    **_of(
        "commit",
        COMMIT,
        second_open_sees_what_was_committed="What was committed is seen by everybody who opens the object.",
        commit_can_be_repeated="commit may be called again, with nothing new.",
    ),
    **_of(
        "versions",
        VERSIONS,
        commit_returns_the_version_that_stat_gives="commit returns the version that stat gives from then on, or None.",
        version_changes_with_the_content="The version is another one whenever the content may be another.",
        object_made_anew_has_nothing_of_the_old_one=(
            "An object that was removed and made again has no byte of the old one, and another version."
        ),
    ),
    **_of(
        "several at once",
        RELY,
        writes_of_disjoint_ranges_side_by_side=(
            "Several write_from of disjoint ranges of one object may run at once (else say ordered_writes=True)."
        ),
        read_beside_writes_sees_old_or_new="read_into may run beside write_from, and sees old or new bytes.",
        objects_side_by_side="Several objects may be used at the same time.",
    ),
    **_of(
        "publish by commit",
        LIMITS,
        nothing_is_visible_before_commit="With commit_on_close nobody else sees an object, or a change, before commit.",
    ),
    **_of(
        "recognises",
        COMMIT,
        own_commit_is_recognised="recognises() tells the commits of another file of the object from other versions.",
    ),
    **_of(
        "punch_hole",
        REFLECT,
        punched_hole_reads_as_zeros="A punched range reads as zeros, and nothing beside it changes.",
        hole_changes_no_size="punch_hole never changes the size.",
    ),
    **_of(
        "next_data",
        f"{HOW_TO}, optional methods",
        no_data_is_hidden="Bytes that next_data passes over read as zeros; at the end of the object it answers None.",
    ),
    **_of(
        "rollback",
        COMMIT,
        rollback_forgets="rollback forgets what was acknowledged and not committed; commit_on_close requires it.",
    ),
    **_of(
        "remove",
        NAMES,
        removed_object_is_not_found="A removed object is not found, nor removed again; others stay.",
    ),
    **_of(
        "rename",
        NAMES,
        rename_moves="rename moves an object, and only one that is there.",
        rename_that_is_repeated_leaves_the_destination="a rename that is repeated is FileNotFoundError, and harmless.",
        creation_that_was_closed_uncommitted_is_no_source_of_a_rename=(
            "a creation that was closed without a commit is not renamed, and replaces nothing."
        ),
        rename_replaces_if_allowed="rename replaces what has the new name, or with replace=False is FileExistsError.",
        rename_without_replacing_moves_to_a_free_name="rename with replace=False moves to a name that is free.",
    ),
    **_of(
        "list",
        METHODS,
        list_has_every_object_with_key_and_size="list gives every object once, with its key and size.",
        list_follows_what_changes="list has no object that was removed, and the sizes of now.",
        list_obeys_the_prefix="list(prefix) gives the objects whose key begins so, and no others.",
    ),
    **_of(
        "canonical",
        ONE,
        canonical_is_stable_and_keeps_objects_apart=(
            "canonical gives one and the same key for a name, there or not, and another for each other name."
        ),
    ),
    **_of(
        "identity",
        ONE,
        identity_belongs_to_the_object=(
            "every status of an object has its identity, under any name, and no other object has it."
        ),
        open_file_never_reaches_another_object_of_its_name=(
            "an open file never reads or changes another object that has its name now."
        ),
    ),
    **_of("sync", METHODS, sync_after_everything="sync may be called at any time, and again."),
    **_of("directories", METHODS, directories="mkdir, rmdir and readdir work, and open says IsADirectoryError."),
    **_of("links", ONE, links="Links work, and the status of an object has one identity under all its names."),
    **_of("attributes", METHODS, attributes="setattr changes what is given, and stat shows it."),
}
