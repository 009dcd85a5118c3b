"""Whose the places of a shard's arrays are, when another lineage has listed series otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from learner.names import UNKNOWN, known_as, named, placed


def test_groups_are_in_the_order_in_which_series_name_them_first() -> None:
    found = named(["s", "t", "s"], ["b", "b", "a"], ["", "DAIRY"])
    assert found["series"] == [("s", "b"), ("t", "b"), ("s", "a")]
    assert (found["store"], found["product"], found["category"]) == (
        ["s", "t"], ["b", "a"], ["", "DAIRY"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "before", "after"),
    [
        ("bc", "abc", [2.0, 3.0]),  # one less
        ("cab", "abc", [3.0, 1.0, 2.0]),  # in another order
        ("bdc", "abc", [2.0, 0.0, 3.0]),  # one that was not known
        ("ab", "abc", [1.0, 2.0]),  # listed later here, or never
        ("", "abc", []),
    ],
)
def test_values_go_with_their_names(now: str, before: str, after: list[float]) -> None:
    known = known_as(now, before)
    values = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert placed(values, known).tolist() == [after]
    # A name of which nothing was kept is as one that was not known.
    short = placed(values[:, :2], known)[0].tolist()
    assert short[: len(after)] == [0.0 if one == 3.0 else one for one in after][: len(short)]


def test_where_nothing_has_moved_nothing_is_copied() -> None:
    values = np.ones((2, 3), np.float32)
    assert placed(values, np.array([0, 1, 2, UNKNOWN])) is values
