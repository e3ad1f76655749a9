"""Slots that generate together: the predicted time of a step in which each of n sequences reads one token."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphsched.graph.cost import used_share
from graphsched.graph.tensor import Tensor
from graphsched.predict.plan import Plan, make_plan
from graphsched.types.shapes import Lengths


@dataclass(frozen=True)
class Together:
    """The plan of such a step; seconds are predicted, 0 without a described machine."""

    plan: Plan

    @property
    def n(self) -> int:
        """Sequences, and tokens of the step."""
        return self.plan.n_sequences

    @property
    def seconds(self) -> float:
        """Predicted seconds of the step."""
        return self.plan.timeline.wall if self.plan.timeline else 0.0

    @property
    def speed(self) -> float:
        """Tokens per second of all sequences together."""
        return self.n / self.seconds if self.seconds else 0.0

    @cached_property
    def experts(self) -> tuple[float, int] | None:
        """Distinct experts that a layer is expected to read, and how many it has; None without experts."""
        node = next((node for node in self.plan.built.nodes if node.traits.chosen_by), None)
        return None if node is None else self._experts(node)

    def _experts(self, node: Tensor) -> tuple[float, int]:
        n_expert = int(node.operand(node.traits.product[0]).shape[0])
        ids = Lengths(self.plan.lengths).shape(node.operand(node.traits.chosen_by).shape)
        return n_expert * used_share(n_expert, ids), n_expert

    def as_json(self) -> dict[str, Any]:
        """Sequences, predicted seconds and speeds (None if nothing is predicted), and expected experts."""
        is_known = bool(self.seconds)
        return {
            "n_parallel": self.n,
            "wall": self.seconds if is_known else None,
            "tokens_per_second": self.speed if is_known else None,
            "tokens_per_second_each": self.speed / self.n if is_known else None,
            "experts": self.experts and self.experts[0],
            "n_expert": self.experts and self.experts[1],
        }


def together(plan: Plan) -> Iterator[Together]:
    """Steps of 1, 2, 4, ... of the sequences of a plan's step, and of all of them."""
    n, n_kv = 1, plan.n_kv
    while n < plan.n_sequences:
        known = plan.planner.capacities
        yield Together(make_plan(plan.model, plan.options, n, n, n_kv, known, n))
        n *= 2
    yield Together(plan)
