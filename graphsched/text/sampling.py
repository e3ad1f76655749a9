"""From logits to the next token: llama.cpp's samplers, in its order or the user's."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, OptionError
from graphsched.text import candidates as samplers
from graphsched.text.candidates import Candidates
from graphsched.text.mirostat import Mirostat
from graphsched.text.options import SamplingOptions
from graphsched.text.repetition import Vocabulary, breakers_of, penalised, without_repeats

__all__ = ["Sampler", "SamplingOptions"]

Change = Callable[[Candidates], Candidates]


class Sampler:
    """Chooses tokens one after the other; the same seed, logits and accepted tokens give the same choices.

    A vocabulary is needed for DRY's breakers, which are texts. OptionError for a bias of a token that it lacks.
    """

    def __init__(self, options: SamplingOptions, vocabulary: Vocabulary | None = None) -> None:
        o = self.options = options
        self._random = np.random.Generator(np.random.PCG64(o.seed))
        active = o.active
        self._takes_the_best = o.is_greedy and active == ("temperature",)
        self._recent = _window(o.repeat_last_n if "penalties" in active else 0)
        self._repeated = _window(o.dry_penalty_last_n if "dry" in active else 0)
        self._breakers = (
            breakers_of(o.dry_sequence_breakers, vocabulary) if "dry" in active and vocabulary else {}
        )
        self._bias = np.array([b.token for b in o.logit_bias], np.intp), [b.bias for b in o.logit_bias]
        if vocabulary is not None:
            self._check_bias(vocabulary.n_vocab)
        self._changes = list(self._made(active))
        self._mirostat: Mirostat | None = None

    def _check_bias(self, n_vocab: int) -> None:
        for bias in self.options.logit_bias:
            if bias.token >= n_vocab:
                what = f"{bias.text}: token {bias.token} is outside the vocabulary of {n_vocab}"
                raise OptionError(what, "logit_bias")

    def _made(self, active: tuple[str, ...]) -> Iterator[Change]:
        """What each sampler does, a min-p behind a top-p being one with it."""
        before = ""
        for name, after in itertools.zip_longest(active, active[1:]):
            if (name, after) == ("top_p", "min_p"):
                yield partial(samplers.top_p, p=self.options.top_p, least=self.options.min_p)
            elif (before, name) != ("top_p", "min_p"):
                yield self._change(name)
            before = name

    def _change(self, name: str) -> Change:
        o = self.options
        found: dict[str, Change] = {
            "penalties": self._penalised,
            "dry": self._without_repeats,
            "top_n_sigma": partial(samplers.top_n_sigma, n=o.top_n_sigma),
            "top_k": partial(samplers.top_k, k=o.top_k),
            "typ_p": partial(samplers.typical, p=o.typical_p),
            "top_p": partial(samplers.top_p, p=o.top_p),
            "min_p": partial(samplers.min_p, p=o.min_p),
            "xtc": self._xtc,
            "temperature": self._temperature,
        }
        return found[name]

    def accept(self, token: int) -> None:
        """Counts a token, of the prompt or chosen, for the samplers against repetition."""
        self._recent.append(token)
        self._repeated.append(token)

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token for logits [vocab]; Error if they hold a NaN or nothing but -inf."""
        self._n_vocab = logits.size
        tokens, biases = self._bias
        if tokens.size:
            logits = logits.copy()
            np.add.at(logits, tokens, np.array(biases, np.float32))
        best = int(logits.argmax())  # the first of equals; a NaN wins over every number
        if not math.isfinite(logits[best]):
            raise Error(f"the model gave no usable logits, the largest is {logits[best]} (token {best})")
        if self._takes_the_best:
            return best
        left = Candidates(logits)
        for change in self._changes:
            left = change(left)
        if self.options.mirostat:
            return self._by_surprise(left)
        return left.token(samplers.drawn(left, self._random.random()))

    def _by_surprise(self, left: Candidates) -> int:
        if self._mirostat is None:
            o, random = self.options, self._random.random
            self._mirostat = Mirostat(o.mirostat, o.mirostat_tau, o.mirostat_eta, self._n_vocab, random)
        return self._mirostat.choose(left)

    def _changed(self, c: Candidates, change: Callable[[samplers.Floats], samplers.Floats]) -> Candidates:
        """Candidates with changed logits; a change knows tokens by their ids, so it gets the whole vocabulary."""
        if c.tokens is None:
            return Candidates(change(c.logits))
        logits = np.full(self._n_vocab, -np.inf, c.logits.dtype)
        logits[c.tokens] = c.logits
        return Candidates(change(logits)[c.tokens], c.tokens)

    def _penalised(self, c: Candidates) -> Candidates:
        o = self.options
        if not self._recent:
            return c
        values = o.repeat_penalty, o.frequency_penalty, o.presence_penalty
        return self._changed(c, lambda logits: penalised(logits, self._recent, *values))

    def _without_repeats(self, c: Candidates) -> Candidates:
        o, recent = self.options, list(self._repeated)
        how = partial(
            without_repeats,
            recent=recent,
            breakers=self._breakers,
            multiplier=o.dry_multiplier,
            base=o.dry_base,
            allowed=o.dry_allowed_length,
        )
        return self._changed(c, how)

    def _xtc(self, c: Candidates) -> Candidates:
        if len(c) < 2 or self._random.random() > self.options.xtc_probability:
            return c
        return samplers.xtc(c, self.options.xtc_threshold)

    def _temperature(self, c: Candidates) -> Candidates:
        o = self.options
        if o.dynatemp_range > 0:
            return samplers.dynamic_temperature(c, o.temperature, o.dynatemp_range, o.dynatemp_exponent)
        return samplers.temperature(c, o.temperature)


def _window(n: int) -> deque[int]:
    """The last n tokens, all of them below 0."""
    return deque(maxlen=None if n < 0 else n)
