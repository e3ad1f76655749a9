"""Whole models on the GPU that is there: reference logits, splits, graphs against launches, tokens per second."""

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gpu_bench import Row
from gpu_loading import loading
from gpu_sections import Found, checked
from numpy.typing import NDArray
from running import limits, nmse, reference
from shared import FILES, HERE
from tiny.files import MODELS, QUANTS, Reference

import graphsched
from graphsched.backends.cuda import driver
from graphsched.measure.profile import Measurement, Phase, Request
from graphsched.schedule.placement import PlacementOptions
from graphsched.synth import model as synth

GPU = ("CUDA0",)
OUT = PlacementOptions(overrides=("exps=CPU",))


@dataclass(frozen=True)
class Launching:
    """How work gets on the GPU: values of GRAPHSCHED_CUDA_GRAPHS, _WAITS, _FUSION, _OVERLAP and _CUBLAS."""

    graphs: str = "whole"
    waits: str = ""
    fusion: str = ""
    overlap: str = ""
    cublas: str = ""

    def choose(self) -> None:
        """For sessions that are opened from now on."""
        os.environ |= {f"GRAPHSCHED_CUDA_{name.upper()}": value for name, value in vars(self).items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self).items() if value)


@dataclass(frozen=True)
class Full:
    """A full-size model: layout, type, placement and what it is called; its weights are zeros, which take no disk."""

    layout: str
    type: str
    placement: PlacementOptions
    how: str
    ways: tuple[Launching, ...] = ()  # others to time tokens with
    prompts: tuple[Launching, ...] = ()  # and prompts
    crossover: bool = False  # also time prompts of few tokens with uploads and without


HOST_WAITS, APART, PLAIN = Launching("split", "host"), Launching(fusion="0"), Launching("off")
ONE_BY_ONE = Launching(overlap="0")
BY_LIBRARY = Launching(cublas="0"), Launching(cublas="64")
FULL = (
    Full(
        "llama-8b",
        "Q4_0",
        PlacementOptions(),
        "all on the GPU",
        (HOST_WAITS, ONE_BY_ONE, APART, PLAIN),
        BY_LIBRARY,
    ),
    Full(
        "deepseek-v2-lite",
        "IQ4_NL",
        OUT,
        "experts on the CPU",
        (HOST_WAITS, ONE_BY_ONE, APART, Launching("split")),
        crossover=True,
    ),
    Full("bitnet-2b", "IQ2_BN", PlacementOptions(), "all on the GPU"),
    Full("llama-8b", "Q4_K_M", PlacementOptions(), "all on the GPU", prompts=BY_LIBRARY),
    Full("deepseek-v2-lite", "IQ4_NL", PlacementOptions(), "all on the GPU"),
    Full("qwen3-30b-a3b", "Q4_0", PlacementOptions(), "all on the GPU"),
)
PROMPT, TOKENS = 512, 64
CROSSOVER = (1, 8, 16, 32, 64, 128, 256, 512)  # tokens of a prompt
SMALL = 6  # tokens of a rehearsal's prompts


@dataclass(frozen=True)
class Way:
    """A way to run a model that must agree with its reference, or with other ways bit for bit."""

    name: str
    options: dict[str, Any]
    launching: Launching = Launching()


WAYS = (
    Way("all on the GPU", {}),
    Way("experts out", {"placement": OUT}),
    Way("experts out, offloaded", {"placement": OUT, "offload_min_batch": 1}),
    Way("experts out, -op -1,0", {"placement": OUT, "offload_policy": ("-1,0",)}),
    Way("half of the layers", {"placement": PlacementOptions(n_gpu_layers=1)}),
    Way("attention in parts", {"off": frozenset({"fa"})}),
)
LAUNCHED = (
    Launching("off", "stream", fusion="0", overlap="0"),
    Launching("off", "stream", overlap="0"),
    Launching("off", "stream"),
    Launching("whole", "stream"),
    Launching("whole", "stream", overlap="0"),
    Launching("split", "stream"),
    Launching("split", "host"),
    Launching("off", "host"),
)


