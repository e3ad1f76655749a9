"""Generation: samples a token, reads it, and so on until something ends it; tokens become text."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphsched.run.trace import Recorder
from graphsched.session.rows import Aborted, Logits
from graphsched.text.thinking import Chooser
from graphsched.text.tokenizer import Tokenizer

StopReason = Literal["eog", "stop", "limit", "context", "abort", ""]


@dataclass
class Timings:
    """Milliseconds and tokens of the last load, prompt and generation; compiling kernels counts for none of them."""

    load_ms: float = 0.0
    compile_ms: float = 0.0
    prompt_tokens: int = 0
    prompt_ms: float = 0.0
    generated_tokens: int = 0
    generate_ms: float = 0.0


@dataclass
class Generation:
    """One generation: its session's functions, its limits, its state.

    read: reads tokens, returns logits [n, n_vocab] of which the last row is sampled from. is_full: whether no other
    token can be read. n_predict: tokens at most, any number below 0. eog: tokens that end it. stop: texts that end it,
    themselves included. special: control tokens have their texts, that which ends it included.
    """

    read: Callable[[Sequence[int]], Logits]
    is_full: Callable[[], bool]
    sampler: Chooser
    n_predict: int
    eog: frozenset[int]
    timings: Timings
    recorder: Recorder
    stop: tuple[str, ...] = ()
    special: bool = False
    stop_reason: StopReason = ""
    sampled: list[int] = field(default_factory=list)

    def text(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Iterator[str]:
        """Text that continues a prompt, in pieces of whole characters; an abort ends it."""
        pieces = self._pieces(prompt, tokenizer)
        return self._until_stop(pieces) if self.stop else pieces

    def _until_stop(self, pieces: Iterator[str]) -> Iterator[str]:
        """The pieces up to and with the first of the texts that end a generation."""
        longest, seen = max(map(len, self.stop)), ""
        for piece in pieces:
            seen = seen[len(seen) - longest + 1 if len(seen) >= longest else 0 :] + piece
            ends = [seen.index(text) + len(text) for text in self.stop if text in seen]
            if ends:
                yield piece[: len(piece) - len(seen) + min(ends)]
                self.stop_reason = "stop"
                return
            yield piece

    def _pieces(self, prompt: Sequence[int], tokenizer: Tokenizer) -> Iterator[str]:
        stream = tokenizer.stream(continuing=True, special=self.special)
        try:
            for token in self.tokens(prompt):
                text = stream.push(token)
                self.recorder.since("detokenise")
                if text:
                    yield text
        except Aborted:
            self.stop_reason = "abort"
        end = self.sampled[-1:] if self.special and self.stop_reason == "eog" else ()
        if text := "".join((*map(stream.push, end), stream.flush())):
            yield text

    def tokens(self, prompt: Sequence[int]) -> Iterator[int]:
        """Sampled tokens; the time between them counts as generation."""
        timings = self.timings
        began = self._now()
        try:
            logits = self.read(prompt) if prompt else None
        finally:
            timings.prompt_ms = self._since(began)
        while logits is not None:
            if timings.generated_tokens == self.n_predict:
                self.stop_reason = "limit"
                return
            began = self._now()
            token = self._sampled(logits)
            if token in self.eog:
                self.stop_reason = "eog"
                return
            timings.generated_tokens += 1
            timings.generate_ms += self._since(began)
            # The clock stands still while the caller has the token: what it does with it is not generation.
            yield token
            if self.is_full():
                self.stop_reason = "context"
                return
            # The last token wanted is not read: its logits would cost a run and serve nobody.
            if timings.generated_tokens == self.n_predict:
                continue
            began = self._now()
            logits = self.read((token,))
            timings.generate_ms += self._since(began)

    def _now(self) -> tuple[float, int]:
        return time.perf_counter(), self.recorder.compile_ns

    def _since(self, began: tuple[float, int]) -> float:
        """Milliseconds since then but for those spent compiling kernels."""
        now, compile_ns = self._now()
        self.timings.compile_ms = compile_ns / 1e6
        return (now - began[0]) * 1e3 - (compile_ns - began[1]) / 1e6

    def _sampled(self, logits: Logits) -> int:
        token = self.sampler.sample(logits[-1])
        self.sampler.accept(token)
        self.sampled.append(token)
        self.recorder.since("sampling")
        return token
