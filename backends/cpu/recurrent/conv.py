"""The causal depthwise convolution: a thread has channels of its own, and passes over all tokens with them.

Of a sequence's first tokens the oldest inputs are rows of its state; which become, behind its last token, the newest
inputs.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import clear, for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.simd import fma, get, load, prefetch_near, put, put_word, splat, word
from graphsched.backends.cpu.language.transpose import transpose
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.lowering import Low, rows_of
from graphsched.backends.cpu.recurrent.common import is_first, run_end, slot_of, where_args
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes

WIDTH = 512  # channels at a time: of a few tokens they stay in the first cache


@kernel("x w where -> state y scratch | channels x_token where_row per_thread")
def ssm_conv_f32(taps: int) -> Callable[..., None]:
    """y[t, c] = Σ_i w[c, i] · x[t - taps + 1 + i, c] over the tokens of a sequence."""

    def conv(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        n, inputs = rows(step, run), a.scratch + ith * a.per_thread
        weights = inputs + 8 * taps
        first, last = share((a.channels + 15) // 16, ith, nth)
        end = min(16 * last, a.channels)
        for c in range(16 * first, end, WIDTH):
            width, t = min(WIDTH, end - c), 0
            put_weights(taps, a.w + 4 * taps * c, width, a.channels - c, weights)
            while t < n:
                t = one_run(a, taps, t, n, c, width, inputs, weights)

    return conv


@helper
def one_run(a: Any, taps: int, t: int, n: int, c: int, width: int, inputs: int, weights: int) -> int:
    """The convolution over a sequence's tokens, of which t is the first, for channels from c; the token behind it."""
    old = a.state + 4 * ((taps - 1) * a.channels * slot_of(a.where, a.where_row, t) + c)
    end = run_end(a.where, a.where_row, t, n)
    if is_first(a.where, a.where_row, t):
        for i in range(taps - 1):
            clear(width, old + 4 * a.channels * i)
    for u in range(t, end):
        for i in range(taps):
            put_word(inputs + 8 * i, input_at(a, taps, old, c, t, u - t + i))
        convolved(width, taps, inputs, weights, a.y + 4 * (u * a.channels + c), 2 * a.x_token, 8 * a.channels)
    for i in range(taps - 1):
        copy(width, input_at(a, taps, old, c, t, end - t + i), old + 4 * a.channels * i)
    return end


@helper
def input_at(a: Any, taps: int, old: int, c: int, first: int, i: int) -> int:
    """Where the i-th input of a sequence is: a row of its state, or behind these one of token `first` and later."""
    token = first + i - (taps - 1)
    return a.x + token * a.x_token + 4 * c if i >= taps - 1 else old + 4 * a.channels * i


@for_lanes(16)
def convolved(
    i: int, block: Any, taps: int, inputs: int, weights: int, y: int, ahead: int, y_ahead: int
) -> None:
    """y = Σ inputs · weights; called with (n, taps, ...).

    What comes two tokens later is asked for: rows are further apart than what hardware fetches by itself.
    """
    acc = splat(0.0, 16)
    prefetch_near(word(inputs, taps - 1) + ahead + 4 * i)
    prefetch_near(y + y_ahead + 4 * i)
    for j in range(taps):
        acc = fma(
            load_lanes(word(inputs, j) + 4 * i, F32, block), load(weights + 4 * (WIDTH * j + i), F32, 16), acc
        )
    store_lanes(y + 4 * i, acc, F32, block)


@for_lanes(16)
def copy(i: int, block: Any, x: int, y: int) -> None:
    """y = x; called with (n, x, y)."""
    store_lanes(y + 4 * i, load_lanes(x + 4 * i, F32, block), F32, block)


@helper
def put_weights(taps: int, w: int, width: int, left: int, weights: int) -> None:
    """Weights of `width` channels, tap by tap; `left`: channels from the first one to the last of all."""
    for c in range(0, width, 16):
        src, dst = w + 4 * taps * c, weights + 4 * c
        if left - c > 16 or (left - c == 16 and taps % 4 == 0):  # four words at a time end behind a row
            for j in range(0, taps, 4):
                transpose(src + 4 * j, 4 * taps, dst + 4 * WIDTH * j, 4 * WIDTH)
        else:
            for i in range(min(16, left - c)):
                for j in range(taps):
                    put(dst + 4 * (WIDTH * j + i), get(src + 4 * (taps * i + j), F32), F32)


@ops.ssm_conv.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    state, x, w, where = map(low.operand, node.sources)
    taps = w.type.shape[1]
    per_thread = 8 * taps + 4 * WIDTH * (taps + 3)
    low.step(
        ssm_conv_f32(taps),
        x=x,
        w=w,
        state=state,
        y=low.result(node),
        scratch=low.scratch("weights by tap", TensorType(dtypes.I8, (low.n_threads, per_thread))),
        channels=node.shape[1],
        x_token=x.strides[0],
        **where_args(where),
        per_thread=per_thread,
        rows=rows_of(node.sources[-1].type),
    )
