"""Predictions over numbers of tokens: where a prompt's weights begin to be uploaded, and what each length costs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from graphsched.predict.plan import Plan
from graphsched.predict.session import prompt_plans
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions


@dataclass(frozen=True)
class Length:
    """A prompt of so many tokens: the plans of its micro-batches, and measured seconds, if it was run."""

    n_tokens: int
    plans: tuple[Plan, ...]
    measured: float | None = None

    @property
    def predicted(self) -> float | None:
        """Predicted seconds; None without a described machine."""
        walls = [plan.timeline.wall for plan in self.plans if plan.timeline]
        return sum(walls) if walls else None

    @property
    def uploads(self) -> int:
        """Weights that are uploaded for it."""
        return sum(copy.is_weight for plan in self.plans for copy in plan.schedule.copies)

    @property
    def error(self) -> float | None:
        """How much the prediction is above what was measured, as a share of that."""
        return self.predicted / self.measured - 1 if self.predicted and self.measured else None

    def as_json(self) -> dict[str, Any]:
        """Plain data, seconds."""
        return {
            "n_tokens": self.n_tokens,
            "predicted": self.predicted,
            "uploads": self.uploads,
            "measured": self.measured,
            "error": self.error,
        }


def predicted(model: Model, options: SessionOptions, lengths: Iterable[int]) -> Iterator[Length]:
    """Prompts of these numbers of tokens, each in an empty context."""
    for n in lengths:
        yield Length(n, tuple(prompt_plans(model, options, n)))
