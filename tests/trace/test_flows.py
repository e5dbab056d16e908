"""The bookkeeping of bytes against a model that has an entry for each byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagecache.observe.tracing.flows import Extents, Step

SIZE = 24
RANGE = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))
OPERATION = st.tuples(st.sampled_from(["put", "put_under", "take"]), RANGE)


@given(st.lists(OPERATION, max_size=30))
def test_extents_are_as_a_list_of_bytes(operations: list[tuple[str, tuple[int, int]]]) -> None:
    """Ranges are put, put under and taken in any order: each byte comes from the step that a list would give."""
    extents, model = Extents(), [None] * SIZE  # type: tuple[Extents, list[Step | None]]
    for what, (start, end) in operations:
        step = Step(None)
        if what == "take":
            taken: list[Step | None] = [None] * SIZE
            for s, e, found in extents.take(start, end):
                taken[s:e] = [found] * (e - s)
            assert taken[start:end] == model[start:end]
            model[start:end] = [None] * (end - start)
        elif what == "put":
            extents.put(start, end, step)
            model[start:end] = [step] * (end - start)
        else:
            extents.put_under(start, end, step)
            model[start:end] = [step if old is None else old for old in model[start:end]]
    found_all: list[Step | None] = [None] * SIZE
    for s, e, found in extents.take(0, SIZE):
        assert found_all[s:e] == [None] * (e - s)
        found_all[s:e] = [found] * (e - s)
    assert found_all == model
