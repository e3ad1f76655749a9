"""Tokens per second as llama-bench measures them: prompts (pp) and generation (tg), each from an empty cache."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean, stdev
from typing import Any, Final

import numpy as np

from graphsched import __version__
from graphsched.options import SWITCHES
from graphsched.session import Session

SEED: Final = 0  # of the tokens, which choose the experts of a mixture
WARM_TOKENS: Final = 32  # of a generation, before it is measured


@dataclass(frozen=True)
class Test:
    """A prompt of n_prompt tokens, or n_gen tokens one by one."""

    n_prompt: int
    n_gen: int

    @property
    def name(self) -> str:
        return f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"


@dataclass(frozen=True)
class Result:
    """The nanoseconds of each repetition, and when they began."""

    test: Test
    samples_ns: tuple[int, ...]
    began: str

    @property
    def samples_ts(self) -> tuple[float, ...]:
        n = self.test.n_prompt or self.test.n_gen
        return tuple(n * 1e9 / ns for ns in self.samples_ns)


def measure(
    session: Session, test: Test, repetitions: int, progress: Callable[[str, int, int], None] | None = None
) -> Result:
    """Runs a test once to warm up, then `repetitions` times."""
    tokens = some_tokens(session, test.n_prompt or test.n_gen)
    run = _prompt if test.n_prompt else _generation
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    run(session, tokens if test.n_prompt else tokens[:WARM_TOKENS])
    samples = []
    for i in range(repetitions):
        if progress:
            progress(test.name, i, repetitions)
        samples.append(run(session, tokens))
    return Result(test, tuple(samples), began)


def some_tokens(session: Session, n: int) -> list[int]:
    """Valid ids, the same for every run on a model; the first begins a text, where the model has such a token."""
    ids: list[int] = np.random.default_rng(SEED).integers(0, session.model.n_vocab, n).tolist()
    if session.tokenizer.add_bos and session.tokenizer.bos is not None:
        ids[0] = session.tokenizer.bos
    return ids


def _prompt(session: Session, tokens: list[int]) -> int:
    session.reset()
    ids = np.array(tokens, np.int64)
    started = time.perf_counter_ns()
    session.eval(ids)
    return time.perf_counter_ns() - started


def _generation(session: Session, tokens: list[int]) -> int:
    """The model's time only: what is generated is neither chosen nor decoded."""
    session.reset()
    evaluate = session.eval
    started = time.perf_counter_ns()
    for token in tokens:
        evaluate((token,))
    return time.perf_counter_ns() - started


def row(session: Session, result: Result) -> dict[str, Any]:
    """A result as llama-bench's JSON names it, with the settings that it was measured with."""
    o, ts = session.options, result.samples_ts
    return {
        "test": result.test.name,
        "n_prompt": result.test.n_prompt,
        "n_gen": result.test.n_gen,
        **_model(session),
        "backend": o.backend,
        "n_threads": o.threads,
        "n_ctx": session.n_ctx,
        "n_batch": o.n_batch,
        "n_ubatch": min(o.n_ubatch, o.n_batch, session.n_ctx),
        "type_k": o.type_k,
        "type_v": o.type_v,
        "mla": o.mla,
        **{name.replace("-", "_"): name not in o.off for name in SWITCHES},
        "version": __version__,
        "test_time": result.began,
        "avg_ns": round(mean(result.samples_ns)),
        "stddev_ns": round(_spread(result.samples_ns)),
        "avg_ts": mean(ts),
        "stddev_ts": _spread(ts),
        "samples_ns": list(result.samples_ns),
        "samples_ts": list(ts),
    }


def _spread(samples: tuple[float, ...] | tuple[int, ...]) -> float:
    return stdev(samples) if len(samples) > 1 else 0.0


def _model(session: Session) -> dict[str, Any]:
    model = session.model
    sizes = Counter[str]()
    for t in model.types.values():
        sizes[t.dtype.name] += t.nbytes
    return {
        "model_filename": str(model.file.path),
        "model_name": model.name,
        "model_arch": model.arch_name,
        "model_type": sizes.most_common(1)[0][0],
        "model_size": sizes.total(),
        "model_n_params": sum(t.numel for t in model.types.values()),
    }
