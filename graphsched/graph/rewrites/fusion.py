"""Fusions: nodes of a graph that one op computes in one step, and the rules that find them.

A fused op is defined as the composition of the ops that it replaces, so results are the same with and without it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor


@dataclass(frozen=True)
class Fusion:
    """A fused op that may replace nodes.

    stands_for: nodes whose results it computes, in the order of its own. inside: nodes that nothing else reads.
    """

    made: Tensor
    stands_for: tuple[Tensor, ...]
    inside: tuple[Tensor, ...] = ()

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """All nodes that the op replaces."""
        return self.stands_for + self.inside


Find = Callable[[Graph], Iterator[Fusion]]
# What a rule must know to be applied: the homes of weights, or the device of each node.
Needs = Literal["homes", "devices"]


@dataclass(frozen=True)
class Rule:
    """One kind of fusion, and the switch that turns it off. graphsched.schedule.fuse decides which finds are taken.

    needs: "homes" for an op that policy and placement shall see as one node, which is fused before assignment;
    "devices" for an op whose nodes are only known to run together after it.
    """

    switch: str
    find: Find
    needs: Needs
