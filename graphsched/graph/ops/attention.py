"""Attention over the KV cache, and softmax."""

from collections.abc import Iterator, Mapping

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.types import dtypes


def visible(where: Array, cells: Array, window: int = 0, chunk: int = 0) -> Array:
    """bool [tokens, cells]: which cells a token sees.

    where [tokens, 2] and cells [cells, 2] hold (sequence, position); a free cell has sequence -1. A token sees its
    own sequence up to its own position: the last `window` positions, and nothing before its own `chunk`.
    """
    seq, pos = where[:, :1], where[:, 1:]
    seen = (cells[:, 0] == seq) & (cells[:, 1] <= pos)
    if window:
        seen &= pos - cells[:, 1] < window
    if chunk:
        seen &= cells[:, 1] >= pos // chunk * chunk
    return seen


def every_position(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """Cells that each hold their own position of sequence 0, but for a free one."""
    n = types["cells"].shape[0]
    cells = np.stack([np.zeros(n), np.arange(n)], axis=1).astype(np.int32)
    cells[n // 2] = (-1, 0)
    return cells


def last_tokens(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """(sequence, position) of tokens that are the last ones in these cells."""
    n, n_cells = types["where"].shape[0], types["cells"].shape[0]
    return np.stack([np.zeros(n), np.arange(n_cells - n, n_cells)], axis=1).astype(np.int32)


@op(
    Op.FLASH_ATTN_EXT,
    product=("k", "v"),
    rate="f16",
    reads_cache="k",
    named_by_weight=False,
    label="fa",
)
def flash_attn_ext(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: Tensor,
    cells: Tensor,
    sinks: Tensor | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
) -> TensorType:
    """softmax(scale · q·kᵀ + mask) · v per head; the mask comes from (sequence, position) of tokens and cells"""
    require(
        len(q.shape) == len(k.shape) == len(v.shape) == 3,
        "flash_attn_ext: {}, {}, {} need three dimensions",
        q,
        k,
        v,
    )
    require(
        q.shape[2] == k.shape[2] and k.shape[:2] == v.shape[:2],
        "flash_attn_ext: {} and {} do not fit {}",
        k,
        v,
        q,
    )
    require(
        q.shape[1] % k.shape[1] == 0,
        "flash_attn_ext: {} heads do not share {} KV heads",
        q.shape[1],
        k.shape[1],
    )
    require(
        where.shape == (q.shape[0], 2) and cells.shape == (k.shape[0], 2),
        "flash_attn_ext: {}, {} do not fit",
        where,
        cells,
    )
    return f32(*q.shape[:2], v.shape[2])


@flash_attn_ext.reference
def _(
    q: Array,
    k: Array,
    v: Array,
    where: Array,
    cells: Array,
    sinks: Array | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
) -> Array:
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    # In float64: the reference is what kernels are judged by, so its own rounding must not count.
    score = np.einsum("thd,chd->htc", q, k, dtype=np.float64) * scale
    if softcap:
        score = softcap * np.tanh(score / softcap)
    p = _weights(score, visible(where, cells, window, chunk), sinks)
    return as_f32(np.einsum("htc,chd->thd", p, v))


def _weights(score: Array, seen: Array, sinks: Array | None) -> Array:
    """softmax of scores [heads, tokens, cells] over the cells seen; a head's sink takes its share and gives nothing."""
    score = np.where(seen, score, -np.inf)
    top = score.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks[:, None, None])
    top = np.where(np.isfinite(top), top, 0.0)
    p = np.exp(score - top)
    total = p.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total += np.exp(sinks[:, None, None] - top)
    return p / np.maximum(total, 1e-300)


@flash_attn_ext.flops
def _(q: TensorType, k: TensorType, v: TensorType, *_: TensorType, **attrs: float) -> int:
    return 2 * int(q.shape[0]) * q.shape[1] * int(k.shape[0]) * (k.shape[2] + v.shape[2])


flash_attn_ext.draw(where=last_tokens, cells=every_position)


@flash_attn_ext.cases
def _() -> Iterator[Case]:
    for t in dtypes.KV_TYPES:
        for n_tokens, n_cells in ((1, 5), (1, 300), (7, 40), (33, 290)):
            k = TensorType(t, (n_cells, 2, 32))
            yield case(f32(n_tokens, 6, 32), k, k, i32(n_tokens, 2), i32(n_cells, 2), scale=0.2)
    for d in (8, 24, 33, 48):
        yield case(f32(3, 8, d), f32(20, 4, d), f32(20, 4, d), i32(3, 2), i32(20, 2), scale=0.3)
    k = TensorType(dtypes.F16, (70, 2, 64))
    yield case(f32(5, 4, 64), k, TensorType(dtypes.F16, (70, 2, 32)), i32(5, 2), i32(70, 2), scale=0.2)
    for t in dtypes.KV_TYPES:  # latents: one KV head, values narrower than keys
        for n_tokens, n_heads in ((1, 16), (1, 64), (9, 6)):
            k, v = TensorType(t, (300, 1, 288)), TensorType(t, (300, 1, 256))
            yield case(f32(n_tokens, n_heads, 288), k, v, i32(n_tokens, 2), i32(300, 2), scale=0.1)
    for t in (
        dtypes.F16,
        dtypes.Q8_0,
        dtypes.Q5_1,
    ):  # more cells than one thread takes; the last part has one
        k = TensorType(t, (2049, 1, 64))
        yield case(f32(1, 4, 64), k, k, i32(1, 2), i32(2049, 2), scale=0.2)
        yield case(f32(1, 6, 64), k, k, i32(1, 2), i32(2049, 2), f32(6), scale=0.2, window=1500)
    k = TensorType(dtypes.F16, (70, 2, 64))
    yield case(f32(5, 4, 64), k, k, i32(5, 2), i32(70, 2), f32(4), scale=0.2, softcap=5.0, window=9)
    yield case(f32(1, 4, 64), k, k, i32(1, 2), i32(70, 2), f32(4), scale=0.2, softcap=5.0, window=9)
    yield case(f32(5, 4, 64), k, k, i32(5, 2), i32(70, 2), scale=0.2, chunk=16)


def _require_mask(x: Tensor, where: Tensor | None, cells: Tensor | None) -> None:
    fits = len(x.shape) == 3 and where is not None and cells is not None
    require(
        fits and where.shape == (x.shape[0], 2) and cells.shape == (x.shape[2], 2),  # type: ignore[union-attr]
        "soft_max: {}, {} do not fit {}",
        where,
        cells,
        x,
    )


@op(Op.SOFT_MAX, rowwise=True, named_by_weight=False)
def soft_max(
    x: Tensor,
    where: Tensor | None = None,
    cells: Tensor | None = None,
    sinks: Tensor | None = None,
    *,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
) -> TensorType:
    """softmax(scale · x) over the last dimension; of scores [tokens, heads, cells] over the cells that a token sees"""
    if where is not None or cells is not None:
        _require_mask(x, where, cells)
    return x.type


@soft_max.reference
def _(
    x: Array,
    where: Array | None = None,
    cells: Array | None = None,
    sinks: Array | None = None,
    *,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
) -> Array:
    score = x.astype(np.float64) * scale
    if where is None or cells is None:
        p = np.exp(score - score.max(axis=-1, keepdims=True))
        return as_f32(p / p.sum(axis=-1, keepdims=True))
    return as_f32(_weights(score.swapaxes(0, 1), visible(where, cells, window, chunk), sinks).swapaxes(0, 1))


@soft_max.flops
def _(x: TensorType, *_: TensorType, **attrs: float) -> int:
    return 4 * x.numel


soft_max.draw(where=last_tokens, cells=every_position)


@soft_max.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 8))
    yield case(f32(5, 33))
    yield case(f32(1, 256))
    for n_tokens, n_cells in ((1, 5), (1, 300), (7, 40), (5, 33)):
        mask = i32(n_tokens, 2), i32(n_cells, 2)
        yield case(f32(n_tokens, 4, n_cells), *mask, scale=0.3)
        yield case(f32(n_tokens, 4, n_cells), *mask, f32(4), scale=0.3, window=9)
    yield case(f32(5, 4, 70), i32(5, 2), i32(70, 2), scale=0.3, chunk=16)


