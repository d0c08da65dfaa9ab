"""The one tree along which sums over shards are added: floating-point sums depend on the order.

    node(0, k) = leaf k        node(l, k) = node(l−1, 2k) + node(l−1, 2k+1)

An absent right child passes the left one up unchanged. A worker adds up the maximal whole subtrees among its
leaves (`owned_nodes`, `subtree_sum`) and the coordinator completes the root (`reduce_nodes`): each sum is of
the same two numbers in the same order, however the leaves were spread over workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, Self, TypeVar

from gdmix_core.errors import InternalError

Node = tuple[int, int]
"""(level, number within the level); leaves are level 0."""


class Addable(Protocol):
    """Anything with an `add` that returns the sum of itself (left) and another (right)."""

    def add(self, other: Self, /) -> Self:
        """Return self + other."""
        ...


T = TypeVar("T", bound=Addable)


def root(leaves: int) -> Node:
    """Return the root of the tree over `leaves` ≥ 1 leaves."""
    if leaves < 1:
        raise InternalError(f"a summation tree needs at least one leaf, got {leaves}")
    return ((leaves - 1).bit_length(), 0)


def leaf_range(node: Node, leaves: int) -> range:
    """Return the leaves below a node, of which at least one MUST exist."""
    level, number = node
    first = number << level
    if level < 0 or number < 0 or first >= leaves:
        raise InternalError(f"the summation tree over {leaves} leaves has no node {node}")
    return range(first, min(first + (1 << level), leaves))


def owned_nodes(owned: Iterable[int], leaves: int) -> list[Node]:
    """Return the maximal whole subtrees of a set of leaves, in the order of their first leaf."""
    remaining = set(owned)
    if any(not 0 <= leaf < leaves for leaf in remaining):
        raise InternalError(f"leaves {sorted(remaining)} are not all within 0 … {leaves - 1}")
    top = root(leaves)[0]
    found: list[Node] = []
    for leaf in sorted(remaining):
        if found and leaf in leaf_range(found[-1], leaves):
            continue
        node = (0, leaf)
        # A node's leaves start at its own number: only an even node can grow to the right.
        while node[0] < top and node[1] % 2 == 0:
            parent = (node[0] + 1, node[1] // 2)
            if not all(below in remaining for below in leaf_range(parent, leaves)):
                break
            node = parent
        found.append(node)
    return found


def subtree_sum(node: Node, leaves: int, value_of_leaf: Callable[[int], T]) -> T:
    """Return a node's sum; leaves are asked for in order and at most one sum per level is held."""
    leaf_range(node, leaves)
    level, number = node
    if level == 0:
        return value_of_leaf(number)
    left = subtree_sum((level - 1, 2 * number), leaves, value_of_leaf)
    if (2 * number + 1) << (level - 1) >= leaves:
        return left
    return left.add(subtree_sum((level - 1, 2 * number + 1), leaves, value_of_leaf))


def reduce_nodes(nodes: Mapping[Node, T], leaves: int) -> T:
    """Complete the root from nodes that together cover every leaf exactly once."""
    covered = [leaf for node in nodes for leaf in leaf_range(node, leaves)]
    if sorted(covered) != list(range(leaves)):
        missing = sorted(set(range(leaves)) - set(covered))
        raise InternalError(
            f"{len(nodes)} partial sums cover {len(covered)} leaves of {leaves}"
            + (f"; the first missing one is {missing[0]}" if missing else "; some are covered twice")
        )
    return _completed(root(leaves), leaves, nodes)


def _completed(node: Node, leaves: int, nodes: Mapping[Node, T]) -> T:
    if node in nodes:
        return nodes[node]
    level, number = node
    left = _completed((level - 1, 2 * number), leaves, nodes)
    if (2 * number + 1) << (level - 1) >= leaves:
        return left
    return left.add(_completed((level - 1, 2 * number + 1), leaves, nodes))
