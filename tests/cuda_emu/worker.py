"""Answers test_cuda_device.py's questions about the CUDA device, a JSON object a line; runs on the stand-in driver."""

import contextlib
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from op_runs import all_cases, as_reference, case_cells, draw, side_by_side
from running import model_path, nmse, tokens_of

import graphsched
import graphsched.graph.ops
from graphsched.backends.cpu.program.runner import CpuProgram
from graphsched.backends.cuda import driver
from graphsched.backends.cuda.device import open_gpu
from graphsched.backends.cuda.families import copy
from graphsched.backends.cuda.families import cublas as by_library
from graphsched.backends.cuda.packing.pieces import packing
from graphsched.backends.cuda.packing.threads import packed
from graphsched.backends.cuda.stream.memory import DeviceMemory
from graphsched.backends.cuda.stream.program import CudaProgram
from graphsched.backends.cuda.stream.queue import Entry
from graphsched.backends.cuda.stream.upload import SLOT
from graphsched.errors import Error
from graphsched.graph.graph import from_outputs
from graphsched.graph.ops.several import results
from graphsched.graph.tensor import TensorType, input_tensor, weight
from graphsched.measure.owners import owners
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.run.streams import Signal, Wait
from graphsched.run.trace import THREADS
from graphsched.schedule.assign import Assignment, Target
from graphsched.schedule.placement import PlacementOptions
from graphsched.schedule.policy import OffloadPolicy
from graphsched.schedule.scheduler import cut
from graphsched.session.engine import Engine
from graphsched.session.model import open_default_or
from graphsched.session.options import session_options
from graphsched.session.session import Aborted
from graphsched.types import dtypes
from graphsched.types.devices import HOST

GPU = "CUDA0"
# Products take activations as int8, f16 or bf16, as the types of the weights have them.
TOLERANCE = {"F16": 1e-7, "BF16": 1e-5}


def logits(
    name: str,
    path: str,
    n: int = 32,
    first: int = 24,
    into: list[Any] | None = None,
    file: str = "",
    **options: Any,
) -> dict[str, Any]:
    """Saves the logits of a reference's first n tokens, or adds them to a list; `file`: of another model."""
    tokens = tokens_of(name)
    for field in ("overrides", "devices", "offload_policy"):
        if field in options:
            options[field] = tuple(options[field])
    placed = {f: options.pop(f) for f in ("overrides", "n_gpu_layers", "kv_offload") if f in options}
    os.environ["GRAPHSCHED_CUDA_GRAPHS"] = options.pop("graphs", "whole")
    if "waits" in options:
        os.environ["GRAPHSCHED_CUDA_WAITS"] = options.pop("waits")
    options = {"devices": (GPU,), "poison": True, "n_threads": 1, **options}
    options["off"] = frozenset(options.get("off", ()))
    began, capture, graphs = time.perf_counter(), driver.captured, list[Any]()
    driver.captured = lambda *args: graphs.append(capture(*args)) or graphs[-1]  # type: ignore[func-returns-value]
    session = graphsched.load(
        file or model_path(name), n_ctx=64, placement=PlacementOptions(**placed), **options
    )
    cuts = [0, *range(first, n + 1)]  # a prompt, then one by one
    got = np.concatenate([session.eval(tokens[a:b], all_logits=True) for a, b in pairwise(cuts)])
    session.close()
    driver.captured = capture
    if into is None:
        np.save(path, got)
    else:
        into.append(got)
    return {
        "seconds": time.perf_counter() - began,
        "graphs": len(graphs),
        "word operations": live()[6],
        "overlaps": overlaps(),
    }


def sequences(name: str, path: str, **options: Any) -> dict[str, Any]:
    """Saves the logits of a reference's first 32 tokens, read beside other sequences, and those of a fork at 30.

    The fork goes through the host's memory in between, and comes back in another slot.
    """
    given = {"n_ctx": 128, "n_parallel": 4, "n_ubatch": 64, "devices": (GPU,), "poison": True, "n_threads": 1}
    engine = Engine(open_default_or(model_path(name)), session_options(**given, **options))
    tokens, others = tokens_of(name)[:32], np.random.default_rng(3).integers(3, 200, 40)
    a, b, c = (engine.sequence() for _ in range(3))
    rows = [engine.step([(c, others[:7], 1), (a, tokens[:20], 20), (b, others[7:24], 0)])[1]]
    c.rewind(2)
    rows.append(engine.step([(a, tokens[20:27], 7), (c, others[24:26], 2)])[0])
    c.close()
    rows += [engine.step([(b, others[i : i + 1], 1), (a, tokens[i : i + 1], 1)])[1] for i in (27, 28, 29)]
    saved = (forked := a.fork()).saved()
    forked.close()
    engine.step([(engine.sequence(2), others[:9], 1)])  # its blocks and its row are another one's now
    forked = engine.restored(saved, slot=3)
    steps = [engine.step([(s, tokens[i : i + 1], 1) for s in (forked, b, a)]) for i in (30, 31)]
    np.save(path, np.concatenate([*rows, *(step[2] for step in steps)]))
    same = all(np.array_equal(step[0], step[2]) for step in steps)
    for sequence in (forked, b, a):
        sequence.close()
    engine.close()
    return {"fork has the same bits": same}


