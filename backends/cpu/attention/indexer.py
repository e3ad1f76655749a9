"""The indexer of sparse attention: scores of units of positions and bits of the best ones; pools of keys.

A token's scores stay in scratch of its thread, as integers in the order of the floats. The score of the last chosen
unit is found bit by bit, so that no unit is moved.
"""

import math
from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.attention.common import WHERE, cell_at
from graphsched.backends.cpu.attention.kv import add_scaled, dot_kv
from graphsched.backends.cpu.formats.writers import CACHE_TYPES
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import clear
from graphsched.backends.cpu.language.simd import get, put, word
from graphsched.backends.cpu.language.soft_max import NEVER, ONE, ZERO
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows, share
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes
from graphsched.types.extents import CELL_BLOCK

SIGN = 1 << 31


@kernel(
    "q k where table w? -> y scratch"
    " | dim heads q_token q_head k_token groups words top_k size pooled tail local per_thread"
)
def chosen_bits(kind: int) -> Callable[..., None]:
    """Bits of the positions in the best units, for each token and group of heads."""

    def choose(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        units, unit, scores = rows(step, run) * a.groups, next_unit(step), a.scratch + ith * a.per_thread
        while unit < units and not word(run, ABORT):
            t, group = unit // a.groups, unit % a.groups
            position, first = get(a.where + WHERE * t + 4, I32), get(a.where + WHERE * t + 8, I32)
            n = (position + 1) // a.size if a.pooled else position // a.size + 1
            for i in range(n):
                is_local = a.pooled == 0 and i >= n - a.local
                score = -NEVER if is_local else score_of(kind, a, t, group, i, position, a.table + 4 * first)
                put(scores + 4 * i, score, F32)
            put_bits(a, scores, n, position + 1, a.y + 4 * unit * a.words)
            unit = next_unit(step)

    return choose


@helper
def score_of(kind: int, a: Any, t: int, group: int, unit: int, position: int, table: int) -> float:
    """The score of a unit: of its last position's key where keys are pooled, else the best of its positions."""
    if a.pooled:
        return score_at(kind, a, t, group, unit * a.size + a.size - 1, table)
    best = NEVER
    for p in range(unit * a.size, min(unit * a.size + a.size, position + 1)):
        best = max(best, score_at(kind, a, t, group, p, table))
    return best


@helper
def score_at(kind: int, a: Any, t: int, group: int, position: int, table: int) -> float:
    """The score of a position's key for a token: of a group's head, or the weighted sum over all heads."""
    key, q = a.k + cell_at(table, position) * a.k_token, a.q + t * a.q_token
    if a.groups == a.heads and not a.w:
        return dot_kv(kind, key, q + group * a.q_head, a.dim) + ZERO  # 0, not -0
    total = ZERO
    for h in range(a.heads):
        product = max(dot_kv(kind, key, q + h * a.q_head, a.dim), ZERO)
        total += product * (get(a.w + 4 * (t * a.heads + h), F32) if a.w else ONE)
    return total


@helper
def ordered(bits: int) -> int:
    """Integers in the order of the floats whose bits they come from."""
    return bits if bits >= 0 else bits ^ (SIGN - 1)


@helper
def last_chosen(scores: int, n: int, top_k: int) -> int:
    """The score, as an ordered integer, that top_k of n scores reach."""
    low, high = -SIGN, SIGN  # so many reach low, fewer reach high
    while high - low > 1:
        middle, count = (low + high) // 2, 0
        for i in range(n):
            if ordered(get(scores + 4 * i, I32)) >= middle:
                count += 1
        if count >= top_k:
            low = middle
        else:
            high = middle
    return low


@helper
def put_bits(a: Any, scores: int, n: int, end: int, y: int) -> None:
    """Sets the bits of what is in the top_k of n units, of equal ones the first; `end` positions are there."""
    for i in range(a.words):
        put(y + 4 * i, 0, I32)
    least, left = -SIGN, n
    if n > a.top_k:
        least, left = last_chosen(scores, n, a.top_k), a.top_k
        for i in range(n):
            if ordered(get(scores + 4 * i, I32)) > least:
                left -= 1
    for i in range(n):
        score = ordered(get(scores + 4 * i, I32))
        if score > least or (score == least and left > 0):
            left -= 1 if score == least else 0
            set_bits(y, i * a.size, min(i * a.size + a.size, end))
    if a.pooled and a.tail:
        set_bits(y, n * a.size, end)


@helper
def set_bits(y: int, first: int, end: int) -> None:
    """Sets the bits of positions [first, end)."""
    for p in range(first, end):
        at = y + p // CELL_BLOCK * 4
        put(at, get(at, I32) | (1 << (p % CELL_BLOCK)), I32)


@ops.lightning_indexer.lowering("cpu", strided=("q", "k"), q=(dtypes.F32,), k=CACHE_TYPES)
def _(low: Low, node: Tensor) -> None:
    q, k, where, table, *w = map(low.operand, node.sources)
    a, (_, groups, words) = node.attrs, node.shape
    (q_token, q_head), k_token = q.strides[:2], k.strides[0]
    per_thread = 4 * (CELL_BLOCK * words + 16)
    low.step(
        chosen_bits(k.type.dtype.id),
        q=q,
        k=k,
        where=where,
        table=table,
        w=w[0] if w else None,
        y=low.result(node),
        scratch=low.scratch("scores", TensorType(dtypes.I8, (low.n_threads, per_thread))),
        dim=q.type.shape[2],
        groups=groups,
        words=words,
        heads=q.type.shape[1],
        q_token=q_token,
        q_head=q_head,
        k_token=k_token,
        top_k=a["top_k"],
        size=a["size"],
        pooled=int(a["pooled"]),
        tail=int(a["tail"]),
        local=a["local"],
        per_thread=per_thread,
        rows=rows_of(where.type),
    )


@kernel("x where table gates? bias? -> y scratch | dim x_token gates_token size overlap per_thread")
def pooled_rows(kind: int) -> Callable[..., None]:
    """Sums of the rows of each token's unit up to its own, by gates or in equal shares."""

    def pool(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        mine, width = a.scratch + ith * a.per_thread, a.dim * (1 + a.overlap)
        for t in range(first, last):
            position, entry = get(a.where + WHERE * t + 4, I32), get(a.where + WHERE * t + 8, I32)
            own = position // a.size * a.size
            begin = max(own - a.size, 0) if a.overlap else own
            for p in range(begin, position + 1):
                put_member(kind, a, p, a.table + 4 * entry, mine + 8 * (p - begin) * width)
            weigh_rows(mine, own - begin, position + 1 - begin, width, a.dim, a.y + 4 * t * a.dim)

    return pool


@helper
def put_member(kind: int, a: Any, position: int, table: int, at: int) -> None:
    """A position's row and, behind it, its gates with their bias (0 without gates), as float32."""
    width, cell = a.dim * (1 + a.overlap), cell_at(table, position)
    clear(2 * width, at)
    add_scaled(kind, a.x + cell * a.x_token, ONE, at, width)
    if a.gates:
        add_scaled(kind, a.gates + cell * a.gates_token, ONE, at + 4 * width, width)
        for c in range(width):
            gate, bias = at + 4 * (width + c), a.bias + 4 * (position % a.size * width + c)
            put(gate, get(gate, F32) + get(bias, F32), F32)


@helper
def weigh_rows(members: int, n_before: int, n: int, width: int, dim: int, y: int) -> None:
    """Softmax of the gates over n members, channel by channel, and the sum of their rows by it.

    The first n_before are of the unit in front: their channels are the first ones, those of the others the last.
    """
    for c in range(dim):
        own, top = c + width - dim, NEVER
        for i in range(n):
            top = max(top, get(members + 4 * ((2 * i + 1) * width + (c if i < n_before else own)), F32))
        total, acc = ZERO, ZERO
        for i in range(n):
            at = members + 4 * (2 * i * width + (c if i < n_before else own))
            p = ZERO + math.exp(get(at + 4 * width, F32) - top)
            total += p
            acc += p * get(at, F32)
        put(y + 4 * c, acc / total, F32)


@ops.pool_rows.lowering("cpu", strided=("x", "gates"), x=CACHE_TYPES)
def _(low: Low, node: Tensor) -> None:
    x, where, table, *gated = map(low.operand, node.sources)
    gates, bias = gated if gated else (None, None)
    size, overlap = node.attrs["size"], int(node.attrs["overlap"])
    per_thread = 8 * (1 + overlap) * size * x.type.shape[2]
    low.step(
        pooled_rows(x.type.dtype.id),
        x=x,
        where=where,
        table=table,
        gates=gates,
        bias=bias,
        y=low.result(node),
        scratch=low.scratch("members", TensorType(dtypes.I8, (low.n_threads, per_thread))),
        dim=node.shape[1],
        x_token=x.strides[0],
        gates_token=gates.strides[0] if gates else 0,
        size=size,
        overlap=overlap,
        per_thread=per_thread,
        over=node.type,
    )
