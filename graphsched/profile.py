"""Where the time of a prompt and of a token goes: per op, per label, waiting, and what is left.

On the CPU the times are measured inside the compiled program, on thread 0. With simulated devices they are read off the
virtual clock.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphsched.assign import HOST
from graphsched.cost import cost_of
from graphsched.opdef import Op
from graphsched.plan import make_plan
from graphsched.session import Session
from graphsched.targets import is_python_step
from graphsched.tensor import Tensor
from graphsched.timeline import Timeline

PRODUCTS = (Op.MUL_MAT, Op.MUL_MAT_ID, Op.MOE_FUSED_UP_GATE, Op.FLASH_ATTN_EXT)


@dataclass
class Row:
    """Seconds, and what was moved and computed in them."""

    seconds: float = 0.0
    nbytes: float = 0.0
    flops: float = 0.0
    count: int = 0

    def add(self, seconds: float, nbytes: float = 0.0, flops: float = 0.0) -> None:
        self.seconds += seconds
        self.nbytes += nbytes
        self.flops += flops
        self.count += 1


@dataclass
class Phase:
    """A profile of one phase. Rows by (device, op) and (device, label); `overhead` adds up to `wall` with the ops."""

    name: str
    tokens: int
    is_predicted: bool
    wall: float = 0.0
    ops: dict[tuple[str, str], Row] = field(default_factory=lambda: defaultdict(Row))
    labels: dict[tuple[str, str], Row] = field(default_factory=lambda: defaultdict(Row))
    overhead: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))


def profile(session: Session, n_prompt: int, n_gen: int, repeats: int, which: str = "both") -> list[Phase]:
    """Profiles a prompt of n_prompt tokens and n_gen tokens after it (`which`: prefill, decode or both)."""
    phases = []
    run = predict if session.targets.devices else measure
    if n_prompt and which != "decode":
        phases.append(run(session, "prompt", n_prompt, 0, repeats))
    if n_gen and which != "prefill":
        phases.append(run(session, "generation", 1, n_prompt, n_gen * repeats))
    return phases


def measure(session: Session, name: str, n_tokens: int, n_past: int, repeats: int) -> Phase:
    """Times every step of `repeats` runs on this machine."""
    phase = Phase(f"{name}, {n_tokens} tokens" if n_tokens > 1 else name, n_tokens * repeats, False)
    ids = np.arange(n_tokens) % max(session.model.n_vocab - 3, 1) + min(3, session.model.n_vocab - 1)
    session.reset()
    filler = np.ones(min(max(n_past, 0), session.n_ctx - n_tokens), np.int64)
    if len(filler):
        session.eval(filler)
    session.trace = None
    rewind = session.n_past
    session.eval(ids)
    for _ in range(repeats):
        session.rewind(rewind)
        session.trace = []
        started = time.perf_counter()
        session.eval(ids)
        phase.wall += time.perf_counter() - started
        for run in filter(None, session.trace):
            _add_run(phase, run)
    session.trace = None
    _close(phase)
    return phase


def _add_run(phase: Phase, run: Any) -> None:
    """One traced micro-batch."""
    graph, lengths, steps = run.schedule.graph, run.lengths, run.steps
    previous = steps[0].begun if steps else 0.0
    costs: dict[int, Any] = {}
    last = {step.node: i for i, step in enumerate(steps)}
    for i, step in enumerate(steps):
        node = graph.nodes[step.node] if step.node >= 0 else None
        cost = None
        if node is not None and last[step.node] == i:  # what a node costs counts once, with its last step
            cost = costs.setdefault(step.node, cost_of(node, lengths))
        _add_step(phase, step, node, graph.labels, cost)
        phase.overhead["dispatch"].add(max(step.begun - previous, 0.0))
        phase.overhead["barrier"].add(step.joined - step.done)
        previous = step.joined


def _add_step(phase: Phase, step: Any, node: Tensor | None, labels: Mapping[Tensor, str], cost: Any) -> None:
    seconds = step.done - step.begun
    if step.kernel.startswith("quantize"):
        phase.ops[step.device, "quantize"].add(seconds)
        return
    if node is None or node.opdef is None:
        phase.ops[step.device, "COPY"].add(seconds)
        return
    nbytes, flops = (cost.nbytes, cost.flops) if cost else (0.0, 0.0)
    phase.ops[step.device, _row_name(node)].add(seconds, nbytes, flops)
    if node.opdef.op in PRODUCTS:
        phase.labels[step.device, labels[node]].add(seconds, nbytes, flops)


def _row_name(node: Tensor) -> str:
    assert node.opdef is not None
    return node.opdef.op.name + (" (Python)" if is_python_step(node) else "")


def _close(phase: Phase) -> None:
    """What neither kernels nor barriers account for is Python and input set-up."""
    inside = sum(r.seconds for r in phase.ops.values()) + sum(r.seconds for r in phase.overhead.values())
    phase.overhead["host (Python, inputs, logits)"].add(max(phase.wall - inside, 0.0))


def predict(session: Session, name: str, n_tokens: int, n_past: int, repeats: int) -> Phase:
    """The same tables off the virtual clock of the described machine, for one run."""
    plan = make_plan(session.model, session.options, n_tokens, 1, n_past + n_tokens)
    timeline = plan.timeline
    assert timeline is not None
    phase = Phase(f"{name}, {n_tokens} tokens" if n_tokens > 1 else name, n_tokens, True, timeline.wall)
    by_name = {plan.schedule.graph.names[n]: n for n in plan.schedule.graph.nodes}
    for event in (e for e in timeline.events if e.kind != "launch"):
        seconds = event.end - event.start
        node = by_name.get(event.name) if event.kind == "compute" else None
        phase.ops[event.lane, _row_name(node) if node else event.op].add(seconds, event.nbytes)
        if node is not None and node.opdef and node.opdef.op in PRODUCTS:
            phase.labels[event.lane, plan.schedule.graph.labels[node]].add(seconds, event.nbytes)
    for what, seconds in owners(timeline, (*session.targets.devices, HOST)).items():
        phase.overhead[what].add(seconds)
    return phase


def owners(timeline: Timeline, lanes: Iterable[str]) -> dict[str, float]:
    """Each instant has one owner: compute (devices first), then copies, then nobody; the rows add up to the wall."""
    found: dict[str, float] = {}
    claimed: list[tuple[float, float]] = []
    kinds: list[tuple[str, str, str | None]] = [(f"compute on {lane}", "compute", lane) for lane in lanes]
    kinds += [("copies to devices", "up", None), ("copies from devices", "down", None)]
    kinds += [("launches", "launch", None)]
    for what, kind, lane in kinds:
        spans = [(e.start, e.end) for e in timeline.events if e.kind == kind and lane in (None, e.lane)]
        before = covered(claimed)
        claimed += spans
        found[what] = covered(claimed) - before
    found["waiting"] = timeline.wall - covered(claimed)
    return found


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for a, b in sorted(spans):
        total += max(b - max(a, end), 0.0)
        end = max(end, b)
    return total
