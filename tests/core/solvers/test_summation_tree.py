from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.errors import InternalError
from gdmix_core.solvers.summation_tree import leaf_range, owned_nodes, reduce_nodes, root, subtree_sum


@dataclass(frozen=True)
class Words:
    """Shows the very order of additions."""

    text: str

    def add(self, other: Words) -> Words:
        return Words(f"({self.text}+{other.text})")


@dataclass(frozen=True)
class Number:
    value: float

    def add(self, other: Number) -> Number:
        return Number(self.value + other.value)


def leaf(number: int) -> Words:
    return Words(str(number))


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        (1, "0"),
        (2, "(0+1)"),
        (3, "((0+1)+2)"),
        (5, "(((0+1)+(2+3))+4)"),
        (6, "(((0+1)+(2+3))+(4+5))"),
        (7, "(((0+1)+(2+3))+((4+5)+6))"),
    ],
)
def test_the_order_of_additions(leaves: int, expected: str) -> None:
    assert subtree_sum(root(leaves), leaves, leaf).text == expected
    assert reduce_nodes({(0, k): leaf(k) for k in range(leaves)}, leaves).text == expected


def test_owned_nodes_are_maximal_whole_subtrees() -> None:
    assert owned_nodes(range(8), 8) == [(3, 0)]
    assert owned_nodes([0, 1, 2, 4, 5], 8) == [(1, 0), (0, 2), (1, 2)]
    assert owned_nodes([1, 2], 4) == [(0, 1), (0, 2)]
    assert owned_nodes([4], 5) == [(2, 1)]  # the lone leaf is passed up unchanged
    assert owned_nodes([], 5) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_split_over_workers_gives_the_same_bytes(data: st.DataObject) -> None:
    leaves = data.draw(st.integers(1, 40))
    values = np.random.default_rng(leaves).standard_normal(leaves) * 10.0 ** np.arange(leaves)
    owner = data.draw(st.lists(st.integers(0, 3), min_size=leaves, max_size=leaves))
    nodes = {}
    for worker in range(4):
        owned = {k for k in range(leaves) if owner[k] == worker}
        mine = owned_nodes(owned, leaves)
        assert sorted(k for node in mine for k in leaf_range(node, leaves)) == sorted(owned)
        nodes |= {node: subtree_sum(node, leaves, lambda k: Number(values[k])) for node in mine}
    whole = subtree_sum(root(leaves), leaves, lambda k: Number(values[k]))
    shuffled = dict(sorted(nodes.items(), key=lambda item: hash(item[0])))
    assert reduce_nodes(shuffled, leaves) == whole
    words = {node: subtree_sum(node, leaves, leaf) for node in nodes}
    assert reduce_nodes(words, leaves) == subtree_sum(root(leaves), leaves, leaf)


def test_missing_and_double_leaves_are_errors() -> None:
    with pytest.raises(InternalError, match="first missing one is 2"):
        reduce_nodes({(1, 0): leaf(0)}, 3)
    with pytest.raises(InternalError, match="covered twice"):
        reduce_nodes({(1, 0): leaf(0), (0, 0): leaf(0), (0, 2): leaf(2)}, 3)
    with pytest.raises(InternalError, match="no node"):
        reduce_nodes({(0, 9): leaf(9)}, 3)
    with pytest.raises(InternalError, match="at least one leaf"):
        root(0)
    with pytest.raises(InternalError, match="not all within"):
        owned_nodes([3], 3)
