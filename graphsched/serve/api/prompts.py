"""Prompts that are no chats: texts, tokens, and lists of them."""

from collections.abc import Sequence
from typing import Any, Final

from graphsched.serve.api.failures import refused
from graphsched.serve.api.kinds import Either, ListOf, Text, integer
from graphsched.serve.api.served import Served

MAX_PROMPTS: Final = 256
TOKEN: Final = integer(0, (1 << 31) - 1)
TOKENS: Final = ListOf(TOKEN, 1 << 24, 1)
ONE: Final = Either((Text(), TOKENS))
PROMPT: Final = Either((Text(), TOKENS, ListOf(ONE, MAX_PROMPTS, 1)))
Prompt = str | tuple[int, ...]


def prompts_of(given: Any) -> list[Prompt]:
    """The prompts of a field that has one or several."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


def ids_of(served: Served, prompt: Prompt, at: str) -> tuple[int, ...]:
    """The tokens of a prompt; of a text with what the model wants in front. Failure for ids that do not exist."""
    if isinstance(prompt, str):
        return tuple(served.service.tokenizer.encode(prompt, parse_special=True))
    return checked(served, prompt, at)


def checked(served: Served, ids: Sequence[int], at: str) -> tuple[int, ...]:
    """The same ids. Failure for one outside of the vocabulary."""
    n_vocab = served.service.model.n_vocab
    if bad := next((token for token in ids if token >= n_vocab), None):
        raise refused(at, f"has token {bad}, the vocabulary has tokens 0 to {n_vocab - 1}")
    return tuple(ids)
