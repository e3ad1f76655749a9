"""Samplers that leave fewer tokens, or make their logits closer: each a function of the candidates.

They do what llama.cpp's samplers of these names do, and take probabilities from the logits as they find them.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
_FEW: Final = 1024  # tokens that nearly always hold the whole nucleus


@dataclass(frozen=True)
class Candidates:
    """Logits [n] of the tokens [n] that may be chosen; without tokens, those of the whole vocabulary."""

    logits: Floats
    tokens: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return int(self.logits.size)

    def kept(self, at: NDArray[np.intp]) -> "Candidates":
        """The candidates at these places, in this order."""
        return Candidates(self.logits[at], at if self.tokens is None else self.tokens[at])

    def token(self, at: int) -> int:
        """The token at a place."""
        return at if self.tokens is None else int(self.tokens[at])

    @property
    def below(self) -> Floats:
        """How far the logits are below the largest one."""
        return self.logits - self.logits.max()

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """What each has of the probability of all."""
        weights = np.exp(self.below, dtype=np.float64)
        found: NDArray[np.float64] = weights / weights.sum()
        return found


def top_k(c: Candidates, k: int) -> Candidates:
    """The k likeliest, in the order of their ids; the first of equals."""
    return c.kept(_largest(c.logits, k))


def top_p(c: Candidates, p: float, least: float = 0.0) -> Candidates:
    """The likeliest that together have p of the probability, likeliest first.

    Of these those with `least` of the probability that the likeliest has, as `min_p` leaves them: to sort less.
    """
    below = c.below
    enough = p * np.exp(below).sum(dtype=np.float64)
    if least > 0:
        # Both leave the first ones of the same order, so it does not matter which goes first.
        c = min_p(c, least)
        below = c.below
    return c.kept(_nucleus(below, enough))


def min_p(c: Candidates, p: float) -> Candidates:
    """Those with p of the probability that the likeliest has."""
    return c.kept(np.flatnonzero(c.below >= math.log(p)))


def top_n_sigma(c: Candidates, n: float) -> Candidates:
    """Those whose logits are at most n standard deviations below the largest one."""
    finite = c.logits[np.isfinite(c.logits)].astype(np.float64)
    return c.kept(np.flatnonzero(c.logits >= finite.max() - n * finite.std()))


def typical(c: Candidates, p: float) -> Candidates:
    """Those that surprise about as much as one expects, as many as together have more than p of the probability."""
    probabilities = c.probabilities
    with np.errstate(divide="ignore"):
        surprise = -np.log(probabilities)
    there = probabilities > 0
    expected = (probabilities[there] * surprise[there]).sum()
    order = np.argsort(np.abs(surprise - expected), kind="stable")
    return c.kept(order[: int(probabilities[order].cumsum().searchsorted(p, side="right")) + 1])


def xtc(c: Candidates, threshold: float) -> Candidates:
    """Without those that are likely enough, but for the least likely of these; likeliest first."""
    probabilities = c.probabilities
    order = np.argsort(-probabilities, kind="stable")
    n_likely = int(np.count_nonzero(probabilities >= threshold))
    return c.kept(order[max(n_likely - 1, 0) :])


def temperature(c: Candidates, t: float) -> Candidates:
    """Logits divided by the temperature; the first of the likeliest alone where that is 0 or less."""
    if t <= 0:
        return c.kept(np.array([c.logits.argmax()]))
    with np.errstate(over="ignore"):  # a tiny temperature leaves the best token only
        return Candidates(c.below.astype(np.float64) / t, c.tokens)


def dynamic_temperature(c: Candidates, t: float, spread: float, exponent: float) -> Candidates:
    """As `temperature` with one from t - spread to t + spread, the higher the less the candidates differ."""
    if len(c) < 2:
        return c
    p = c.probabilities
    entropy = -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum()
    lowest = max(t - spread, 0.0)
    share = (entropy / math.log(len(c))) ** exponent
    return temperature(c, lowest + (t + spread - lowest) * share)


def drawn(c: Candidates, chance: float) -> int:
    """The place of the candidate that a number from 0 to 1 falls on, by the candidates' probabilities."""
    total = np.exp(c.below.astype(np.float64)).cumsum()
    return int(total.searchsorted(chance * total[-1], side="right"))


def _nucleus(below: Floats, enough: float) -> NDArray[np.intp]:
    """The likeliest tokens that together weigh enough, lower ids first among equals; all if they never do."""
    few = _largest(below, _FEW)
    if np.exp(below[few]).sum(dtype=np.float64) < enough:
        few = np.arange(below.size)
    order = few[np.argsort(-below[few], kind="stable")]
    weights = np.exp(below[order]).cumsum(dtype=np.float64)
    return order[: int(weights.searchsorted(enough)) + 1]


def _largest(x: Floats, k: int) -> NDArray[np.intp]:
    """Where the k largest are, in ascending order, the first of equals."""
    if k >= x.size:
        return np.arange(x.size)
    least = np.partition(x, -k)[-k]
    # argpartition would choose among equals as it likes, and differently with each SIMD width
    above, equal = np.flatnonzero(x > least), np.flatnonzero(x == least)
    return np.sort(np.concatenate((above, equal[: k - above.size])))
