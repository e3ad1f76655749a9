"""The engine: a model on its devices, plans by capacity, and a forward over rows. It knows no conversation."""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Values
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched import env
from graphsched.errors import ContextError
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.run.device import Progress, Setup, device_names
from graphsched.run.executable import Executable
from graphsched.run.operand import Memory
from graphsched.run.runnable import Runnable
from graphsched.run.runtime import Runtime, open_runtime
from graphsched.run.trace import OFF, ON
from graphsched.schedule.scheduler import Schedule
from graphsched.session.batching import batches
from graphsched.session.cell_inputs import cell_inputs
from graphsched.session.copies import Copier, caches_by_kind
from graphsched.session.feed import Feed
from graphsched.session.model import Head, Model
from graphsched.session.options import SessionOptions, physical_memory
from graphsched.session.planner import Planner
from graphsched.session.plans import Plans
from graphsched.session.rows import Aborted, Logits, Rows, Runs, Tokens, checked, in_order, joined, part
from graphsched.session.saved import Saved
from graphsched.session.sequence import Sequence
from graphsched.session.slots import KINDS, STATE, Slots
from graphsched.session.summary import kv_bytes
from graphsched.types.dtypes import DType
from graphsched.types.extents import CELL_BLOCK, N_KV, N_OUTPUTS, N_TOKENS

Ids = Values[int] | NDArray[Any]


class Observer(Protocol):
    """What looks at values inside of graphs, which are kept for it and computed by nodes of their own."""

    def wanted(self, graph: Graph) -> tuple[Tensor, ...]:
        """The nodes whose values it looks at."""

    def take(self, values: Values[NDArray[Any]]) -> None:
        """Their values after a run, cut to its actual lengths; valid until the next one."""


