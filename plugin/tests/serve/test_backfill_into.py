"""The backfill into a new index: where a run that was interrupted goes on."""

from __future__ import annotations

from gram_plugin.serve.backfill_checkpoint import Position, Reach, Tally
from gram_plugin.serve.backfill_into import resumed


def test_a_copy_that_was_refused_products_begins_anew_until_the_alias_has_moved() -> None:
    """Afterwards a copy of everything would bring back what clients have deleted from the new index."""
    refused = Position(3, {"old/0": Reach(5, 5)}, 70, Tally(read=6, coded=5, failed=1))
    assert resumed(refused, is_swapped=False) is None
    assert resumed(refused, is_swapped=True) == refused
    for is_swapped in (False, True):
        assert resumed(None, is_swapped=is_swapped) is None
        for start in (Position(1, tally=Tally(read=6, failed=1)), Position(3, tally=Tally(read=6, coded=6))):
            assert resumed(start, is_swapped=is_swapped) == start
