"""Tokens per second as llama-bench measures them: prompts (pp), generation (tg), both (pg), at a depth of the cache."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean, stdev
from typing import Any, Final

from graphsched import __version__
from graphsched.measure.readers import Reader, Tokens, reader_of, some_tokens
from graphsched.session.session import Session
from graphsched.session.settings import described, model_described

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
    """The nanoseconds of each repetition, when they began, and how many sequences read at once."""

    test: Test
    samples_ns: tuple[int, ...]
    began: str
    n_parallel: int = 1

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second of each repetition, of all sequences together."""
        return tuple(self.n_parallel * self.test.n_counted * 1e9 / ns for ns in self.samples_ns)


def measure(
    session: Session,
    test: Test,
    repetitions: int,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    is_warm: bool = False,
) -> Result:
    """Runs a test in `n_parallel` sequences at once: to warm up, unless `is_warm`, then `repetitions` times."""
    n_parallel = session.options.n_parallel
    tokens = some_tokens(session, test.n_tokens, n_parallel)
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with reader_of(session) as reader:
        if not is_warm:
            if progress:
                progress(f"{test.name}, warm-up", 0, 1)
            _run(reader, test, tokens[:, : test.n_tokens - max(test.n_gen - WARM_TOKENS, 0)])
        # Once a run has filled the cache up to the depth, the next ones only go back to it.
        samples = []
        for i in range(repetitions):
            if progress:
                progress(test.name, i, repetitions)
            samples.append(_run(reader, test, tokens, is_filled=i > 0 or not is_warm))
    return Result(test, tuple(samples), began, n_parallel)


def _run(reader: Reader, test: Test, tokens: Tokens, *, is_filled: bool = False) -> int:
    """Nanoseconds of the model's time only: what is generated is neither chosen nor decoded."""
    _fill(reader, tokens[:, : test.n_depth], is_filled)
    first = test.n_depth + test.n_prompt
    prompt = reader.prepared(tokens[:, test.n_depth : first])
    generated = [reader.prepared(tokens[:, i : i + 1]) for i in range(first, tokens.shape[1])]
    read = reader.read
    started = time.perf_counter_ns()
    if test.n_prompt:
        read(prompt)
    for token in generated:
        read(token)
    return time.perf_counter_ns() - started


def _fill(reader: Reader, tokens: Tokens, is_filled: bool) -> None:
    """A cache that holds these tokens only; `is_filled`: it begins with them already."""
    n = tokens.shape[1]
    reader.rewind(n if is_filled else 0)
    if reader.n_past < n:
        reader.rewind(0)
        reader.read(reader.prepared(tokens))


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