class Engine:
    """A model on its devices, with executables by capacity. Not thread-safe, but for `abort`."""

    def __init__(
        self,
        model: Model,
        options: SessionOptions,
        progress: Progress | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.model, self.options, self._progress, self.observer = model, options, progress, observer
        self.n_ctx = model.context(options)
        self.batching = model.batching(options)
        self.n_ubatch = self.batching.n_ubatch  # rows of the largest forward
        self.repacked: dict[str, DType] = {}  # weights that -rtr has interleaved, and their types
        self._logits, self._hidden = Plans(self, "logits"), Plans(self, "hidden")
        self.plans = self._logits.by_key
        self.is_aborted = False
        devices = device_names(options.devices)
        self.weights = model.weights if options.mmap else model.weights.copied()
        self.runtime = self._opened(devices)
        self.recorder = self.runtime.recorder
        begin = perf_counter_ns()
        self.planner = Planner(model, options, devices, self.runtime.supports)
        _ = self.planner.homes  # all homes are found here, so that the trace knows how long that takes
        self.recorder.since("place", begin)
        self._check_cache()
        self._open_slots(self._logits.graph(1, 1))
        self._logits.of(1, 1)  # what does not fit the architecture, or the options, is found now

    def _opened(self, devices: tuple[str, ...]) -> Runtime:
        """The devices, over the model's weights."""
        model, o = self.model, self.options
        if o.mmap and sum(t.nbytes for t in model.types.values()) < physical_memory():
            model.file.prefault()
        capacities = {N_TOKENS: self.n_ubatch, N_OUTPUTS: self.n_ubatch, N_KV: self.n_ctx}
        poison, level = o.poison or env.validate(), ON if o.trace else OFF
        setup = Setup(
            self.weights, capacities, o.threads, devices, poison, o.streams, level, o.pins, o.deterministic
        )
        return open_runtime(o.backend, setup)

    def _open_slots(self, graph: Graph) -> None:
        """Sets up the host arrays that feed the inputs, the pools of cells, and the rows of state."""
        arrays, caches = self.arrays(graph), caches_by_kind(graph, KINDS)
        with_cells = {kind: leaves for kind, leaves in caches.items() if kind != STATE}
        cells = cell_inputs(graph, arrays, with_cells, self.options.n_parallel, self.n_ctx)
        copiers = {
            kind: Copier(kind, leaves, n, self._compiled, self.runtime.input, self._memory)
            for kind, leaves in caches.items()
            for n in (1 if kind == STATE else CELL_BLOCK,)
        }
        rows = int(caches[STATE][0].shape[0]) if STATE in caches else 0
        self.slots = Slots(self.options.n_parallel, cells, copiers, rows, lambda: self.is_aborted)
        self.checkpoint_every = self.options.checkpoint_every if self.slots.n_checkpoints else 0
        self.feed = Feed(arrays, cells, self.n_ubatch)

    def _memory(self, cache: Tensor) -> Memory:
        return self.runtime.cache(cache, self.planner.homes.device(cache))

    def arrays(self, graph: Graph) -> Mapping[str, NDArray[Any]]:
        """The host arrays that feed a graph's inputs."""
        return {leaf.name: self.runtime.input(leaf) for leaf in graph.leaves if leaf.kind == "input"}

    def _compiled(self, graph: Graph) -> Runnable:
        return self._logits.compiled(graph, {})

    def compile(self, schedule: Schedule) -> Executable:
        """A schedule, ready to run."""
        return self.runtime.compile(schedule, self._progress)

    def sequence(self, slot: int | None = None) -> Sequence:
        """A new, empty sequence, in a slot if that is given. ContextError if it, or all `n_parallel` are taken."""
        return Sequence(self, self.slots.open(slot))

    def restored(self, saved: Saved, slot: int | None = None) -> Sequence:
        """A new sequence that is as one was when it was saved, on an engine with caches of the same layout.

        ContextError if there is no slot, or too few free cells for it: then nothing has changed.
        """
        sequence = self.sequence(slot)
        try:
            sequence.restore(saved)
        except ContextError:
            sequence.close()
            raise
        return sequence

    def step(self, parts: Iterable[tuple[Sequence, Ids, int]]) -> list[Logits]:
        """Reads tokens behind sequences, each given once: (sequence, tokens, logits wanted of the last ... of them).

        All of them in one forward if there are at most n_ubatch tokens, else in several, in order. Returns the logits
        of each, float32 [n_wanted, n_vocab]. OptionError for an id outside the vocabulary; ContextError for tokens
        that do not fit a sequence or the pool: nothing of that forward has been read. Aborted after `abort`.
        """
        return self.compute([(s, checked(ids, self.model.n_vocab), n) for s, ids, n in parts])

    def compute(self, parts: list[tuple[Sequence, Tokens, int]], head: Head = "logits") -> list[Logits]:
        """As `step`, of tokens that are int32 and valid.

        With the head `hidden` it is not logits that are wanted but what these are made of, [n_wanted, n_embd].
        """
        for sequence, ids, _ in parts:
            sequence.check_room(len(ids))
            sequence.mend()
        found: list[list[Logits]] = [[] for _ in parts]
        for batch in batches(parts, self.n_ubatch, self.checkpoint_every):
            logits = self._read([(parts[number][0], ids, n) for number, ids, n in batch], head)
            for piece, of_piece in zip(batch, logits, strict=True):
                found[piece.number].append(of_piece)
        return [part[0] if len(part) == 1 else np.concatenate(part) for part in found]

    def compute_one(self, sequence: Sequence, ids: Tokens, n_wanted: int) -> Logits:
        """As `compute`, of one sequence; in a single forward where there need not be several."""
        n, end = len(ids), sequence.n_past + len(ids)
        every = self.checkpoint_every
        crosses = every and sequence.n_past // every != (end - 1) // every
        if n > self.n_ubatch or sequence.is_stale or crosses:
            return self.compute([(sequence, ids, n_wanted)])[0]
        sequence.check_room(n)
        return self._read([(sequence, ids, n_wanted)])[0]

    def _read(self, parts: list[tuple[Sequence, Tokens, int]], head: Head = "logits") -> list[Logits]:
        """One forward over parts; the logits of each."""
        rows = [sequence.rows(ids, n_wanted) for sequence, ids, n_wanted in parts]
        try:
            logits = self.forward(rows[0] if len(rows) == 1 else joined(rows), head)
        except Aborted:
            for sequence, *_ in parts:
                sequence.spoil()
            raise
        for sequence, ids, _ in parts:
            sequence.extend(ids)
        return [logits] if len(parts) == 1 else np.split(logits, np.cumsum([n for *_, n in parts])[:-1])

    def forward(self, rows: Rows, head: Head = "logits") -> Logits:
        """Computes rows, at most n_ubatch, of any sequences; stores their keys and values, and changes their state.

        `rows.sequence` has slots; rows of one sequence are in order, at consecutive positions below n_ctx, of which the
        first is not behind what is there. Returns float32 [n_wanted, n_vocab]: the logits of the rows that want them,
        in order; [n_wanted, n_embd] with the head `hidden`. OptionError for other rows, ContextError if the pool of
        cells is too small: then nothing has changed.
        Aborted after `abort`: the state of these rows' sequences, and cells from the first row on, are then of no use.
        """
        order, ordered, runs = in_order(rows, self.n_ubatch, self.n_ctx, self.slots.n_slots)
        try:
            self.slots.make_room(runs)
            logits = self._forward(ordered, runs, self._logits if head == "logits" else self._hidden)
        except Aborted:
            self.clear_abort()
            raise
        if order is None:
            return logits
        # Row i of the logits is of the i-th of the ordered rows that want some.
        place = np.cumsum(ordered.wants_logits) - 1
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return logits[place[rank[rows.wants_logits]]]

    def _forward(self, rows: Rows, runs: Runs, plans: Plans) -> Logits:
        """The logits of rows in order, whose sequences have cells for them."""
        if len(runs.slots) > 1 and self.slots.too_many(runs):
            half = len(runs.slots) // 2
            cut = int(runs.counts[:half].sum())
            first = self._forward(part(rows, slice(cut)), Runs(*(r[:half] for r in runs)), plans)
            rest = self._forward(part(rows, slice(cut, None)), Runs(*(r[half:] for r in runs)), plans)
            return np.concatenate((first, rest))
        n, wanted = len(rows.token), rows.wants_logits.nonzero()[0]
        n_outputs = len(wanted)  # the output matrix is multiplied with these rows only
        plan = plans.of(n, n_outputs)
        plan.run(self.feed.fill(rows, runs, wanted))
        if self.is_aborted:
            raise Aborted
        if self.observer is not None:
            self.observer.take(plan.outputs[1:])
        return plan.outputs[0].copy()

    def _check_cache(self) -> None:
        """A cache that cannot fit is refused before memory is touched: the system would end the process."""
        needed, there = kv_bytes(self._logits.graph(1, 1)), physical_memory()
        if needed > there:
            sizes = f"{needed / 1e9:.1f} GB of KV cache, this machine has {there / 1e9:.1f} GB"
            raise ContextError(f"a context of {self.n_ctx} tokens takes {sizes}; a smaller one is -c N")

    def abort(self) -> None:
        """Ends the forward in progress, or the next one, within milliseconds. For other threads, too."""
        self.is_aborted = True
        self.runtime.abort(True)

    def clear_abort(self) -> None:
        """Allows forwards again."""
        self.is_aborted = False
        self.runtime.abort(False)

    def close(self) -> None:
        """Lets go of the file and of all memory."""
        self._logits.clear()
        self._hidden.clear()
        self.runtime.close()
        self.model.file.close()
