"""What a kernel reads from its step record and the run block, and how it takes its share of the work.

Addresses and everything that is added to one (strides, sizes of rows and blocks) count bytes; `n`, `k` and the like
count elements.
"""

import functools
from collections import namedtuple
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.types.containers import NamedTuple
from numba.extending import intrinsic

from graphsched.backends.cpu.language.atomics import fetch_add, write_word
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.signature import Fields, StepType
from graphsched.backends.cpu.language.simd import word
from graphsched.backends.cpu.language.vector import F32_T, F64_T, I64_T, load_raw
from graphsched.backends.cpu.program.layout import (
    STEP_ARGS,
    STEP_CLAIM_STRIDE,
    STEP_CLAIMS,
    STEP_ROWS_TIMES,
    STEP_ROWS_WORD,
)


@intrinsic
def arguments(typingctx: Any, step: Any) -> Any:
    """A named tuple of the arguments that the kernel declares: addresses and integers as int64, floats as float32."""
    assert isinstance(step, StepType), "arguments(step) is for functions that @kernel declares"
    result = _tuple(step.arguments)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _loaded(context, builder, result, args[0])

    return result(step), codegen


@intrinsic
def repeated(typingctx: Any, step: Any, i: Any) -> Any:
    """A named tuple of the i-th group of the arguments that the kernel declares as `each`."""
    assert isinstance(step, StepType), "repeated(step, i) is for functions that @kernel declares"
    result, before = _tuple(step.each), len(step.arguments)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.add(builder.mul(args[1], I64_T(len(result))), I64_T(before))
        return _loaded(context, builder, result, builder.add(args[0], builder.shl(words, I64_T(3))))

    return result(step, types.int64), codegen


@functools.cache
def _tuple(fields: Fields) -> Any:
    members = [types.float32 if kind == "float" else types.int64 for _, kind in fields]
    named = namedtuple("Arguments", [name for name, _ in fields])  # type: ignore[misc]
    return NamedTuple(members, named)


def _loaded(context: Any, builder: Any, result: Any, step: ir.Value) -> ir.Value:
    """A tuple of the words behind the head of a record; floats are kept as float64."""
    values = []
    for i, type in enumerate(result):
        at = builder.add(step, I64_T(8 * (STEP_ARGS + i)))
        is_float = type == types.float32
        value = load_raw(builder, at, F64_T if is_float else I64_T)
        values.append(builder.fptrunc(value, F32_T) if is_float else value)
    return context.make_tuple(builder, result, values)


@helper
def rows(step: int, run: int) -> int:
    """How many rows this run has: a run-block length times a constant of the step."""
    return word(run, word(step, STEP_ROWS_WORD)) * word(step, STEP_ROWS_TIMES)


@helper
def row_at(x: int, r: int, heads: int, token: int, head: int) -> int:
    """The address of row r of x [T, heads, n], tokens and heads `token` and `head` bytes apart."""
    return x + r // heads * token + r % heads * head


@helper
def share(n: int, ith: int, nth: int) -> tuple[int, int]:
    """This thread's share [first, last) of n equal units."""
    return n * ith // nth, n * (ith + 1) // nth


@helper
def deal(step: int, ith: int, nth: int, n: int, least: int) -> tuple[int, int]:
    """The next run [first, last) of n units for this thread, an empty one when none are left.

    A thread claims half of what is left of its own share each time, down to `least` units, and then helps the others
    in the same way: threads that are slower, or that lost their core for a while, do not hold the rest up.
    """
    claims = word(step, STEP_CLAIMS)
    if nth == 1:
        is_first = word(claims, 0) == 0
        write_word(claims, 1)
        return (0, n) if is_first else (n, n)
    for behind in range(nth):
        owner = ith + behind if ith + behind < nth else ith + behind - nth
        first, last = share(n, owner, nth)
        claim = fetch_add(claims + owner * word(step, STEP_CLAIM_STRIDE), 1)
        if claim > 62:  # many threads found nothing here; a shift by more bits is undefined
            continue
        left, before = (last - first) >> claim, (last - first) >> (claim - 1 if claim else 0)
        if left and (claim == 0 or before > least):
            return last - left, last - (left >> 1 if left > least else 0)
    return n, n


@helper
def onward(step: int, ith: int, nth: int, n: int, unit: int, last: int) -> tuple[int, int]:
    """(next unit, end of its run), one of n, after `unit` of a run up to `last`; both n when none are left."""
    return (unit + 1, last) if unit + 1 < last else deal(step, ith, nth, n, 1)


@helper
def next_unit(step: int) -> int:
    """The next unit of a step whose units differ in size, whichever thread asks."""
    return fetch_add(word(step, STEP_CLAIMS), 1)
