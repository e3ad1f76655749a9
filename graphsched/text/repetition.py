"""Samplers against repetition: penalties for tokens that came, and for those that would go on repeating."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Breakers = Mapping[int, Collection[tuple[int, ...]]]
_LONGEST_TAIL: Final = 20  # tokens of a breaker that are looked at, as in llama.cpp
_LONGEST: Final = 40  # bytes of one
_MOST: Final = math.log(float(np.finfo(np.float32).max))  # no penalty is above the largest float32


class Vocabulary(Protocol):
    """What of a tokenizer is asked."""

    n_vocab: int

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False, continuing: bool = False
    ) -> list[int]:
        """Token ids of a text."""

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token; of a special one only if asked for."""


def penalised(
    logits: Floats, recent: Iterable[int], repeat: float, frequency: float = 0.0, presence: float = 0.0
) -> Floats:
    """A copy in which each recent token is less likely.

    `repeat` divides its logit, or multiplies it below 0, however often it came; `presence` is taken off once,
    `frequency` for each time.
    """
    tokens, counts = np.unique(np.fromiter(recent, np.intp), return_counts=True)
    x = logits[tokens]
    logits = logits.copy()
    x = np.where(x > 0, x / np.float32(repeat), x * np.float32(repeat))
    logits[tokens] = x - (counts * frequency + presence).astype(x.dtype)
    return logits


def without_repeats(
    logits: Floats, recent: Sequence[int], breakers: Breakers, *, multiplier: float, base: float, allowed: int
) -> Floats:
    """A copy in which tokens that would go on repeating what came before are less likely: DRY.

    A token that makes a repeat of `allowed` tokens longer loses `multiplier`, and `base` times as much for each token
    that the repeat is longer. Repeats do not reach over breakers.
    """
    lengths = repeats(recent, breakers, allowed)
    tokens = np.array([t for t in lengths if () not in breakers.get(t, ())], np.intp)
    if not tokens.size:
        return logits
    longer = np.array([lengths[int(t)] - allowed for t in tokens], np.float64)
    most = _MOST / math.log(base) if base > 1 else math.inf
    logits = logits.copy()
    logits[tokens] -= (multiplier * base ** np.minimum(longer, most)).astype(logits.dtype)
    return logits


def repeats(recent: Sequence[int], breakers: Breakers, allowed: int) -> dict[int, int]:
    """For each token, of how many tokens the repeat is that it would make longer; those of `allowed` tokens and more.

    A repeat are the last tokens, if they came before; what followed them then would make it longer.
    """
    back = np.array(recent, np.int64)[::-1]  # the last one first
    limit = _until_breaker(back.tolist(), breakers)
    lengths = np.zeros(back.size, np.int64)  # of what ends at each place as the last tokens do
    at = np.arange(1, back.size)
    for length in range(limit):
        at = at[at + length < back.size]
        at = at[back[at + length] == back[length]]
        if not at.size:
            break
        lengths[at] = length + 1
    found: dict[int, int] = {}
    for place in np.flatnonzero(lengths >= max(allowed, 1)):
        follows = int(back[place - 1])
        found[follows] = max(found.get(follows, 0), int(lengths[place]))
    return found


def _until_breaker(back: Sequence[int], breakers: Breakers) -> int:
    """How many of the last tokens came behind the last breaker; all if there was none."""
    for i, token in enumerate(back):
        tails = [
            tail for tail in breakers.get(token, ()) if tuple(back[max(i - len(tail), 0) : i][::-1]) == tail
        ]
        if tails:
            return i - max(map(len, tails))
    return len(back)


def breakers_of(texts: Iterable[str], vocabulary: Vocabulary) -> dict[int, set[tuple[int, ...]]]:
    """The tokens with which a breaker can begin, and what has to follow: nothing if it is inside of the token."""
    found: dict[int, set[tuple[int, ...]]] = {}
    breakers = [text.encode()[:_LONGEST] for text in texts]
    for token in range(vocabulary.n_vocab if breakers else 0):
        piece = vocabulary.piece(token, special=True)
        for breaker in breakers:
            for tail in _tails(piece, breaker, vocabulary) if breaker[0] in piece else ():
                found.setdefault(token, set()).add(tail)
    return found


def _tails(piece: bytes, text: bytes, vocabulary: Vocabulary) -> Iterator[tuple[int, ...]]:
    if text in piece:
        yield ()
        return
    for n in range(1, min(len(piece) + 1, len(text))):
        if piece.endswith(text[:n]):
            rest = text[n:].decode("utf-8", "replace")
            yield tuple(vocabulary.encode(rest, add_special=False)[:_LONGEST_TAIL])
