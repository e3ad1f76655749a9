"""A session: one model, one KV cache, plans by capacity, and generation."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphsched import env
from graphsched.check.debug import Making, Runs, watched
from graphsched.errors import ContextError, OptionError
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.run.device import Progress, Setup
from graphsched.run.runtime import open_runtime
from graphsched.run.trace import EVAL, OFF, ON, Trace
from graphsched.run.trace_read import read
from graphsched.session.cells import CellTable
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import SessionOptions, physical_memory, session_options
from graphsched.session.planner import Decisions, Targets, device_names
from graphsched.session.summary import kv_bytes
from graphsched.text.sampling import Sampler, SamplingOptions
from graphsched.text.tokenizer import Tokenizer
from graphsched.types.dtypes import DType
from graphsched.types.extents import CELLS, N_KV_SWA

CAPACITIES = (1, 8, 32, 128)  # token capacities of plans, besides the micro-batch
StopReason = Literal["eog", "limit", "context", "abort", ""]


class Aborted(Exception):
    """A run ended early because `Session.abort` was called; the KV cache holds what was there before it."""


@dataclass
class Timings:
    """Milliseconds and tokens of the last load, prompt and generation."""

    load_ms: float = 0.0
    prompt_tokens: int = 0
    prompt_ms: float = 0.0
    generated_tokens: int = 0
    generate_ms: float = 0.0


class Session:
    """One sequence on one model. Not thread-safe, but for `abort`."""

    def __init__(self, model: Model, options: SessionOptions, progress: Progress | None = None) -> None:
        self.model, self.options = model, options
        self.n_ctx, self.n_past = model.context(options), 0
        self.timings = Timings()
        self.stop_reason: StopReason = ""
        self._progress, self._aborted = progress, False
        self._n_ubatch = min(options.n_ubatch, self.n_ctx)
        self.repacked: dict[str, DType] = {}  # weights that -rtr has interleaved, and their types
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._plans: dict[tuple[int, int, Decisions], Runs] = {}
        self._by_length: dict[tuple[int, int], Runs] = {}
        names = device_names(options.devices)
        capacities = {"n_tokens": self._n_ubatch, "n_outputs": self._n_ubatch, "n_kv": self.n_ctx}
        self._weights = model.weights if options.mmap else model.weights.copied()
        if options.mmap and sum(t.nbytes for t in model.types.values()) < physical_memory():
            model.file.prefault()
        poison = options.poison or env.validate()
        level = ON if options.trace else OFF
        setup = Setup(
            self._weights,
            capacities,
            options.threads,
            names,
            poison,
            options.streams,
            level,
            options.pins,
        )
        self._runtime = open_runtime(options.backend, setup)
        self.recorder = self._runtime.recorder
        begin = perf_counter_ns()
        self.targets = Targets(model, options, names, self._runtime.supports)
        self.recorder.since("place", begin)
        self._check_cache()
        self._feed({leaf.name: leaf for leaf in self._graph(1, 1).leaves if leaf.kind == "input"})
        self._plan(1, 1)  # what does not fit the architecture, or the options, is found now

    def _feed(self, inputs: Mapping[str, Tensor]) -> None:
        """Host arrays of the inputs; constants of a single sequence are written once."""
        arrays = {name: self._runtime.input(leaf) for name, leaf in inputs.items()}
        unused = np.zeros((self._n_ubatch, 2), np.int32)  # a model need not ask for every input
        self._tokens, self._where = arrays["inp_tokens"], arrays.get("inp_where", unused)
        self._pos, self._out_ids = arrays.get("inp_pos", unused[:, 0]), arrays["inp_out_ids"]
        self._where[:] = 0
        self._tables = [
            CellTable(inputs[f"inp_cells{kind}"], arrays[f"inp_cells{kind}"], arrays[f"inp_slots{kind}"])
            for kind in CELLS.values()
            if f"inp_cells{kind}" in inputs
        ]
        self._ring = next((t.size for t in self._tables if t.is_ring), 0)
        self._read = np.zeros(self.n_ctx, np.int32)  # the tokens of positions below n_past

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    def eval(self, tokens: Sequence[int] | NDArray[Any], all_logits: bool = False) -> NDArray[np.float32]:
        """Logits after reading tokens, which continue from the cached position `n_past`.

        Returns float32 [n, n_vocab] with `all_logits`, else [1, n_vocab] for the last token. Raises ContextError if the
        tokens do not fit the context, OptionError for an id outside the vocabulary, Aborted after `abort`.
        """
        recorder = self.recorder
        begin = perf_counter_ns() if recorder.level else 0
        ids = self._checked(tokens)
        logits = self._forward(ids, 1) if len(ids) == 1 else self._forward_all(ids, all_logits)
        if begin:
            recorder.last = end = perf_counter_ns()
            recorder.spans.append((EVAL, begin, end))
        return logits

    def _forward_all(self, ids: NDArray[np.int32], all_logits: bool) -> NDArray[np.float32]:
        """Runs all micro-batches; the logits that are asked for."""
        rows: list[NDArray[np.float32]] = []
        pieces = list(self._pieces(ids))
        for i, piece in enumerate(pieces):
            wanted = len(piece) if all_logits else int(i == len(pieces) - 1)
            rows.append(self._forward(piece, wanted))
        return rows[-1] if len(rows) == 1 else np.concatenate(rows)

    def _checked(self, tokens: Sequence[int] | NDArray[Any]) -> NDArray[np.int32]:
        ids = np.asarray(tokens, np.int64).reshape(-1)
        if not len(ids):
            raise OptionError("no tokens to evaluate")
        if ids.min() < 0 or ids.max() >= self.model.n_vocab:
            bad = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise OptionError(f"token {bad} is outside the vocabulary of {self.model.n_vocab}")
        if self.n_past + len(ids) > self.n_ctx:
            used = f"{self.n_past} are used and {len(ids)} more do not fit"
            raise ContextError(f"the context holds {self.n_ctx} tokens: {used}; a larger one is -c N")
        return ids.astype(np.int32)

    def _pieces(self, ids: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
        """Micro-batches of each batch."""
        for b in range(0, len(ids), self.options.n_batch):
            batch = ids[b : b + self.options.n_batch]
            for u in range(0, len(batch), self._n_ubatch):
                yield batch[u : u + self._n_ubatch]

    def _forward(self, ids: NDArray[np.int32], n_outputs: int) -> NDArray[np.float32]:
        """Runs one micro-batch; logits of its last n_outputs tokens, [n_outputs, n_vocab]."""
        n, past = len(ids), self.n_past
        plan = self._by_length.get((n, n_outputs)) or self._plan(n, n_outputs)
        end = past + n
        positions = np.arange(past, end, dtype=np.int32)
        self._tokens[:n], self._pos[:n], self._where[:n, 1] = ids, positions, positions
        self._read[past:end] = ids
        for table in self._tables:
            table.take(past, positions)
        if n_outputs:
            self._out_ids[:n_outputs] = np.arange(n - n_outputs, n)
        lengths = {"n_tokens": n, "n_outputs": n_outputs, "n_kv": end}
        if self._ring:
            lengths[N_KV_SWA] = min(end, self._ring)
        plan.run(lengths)
        if self._aborted:
            for table in self._tables:
                table.free(past)
            self._clear_abort()
            raise Aborted
        self.n_past = end
        return plan.outputs[0].copy()

    def _capacity(self, n: int) -> int:
        return next((c for c in CAPACITIES if n <= c <= self._n_ubatch), self._n_ubatch)

    def _plan(self, n_tokens: int, n_outputs: int) -> Runs:
        """The executable for these lengths: one per capacity and set of offload decisions, built on first use."""
        capacity = self._capacity(n_tokens)
        shape = capacity, 1 if n_outputs <= 1 else capacity
        lengths = {"n_tokens": n_tokens, "n_outputs": n_outputs}
        graph = self.targets.fused(self._graph(*shape), lengths)
        key = *shape, self.targets.decisions(graph, lengths)
        if key not in self._plans:
            begin = perf_counter_ns()
            self._plans[key] = watched(graph, self._making(lengths))
            self.recorder.since("plan", begin)
        self._by_length[n_tokens, n_outputs] = self._plans[key]
        return self._plans[key]

    def _making(self, lengths: Mapping[str, int]) -> Making:
        """How an executable for these lengths is made."""
        return Making(
            lambda graph: self.targets.schedule(graph, lengths),
            lambda schedule: self._runtime.compile(schedule, self._progress),
            self._runtime.input,
            self._weights,
            self.model.types,
            lambda: self._aborted,
        )

    def _graph(self, n_tokens: int, n_outputs: int) -> Graph:
        shape = n_tokens, n_outputs
        if shape not in self._graphs:
            begin = perf_counter_ns()
            graph = self.targets.untied(self.model.graph(*shape, self.n_ctx, self.options))
            self.repacked |= (repacked := self.targets.repacked(graph))
            self._graphs[shape] = self._runtime.in_kernel_types(graph, self.targets.home, repacked)
            self.recorder.since("build", begin)
        return self._graphs[shape]

    def _check_cache(self) -> None:
        """A cache that cannot fit is refused before memory is touched: the system would end the process."""
        needed, there = kv_bytes(self._graph(1, 1)), physical_memory()
        if needed > there:
            sizes = f"{needed / 1e9:.1f} GB of KV cache, this machine has {there / 1e9:.1f} GB"
            raise ContextError(f"a context of {self.n_ctx} tokens takes {sizes}; a smaller one is -c N")

    def reset(self) -> None:
        """Forgets all tokens."""
        self.rewind(0)

    def holds(self, n_past: int) -> bool:
        """Whether the cache has all that a token at position n_past sees: layers with a window give up older cells."""
        return all(table.holds(n_past) for table in self._tables)

    def rewind(self, n_past: int) -> None:
        """Forgets all tokens but the first n_past, which are read again if the cache no longer `holds` them."""
        kept = min(max(n_past, 0), self.n_past)
        self.n_past = kept if self.holds(kept) else 0
        for table in self._tables:
            table.free(self.n_past)
        if self.n_past < kept:
            self.eval(self._read[:kept].copy())

    def abort(self) -> None:
        """Ends the run in progress, or the next one, within milliseconds. For other threads and signal watchers."""
        self._aborted = True
        self._runtime.abort(True)

    def _clear_abort(self) -> None:
        self._aborted = False
        self._runtime.abort(False)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        n_predict: int = -1,
        sampling: SamplingOptions | None = None,
        stop_on_eog: bool = True,
    ) -> Iterator[str]:
        """Text that continues the prompt, in pieces as it is generated; `stop_reason` says why it ended.

        A text prompt gets the model's special tokens when the session is empty. n_predict < 0: until an
        end-of-generation token or a full context. A prompt that does not fit raises ContextError.
        """
        begin = perf_counter_ns()
        self._clear_abort()
        sampler = Sampler(sampling or SamplingOptions())
        ids = (
            self.tokenizer.encode(prompt, add_special=self.n_past == 0)
            if isinstance(prompt, str)
            else list(prompt)
        )
        for token in ids:
            sampler.accept(token)
        self.timings = Timings(self.timings.load_ms, prompt_tokens=len(ids))
        self.stop_reason = ""
        stream = self.tokenizer.stream(continuing=True)
        self.recorder.since("tokenise", begin)
        try:
            for token in self._sampled(
                ids, n_predict, sampler, self.tokenizer.eog if stop_on_eog else frozenset()
            ):
                text = stream.push(token)
                self.recorder.since("detokenise")
                if text:
                    yield text
        except Aborted:
            self.stop_reason = "abort"
        if text := stream.flush():
            yield text

    def _sampled(
        self, ids: Sequence[int], n_predict: int, sampler: Sampler, stop: frozenset[int]
    ) -> Iterator[int]:
        """Sampled tokens; the time between them counts as generation."""
        clock = time.perf_counter()
        try:
            logits = self.eval(ids) if ids else None
        finally:
            self.timings.prompt_ms = (time.perf_counter() - clock) * 1e3
        while logits is not None:
            if self.timings.generated_tokens == n_predict:
                self.stop_reason = "limit"
                return
            clock = time.perf_counter()
            token = sampler.sample(logits[-1])
            sampler.accept(token)
            self.recorder.since("sampling")
            if token in stop:
                self.stop_reason = "eog"
                return
            self.timings.generated_tokens += 1
            self.timings.generate_ms += (time.perf_counter() - clock) * 1e3
            yield token
            if self.n_past == self.n_ctx:
                self.stop_reason = "context"
                return
            if self.timings.generated_tokens == n_predict:
                continue
            clock = time.perf_counter()
            logits = self.eval((token,))
            self.timings.generate_ms += (time.perf_counter() - clock) * 1e3

    def take_trace(self) -> Trace:
        """What happened since the last call, as far as the ring holds it: measured on this machine, also of `sim`."""
        return read(self.recorder.take())

    def close(self) -> None:
        """Lets go of the file and of all memory."""
        self._plans.clear()
        self._by_length.clear()
        self._runtime.close()
        self.model.file.close()


def load(path: str | Path | None = None, *, progress: Progress | None = None, **options: Any) -> Session:
    """Opens a model (None: the embedded one) and prepares a session; options as in `SessionOptions`.

    Raises graphsched.Error (LoadError, OptionError) with one sentence that names the file, tensor, key or option.
    """
    started = time.perf_counter()
    chosen = session_options(**options)
    session = Session(open_default_or(path), chosen, progress)
    session.recorder.since("load", round(started * 1e9))
    session.timings.load_ms = (time.perf_counter() - started) * 1e3
    return session
