"""Whole models on the GPU that is there: reference logits, splits, graphs against launches, tokens per second."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gpu_bench import Row
from numpy.typing import NDArray
from test_models import MODELS, QUANTS, Reference, limits, nmse, reference

import graphsched
from graphsched import synth
from graphsched.placement import PlacementOptions

GPU = ("CUDA0",)
OUT = PlacementOptions(overrides=("exps=CPU",))
# layout, type, placement and what it is called; weights are zeros, which take no disk space
FULL: tuple[tuple[str, str, PlacementOptions, str], ...] = (
    ("llama-8b", "Q4_0", PlacementOptions(), "all on the GPU"),
    ("llama-8b", "Q4_K_M", PlacementOptions(), "all on the GPU"),
    ("bitnet-2b", "IQ2_BN", PlacementOptions(), "all on the GPU"),
    ("deepseek-v2-lite", "IQ4_NL", PlacementOptions(), "all on the GPU"),
    ("deepseek-v2-lite", "IQ4_NL", OUT, "experts on the CPU"),
    ("qwen3-30b-a3b", "Q4_0", PlacementOptions(), "all on the GPU"),
)
PROMPT, TOKENS = 512, 64
SMALL = 6  # tokens of a rehearsal's prompts


@dataclass(frozen=True)
class Way:
    """A way to run a model that must agree with its reference."""

    name: str
    options: dict[str, Any]
    graphs: str = "whole"


WAYS = (
    Way("all on the GPU", {}),
    Way("experts out", {"placement": OUT}),
    Way("experts out, offloaded", {"placement": OUT, "offload_min_batch": 1}),
    Way("experts out, -op -1,0", {"placement": OUT, "offload_policy": ("-1,0",)}),
    Way("half of the layers", {"placement": PlacementOptions(n_gpu_layers=1)}),
)


def logits(ref: Reference, way: Way, n: int) -> NDArray[np.float32]:
    os.environ["GRAPHSCHED_CUDA_GRAPHS"] = way.graphs
    session = graphsched.load(ref.model, n_ctx=64, devices=GPU, **way.options)
    cuts = [0, *range(min(24, n - 3), n + 1)]  # a prompt, then one by one
    rows = [session.eval(ref.tokens[a:b], all_logits=True) for a, b in pairwise(cuts)]
    session.close()
    return np.concatenate(rows)


def checks(small: bool) -> Iterator[dict[str, Any]]:
    """Reference logits in every way that says something about a model; captured and plain give the same bits."""
    names = [m for m in MODELS + QUANTS if not small or "qwen3moe" in m or "llama-Q4_0" in m]
    for name in names:
        ref, n = reference(name), SMALL if small else 32
        moe = any(w in name for w in ("moe", "mixtral", "deepseek", "gpt-oss", "llama4"))
        for way in WAYS if moe else (WAYS[0], WAYS[4]):
            yield _checked(f"{name}: {way.name}", name, ref, way, n)
        yield _same_bits(name, ref, n)


def _checked(title: str, name: str, ref: Reference, way: Way, n: int) -> dict[str, Any]:
    try:
        e = nmse(logits(ref, way, n), ref.logits[:n])
    except Exception as x:  # one model's failure must not hide the others
        return {"name": title, "error": f"{type(x).__name__}: {str(x)[:300]}", "passed": False}
    return {"name": title, "error": e, "passed": e <= limits(name)[0]}


def _same_bits(name: str, ref: Reference, n: int) -> dict[str, Any]:
    title = f"{name}: same bits captured, in parts, plain"
    try:
        a, b, c = (logits(ref, Way("", {}, graphs), n) for graphs in ("whole", "split", "off"))
    except Exception as x:
        return {"name": title, "error": f"{type(x).__name__}: {str(x)[:300]}", "passed": False}
    same = bool(np.array_equal(a, b) and np.array_equal(b, c))
    return {"name": title, "error": int(not same), "passed": same}


def speeds(small: bool, until: float) -> Iterator[Row]:
    """Prompt and decode of full-size models in tokens per second, as long as there is time."""
    with tempfile.TemporaryDirectory() as folder:
        for layout, kind, placement, how in FULL[:1] if small else FULL:
            if time.monotonic() > until:
                return
            path = Path(folder, f"{layout}-{kind}.gguf")
            if not small and not path.exists():
                synth.write(layout, path, kind, extent="sparse")
            model = "embedded model" if small else f"{layout} {kind}"
            yield from _speeds(None if small else path, model, placement, how, small)


def _speeds(
    path: Path | None, model: str, placement: PlacementOptions, how: str, small: bool
) -> Iterator[Row]:
    for graphs in ("whole", "split", "off"):
        os.environ["GRAPHSCHED_CUDA_GRAPHS"] = graphs
        n, tokens = (SMALL, 3) if small else (PROMPT, TOKENS)
        session = graphsched.load(path, n_ctx=64 if small else 1024, devices=GPU, placement=placement)
        if graphs == "whole":
            took, size = session.timings.load_ms / 1e3, path.stat().st_size if path else 0
            yield Row(f"{model}, {how}: load", "", took * 1e6, size / took / 1e9, "GB/s", 0.0)
            prompt = min(_timed(session, list(range(1, n + 1)), 1) for _ in range(1 if small else 3))
            yield Row(f"{model}, {how}: prompt", f"{n} tokens", prompt * 1e6, n / prompt, "tokens/s", 0.0)
        took = _timed(session, [1], tokens)
        what = f"{model}, {how}: decode, graphs {graphs}"
        yield Row(what, f"{tokens} tokens", took * 1e6, tokens / took, "tokens/s", 0.0)
        session.close()


def _timed(session: Any, ids: list[int], times: int) -> float:
    """Seconds of reading the same tokens `times` times, after one run that compiles and captures."""
    session.reset()
    session.eval(ids)
    if len(ids) > 1:
        session.reset()
    began = time.perf_counter()
    for _ in range(times):
        session.eval(ids)
    return time.perf_counter() - began
