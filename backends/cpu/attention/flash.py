"""Flash attention over the cells of a KV cache, and softmax.

Cells pass in fixed chunks, in order, whatever the thread count: each (token, head) is one unit, and a chunk's
scores stay in cache between the two passes over it. The mask is computed, never stored. Prompts take four queries
at a time (attention_tile).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.attention.common import (
    ATTENTION,
    CHUNK,
    first_cell,
    last_unseen,
    n_parts,
    part_end,
    part_start,
    to_weights,
)
from graphsched.backends.cpu.attention.split_kv import TOP_AND_TOTAL, in_parts, merge_parts, parts_floats
from graphsched.backends.cpu.attention.tile import flash_attn_tile, tile_bytes
from graphsched.backends.cpu.language.jit import by_literal, helper, kernel
from graphsched.backends.cpu.language.mathfn import NEVER, one_exp, scale_row, soft_max_row, tanh
from graphsched.backends.cpu.language.simd import (
    add_i32,
    fma,
    get,
    load,
    load_first,
    max_lanes,
    mul,
    put,
    splat,
    splat_i8,
    store,
    store_first,
    sum_lanes,
    to_f32,
    word,
)
from graphsched.backends.cpu.language.simd_int import nibbles
from graphsched.backends.cpu.language.vector import F16, F32, I8, I32
from graphsched.backends.cpu.matmul.matvec import dot_row
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, row_at, rows, share
from graphsched.backends.cpu.program.layout import ABORT, N_KV
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType, f32
from graphsched.types import dtypes

KV_TYPES = (dtypes.F32, dtypes.F16, dtypes.BF16, dtypes.Q8_0, dtypes.Q4_0)
Q8_0, Q4_0 = dtypes.Q8_0.id, dtypes.Q4_0.id


def dot_kv(kind: int, key: int, q: int, n: int) -> float:
    """Σ key[i] · q[i] with a key of type `kind` and float32 q. For kernels."""
    raise NotImplementedError


def add_scaled(kind: int, value: int, p: float, y: int, n: int) -> None:
    """y[i] += p · value[i]. For kernels."""


@by_literal(dot_kv)
def _(t: int) -> Callable[..., float]:
    if t in (Q8_0, Q4_0):
        return _dot_blocks(t, 34 if t == Q8_0 else 18)

    def impl(kind: int, key: int, q: int, n: int) -> float:
        return dot_row(t, key, q, 0, 0, n)

    return impl


def _dot_blocks(t: int, size: int) -> Callable[..., float]:
    def impl(kind: int, key: int, q: int, n: int) -> float:
        acc = splat(0.0, 16)
        for b in range(n // 32):
            low = mul(_codes(t, key + size * b, 0), load(q + 128 * b, F32, 16))
            both = fma(_codes(t, key + size * b, 1), load(q + 128 * b + 64, F32, 16), low)
            acc = fma(splat(get(key + size * b, F16), 16), both, acc)
        return sum_lanes(acc)

    return impl


@helper
def _codes(t: int, block: int, half: int) -> Any:
    """16 of the 32 codes of a Q8_0 or Q4_0 block."""
    if t == Q8_0:
        return to_f32(load(block + 2 + 16 * half, I8, 16))
    return to_f32(add_i32(nibbles(load(block + 2, I8, 16), half), splat_i8(-8, 16)))


@by_literal(add_scaled)
def _(t: int) -> Callable[..., None]:
    if t in (Q8_0, Q4_0):
        return _add_blocks(t, 34 if t == Q8_0 else 18)
    return _add_float(t, 4 if t == F32 else 2)


def _add_float(t: int, size: int) -> Callable[..., None]:
    def impl(kind: int, value: int, p: float, y: int, n: int) -> None:
        weight, full = splat(p, 16), n // 16 * 16
        for i in range(0, full, 16):
            store(y + 4 * i, fma(weight, load(value + size * i, t, 16), load(y + 4 * i, F32, 16)), F32)
        if full < n:
            left, at = n - full, y + 4 * full
            new = fma(weight, load_first(value + size * full, t, 16, left), load_first(at, F32, 16, left))
            store_first(at, new, F32, left)

    return impl


def _add_blocks(t: int, size: int) -> Callable[..., None]:
    def impl(kind: int, value: int, p: float, y: int, n: int) -> None:
        for b in range(n // 32):
            weight = splat(p * get(value + size * b, F16), 16)
            for half in range(2):
                at = y + 128 * b + 64 * half
                store(at, fma(weight, _codes(t, value + size * b, half), load(at, F32, 16)), F32)

    return impl


@kernel(ATTENTION)
def flash_attn(key_kind: int, value_kind: int, split: int) -> Callable[..., None]:
    """With `split` y takes each part's sums (`merge_parts`)."""

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        scores, n_kv = a.scratch + ith * a.per_thread, word(run, N_KV)
        oldest_cell = first_cell(n_kv, a.size)
        parts = n_parts(n_kv, a.size) if split else 1
        units, unit = rows(step, run) * a.heads * parts, next_unit(step)
        while unit < units and not word(run, ABORT):
            t, h, part = unit // parts // a.heads, unit // parts % a.heads, unit % parts
            seq, pos = get(a.where + 8 * t, I32), get(a.where + 8 * t + 4, I32)
            oldest = last_unseen(pos, a.window, a.chunk)
            query, out = a.q + t * a.q_token + h * a.q_head, a.y + 4 * unit * a.v_dim
            begin, end = oldest_cell // CHUNK * CHUNK, n_kv
            if split:
                out = a.y + 4 * (part * a.heads + h) * (a.v_dim + TOP_AND_TOTAL)
                begin, end = part_start(n_kv, a.size, part), part_end(n_kv, a.size, part)
            keys, values = a.k + h // a.group * a.k_head, a.v + h // a.group * a.v_head
            top, total = NEVER, np.float32(0.0)
            if a.sinks:
                top, total = get(a.sinks + 4 * h, F32), np.float32(1.0)
            for i in range(a.v_dim):
                put(out + 4 * i, 0.0, F32)
            for c in range(begin, end, CHUNK):
                n, base = end - c if end - c < CHUNK else CHUNK, c % a.size
                peak = NEVER
                for j in range(n):
                    cell = a.cells + 8 * (base + j)
                    at = get(cell + 4, I32)
                    s = NEVER
                    if get(cell, I32) == seq and at <= pos and at > oldest and c + j >= oldest_cell:
                        s = dot_kv(key_kind, keys + (base + j) * a.k_token, query, a.dim) * a.scale
                        if a.cap > 0.0:
                            s = a.cap * max_lanes(tanh(splat(s / a.cap, 16)))
                        if s > peak:
                            peak = s
                    put(scores + 4 * j, s, F32)
                if peak == NEVER:
                    continue
                if peak > top:
                    factor = one_exp(top - peak)
                    total = total * factor
                    scale_row(out, factor, a.v_dim)
                    top = peak
                total += to_weights(scores, n, top)
                for j in range(n):
                    p = get(scores + 4 * j, F32)
                    if p > 0.0:  # free cells hold nothing that may be read
                        add_scaled(value_kind, values + (base + j) * a.v_token, p, out, a.v_dim)
            if split:
                put(out + 4 * a.v_dim, top, F32)
                put(out + 4 * a.v_dim + 4, total, F32)
            elif total > 0.0:
                scale_row(out, np.float32(1.0) / total, a.v_dim)
            unit = next_unit(step)

    return attention


