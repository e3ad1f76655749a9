"""Which sequence has read the most of a prompt already."""

from collections.abc import Iterable

import numpy as np

from graphsched.session.rows import Tokens
from graphsched.session.sequence import Sequence
from graphsched.text.tokenizer import Tokenizer

FEWEST = 32  # tokens below which a copy of a sequence is not worth its slot: reading them costs as little


def common(a: Tokens, b: Tokens) -> int:
    """Tokens with which both begin."""
    n = min(len(a), len(b))
    differ = (a[:n] != b[:n]).nonzero()[0]
    return int(differ[0]) if len(differ) else n


def usable(sequence: Sequence, tokens: Tokens) -> int:
    """Tokens of a prompt that need not be read behind a sequence; the last one has to be, for its logits."""
    there = common(sequence.tokens, tokens[:-1])
    return sequence.nearest(there) if there else 0


def longest(sequences: Iterable[tuple[int, Sequence]], tokens: Tokens) -> tuple[int, int]:
    """(tokens that need not be read, number of the sequence that has them); number -1 if there are none."""
    found = ((usable(sequence, tokens), -number) for number, sequence in sequences)
    n, number = max(found, default=(0, 1))
    return (n, -number) if n else (0, -1)


def turning_points(prompt: Tokens, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Positions in a prompt to which conversations come back: where its last message begins, or its last token.

    A template may write the end of a prompt in another way once there is an answer behind it (thoughts are dropped),
    but hardly ever what stands before the control token with which the last message begins.
    """
    tail = prompt[-_TAIL:].tolist()
    hidden = [i for i, token in enumerate(tail) if not tokenizer.piece(token)]
    place = len(prompt) - len(tail) + hidden[-1] if hidden else len(prompt) - 1
    return (place,) if place > 0 else ()


_TAIL = 64  # tokens at the end of a prompt among which its last message begins


def as_tokens(ids: Iterable[int]) -> Tokens:
    """Token ids as an engine takes them."""
    return np.fromiter(ids, np.int32)