def cases(ops: list[str], types: Sequence[str] = ()) -> dict[str, Any]:
    """Runs cases of the op table on the GPU: those that fail, those without a kernel. types: of the first operand."""
    bad, without, n = [], [], 0
    for row in all_cases():
        definition, case = row.values
        if definition.name not in ops or (types and case.types[0].dtype.name not in types):
            continue
        error = run_case(definition, case)
        n += 1
        if error is None:
            without.append(row.id)
        elif not error <= max(case.tolerance, *(TOLERANCE.get(t.dtype.name, 0.0) for t in case.types)):
            bad.append(f"{row.id}: {error}")
    return {"bad": bad, "without": without, "n": n}


def run_case(definition: Any, case: Any) -> float | None:
    """The error of one case of the op table on the GPU, or None where it has no kernel."""
    found = outcome(definition, case, GPU)
    if found is None:
        return None
    got, want = found
    return float((got != want).sum()) if got.dtype == np.int32 else nmse(got, want)


def same_bits(op: str, types: list[str]) -> dict[str, Any]:
    """How many of an op's cases with a matrix of these types there are, and those with other bits than on the host."""
    n, differ = 0, []
    for row in all_cases():
        definition, case = row.values
        w = case.types[0]
        if definition.name == op and w.dtype.name in types and len(w.shape) == 2:
            n += 1
            both = [outcome(definition, case, device) for device in (GPU, HOST)]
            if None in both or not np.array_equal(*(found[0] for found in both if found)):
                differ.append(row.id)
    return {"n": n, "differ": differ}


def outcome(definition: Any, case: Any, device: str) -> tuple[Any, Any] | None:
    """What a device makes of a case of the op table, and what the reference does; None where it has no kernel."""
    tensors, values = draw(case, definition, np.random.default_rng(2))
    tensors = [input_tensor(t.name, t.type) if t.kind == "cache" else t for t in tensors]
    first = tensors[0].type
    if definition.name == "get_rows" and first.dtype.numpy is None and len(first.shape) == 2:  # of weights
        tensors[0] = weight("x", first)
    node = definition(*tensors, **case.attrs)
    raws = {t.name: np.ascontiguousarray(values[t.name.split(".")[0]]) for t in tensors}
    raw = {name: a.view(np.uint8).reshape(-1) for name, a in raws.items()}
    runtime = open_runtime("cpu", Setup(raw, n_threads=1, devices=(GPU,)))
    graph = runtime.in_kernel_types(from_outputs(*results(node)), lambda leaf: device)
    if not all(runtime.supports(device, n) for n in graph.nodes):
        runtime.close()
        return None
    arrays = [as_reference(t.type, values[t.name.split(".")[0]]).copy() for t in tensors]
    want = definition.run_reference(*arrays, **case.attrs)
    for t in tensors:
        if t.kind == "input":
            runtime.input(t).reshape(-1).view(np.uint8)[:] = raw[t.name]
    lengths = {"n_kv": case_cells(tensors)}
    placed = Assignment(dict.fromkeys(graph.nodes, device), dict.fromkeys(graph.nodes, "test"))
    target = Target((GPU, HOST), lambda leaf: device, runtime.supports, OffloadPolicy(), lengths)
    executable = runtime.compile(cut(graph, graph.nodes, placed, target))
    executable.run(lengths)
    got = side_by_side(executable.outputs).copy()
    runtime.close()
    return got, want


def overlaps() -> list[int]:
    """Kernels that were let begin before what is in front of them ends, and those of them with no kernel in front."""
    counts = (ctypes.c_long * 2)()
    ctypes.CDLL("libcuda.so.1").gs_overlaps(counts)
    return list(counts)


def cublas(room: int = 0) -> dict[str, int]:
    """Products that the stand-in of cuBLASLt has made, and how many of its objects exist.

    room: bytes of decoded weights at once, from now on.
    """
    by_library.ROOM = room or by_library.ROOM  # type: ignore[misc]
    counts = (ctypes.c_int * 2)()
    ctypes.CDLL(os.environ["GS_FAKE_CUBLAS"]).gs_cublas_counts(counts)
    return {"products": counts[0], "live": counts[1]}


