"""Speed of prompts and generation as the KV cache fills, as ik_llama.cpp's sweep-bench measures it.

At every multiple of the micro-batch: some tokens one by one, forgotten again, then one micro-batch of a prompt.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean

from graphsched.measure.bench import WARM_TOKENS
from graphsched.measure.readers import Tokens, some_tokens
from graphsched.session.session import Session


@dataclass(frozen=True)
class Point:
    """Seconds for pp tokens of a prompt and for tg tokens one by one, behind n_kv tokens: means of the repetitions."""

    pp: int
    tg: int
    n_kv: int
    t_pp: float
    t_tg: float

    @property
    def speed_pp(self) -> float:
        """Tokens per second of the prompt."""
        return self.pp / self.t_pp

    @property
    def speed_tg(self) -> float:
        """Tokens per second of generation."""
        return self.tg / self.t_tg


def sweep(
    session: Session,
    pp: int,
    tg: int,
    repetitions: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Point]:
    """A point for every pp tokens of the context, the cache filling up; a run that does not count comes first."""
    tokens = some_tokens(session, session.n_ctx)[0]
    steps = range(0, session.n_ctx - pp + 1, pp)
    session.reset()
    # Makes plans, compiles kernels and brings weights into memory before a clock runs.
    _generate(session, tokens[: min(tg, WARM_TOKENS)], 0)
    _prompt(session, tokens[:pp], 0)
    for i, n_kv in enumerate(steps):
        if progress:
            progress("sweep", i, len(steps))
        n_tg = min(tg, session.n_ctx - n_kv)
        t_tg = [_generate(session, tokens[n_kv : n_kv + n_tg], n_kv) for _ in range(repetitions)]
        t_pp = [_prompt(session, tokens[n_kv : n_kv + pp], n_kv) for _ in range(repetitions)]
        yield Point(pp, n_tg, n_kv, mean(t_pp), mean(t_tg))


def _generate(session: Session, tokens: Tokens, n_kv: int) -> float:
    session.rewind(n_kv)
    ids, evaluate = tokens.tolist(), session.eval
    started = time.perf_counter()
    for token in ids:
        evaluate((token,))
    return time.perf_counter() - started


def _prompt(session: Session, tokens: Tokens, n_kv: int) -> float:
    session.rewind(n_kv)
    started = time.perf_counter()
    session.eval(tokens)
    return time.perf_counter() - started
