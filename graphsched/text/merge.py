"""Byte-pair merging for both kinds of vocabulary, which differ in how they rank a pair."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from heapq import heappop, heappush
from typing import Final

_LONG_WORD: Final = 64  # characters; longer ones hardly come again


def merge(symbols: list[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Merges neighbours, the lowest rank first and the leftmost among equals, until no pair has a rank.

    O(n log n): an untrusted text may be one word of any length.
    """
    n = len(symbols)
    before, after = [*range(-1, n)], [*range(1, n + 1), n]
    symbols = [*symbols, ""]  # the neighbour of both ends: index n from the last one, -1 from the first one
    heap: list[tuple[float, int, int, int]] = []

    def offer(i: int, j: int) -> None:
        left, right = symbols[i], symbols[j]
        if left and right and (r := rank(left, right)) is not None:
            heappush(heap, (r, i, j, len(left) + len(right)))

    for i in range(n - 1):
        offer(i, i + 1)
    while heap:
        _, i, j, size = heappop(heap)
        left, right = symbols[i], symbols[j]
        if not left or not right or len(left) + len(right) != size:
            continue  # one of the two has merged since
        symbols[i], symbols[j] = left + right, ""
        after[i] = k = after[j]
        before[k] = i
        offer(before[i], i)
        offer(i, k)
    return [s for s in symbols if s]


def per_word(encode: Callable[[str], list[int]]) -> Callable[[Iterable[str]], list[int]]:
    """An encoder of words, from one of a word, that remembers the short ones."""
    cached = lru_cache(maxsize=1 << 16)(encode)

    def encode_all(words: Iterable[str]) -> list[int]:
        return [i for w in words for i in (cached(w) if len(w) <= _LONG_WORD else encode(w))]

    return encode_all
