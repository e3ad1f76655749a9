"""Word layout of step records and of the run block (docs/decisions/0001-program.md)."""

from graphsched.graph.tensor import TensorType, length_word
from graphsched.types.extents import EXTENTS

# A step record: a head of 8 int64 words, the kernel's address first, and as many arguments as the kernel has, in whole
# cache lines. STEP_BYTES says how many bytes behind it the next record is.
STEP_KERNEL, STEP_FLAGS, STEP_ROWS_WORD, STEP_ROWS_TIMES, STEP_BYTES, STEP_NUMBER = range(6)
# Where thread 0 counts the claims on its share of this step, and how far behind thread i - 1 thread i counts its own.
STEP_CLAIMS, STEP_CLAIM_STRIDE = 6, 7
STEP_ARGS = LINE_WORDS = 8
BARRIER_AFTER, STAMP = 1, 2

# The run block: what changes from run to run.
ABORT, ONE, TRACE, TRACE_STRIDE, TRACE_ALL = range(5)
RUN_WORDS = 64
# Where TRACE points, if it is not 0: per item the cycle counter before the kernel, after it, and after the barrier.
# Thread i writes TRACE_STRIDE bytes behind thread i - 1; without a stride only thread 0 writes.
# Without TRACE_ALL only steps that carry STAMP read the counter.
TRACE_WORDS = 3
EXTENT_WORDS = {name: TRACE_ALL + 1 + i for i, name in enumerate(EXTENTS)}  # lengths


def step_words(n_args: int) -> int:
    """Words of a record with so many arguments."""
    return STEP_ARGS + -(-n_args // LINE_WORDS) * LINE_WORDS


def rows_of(type: TensorType, inner: int = 1) -> tuple[int, int]:
    """(run-block word, factor) whose product is the number of rows in this run, all dimensions but the last `inner`."""
    outer = type.shape[: len(type.shape) - inner]
    times = 1
    for d in outer:
        times *= int(d)
    if outer and (word := length_word(outer[0])):
        return EXTENT_WORDS[word], times // int(outer[0])
    return ONE, times
