"""Generation: samples a token, reads it, and so on until something ends it; tokens become text."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from graphsched.run.trace import Recorder
from graphsched.session.rows import Aborted, Logits
from graphsched.text.sampling import Sampler
from graphsched.text.tokenizer import Tokenizer

StopReason = Literal["eog", "limit", "context", "abort", ""]


@dataclass
class Timings:
    """Milliseconds and tokens of the last load, prompt and generation."""

    load_ms: float = 0.0
    prompt_tokens: int = 0
    prompt_ms: float = 0.0
    generated_tokens: int = 0
    generate_ms: float = 0.0


@dataclass
class Generation:
    """One generation: its session's functions, its limits, its state.

    read: reads tokens, returns logits [n, n_vocab] of which the last row is sampled from. is_full: whether no other
    token can be read. n_predict: tokens at most, any number below 0. stop: tokens that end it.
    """

    read: Callable[[Sequence[int]], Logits]
    is_full: Callable[[], bool]
    sampler: Sampler
    n_predict: int
    stop: frozenset[int]
    timings: Timings
    recorder: Recorder
    stop_reason: StopReason = ""

    def text(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Iterator[str]:
        """Text that continues a prompt, in pieces of whole characters; an abort ends it."""
        stream = tokenizer.stream(continuing=True)
        try:
            for token in self.tokens(prompt):
                text = stream.push(token)
                self.recorder.since("detokenise")
                if text:
                    yield text
        except Aborted:
            self.stop_reason = "abort"
        if text := stream.flush():
            yield text

    def tokens(self, prompt: Sequence[int]) -> Iterator[int]:
        """Sampled tokens; the time between them counts as generation."""
        timings = self.timings
        clock = time.perf_counter()
        try:
            logits = self.read(prompt) if prompt else None
        finally:
            timings.prompt_ms = (time.perf_counter() - clock) * 1e3
        while logits is not None:
            if timings.generated_tokens == self.n_predict:
                self.stop_reason = "limit"
                return
            clock = time.perf_counter()
            token = self._sampled(logits)
            if token in self.stop:
                self.stop_reason = "eog"
                return
            timings.generated_tokens += 1
            timings.generate_ms += (time.perf_counter() - clock) * 1e3
            # The clock stands still while the caller has the token: what it does with it is not generation.
            yield token
            if self.is_full():
                self.stop_reason = "context"
                return
            # The last token wanted is not read: its logits would cost a run and serve nobody.
            if timings.generated_tokens == self.n_predict:
                continue
            clock = time.perf_counter()
            logits = self.read((token,))
            timings.generate_ms += (time.perf_counter() - clock) * 1e3

    def _sampled(self, logits: Logits) -> int:
        token = self.sampler.sample(logits[-1])
        self.sampler.accept(token)
        self.recorder.since("sampling")
        return token
