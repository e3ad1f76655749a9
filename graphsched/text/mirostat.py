"""Mirostat: tokens that surprise as much as one wants, on average; both versions of the paper, as in llama.cpp."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.text.candidates import Candidates, drawn, top_k

Probabilities = NDArray[np.float64]
_LOOKED_AT: Final = 100  # likeliest tokens from which version 1 estimates the exponent


class Mirostat:
    """Chooses among candidates. tau: the surprise that is wanted, in bits; eta: how fast the choice follows it."""

    def __init__(
        self, version: int, tau: float, eta: float, n_vocab: int, random: Callable[[], float]
    ) -> None:
        self._version, self._tau, self._eta, self._n_vocab = version, tau, eta, n_vocab
        self._random = random
        self._most = 2 * tau  # the surprise that is allowed now

    def choose(self, c: Candidates) -> int:
        """The place of the chosen one, likeliest first; what it surprised changes what is allowed next."""
        c = c.kept(np.argsort(-c.logits, kind="stable"))
        c = top_k(c, self._k(c.probabilities)) if self._version == 1 else _below(c, self._most)
        at = drawn(c, self._random())
        self._most -= self._eta * (-math.log2(c.probabilities[at]) - self._tau)
        return c.token(at)

    def _k(self, p: Probabilities) -> int:
        """How many tokens version 1 leaves: probabilities are taken to fall with a power of the rank."""
        s = exponent(p)
        e = s - 1
        if e == 0:
            return len(p)
        with np.errstate(over="ignore"):
            base = np.float64(e * 2**self._most / (1 - self._n_vocab**-e))
            k = base ** (1 / s if s > 0 else math.inf)
        return max(int(min(k, len(p))), 1)


def exponent(p: Probabilities) -> float:
    """The power of the rank with which probabilities fall, likeliest first: a fit to the first ones."""
    p = p[:_LOOKED_AT]
    p = p[p > 0]
    if len(p) < 2:
        return 1.0
    rank = np.arange(1, len(p))
    t, b = np.log((rank + 1) / rank), np.log(p[:-1] / p[1:])
    return float((t * b).sum() / (t * t).sum())


def _below(c: Candidates, most: float) -> Candidates:
    """Those that surprise no more than that, the likeliest in any case."""
    with np.errstate(divide="ignore"):
        n = int(np.count_nonzero(-np.log2(c.probabilities) <= most))
    return c.kept(np.arange(max(n, 1)))
