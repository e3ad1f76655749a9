"""Answers test_cuda_device.py's questions about the CUDA device, a JSON object a line; runs on the stand-in driver."""

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from shared import shared
from test_models import reference
from test_ops import all_cases, as_reference, case_cells, draw, nmse

import graphsched
import graphsched.ops
from graphsched import dtypes
from graphsched.assign import HOST, Assignment, Target
from graphsched.backends.cuda import copy, driver
from graphsched.backends.cuda.program import CudaProgram
from graphsched.device import Setup
from graphsched.errors import Error
from graphsched.graph import from_outputs
from graphsched.placement import PlacementOptions
from graphsched.policy import OffloadPolicy
from graphsched.runtime import open_runtime
from graphsched.scheduler import cut
from graphsched.session import Aborted
from graphsched.streams import Wait
from graphsched.tensor import weight

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
    ref = reference(name)
    for field in ("overrides", "devices", "offload_policy"):
        if field in options:
            options[field] = tuple(options[field])
    placed = {f: options.pop(f) for f in ("overrides", "n_gpu_layers", "kv_offload") if f in options}
    os.environ["GRAPHSCHED_CUDA_GRAPHS"] = options.pop("graphs", "whole")
    options = {"devices": (GPU,), "poison": True, "n_threads": 1, **options}
    options["off"] = frozenset(options.get("off", ()))
    began, capture, graphs = time.perf_counter(), driver.captured, list[Any]()
    driver.captured = lambda *args: graphs.append(capture(*args)) or graphs[-1]  # type: ignore[func-returns-value]
    session = graphsched.load(file or ref.model, n_ctx=64, placement=PlacementOptions(**placed), **options)
    cuts = [0, *range(first, n + 1)]  # a prompt, then one by one
    got = np.concatenate([session.eval(ref.tokens[a:b], all_logits=True) for a, b in pairwise(cuts)])
    session.close()
    driver.captured = capture
    if into is None:
        np.save(path, got)
    else:
        into.append(got)
    return {"seconds": time.perf_counter() - began, "graphs": len(graphs), "overlaps": overlaps()}


def cases(ops: list[str]) -> dict[str, Any]:
    """Runs the op table's cases on the GPU; those that fail, and those without a kernel."""
    bad, without, n = [], [], 0
    for row in all_cases():
        definition, case = row.values
        if definition.name not in ops:
            continue
        error = _case(definition, case)
        n += 1
        if error is None:
            without.append(row.id)
        elif not error <= max(case.tolerance, *(TOLERANCE.get(t.dtype.name, 0.0) for t in case.types)):
            bad.append(f"{row.id}: {error}")
    return {"bad": bad, "without": without, "n": n}


def _case(definition: Any, case: Any) -> float | None:
    tensors, values = draw(case, definition, np.random.default_rng(2))
    if definition.name == "get_rows" and tensors[0].dtype.numpy is None:  # blocks occur in weights only
        tensors[0] = weight("x", tensors[0].type)
    node = definition(*tensors, **case.attrs)
    raws = {t.name: np.ascontiguousarray(values[t.name.split(".")[0]]) for t in tensors}
    raw = {name: a.view(np.uint8).reshape(-1) for name, a in raws.items()}
    runtime = open_runtime("cpu", Setup(raw, n_threads=1, devices=(GPU,)))
    graph = runtime.in_kernel_types(from_outputs(node), lambda leaf: GPU)
    if not runtime.supports(GPU, graph.outputs[0]):
        runtime.close()
        return None
    arrays = [as_reference(t.type, values[t.name.split(".")[0]]).copy() for t in tensors]
    want = definition.run_reference(*arrays, **case.attrs)
    for t in tensors:
        if t.kind == "input":
            runtime.input(t).reshape(-1).view(np.uint8)[:] = raw[t.name]
    lengths = {"n_kv": case_cells(tensors)}
    placed = Assignment(dict.fromkeys(graph.nodes, GPU), dict.fromkeys(graph.nodes, "test"))
    target = Target((GPU, HOST), lambda leaf: GPU, runtime.supports, OffloadPolicy(), lengths)
    executable = runtime.compile(cut(graph, graph.nodes, placed, target))
    executable.run(lengths)
    got = np.asarray(executable.outputs[0]).copy()
    runtime.close()
    return float((got != want).sum()) if node.dtype == dtypes.I32 else nmse(got, want)


def overlaps() -> list[int]:
    """Kernels that were let begin before what is in front of them ends, and those of them with no kernel in front."""
    counts = (ctypes.c_long * 2)()
    ctypes.CDLL("libcuda.so.1").gs_overlaps(counts)
    return list(counts)


def live() -> list[int]:
    """Device blocks, page-locked blocks and streams that exist."""
    counts = (ctypes.c_long * 3)()
    ctypes.CDLL("libcuda.so.1").gs_live(counts)
    return list(counts)


def cycles(name: str, n: int) -> dict[str, Any]:
    """Loads a model, makes a token, closes; what is alive after the first time and after the last."""
    alive = []
    for _ in range(n):
        session = graphsched.load(shared(f"{name}.gguf"), n_ctx=64, devices=(GPU,), n_threads=1)
        session.eval([1])
        session.close()
        del session
        gc.collect()
        alive.append(live())
    return {"first": alive[0], "last": alive[-1]}


def sentence(name: str, **options: Any) -> dict[str, Any]:
    """The error that loading and one token end with."""
    try:
        session = graphsched.load(shared(f"{name}.gguf"), n_threads=1, devices=(GPU,), **options)
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
    copy.set_rows = lambda kind, slots, rows, *pairs: whole(
        kind, slots, rows, *(replace(p, x=64) for p in pairs)
    )
    try:
        return sentence(name, placement=PlacementOptions(overrides=("exps=CPU",)))
    finally:
        copy.set_rows = whole


def without(name: str, path: str, stream: str = "", number: int = -1) -> dict[str, Any]:
    """Whether leaving out all waits of a stream, or the one of a number, changes the logits at `path`."""
    whole, seen, want = CudaProgram._entry, 0, np.load(path)

    def entry(self: CudaProgram, item: Any, at: Any) -> Any:
        nonlocal seen
        seen += isinstance(item, Wait)
        mine = self.name == stream or seen - 1 == number
        return [] if isinstance(item, Wait) and mine else whole(self, item, at)

    CudaProgram._entry = entry  # type: ignore[method-assign]
    got = list[Any]()
    with contextlib.suppress(AssertionError, Error):
        logits(name, "", len(want), 6, overrides=["exps=CPU"], offload_min_batch=2, into=got)
    CudaProgram._entry = whole  # type: ignore[method-assign]
    return {"shows": not got or not np.array_equal(got[0], want), "waits": seen}


def abort(name: str) -> dict[str, Any]:
    """A run that is aborted ends, and the next is right."""
    session = graphsched.load(shared(f"{name}.gguf"), n_ctx=64, devices=(GPU,), n_threads=1)
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
    known = {f.__name__: f for f in (logits, cases, cycles, sentence, abort, fault, without)}
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
