"""Executables of an engine by capacity: what is computed for some tokens, of which some want a result."""

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter_ns
from typing import TYPE_CHECKING

from graphsched.check.debug import instrumented
from graphsched.graph.graph import Graph
from graphsched.run.runnable import PlanFactory, Runnable
from graphsched.session.model import Head
from graphsched.session.planner import Decisions, repacked
from graphsched.types.extents import N_OUTPUTS, N_TOKENS

if TYPE_CHECKING:
    from graphsched.session.engine import Engine

CAPACITIES = (1, 8, 32, 128)  # token capacities of plans, besides the micro-batch


class Plans:
    """The executables that give one kind of results, built on first use."""

    def __init__(self, engine: "Engine", head: Head) -> None:
        self._engine, self._head = engine, head
        self.by_key: dict[tuple[int, int, Decisions], Runnable] = {}
        self._by_length: dict[tuple[int, int], Runnable] = {}
        self._graphs: dict[tuple[int, int], Graph] = {}

    def of(self, n_tokens: int, n_outputs: int) -> Runnable:
        """The executable for these lengths: one per capacity and set of offload decisions.

        With `deterministic` there is one for all lengths, that of a full micro-batch: no two have the same kernels.
        """
        plan = self._by_length.get((n_tokens, n_outputs))
        if plan is None:
            plan = self._by_length[n_tokens, n_outputs] = self._made(n_tokens, n_outputs)
        return plan

    def _made(self, n_tokens: int, n_outputs: int) -> Runnable:
        engine = self._engine
        if engine.options.deterministic:
            n_tokens = n_outputs = engine.n_ubatch
        capacity = next((c for c in CAPACITIES if n_tokens <= c <= engine.n_ubatch), engine.n_ubatch)
        shape = capacity, 1 if n_outputs <= 1 else capacity
        lengths = {N_TOKENS: n_tokens, N_OUTPUTS: n_outputs}
        # What is fused before placement depends on lengths, as policy and costs do; so does the key.
        graph = engine.planner.fused(self.graph(*shape), lengths)
        key = *shape, engine.planner.decisions(graph, lengths)
        if key not in self.by_key:
            begin = perf_counter_ns()
            engine.feed.gather(engine.arrays(graph))
            self.by_key[key] = self.compiled(graph, lengths)
            engine.recorder.since("plan", begin)
        return self.by_key[key]

    def compiled(self, graph: Graph, lengths: Mapping[str, int]) -> Runnable:
        """An executable of a graph, scheduled for lengths."""
        return instrumented(graph, self._factory(lengths))

    def _factory(self, lengths: Mapping[str, int]) -> PlanFactory:
        engine = self._engine
        return PlanFactory(
            lambda graph: engine.planner.schedule(graph, lengths),
            engine.compile,
            engine.runtime.input,
            engine.weights,
            engine.model.types,
            lambda: engine.is_aborted,
        )

    def graph(self, n_tokens: int, n_outputs: int) -> Graph:
        """The graph of these capacities, over leaves of the types that devices read."""
        engine, shape = self._engine, (n_tokens, n_outputs)
        if shape not in self._graphs:
            begin = perf_counter_ns()
            homes = engine.planner.homes
            graph = homes.untied(engine.model.graph(*shape, engine.n_ctx, engine.options, self._head))
            if engine.observer is not None:
                graph = replace(graph, outputs=(*graph.outputs, *engine.observer.wanted(graph)))
            engine.repacked |= (types := repacked(engine.planner, graph))
            self._graphs[shape] = engine.runtime.in_kernel_types(graph, homes.device, types)
            engine.recorder.since("build", begin)
        return self._graphs[shape]

    def clear(self) -> None:
        """Lets go of all executables."""
        self.by_key.clear()
        self._by_length.clear()
