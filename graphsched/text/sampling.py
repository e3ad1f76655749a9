"""From logits to the next token: penalties, top-k, top-p, min-p, temperature, in llama.cpp's order."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, OptionError

_RANGES: Final[dict[str, tuple[float, float, str]]] = {
    "temperature": (-math.inf, math.inf, "a finite number, 0 and below being greedy"),
    "top_k": (0, math.inf, "an integer from 0 (off) up"),
    "top_p": (0, 1, "a number from 0 to 1 (off)"),
    "min_p": (0, 1, "a number from 0 (off) to 1"),
    "repeat_penalty": (0.01, 100, "a number from 0.01 to 100, 1 being off"),
    "repeat_last_n": (-1, math.inf, "an integer from 0 (off) up, or -1 for all tokens"),
    "seed": (0, math.inf, "an integer from 0 up"),
}
_INTEGERS: Final = ("top_k", "repeat_last_n", "seed")
_FEW: Final = 1024  # tokens that nearly always hold the whole nucleus


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose a token, temperature <= 0 taking the likeliest; OptionError outside the valid ranges."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high, valid) in _RANGES.items():
            value: Any = getattr(self, name)
            if name == "seed" and value is None:
                continue
            kinds = int | np.integer if name in _INTEGERS else int | float | np.number
            is_number = isinstance(value, kinds) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or not low <= value <= high:
                raise OptionError(f"{name} is {value}, {valid} is needed")


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
