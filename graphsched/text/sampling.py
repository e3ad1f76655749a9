"""From logits to the next token: penalties, top-k, top-p, min-p, temperature, in llama.cpp's order."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error
from graphsched.text.options import SamplingOptions

__all__ = ["Sampler", "SamplingOptions"]

_FEW: Final = 1024  # tokens that nearly always hold the whole nucleus


class Sampler:
    """Chooses tokens one after the other; the same seed, logits and accepted tokens give the same choices."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        window = options.repeat_last_n
        self._recent: deque[int] = deque(maxlen=None if window < 0 else window)
        self._random = np.random.Generator(np.random.PCG64(options.seed))
        self._penalises = options.repeat_penalty != 1 and window != 0

    def accept(self, token: int) -> None:
        """Counts a token, of the prompt or chosen, for the repeat penalty."""
        if self._penalises:
            self._recent.append(token)

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token for logits [vocab]; Error if they hold a NaN or nothing but -inf."""
        if self._penalises and self._recent:
            logits = _penalised(logits, self._recent, self.options.repeat_penalty)
        best = int(logits.argmax())  # the first of equals; a NaN wins over every number
        if not math.isfinite(logits[best]):
            raise Error(f"the model gave no usable logits, the largest is {logits[best]} (token {best})")
        if self.options.temperature <= 0:
            return best
        tokens, below = _candidates(logits, float(logits[best]), self.options)
        with np.errstate(over="ignore"):  # a tiny temperature leaves the best token only
            total = np.exp(below.astype(np.float64) / self.options.temperature).cumsum()
        return int(tokens[total.searchsorted(self._random.random() * total[-1], side="right")])


def _penalised(logits: NDArray[np.float32], recent: Iterable[int], penalty: float) -> NDArray[np.float32]:
    """A copy in which each recent token is less likely, however often it came."""
    tokens = np.array(sorted(set(recent)), np.intp)
    x = logits[tokens]
    logits = logits.copy()
    logits[tokens] = np.where(x > 0, x / np.float32(penalty), x * np.float32(penalty))
    return logits


def _candidates(
    logits: NDArray[np.float32], best: float, o: SamplingOptions
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Tokens that top-k, top-p and min-p leave, and how far their logits are below the best."""
    tokens = _largest(logits, o.top_k) if o.top_k else np.arange(logits.size)
    below = (logits[tokens] if o.top_k else logits) - np.float32(best)
    enough = o.top_p * np.exp(below).sum(dtype=np.float64) if o.top_p < 1 else math.inf
    if (
        o.min_p > 0
    ):  # before top-p, to sort less: both keep the first of the same order, so the result is the same
        keep = np.flatnonzero(below >= math.log(o.min_p))
        tokens, below = tokens[keep], below[keep]
    if o.top_p < 1:
        keep = _nucleus(below, enough)
        tokens, below = tokens[keep], below[keep]
    return tokens, below


def _nucleus(below: NDArray[np.float32], enough: float) -> NDArray[np.intp]:
    """The likeliest tokens that together weigh enough, lower ids first among equals; all if they never do."""
    few = _largest(below, _FEW)
    if np.exp(below[few]).sum(dtype=np.float64) < enough:
        few = np.arange(below.size)
    order = few[np.argsort(-below[few], kind="stable")]
    weights = np.exp(below[order]).cumsum(dtype=np.float64)
    return order[: int(weights.searchsorted(enough)) + 1]


def _largest(x: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Where the k largest are, in ascending order, the first of equals."""
    if k >= x.size:
        return np.arange(x.size)
    least = np.partition(x, -k)[-k]
    # argpartition would choose among equals as it likes, and differently with each SIMD width
    above, equal = np.flatnonzero(x > least), np.flatnonzero(x == least)
    return np.sort(np.concatenate((above, equal[: k - above.size])))