def logits(ref: Reference, way: Way, n: int) -> NDArray[np.float32]:
    way.launching.choose()
    session = graphsched.load(ref.model, n_ctx=64, devices=GPU, **way.options)
    cuts = [0, *range(min(24, n - 3), n + 1)]  # a prompt, then one by one
    rows = [session.eval(ref.tokens[a:b], all_logits=True) for a, b in pairwise(cuts)]
    session.close()
    return np.concatenate(rows)


def names(options: Namespace) -> list[str]:
    """Tiny models, and reference files where there are any."""
    found = [m for m in MODELS + QUANTS if options.only in m]
    if options.small:
        return [m for m in found if m in ("qwen3moe", "llama-Q4_0")]
    return found + [f for f in FILES.values() if HERE and options.only in f]


def is_moe(name: str) -> bool:
    return any(w in name for w in ("moe", "mixtral", "deepseek", "gpt-oss", "llama4"))


def checks(options: Namespace, until: float) -> Iterator[Found]:
    """Reference logits: each model all on the GPU first, then in every way that says something about it."""
    found = names(options)
    rounds = [(name, WAYS[0]) for name in found]
    rounds += [(name, way) for name in found for way in (WAYS[1:] if is_moe(name) else WAYS[4:])]
    for name, way in rounds:
        if time.monotonic() > until:
            return
        yield checked(f"{name}: {way.name}", partial(_against_reference, name, way, options.small))
    if not HERE:
        yield "fact", {"reference files": "none: there is no shared/ in or beside this tree"}


def _against_reference(name: str, way: Way, small: bool) -> tuple[float, bool]:
    ref, n = reference(name), SMALL if small else 32
    e = nmse(logits(ref, way, n), ref.logits[:n])
    return e, e <= limits(name)[0]


def by_library(options: Namespace, until: float) -> Iterator[Found]:
    """Models whose prompts' products go by cuBLASLt."""
    for name in names(options):
        if name == "llama" or any(
            name.endswith(part) for part in ("/llama-f16", "llama-Q4_0", "llama-Q4_K_M", "llama-Q6_K")
        ):
            way = Way("cuBLASLt from 9 tokens", {}, Launching(cublas="9"))
            yield checked(f"{name}: {way.name}", partial(_against_reference, name, way, False))
        if time.monotonic() > until:
            return


def bounds(options: Namespace, until: float) -> Iterator[Found]:
    """The same bits from one graph per stream, one per split and plain launches, whoever waits, shared or not."""
    known: dict[str, NDArray[np.float32]] = {}  # of plain launches
    for name in names(options):
        if not any(part in name for part in ("llama-Q4_0", "qwen3moe", "deepseek2")):
            continue
        for launching in LAUNCHED:
            if time.monotonic() > until:
                return
            way = Way("", {"placement": OUT} if is_moe(name) else {}, launching)
            title = f"{name}: same bits, {launching}"
            yield checked(title, partial(_same_bits, name, way, options.small, known))


def _same_bits(name: str, way: Way, small: bool, known: dict[str, NDArray[np.float32]]) -> tuple[int, bool]:
    got = logits(reference(name), way, SMALL if small else 32)
    wrong = int((got != known.setdefault(name, got)).sum())
    return wrong, wrong == 0


# ---- speed


def speeds(full: Full, small: bool, until: float) -> Iterator[Found]:
    """Load, prompt and decode of a full-size model, where the time of a token goes, other ways to launch."""
    with tempfile.TemporaryDirectory() as folder:
        path, model = None, f"{full.layout} {full.type}, {full.how}"
        if not small:
            path = Path(folder, "model.gguf")
            synth.write(full.layout, path, full.type, extent="sparse")
        for row in _speeds(path, model, full, small, until):
            yield "row", row.dict()


