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
# What must be known before a rule can be applied: where weights live, or where each node runs.
Needs = Literal["homes", "places"]


@dataclass(frozen=True)
class Rule:
    """One kind of fusion; `switch` turns it off. The driver, graphsched.schedule.fuse, decides which finds it takes.

    needs: "homes" for an op that policy and placement shall see as one node, so that it is made before nodes have
    places; "places" for an op whose parts are only known to run together once they have.
    """

    switch: str
    find: Find
    needs: Needs
