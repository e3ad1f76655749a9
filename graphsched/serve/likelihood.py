"""Log probabilities of tokens before the samplers."""

import numpy as np
from numpy.typing import NDArray

from graphsched.serve.request import Chosen, Likely


def chosen(logits: NDArray[np.float32], token: int, n: int) -> Chosen:
    """A token's natural log probability by logits [n_vocab], and the n likeliest, lower ids first of equals."""
    total = _log_sum(logits)
    best = _largest(logits, min(n, len(logits)))
    likeliest = tuple(Likely(int(i), float(logits[i]) - total) for i in best)
    return Chosen(token, float(logits[token]) - total, likeliest)


def _log_sum(logits: NDArray[np.float32]) -> float:
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64)))


def _largest(logits: NDArray[np.float32], n: int) -> NDArray[np.intp]:
    """Where the n largest are, the largest first."""
    if not n:
        return np.zeros(0, np.intp)
    least = np.partition(logits, -n)[-n]
    found = np.flatnonzero(logits >= least)
    return found[np.argsort(-logits[found], kind="stable")][:n]
