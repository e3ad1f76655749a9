"""What Python does for every run: input set-up, the call, the copy of logits."""

from statistics import median
from time import perf_counter_ns
from typing import Final

from graphsched.measure.readers import Tokens, some_tokens
from graphsched.measure.sums import sum_up
from graphsched.run.trace import ON
from graphsched.session.session import Session, load
from graphsched.types.devices import HOST

RUNS: Final = 64
COMPUTE: Final = frozenset({f"compute on {HOST}", "barriers", "thread wake-up"})  # owners that are no Python


def host_work(n_threads: int) -> float:
    """Seconds of a forward of one token outside of its program, by the embedded model: the median."""
    session = load(n_threads=n_threads, n_ctx=256)
    try:
        session.recorder.level = ON
        tokens = some_tokens(session, RUNS)[0]
        session.eval(tokens[:1])
        return median(_outside(session, tokens[i : i + 1]) for i in range(1, RUNS)) * 1e-9
    finally:
        session.close()


def _outside(session: Session, token: Tokens) -> float:
    session.take_trace()
    begin = perf_counter_ns()
    session.eval(token)
    wall = (begin, perf_counter_ns())
    sums = sum_up([(session.take_trace(), [wall])], (HOST,))
    return sums.wall[0] - sum(row.ns[0] for (_, name), row in sums.overhead.items() if name in COMPUTE)