@op(Op.SOFT_CAP_MAX, rowwise=True, named_by_weight=False)
def soft_cap_max(
    x: Tensor,
    where: Tensor,
    cells: Tensor,
    sinks: Tensor | None = None,
    *,
    cap: float,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
) -> TensorType:
    """soft_max of cap · tanh(scale · x / cap)"""
    _require_mask(x, where, cells)
    return x.type


@soft_cap_max.reference
def _(
    x: Array,
    where: Array,
    cells: Array,
    sinks: Array | None = None,
    *,
    cap: float,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
) -> Array:
    score = cap * np.tanh(x.astype(np.float64) * scale / cap).swapaxes(0, 1)
    return as_f32(_weights(score, visible(where, cells, window, chunk), sinks).swapaxes(0, 1))


@soft_cap_max.flops
def _(x: TensorType, *_: TensorType, **attrs: float) -> int:
    return 8 * x.numel


soft_cap_max.draw(where=last_tokens, cells=every_position)


@soft_cap_max.cases
def _() -> Iterator[Case]:
    for n_tokens, n_cells in ((1, 300), (5, 33)):
        mask = i32(n_tokens, 2), i32(n_cells, 2)
        yield case(f32(n_tokens, 4, n_cells), *mask, cap=0.5, scale=0.3)
        yield case(f32(n_tokens, 4, n_cells), *mask, f32(4), cap=5.0, scale=0.3, window=9)