def _speeds(path: Path | None, model: str, full: Full, small: bool, until: float) -> Iterator[Row]:
    n, tokens, n_ctx = (SMALL, 3, 64) if small else (PROMPT, TOKENS, 1024)

    def opened(**more: Any) -> Any:
        return graphsched.load(path, n_ctx=n_ctx, devices=GPU, placement=full.placement, **more)

    Launching().choose()
    if full is FULL[0]:
        yield from loading(path, model)
    session = opened()
    took, size = session.timings.load_ms / 1e3, path.stat().st_size if path else 0
    yield Row(f"{model}: load", "", took * 1e6, size / took / 1e9, "GB/s", 0.0)
    yield _rate(f"{model}: decode", tokens, timed(session, [1], tokens))
    prompt = min(timed(session, list(range(1, n + 1)), 1) for _ in range(1 if small else 3))
    yield _rate(f"{model}: prompt", n, prompt)
    yield from profiled(session, model, n, min(tokens, 16))
    session.close()
    others = [(str(way), way, True) for way in full.ways]
    for how, launching, trace in [*others, ("no trace", Launching(), False)] if others else []:
        if time.monotonic() > until:
            return
        launching.choose()
        session = opened(trace=trace)
        yield _rate(f"{model}: decode, {how}", tokens, timed(session, [1], tokens))
        session.close()
    for launching in full.prompts if driver.cublas_version() else ():
        if time.monotonic() > until:
            return
        launching.choose()
        session = opened()
        yield _rate(f"{model}: prompt, {launching}", n, timed(session, list(range(1, n + 1)), 1))
        session.close()
    Launching().choose()
    if full.crossover and time.monotonic() < until:
        yield from crossover(opened, model, small, until)


def _rate(what: str, n: int, seconds: float) -> Row:
    return Row(what, f"{n} tokens", seconds * 1e6, n / seconds, "tokens/s", 0.0)


def timed(session: Any, ids: list[int], times: int) -> float:
    """Seconds of reading the same tokens `times` times, after two runs that compile and capture."""
    for _ in range(2):
        session.reset()
        session.eval(ids)
    if len(ids) > 1:
        session.reset()
    else:
        session.eval(ids)
    began = time.perf_counter()
    for _ in range(times):
        session.eval(ids)
    return time.perf_counter() - began


def profiled(session: Any, model: str, n: int, tokens: int) -> Iterator[Row]:
    """Where the time of a prompt and of a token goes, by the events of the device: each instant has one owner."""
    measurement = Measurement(session, Request(n, tokens, 1))
    measurement.warm_up()
    measurement.repeat()
    for phase in measurement.phases():
        yield from owned(f"{model}: {phase.name.partition(',')[0]}", phase)


def owned(what: str, phase: Phase) -> Iterator[Row]:
    """Shares of the wall time; of uploads and compute the part that ran at the same time."""
    (wall,) = phase.sums.wall
    for (_, name), row in phase.sums.overhead.items():
        if row.ns[0] or name.startswith("sync"):
            yield Row(f"{what}, {name}", f"{phase.tokens} tokens", row.ns[0] / 1e3, 0.0, "", row.ns[0] / wall)
    if hidden := _hidden(phase):
        yield Row(f"{what}, uploads behind compute", f"{phase.tokens} tokens", 0.0, 0.0, "", hidden)


def _hidden(phase: Phase) -> float:
    """Share of the shorter of (uploads, compute on devices) that ran behind the other; 0 where there is one only."""
    from graphsched.run.spans import length, union

    events = [e for e in phase.trace.events if e.lane.startswith(GPU)]
    up = union([(e.begin, e.end) for e in events if e.kind == "copy" and e.direction == "up"])
    compute = union([(e.begin, e.end) for e in events if e.kind == "step"])
    shorter = min(length(up), length(compute))
    together = length(up) + length(compute) - length(union(np.concatenate((up, compute))))
    return together / shorter if shorter else 0.0


def crossover(opened: Any, model: str, small: bool, until: float) -> Iterator[Row]:
    """Prompts of few tokens: experts uploaded to the GPU, and computed on the host."""
    ways: Sequence[tuple[str, dict[str, Any]]] = (
        ("experts uploaded", {"offload_min_batch": 1}),
        ("experts on the host", {"offload_policy": ("-1,0",)}),
    )
    for how, more in ways:
        session = opened(**more)
        for n in CROSSOVER[:2] if small else CROSSOVER:
            if time.monotonic() < until:
                yield _rate(f"{model}: {how}", n, timed(session, list(range(1, n + 1)), 1))
        session.close()
