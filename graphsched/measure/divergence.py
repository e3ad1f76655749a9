"""Kullback-Leibler divergence of a model from a base model, and the statistics that llama-perplexity gives of it."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.measure.logits_file import Words, decoded
from graphsched.measure.perplexity import Floats, Normalised, Tokens

PERCENTILES: Final = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)
ENOUGH: Final = 100  # values below which percentiles mean little
_UNLIKELY: Final = np.float32(-16)  # log probabilities of the base that add nothing

Measured = tuple[float, float]  # a value and its standard error


@dataclass
class Divergence:
    """Divergences and probabilities of each scored prediction, in order."""

    nll: list[Floats] = field(default_factory=list)
    nll_base: list[Floats] = field(default_factory=list)
    kld: list[NDArray[np.float64]] = field(default_factory=list)
    p_diff: list[Floats] = field(default_factory=list)
    is_same_top: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, p: Normalised, base_rows: Words, targets: Tokens) -> None:
        """Predictions of the model beside those of the base: Σ p_base · (log p_base - log p) and more."""
        base = decoded(base_rows, p.logits.shape[1])
        at = np.arange(len(targets))
        nll, nll_base = p.nll(targets), -base[at, targets]
        gap = base - p.logits
        gap += (p.largest + p.log_sum)[:, None]
        weight = np.exp(base) * (base > _UNLIKELY)
        self.nll.append(nll)
        self.nll_base.append(nll_base)
        self.kld.append((weight * gap).sum(axis=1, dtype=np.float64))
        self.p_diff.append(np.exp(-nll) - np.exp(-nll_base))
        self.is_same_top.append(p.logits.argmax(axis=1) == base.argmax(axis=1))

    def statistics(self) -> dict[str, Any]:
        """Means with their standard errors, and percentiles; probabilities as shares of 1."""
        return self.means() | {
            "kld_percentiles": percentiles(np.concatenate(self.kld)),
            "p_diff_percentiles": percentiles(np.concatenate(self.p_diff).astype(np.float64)),
        }

    def means(self) -> dict[str, Any]:
        """Means with their standard errors, of all so far."""
        nll, base, kld, p_diff = (
            np.concatenate(x).astype(np.float64) for x in (self.nll, self.nll_base, self.kld, self.p_diff)
        )
        log_ppl, log_base = mean_of(nll), mean_of(base)
        # Both models see the same tokens, so their errors move together: the ratio is surer than each by itself.
        covariance = float(np.mean(nll * base) - nll.mean() * base.mean()) / max(len(nll) - 1, 1)
        log_ratio = log_ppl[0] - log_base[0], _rooted(log_ppl[1] ** 2 + log_base[1] ** 2 - 2 * covariance)
        ppl, ppl_base = _exp(log_ppl), _exp(log_base)
        error = _rooted(ppl[1] ** 2 + ppl_base[1] ** 2 - 2 * ppl[0] * ppl_base[0] * covariance)
        squared = mean_of(p_diff**2)
        rms = math.sqrt(squared[0])
        same = float(np.concatenate(self.is_same_top).mean())
        return {
            "n": len(nll),
            "ppl": ppl,
            "ppl_base": ppl_base,
            "correlation": covariance / (log_ppl[1] * log_base[1]) if log_ppl[1] * log_base[1] else 1.0,
            "log_ppl_ratio": log_ratio,
            "ppl_ratio": _exp(log_ratio),
            "ppl_difference": (ppl[0] - ppl_base[0], error),
            "kld": mean_of(kld),
            "p_diff": mean_of(p_diff),
            "p_diff_rms": (rms, 0.5 * squared[1] / rms if rms else 0.0),
            "same_top": (same, _rooted(same * (1 - same) / max(len(nll) - 1, 1))),
        }


def mean_of(values: NDArray[np.float64]) -> Measured:
    """The mean and its standard error, 0 for so few values that it says nothing."""
    mean = float(values.mean())
    spread = float((values * values).mean()) - mean * mean
    return mean, math.sqrt(spread / (len(values) - 1)) if spread > 0 and len(values) > 10 else 0.0


def percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Maximum, percentiles from high to low, minimum."""
    found = np.percentile(values, PERCENTILES)
    named = {f"{p:.1f}%": float(x) for p, x in zip(PERCENTILES, found, strict=True)}
    return {"maximum": float(values.max()), **named, "minimum": float(values.min())}


def _exp(x: Measured) -> Measured:
    value = math.exp(min(x[0], 700.0))
    return value, value * x[1]


def _rooted(x: float) -> float:
    return math.sqrt(max(x, 0.0))
