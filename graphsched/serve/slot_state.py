"""A slot as others see it."""

from dataclasses import dataclass

from graphsched.serve.slot import Slot


@dataclass(frozen=True)
class SlotState:
    """A slot as others see it. cached: tokens of its prompt that were not read again; rates are of its last answer."""

    id: int
    is_processing: bool
    name: str
    n_past: int
    n_ctx: int
    prompt_tokens: int
    generated_tokens: int
    tokens_per_second: float
    cached: int


def state_of(slot: Slot, n_ctx: int) -> SlotState:
    """A slot as it is now."""
    task, n_past = slot.task, slot.sequence.n_past
    if task is None:
        return SlotState(slot.id, False, "", n_past, n_ctx, 0, 0, 0.0, 0)
    job, timings = task.job, task.job.timings()
    n = sum(len(answer.tokens) for answer in task.answers)
    rate = n * 1e3 / timings.generate_ms if n and timings.generate_ms else 0.0
    name = job.request.name
    return SlotState(
        slot.id, True, name, n_past, n_ctx, timings.prompt_tokens, n, rate, timings.cached_tokens
    )
