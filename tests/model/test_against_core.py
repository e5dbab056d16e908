"""The model matches the code: its traces, played on the real core, show equal sets and equal stored bytes."""

from __future__ import annotations

import pytest

from .player import Player, seen_in, traces
from .scenarios import PLAYED


@pytest.mark.parametrize("name", PLAYED)
def test_the_core_does_what_the_model_does(name: str) -> None:
    """They are compared after each event: sizes of D, W and U, blocks of L, content of running calls, waiters, stored
    and committed content. [M5, 2.15, 2.17]
    """
    for trace in traces(PLAYED[name], count=25, seed=7):
        player = Player(PLAYED[name])
        story: list[str] = []
        try:
            for label, state in trace:
                story.append(label)
                player.zeros.add((1, state.truncated))
                player.play(label)
                player.expect(seen_in(state), story)
            player.rig.cache.check()
        finally:
            player.finish()
