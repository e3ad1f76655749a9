"""The engine: a model on its devices, plans by capacity, and a forward over rows. It knows no conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched import env
from graphsched.check.debug import instrumented
from graphsched.errors import ContextError, OptionError
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.run.device import Progress, Setup, device_names
from graphsched.run.runnable import PlanFactory, Runnable
from graphsched.run.runtime import Runtime, open_runtime
from graphsched.run.trace import OFF, ON
from graphsched.session.cells import CellTable
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions, physical_memory
from graphsched.session.planner import Decisions, Planner, repacked
from graphsched.session.rows import Aborted, Logits, Rows
from graphsched.session.summary import kv_bytes
from graphsched.types.dtypes import DType
from graphsched.types.extents import CELLS, N_KV, N_KV_SWA, N_OUTPUTS, N_TOKENS

CAPACITIES = (1, 8, 32, 128)  # token capacities of plans, besides the micro-batch


class Observer(Protocol):
    """What looks at values inside of graphs, which are kept for it and computed by nodes of their own."""

    def wanted(self, graph: Graph) -> tuple[Tensor, ...]:
        """The nodes whose values it looks at."""

    def take(self, values: Sequence[NDArray[Any]]) -> None:
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
        self.model, self.options, self._progress, self._observer = model, options, progress, observer
        self.n_ctx = model.context(options)
        self.batching = model.batching(options)
        self.n_ubatch = self.batching.n_ubatch  # rows of the largest forward
        self.repacked: dict[str, DType] = {}  # weights that -rtr has interleaved, and their types
        self.plans: dict[tuple[int, int, Decisions], Runnable] = {}
        self._by_length: dict[tuple[int, int], Runnable] = {}
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._aborted = False
        devices = device_names(options.devices)
        self._weights = model.weights if options.mmap else model.weights.copied()
        self.runtime = self._opened(devices)
        self.recorder = self.runtime.recorder
        begin = perf_counter_ns()
        self.planner = Planner(model, options, devices, self.runtime.supports)
        _ = self.planner.homes  # all homes are found here, so that the trace knows how long that takes
        self.recorder.since("place", begin)
        self._check_cache()
        self._feed({leaf.name: leaf for leaf in self._graph(1, 1).leaves if leaf.kind == "input"})
        self._plan(1, 1)  # what does not fit the architecture, or the options, is found now

    def _opened(self, devices: tuple[str, ...]) -> Runtime:
        """The devices, over the model's weights."""
        model, o = self.model, self.options
        if o.mmap and sum(t.nbytes for t in model.types.values()) < physical_memory():
            model.file.prefault()
        capacities = {N_TOKENS: self.n_ubatch, N_OUTPUTS: self.n_ubatch, N_KV: self.n_ctx}
        poison, level = o.poison or env.validate(), ON if o.trace else OFF
        setup = Setup(self._weights, capacities, o.threads, devices, poison, o.streams, level, o.pins)
        return open_runtime(o.backend, setup)

    def _feed(self, inputs: Mapping[str, Tensor]) -> None:
        """Sets up the host arrays that feed the inputs, and the tables of cells."""
        arrays = {name: self.runtime.input(leaf) for name, leaf in inputs.items()}
        unused = np.zeros((self.n_ubatch, 2), np.int32)  # a model need not ask for every input
        self._tokens, self._where = arrays["inp_tokens"], arrays.get("inp_where", unused)
        self._pos, self._out_ids = arrays.get("inp_pos", unused[:, 0]), arrays["inp_out_ids"]
        kinds = [kind for kind in CELLS.values() if f"inp_cells{kind}" in inputs]
        self.cells = tuple(
            CellTable(inputs[f"inp_cells{kind}"], arrays[f"inp_cells{kind}"], arrays[f"inp_slots{kind}"])
            for kind in kinds
        )
        self.ring = next((table.size for table in self.cells if table.is_ring), 0)

    def forward(self, rows: Rows) -> Logits:
        """Computes rows, at most n_ubatch, and stores their keys and values in the cells of their sequence.

        Returns float32 [n_wanted, n_vocab]: the logits of the rows that want them, in order. One sequence, number 0,
        can be computed so far, its rows at consecutive positions below n_ctx; OptionError for others. Aborted after
        `abort`: the cells of these rows are then free again.
        """
        n, (first, end) = len(rows.token), self._span(rows)
        wanted = rows.wants_logits.nonzero()[0]  # the output matrix is multiplied with these rows only
        n_outputs = len(wanted)
        plan = self._by_length.get((n, n_outputs)) or self._plan(n, n_outputs)
        self._tokens[:n], self._pos[:n] = rows.token, rows.position
        self._where[:n, 0], self._where[:n, 1] = rows.sequence, rows.position
        self._out_ids[:n_outputs] = wanted
        for table in self.cells:
            table.take(first, rows.position)
        lengths = {N_TOKENS: n, N_OUTPUTS: n_outputs, N_KV: end}
        if self.ring:
            lengths[N_KV_SWA] = min(end, self.ring)
        plan.run(lengths)
        if self._aborted:
            # Some layers may have stored these rows and others not: none of their cells may be attended to.
            for table in self.cells:
                table.free(first)
            self.clear_abort()
            raise Aborted
        if self._observer is not None:
            self._observer.take(plan.outputs[1:])
        return plan.outputs[0].copy()

    def _span(self, rows: Rows) -> tuple[int, int]:
        """The position of the first row, and that behind the last one."""
        n, at = len(rows.token), rows.position
        if not 0 < n <= self.n_ubatch:
            raise OptionError(f"a forward computes 1 to {self.n_ubatch} rows, {n} are given")
        if np.count_nonzero(rows.sequence):
            raise OptionError(f"sequence {rows.sequence.max()} is given; there is one sequence, number 0")
        first, end = int(at[0]), int(at[-1]) + 1
        if first < 0 or end > self.n_ctx or (n > 1 and (at[1:] - at[:-1] != 1).any()):
            raise OptionError(
                f"positions {first} to {end - 1} are not {n} consecutive ones below {self.n_ctx}"
            )
        return first, end

    def _plan(self, n_tokens: int, n_outputs: int) -> Runnable:
        """The executable for these lengths: one per capacity and set of offload decisions, built on first use."""
        capacity = next((c for c in CAPACITIES if n_tokens <= c <= self.n_ubatch), self.n_ubatch)
        shape = capacity, 1 if n_outputs <= 1 else capacity
        lengths = {N_TOKENS: n_tokens, N_OUTPUTS: n_outputs}
        # What is fused before placement depends on lengths, as policy and costs do; so does the key.
        graph = self.planner.fused(self._graph(*shape), lengths)
        key = *shape, self.planner.decisions(graph, lengths)
        if key not in self.plans:
            begin = perf_counter_ns()
            self.plans[key] = instrumented(graph, self._factory(lengths))
            self.recorder.since("plan", begin)
        self._by_length[n_tokens, n_outputs] = self.plans[key]
        return self.plans[key]

    def _factory(self, lengths: Mapping[str, int]) -> PlanFactory:
        return PlanFactory(
            lambda graph: self.planner.schedule(graph, lengths),
            lambda schedule: self.runtime.compile(schedule, self._progress),
            self.runtime.input,
            self._weights,
            self.model.types,
            lambda: self._aborted,
        )

    def _graph(self, n_tokens: int, n_outputs: int) -> Graph:
        """The graph of these capacities, over leaves of the types that devices read."""
        shape = n_tokens, n_outputs
        if shape not in self._graphs:
            begin = perf_counter_ns()
            homes = self.planner.homes
            graph = homes.untied(self.model.graph(*shape, self.n_ctx, self.options))
            if self._observer is not None:
                graph = replace(graph, outputs=(*graph.outputs, *self._observer.wanted(graph)))
            self.repacked |= (types := repacked(self.planner, graph))
            self._graphs[shape] = self.runtime.in_kernel_types(graph, homes.device, types)
            self.recorder.since("build", begin)
        return self._graphs[shape]

    def _check_cache(self) -> None:
        """A cache that cannot fit is refused before memory is touched: the system would end the process."""
        needed, there = kv_bytes(self._graph(1, 1)), physical_memory()
        if needed > there:
            sizes = f"{needed / 1e9:.1f} GB of KV cache, this machine has {there / 1e9:.1f} GB"
            raise ContextError(f"a context of {self.n_ctx} tokens takes {sizes}; a smaller one is -c N")

    def abort(self) -> None:
        """Ends the forward in progress, or the next one, within milliseconds. For other threads, too."""
        self._aborted = True
        self.runtime.abort(True)

    def clear_abort(self) -> None:
        """Allows forwards again."""
        self._aborted = False
        self.runtime.abort(False)

    def close(self) -> None:
        """Lets go of the file and of all memory."""
        self.plans.clear()
        self._by_length.clear()
        self.runtime.close()
        self.model.file.close()