def _fits(node: Tensor) -> bool:
    """Block types need whole blocks per head."""
    k, v = node.sources[1:3]
    return all(s.shape[-1] % s.dtype.block == 0 for s in (k, v))


@ops.flash_attn_ext.lowering("cpu", when=_fits, strided=("q", "k", "v"), k=KV_TYPES, v=KV_TYPES)
def _(low: Low, node: Tensor) -> None:
    q, k, v, where, cells, *sinks = map(low.operand, node.sources)
    a, group = node.attrs, q.type.shape[1] // k.type.shape[1]
    # Four queries share what they read of a KV head; the tile needs types that load as lanes.
    tiled = (int(q.type.shape[0]) > 1 or group >= 4) and k.type.dtype.block == v.type.dtype.block == 1
    family, per_thread = (flash_attn_tile, tile_bytes(v.type.shape[2])) if tiled else (flash_attn, 4 * CHUNK)
    scratch = low.scratch("scores", TensorType(dtypes.I8, (low.n_threads, per_thread)))
    split, sink, y = in_parts(node), sinks[0] if sinks else None, low.result(node)
    sums = low.scratch("sums of parts", f32(parts_floats(node))) if split else y
    low.step(
        family(k.type.dtype.id, v.type.dtype.id, int(split)),
        q=q,
        k=k,
        v=v,
        where=where,
        cells=cells,
        y=sums,
        scratch=scratch,
        sinks=None if split else sink,
        dim=q.type.shape[2],
        v_dim=v.type.shape[2],
        group=group,
        **row_strides(q=q, k=k, v=v),
        window=a["window"],
        chunk=a["chunk"],
        per_thread=per_thread,
        size=k.type.shape[0],
        scale=a["scale"],
        cap=a["softcap"],
        rows=rows_of(node.sources[3].type),
    )
    if split:
        low.step(
            merge_parts(),
            sums=sums,
            sinks=sink,
            y=y,
            v_dim=v.type.shape[2],
            size=k.type.shape[0],
            over=node.type,
        )


@kernel("x -> y | n heads x_token x_head")
def soft_max_f32() -> Callable[..., None]:
    """y[r] = softmax(x[r]), rows of n floats."""

    def soft_max(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            soft_max_row(row_at(x, r, heads, x_token, x_head), y + r * n * 4, n)

    return soft_max


@ops.soft_max.lowering(
    "cpu", when=lambda node: len(node.sources) == 1 and node.attrs["scale"] == 1.0, strided=("x",)
)
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    y = low.result(node, in_place_of=node.sources)
    low.step(soft_max_f32(), x=x, y=y, n=node.shape[-1], **row_strides(x=x), over=node.type)
