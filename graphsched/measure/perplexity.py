"""Perplexity over consecutive windows of a text, cut and scored as llama-perplexity does.

Windows of n_ctx tokens; where the model begins texts with BOS, BOS stands in the place of a window's first token. The
predictions behind token n_ctx / 2, up to the last but one, are scored: each has half a window of context or more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, OptionError
from graphsched.session.session import Session

LEAST_WINDOW = 3  # tokens: one is scored
_LOGIT_BYTES = 1 << 25  # of logits that are looked at together

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """Tokens cut into windows, int32 [n, n_ctx]."""

    tokens: Tokens

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """Tokens of a window."""
        return int(self.tokens.shape[1])

    @property
    def first(self) -> int:
        """The first position whose prediction is scored."""
        return self.n_ctx // 2

    @property
    def n_scored(self) -> int:
        """Predictions scored in each window."""
        return self.n_ctx - 1 - self.first

    def targets(self, window: int) -> Tokens:
        """The tokens that a window's scored predictions should give."""
        return self.tokens[window, self.first + 1 :]


def cut(tokens: list[int], n_ctx: int, at_most: int = -1, source: str = "the text") -> Windows:
    """The whole windows in a text, at most so many (-1: all). OptionError where the text is shorter than two."""
    if n_ctx < LEAST_WINDOW:
        raise OptionError(f"-c is {n_ctx}, windows of {LEAST_WINDOW} tokens or more are needed")
    if len(tokens) < 2 * n_ctx:
        raise OptionError(
            f"{source}: has {len(tokens)} tokens, {2 * n_ctx} are needed for windows of {n_ctx}; "
            "smaller ones are -c N"
        )
    count = len(tokens) // n_ctx if at_most < 0 else min(at_most, len(tokens) // n_ctx)
    return Windows(np.array(tokens[: count * n_ctx], np.int32).reshape(count, n_ctx))


def window_logits(session: Session, windows: Windows, window: int) -> Iterator[tuple[Floats, Tokens]]:
    """Logits [n, n_vocab] of a window's scored predictions and the tokens [n] that follow, in parts of bounded size."""
    ids = windows.tokens[window].copy()
    if (first := session.model.first_token) is not None:
        ids[0] = first
    rows = max(_LOGIT_BYTES // (4 * session.model.n_vocab), 1)
    session.reset()
    session.eval(ids[: windows.first])
    for start in range(windows.first, windows.n_ctx - 1, rows):
        end = min(start + rows, windows.n_ctx - 1)
        logits = session.eval(ids[start:end], all_logits=True)
        if not np.isfinite(logits).all():
            raise Error(f"the model gave no usable logits in window {window + 1}")
        yield logits, windows.tokens[window, start + 1 : end + 1]


@dataclass(frozen=True)
class Normalised:
    """Logits with what turns them into probabilities: max [n] and log Σ exp(logit - max) [n]."""

    logits: Floats
    largest: Floats
    log_sum: Floats

    def nll(self, targets: Tokens) -> Floats:
        """-log p of a token in each row."""
        return self.largest + self.log_sum - self.logits[np.arange(len(targets)), targets]


def normalised(logits: Floats) -> Normalised:
    """Log-softmax without the array it would make; sums in float64."""
    largest = logits.max(axis=1)
    log_sum = np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64))
    return Normalised(logits, largest, log_sum.astype(np.float32))


@dataclass
class Estimate:
    """The perplexity of all predictions scored so far, with its standard error."""

    n: int = 0
    total: float = 0.0  # Σ -log p
    squares: float = 0.0

    def add(self, nll: Floats) -> None:
        """Adds negative log-likelihoods [n] in nats."""
        wide = nll.astype(np.float64)
        self.n += len(wide)
        self.total += float(wide.sum())
        self.squares += float((wide * wide).sum())

    @property
    def value(self) -> float:
        """exp of the mean."""
        return math.exp(min(self.total / self.n, 700.0))

    @property
    def error(self) -> float:
        """One standard error."""
        mean = self.total / self.n
        spread = self.squares / self.n - mean * mean
        return self.value * math.sqrt(spread / (self.n - 1)) if spread > 0 and self.n > 1 else 0.0
