"""A session: one sequence on one model, read and generated behind. An engine does the work."""

import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Tokens
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError
from graphsched.option import names
from graphsched.run.device import Progress
from graphsched.run.trace import Trace
from graphsched.run.trace_read import read
from graphsched.session.engine import Engine, Observer
from graphsched.session.generate import Generation, StopReason, Timings
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import SessionOptions, session_options
from graphsched.session.planner import Planner
from graphsched.session.rows import Aborted, Logits, checked
from graphsched.text.constrained import Rules, chooser_of
from graphsched.text.sampling import Sampler, SamplingOptions
from graphsched.text.thinking import Budget
from graphsched.text.tokenizer import Tokenizer
from graphsched.types.dtypes import DType

__all__ = ["Aborted", "Session", "Timings", "load"]


class Session:
    """One sequence on one model. Not thread-safe, but for `abort`."""

    def __init__(
        self,
        model: Model,
        options: SessionOptions,
        progress: Progress | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.model, self.options = model, options
        self.engine = Engine(model, options, progress, observer)
        self.n_ctx, self.recorder = self.engine.n_ctx, self.engine.recorder
        self.sequence = self.engine.sequence()
        self.timings = Timings()
        self._generation: Generation | None = None

    @property
    def n_past(self) -> int:
        """Tokens that were read: the position of the next one."""
        return self.sequence.n_past

    @property
    def stop_reason(self) -> StopReason:
        """Why the last generation ended; empty before that."""
        return self._generation.stop_reason if self._generation else ""

    @property
    def sampled(self) -> list[int]:
        """The tokens of the last generation, that which ended it included."""
        return self._generation.sampled if self._generation else []

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.tokenizer

    @property
    def planner(self) -> Planner:
        """What decides where weights live and nodes run."""
        return self.engine.planner

    @property
    def repacked(self) -> Mapping[str, DType]:
        """The weights that -rtr has interleaved, and their types."""
        return self.engine.repacked

    def eval(self, tokens: Tokens[int] | NDArray[Any], all_logits: bool = False) -> Logits:
        """Logits after reading tokens, which continue from the cached position `n_past`.

        Returns float32 [n, n_vocab] with `all_logits`, else [1, n_vocab] for the last token. Raises ContextError if the
        tokens do not fit the context, OptionError for an id outside the vocabulary, Aborted after `abort`.
        """
        recorder = self.recorder
        begin = perf_counter_ns() if recorder.level else 0
        ids = checked(tokens, self.model.n_vocab)
        if len(ids) == 1:
            logits = self.engine.compute_one(self.sequence, ids, 1)
        else:
            self.sequence.check_room(len(ids))
            logits = self._read_all(ids, all_logits)
            self.sequence.checkpoint()  # what is generated may be taken back
        if begin:
            recorder.evaluated(begin)
        return logits

    def _read_all(self, ids: NDArray[np.int32], all_logits: bool) -> Logits:
        """Reads all micro-batches; the logits that are asked for."""
        pieces = list(self._pieces(ids))
        last = len(pieces) - 1
        read = self.sequence.read
        found = [read(p, len(p) if all_logits else int(i == last)) for i, p in enumerate(pieces)]
        return found[-1] if len(found) == 1 else np.concatenate(found)

    def _pieces(self, ids: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
        """Micro-batches of each batch."""
        for first, n in self.engine.batching.pieces(len(ids)):
            yield ids[first : first + n]

    def reset(self) -> None:
        """Forgets all tokens."""
        self.rewind(0)

    def holds(self, n_past: int) -> bool:
        """Whether the cache has all that a token at position n_past sees: layers with a window give up older cells."""
        return self.sequence.holds(n_past)

    def rewind(self, n_past: int) -> None:
        """Forgets all tokens but the first n_past, which are read again if the cache no longer `holds` them."""
        self.sequence.rewind(n_past)

    def abort(self) -> None:
        """Ends the run in progress, or the next one, within milliseconds. For other threads and signal watchers."""
        self.engine.abort()

    def generate(
        self,
        prompt: str | Tokens[int],
        *,
        n_predict: int = -1,
        sampling: SamplingOptions | None = None,
        stop_on_eog: bool = True,
        stop: str | Tokens[str] = (),
        special: bool = False,
        budget: Budget | None = None,
        rules: Rules | None = None,
    ) -> Iterator[str]:
        """Text that continues the prompt, in pieces as it is generated; `stop_reason` says why it ended.

        A text prompt gets the model's special tokens when the session is empty. n_predict < 0: until an
        end-of-generation token or a full context. A prompt that does not fit raises ContextError. stop: texts that end
        it, too, and are the end of what is generated. special: control tokens show as texts. budget: of thoughts.
        rules: a grammar that the text follows, whose end is one whatever stop_on_eog says.
        """
        begin, tokenizer = perf_counter_ns(), self.tokenizer
        self.engine.clear_abort()
        ids = (
            tokenizer.encode(prompt, add_special=self.n_past == 0)
            if isinstance(prompt, str)
            else list(prompt)
        )
        sampler = Sampler(sampling or SamplingOptions(), tokenizer)
        stop = names(stop)
        if not all(stop):
            raise OptionError("is empty, texts are needed", "stop")
        # Penalties look back over the prompt, too.
        for token in ids:
            sampler.accept(token)
        self.timings = Timings(self.timings.load_ms, self.timings.compile_ms, prompt_tokens=len(ids))
        self._generation = Generation(
            self.eval,
            lambda: self.sequence.is_full,
            chooser_of(sampler, tokenizer, rules, budget),
            n_predict,
            tokenizer.eog if stop_on_eog or rules is not None else frozenset(),
            self.timings,
            self.recorder,
            stop,
            special,
        )
        self.recorder.since("tokenise", begin)
        yield from self._generation.text(ids, tokenizer)

    def take_trace(self) -> Trace:
        """What happened since the last call, as far as the ring holds it: measured on this machine, also of `sim`."""
        return read(self.recorder.take())

    def close(self) -> None:
        """Lets go of the file and of all memory."""
        self.engine.close()


def load(path: str | Path | None = None, *, progress: Progress | None = None, **options: Any) -> Session:
    """Opens a model (None: the embedded one) and prepares a session; options by keyword, each a text or a value.

    They are those of `SessionOptions` and `PlacementOptions`, and switches (`fmoe=False`); docs/options.md lists them.

    Raises graphsched.Error (LoadError, OptionError) with one sentence that names the file, tensor, key or option.
    """
    started = time.perf_counter()
    chosen = session_options(**options)
    return opened(open_default_or(path, chosen.override_kv), chosen, progress, started)


def opened(
    model: Model,
    options: SessionOptions,
    progress: Progress | None,
    started: float,
    observer: Observer | None = None,
) -> Session:
    """A session on a model whose loading began at a time of `time.perf_counter`."""
    session = Session(model, options, progress, observer)
    session.recorder.since("load", round(started * 1e9))
    session.timings.compile_ms = session.recorder.compile_ns / 1e6
    session.timings.load_ms = (time.perf_counter() - started) * 1e3 - session.timings.compile_ms
    return session
