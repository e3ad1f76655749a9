"""Tokens per second as llama-bench measures them: prompts (pp), generation (tg), both (pg), at a depth of the cache."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean, stdev
from typing import Any, Final

import numpy as np

from graphsched import __version__
from graphsched.session.session import Session
from graphsched.session.settings import described, model_described

SEED: Final = 0  # of the tokens, which choose the experts of a mixture
WARM_TOKENS: Final = 32  # of a generation, before it is measured


@dataclass(frozen=True)
class Test:
    """A prompt of n_prompt tokens, then n_gen tokens one by one, behind n_depth tokens that do not count.

    `is_after_prompt`: the depth is a prompt, as -gp calls it (tg64@pp128).
    """

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    is_after_prompt: bool = False

    @property
    def name(self) -> str:
        """The name as llama-bench writes it: pp512, tg128 @ d4096."""
        parts = [f"{kind}{n}" for kind, n in (("pp", self.n_prompt), ("tg", self.n_gen)) if n]
        behind = f"@pp{self.n_depth}" if self.is_after_prompt else f" @ d{self.n_depth}"
        return "+".join(parts) + (behind if self.n_depth else "")

    @property
    def n_counted(self) -> int:
        """Tokens that the speed is of."""
        return self.n_prompt + self.n_gen

    @property
    def n_tokens(self) -> int:
        """Tokens that the context must hold."""
        return self.n_depth + self.n_counted


def asked(
    prompts: Iterable[int],
    generations: Iterable[int],
    both: Iterable[tuple[int, int]] = (),
    after: Iterable[tuple[int, int]] = (),
    depths: Sequence[int] = (0,),
) -> Iterator[Test]:
    """The tests that lists of -p, -n, -pg, -gp and -d ask for, in that order; 0 tokens are no test."""
    for n_depth in depths:
        yield from (Test(n, 0, n_depth) for n in prompts if n)
        yield from (Test(0, n, n_depth) for n in generations if n)
        yield from (Test(n_prompt, n_gen, n_depth) for n_prompt, n_gen in both)
    yield from (Test(0, n_gen, n_prompt, is_after_prompt=True) for n_prompt, n_gen in after)


@dataclass(frozen=True)
class Result:
    """The nanoseconds of each repetition, and when they began."""

    test: Test
    samples_ns: tuple[int, ...]
    began: str

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        return tuple(self.test.n_counted * 1e9 / ns for ns in self.samples_ns)


def measure(
    session: Session,
    test: Test,
    repetitions: int,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    is_warm: bool = False,
) -> Result:
    """Runs a test once to warm up, unless `is_warm`, then `repetitions` times."""
    tokens = some_tokens(session, test.n_tokens)
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if not is_warm:
        if progress:
            progress(f"{test.name}, warm-up", 0, 1)
        _run(session, test, tokens[: test.n_tokens - max(test.n_gen - WARM_TOKENS, 0)])
    # Once a run has filled the cache up to the depth, the next ones only go back to it.
    samples = []
    for i in range(repetitions):
        if progress:
            progress(test.name, i, repetitions)
        samples.append(_run(session, test, tokens, is_filled=i > 0 or not is_warm))
    return Result(test, tuple(samples), began)


def some_tokens(session: Session, n: int) -> list[int]:
    """Valid ids, the same for every run on a model; the first begins a text, where the model has such a token."""
    ids: list[int] = np.random.default_rng(SEED).integers(0, session.model.n_vocab, n).tolist()
    if (first := session.model.first_token) is not None:
        ids[0] = first
    return ids


def _run(session: Session, test: Test, tokens: list[int], *, is_filled: bool = False) -> int:
    """Nanoseconds of the model's time only: what is generated is neither chosen nor decoded."""
    _fill(session, tokens[: test.n_depth], is_filled)
    prompt = np.array(tokens[test.n_depth : test.n_depth + test.n_prompt], np.int64)
    generated = tokens[test.n_depth + test.n_prompt :]
    evaluate = session.eval
    started = time.perf_counter_ns()
    if len(prompt):
        evaluate(prompt)
    for token in generated:
        evaluate((token,))
    return time.perf_counter_ns() - started


def _fill(session: Session, tokens: list[int], is_filled: bool) -> None:
    """A cache that holds these tokens only; `is_filled`: it begins with them already."""
    session.rewind(len(tokens) if is_filled else 0)
    if session.n_past < len(tokens):
        session.reset()
        session.eval(np.array(tokens, np.int64))


def row(session: Session, result: Result) -> dict[str, Any]:
    """A result as llama-bench's JSON names it, with the settings that it was measured with."""
    ts = result.samples_ts
    return {
        "test": result.test.name,
        "n_prompt": result.test.n_prompt,
        "n_gen": result.test.n_gen,
        "n_depth": result.test.n_depth,
        **model_described(session.model),
        **described(session),
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
