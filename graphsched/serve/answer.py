"""One answer while it is made: tokens are chosen, become text, and something ends it. It knows no engine."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from graphsched.serve.likelihood import chosen
from graphsched.serve.request import Chosen, Done, Piece, Reason, Request, RequestTimings
from graphsched.serve.stops import Stops
from graphsched.text.constrained import chooser_of
from graphsched.text.sampling import Sampler
from graphsched.text.thinking import Chooser
from graphsched.text.tokenizer import Tokenizer


class Answer:
    """Answer number `index` to a request: what was chosen so far, and why it ended, if it has."""

    def __init__(self, index: int, request: Request, tokenizer: Tokenizer) -> None:
        self.index, self._request = index, request
        self._chooser = _chooser(index, request, tokenizer)
        self._eog = frozenset[int]() if request.ignore_eos and request.rules is None else tokenizer.eog
        self._stream = tokenizer.stream(continuing=True, special=request.special)
        self._stops = Stops(request.stop)
        self._pending: list[
            tuple[int, int, Chosen | None]
        ] = []  # token, where its text begins, its probability
        self._made = self._sent = 0  # characters
        self.tokens: list[int] = []  # those that were chosen, but for one that ends it
        self.reason: Reason | None = None
        self.sampling_ns = 0

    def is_enough(self) -> bool:
        """Whether no token is to be chosen any more; the answer has then ended."""
        if self.reason is None and len(self.tokens) == self._request.n_predict:
            self.reason = "limit"
        return self.reason is not None

    def choose(self, logits: NDArray[np.float32]) -> Piece | None:
        """Chooses the next token by logits [n_vocab]; the text that is certain now, if there is any.

        Error for logits that nothing can be chosen from.
        """
        begin = perf_counter_ns()
        token = self._chooser.sample(logits)
        self._chooser.accept(token)
        n = self._request.n_probs
        likely = chosen(logits, token, n) if n else None
        self.sampling_ns += perf_counter_ns() - begin
        if token in self._eog:
            self.reason = "eog"
            return self._more(token, None, self._request.special)
        self.tokens.append(token)
        return self._more(token, likely, True)

    def _more(self, token: int, likely: Chosen | None, shows: bool) -> Piece | None:
        text = ""
        if shows:
            if self.reason is None:
                self._pending.append((token, self._made, likely))
            made = self._stream.push(token)
            self._made += len(made)
            text = self._stops.push(made)
        if self._stops.found:
            self.reason = "stop"
            return self._piece(text, self._sent + len(text))
        self.is_enough()
        return self._piece(text) if text and self.reason is None else self._kept(text)

    def _kept(self, text: str) -> Piece | None:
        """The last piece of an answer that has ended; else nothing, its tokens go with the next one."""
        if self.reason is None:
            return None
        rest = self._stream.flush()
        text += self._stops.push(rest) + self._stops.flush()
        return self._piece(text)

    def _piece(self, text: str, end: int | None = None) -> Piece | None:
        """A piece of this text and the tokens so far, but for those whose text begins behind the end."""
        told = [p for p in self._pending if end is None or p[1] < end]
        self._pending.clear()
        self._sent += len(text)
        likely = tuple(p[2] for p in told if p[2] is not None)
        if not told and not text:
            return None
        return Piece(self.index, text, tuple(p[0] for p in told), likely)

    def end(self, reason: Reason) -> Piece | None:
        """Ends it for a reason from outside; what was held back, if anything."""
        if self.reason is not None:
            return None
        self.reason = reason
        return self._kept("")

    def done(self, timings: RequestTimings) -> Done:
        """The last event of it, with times of its request."""
        assert self.reason is not None
        told = replace(timings, generated_tokens=len(self.tokens), sampling_ms=self.sampling_ns / 1e6)
        return Done(self.index, self.reason, told, self._stops.found)


def answers(request: Request, tokenizer: Tokenizer) -> Iterator[Answer]:
    """The n answers to a request, before anything is chosen. OptionError for sampling that the vocabulary refuses."""
    return (Answer(i, request, tokenizer) for i in range(request.n))


def _chooser(index: int, request: Request, tokenizer: Tokenizer) -> Chooser:
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = replace(sampling, seed=sampling.seed + index)
    sampler = Sampler(sampling, tokenizer)
    for token in request.prompt:  # penalties look back over the prompt, too
        sampler.accept(token)
    return chooser_of(sampler, tokenizer, request.rules, request.budget)
