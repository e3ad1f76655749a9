"""What a kernel reads from its step record and the run block, and how it takes its share of the work."""

from graphsched.backends.cpu.jit import helper
from graphsched.backends.cpu.layout import STEP_ARGS, STEP_ROWS_TIMES, STEP_ROWS_WORD
from graphsched.backends.cpu.simd import real, word


@helper
def arg(step: int, i: int) -> int:
    """The i-th argument: an address or an integer."""
    return word(step, STEP_ARGS + i)


@helper
def real_arg(step: int, i: int) -> float:
    """The i-th argument as float32."""
    return real(step, STEP_ARGS + i)


@helper
def rows(step: int, run: int) -> int:
    """How many rows this run has: a run-block length times a constant of the step."""
    return word(run, word(step, STEP_ROWS_WORD)) * word(step, STEP_ROWS_TIMES)


@helper
def share(n: int, ith: int, nth: int) -> tuple[int, int]:
    """This thread's part [first, last) of n equal units."""
    return n * ith // nth, n * (ith + 1) // nth