def live() -> list[int]:
    """Device blocks, page-locked blocks, streams, events, modules and graphs that exist; stream memory operations."""
    counts = (ctypes.c_long * 7)()
    ctypes.CDLL("libcuda.so.1").gs_live(counts)
    return list(counts)


def cycles(name: str, n: int) -> dict[str, Any]:
    """Loads a model, makes tokens until graphs are replayed, closes; what is alive after the first and last time."""
    alive = []
    for _ in range(n):
        session = graphsched.load(model_path(name), n_ctx=64, devices=(GPU,), n_threads=1)
        for token in (1, 2, 3):
            session.eval([token])
        session.take_trace()
        session.close()
        del session
        gc.collect()
        driver.free_unused()
        alive.append([*live()[:6], threading.active_count()])
    return {"first": alive[0], "last": alive[-1]}


def uploaded(types: dict[str, list[int]]) -> dict[str, Any]:
    """Weights of random bytes that take several pieces, one behind the other: names of those that arrive wrong."""
    rng, sent = np.random.default_rng(5), []
    memory = DeviceMemory(GPU, open_gpu(0))
    for name, shape in types.items():
        type = TensorType(dtypes.by_name(name), tuple(shape))
        raw, how = rng.integers(0, 256, type.nbytes, dtype=np.uint8), packing(type)
        sent.append((name, memory.adopt(raw, how, name, ""), packed(raw, type)))
    memory.settle()
    wrong = [n for n, at, want in sent if ctypes.string_at(at.address, want.size) != want.tobytes()]
    pieces = [
        sum(1 for _ in packing(TensorType(dtypes.by_name(n), tuple(s))).pieces(SLOT))
        for n, s in types.items()
    ]
    memory.close()
    driver.free_unused()
    return {"wrong": wrong, "pieces": pieces}


def sentence(name: str, **options: Any) -> dict[str, Any]:
    """The error that loading and one token end with."""
    if "n_gpu_layers" in options:
        options["placement"] = PlacementOptions(n_gpu_layers=options.pop("n_gpu_layers"))
    try:
        session = graphsched.load(model_path(name), n_threads=1, devices=(GPU,), **options)
    except Error as e:
        return {"error": str(e)}
    try:
        session.eval([1, 2, 3])
    except Error as e:
        return {"error": str(e)}
    finally:
        session.close()
    return {"error": None}


def fault(name: str) -> dict[str, Any]:
    """The error of a run in which a kernel touches what is not its own, while the host waits for the device."""
    whole = copy.set_rows
    copy.set_rows = lambda kind, ids, rows, *pairs: whole(kind, ids, rows, *(replace(p, x=64) for p in pairs))
    try:
        return sentence(name, placement=PlacementOptions(overrides=("exps=CPU",)))
    finally:
        copy.set_rows = whole


def without(
    name: str, path: str, stream: str = "", number: int = -1, worst: bool = True, **options: Any
) -> dict[str, Any]:
    """Whether leaving out all waits of a stream, or the one of a number, changes the logits at `path`.

    worst: what waits goes ahead of all else, and what it waits for is late, as far as other waits allow.
    """
    whole, seen, want, about = CudaProgram._entry, 0, np.load(path), ""

    def entry(self: CudaProgram, item: Any, at: Any) -> Any:
        nonlocal seen, about
        if not isinstance(item, Wait):
            return whole(self, item, at)
        seen += 1
        if seen - 1 == number:
            about = f"{self.name} for {_prefer(self, item) if worst else 'others'}"
        return Entry("") if self.name == stream or seen - 1 == number else whole(self, item, at)

    CudaProgram._entry = entry  # type: ignore[method-assign]
    got = list[Any]()
    with contextlib.suppress(AssertionError, Error):
        logits(name, "", len(want), 6, into=got, **options)
    CudaProgram._entry = whole  # type: ignore[method-assign]
    return {"shows": not got or not np.array_equal(got[0], want), "waits": seen, "about": about}


def _prefer(program: CudaProgram, wait: Wait) -> str:
    """Makes the stand-in run `program`'s stream first and last the one that the wait is for; the name of that one."""
    raisers = {item.flag: p for p in program._device._programs for item in p._items if type(item) is Signal}
    other = raisers.get(wait.flag)
    if other is None:
        soon = CpuProgram.launch
        CpuProgram.launch = lambda *args: time.sleep(0.01) or soon(*args)  # type: ignore[method-assign,func-returns-value]
    handles = (program.stream.handle, other.stream.handle if other else 0)
    ctypes.CDLL("libcuda.so.1").gs_prefer(*(ctypes.c_void_p(int(h)) for h in handles))
    return other.name if other else HOST


