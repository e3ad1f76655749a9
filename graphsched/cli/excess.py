"""Sentences about values that are taken and hardly meant: a context beyond training, threads beyond cores."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphsched.session.options import SessionOptions


def context_hint(n_ctx: int, trained: int) -> str | None:
    """A sentence if a context is longer than those of a model's training; `trained` is 0 where that is not known."""
    return (
        f"the model was trained on {trained} tokens, the context has {n_ctx}" if 0 < trained < n_ctx else None
    )


def threads_hint(options: "SessionOptions") -> str | None:
    """A sentence if more threads compute than there are cores for them, which is slow."""
    from graphsched.session.options import usable_cores

    cores = usable_cores()
    return (
        f"{options.threads} threads on {cores} core{'s' * (cores > 1)}" if options.threads > cores else None
    )