def traced(name: str, **options: Any) -> dict[str, Any]:
    """A profile's trace of a prompt and tokens: what is wrong with its times, and what there is."""
    os.environ["GRAPHSCHED_CUDA_FUSION"] = "0"  # each node has a launch, and so a time, of its own
    options["placement"] = PlacementOptions(overrides=tuple(options.pop("overrides", ())))
    session = graphsched.load(model_path(name), n_ctx=64, devices=(GPU,), n_threads=1, **options)
    session.recorder.level = THREADS
    wrong, kinds, untimed = list[str](), Counter[str](), set[str]()
    for tokens in ([1, 2, 3, 4, 5], [6], [7], [8]):
        session.take_trace()
        session.eval(tokens)
        trace = session.take_trace()
        (run,) = trace.runs
        wrong += _wrong_times(trace, run)
        kinds.update(f"{e.kind} {e.lane}" for e in trace.events)
        plan: Any = run.schedule
        nodes = {n for s in plan.splits if s.device == GPU for n in s.nodes if not n.traits.no_work}
        timed = {e.node for e in trace.events if e.kind == "step" and e.device == GPU}
        untimed |= {
            plan.graph.names.get(plan.origin.get(n, n), "?") for n in nodes if plan.index[n] not in timed
        }
        rows = owners(trace.events, [(run.begin, run.end)], (GPU, HOST))
        if sum(row.ns for row in rows.values()) != run.end - run.begin:
            wrong.append("owners do not add up")
    session.close()
    del os.environ["GRAPHSCHED_CUDA_FUSION"]
    return {"wrong": wrong, "kinds": kinds, "untimed": sorted(untimed)}


def brief(name: str, overrides: list[str]) -> dict[str, Any]:
    """The trace that is always on: what is wrong with its times, which runs it has, how many events it took."""
    placed = PlacementOptions(overrides=tuple(overrides))
    session = graphsched.load(model_path(name), n_ctx=64, devices=(GPU,), n_threads=1, placement=placed)
    for token in (1, 2, 3):
        session.eval([token])
    trace = session.take_trace()
    with_steps = {e.run for e in trace.events if e.kind == "step" and e.lane == GPU}
    (program,) = (p for p in session.engine.runtime.devices[GPU]._programs if p.name == GPU and len(p._ready))  # type: ignore[attr-defined]
    (ready,) = program._ready.values()
    wrong = [w for run in trace.runs for w in _wrong_times(trace, run)]
    session.close()
    return {
        "wrong": wrong,
        "runs": len(trace.runs),
        "runs with steps on CUDA0": sorted(with_steps),
        "events": len(ready.stamps._behind),
        "items": len(program._items),
    }


def _wrong_times(trace: Any, run: Any) -> list[str]:
    """Events outside their run, or before the one in front of them on their lane."""
    wrong, before = [], dict[str, int]()
    for e in trace.events:
        if trace.runs.index(run) != e.run or not e.lane.startswith(GPU):
            continue
        if not run.begin <= e.begin <= e.end <= run.end:
            wrong.append(
                f"{e.lane} {e.name}: {e.begin - run.begin} to {e.end - run.begin} of {run.end - run.begin}"
            )
        if e.begin < before.get(e.lane, 0):
            wrong.append(f"{e.lane} {e.name} begins before the one before it ends")
        before[e.lane] = e.end
        if e.kind == "copy" and e.lane != f"{GPU} {e.direction}":
            wrong.append(f"a copy {e.direction} on {e.lane}")
    return wrong


def abort(name: str) -> dict[str, Any]:
    """A run that is aborted ends, and the next is right."""
    session = graphsched.load(model_path(name), n_ctx=64, devices=(GPU,), n_threads=1)
    want = session.eval([1, 2, 3]).copy()
    session.reset()
    session.abort()
    try:
        session.eval([1, 2, 3])
        ended = False
    except Aborted:
        ended = True
    session.reset()
    same = bool((session.eval([1, 2, 3]) == want).all())
    session.close()
    return {"ended": ended, "same": same}


def main() -> None:
    known = {
        f.__name__: f
        for f in (
            logits,
            cases,
            sequences,
            same_bits,
            cycles,
            uploaded,
            sentence,
            abort,
            fault,
            without,
            traced,
            brief,
            cublas,
        )
    }
    out = os.fdopen(os.dup(1), "w")  # what the answers go to: nothing else may print there
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = known[question.pop("ask")](**question)
        except Exception as e:
            import traceback

            answer = {"failed": f"{type(e).__name__}: {e}", "where": traceback.format_exc()}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
