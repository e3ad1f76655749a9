"""Cases of attention.cu."""

from collections.abc import Iterator

import numpy as np

from cuda_emu.values import MIXED, STORED, Array, Case, Out, Result, Run, Target, narrow, normal, widen
from graphsched.backends.cuda.families import attention

HEADS = (
    (2, 2, 64, 64), (8, 2, 64, 64), (9, 3, 64, 64), (4, 1, 96, 96), (4, 2, 128, 128), (16, 2, 128, 128),
    (10, 2, 128, 128), (2, 2, 192, 128), (4, 1, 256, 256), (2, 1, 576, 512), (4, 1, 160, 128), (2, 2, 24, 8),
)  # fmt: skip


# Heads that lanes do not share out evenly, and rows that start anywhere.
UNEVEN = (
    ("f16", 4, 2, 100, 100), ("f32", 4, 2, 100, 100), ("f16", 3, 3, 33, 33), ("f16", 4, 1, 20, 12),
    ("f16", 4, 2, 120, 120), ("f16", 2, 1, 72, 72), ("f16", 2, 2, 112, 112),
)  # fmt: skip
BLOCKS = {kind: t for t, kind in attention.KINDS.items() if t.block > 1}


def heads_of(heads: int, kv: int, dk: int, dv: int, kind: str, of_values: str = "") -> attention.Heads:
    k, v = row_bytes(kind, dk), row_bytes(of_values or kind, dv)
    return attention.Heads(heads, kv, dk, dv, kv * k, k, kv * v, v)


def row_bytes(kind: str, n: int) -> int:
    return BLOCKS[kind].row_bytes(n) if kind in BLOCKS else n * np.dtype(STORED[kind]).itemsize


def cache_of(kind: str, x: Array, used: int) -> tuple[Array, Array]:
    """x[cells, heads, width] as it lies in a cache, NaN in cells behind `used`; and its values."""
    if kind not in BLOCKS:
        stored = narrow(x, kind)
        values = widen(stored, kind)
        stored[used:] = 0x7FC0 if kind == "bf16" else np.nan
        return stored, values
    raw = BLOCKS[kind].quantize(x)
    values = BLOCKS[kind].dequantize(raw, x.shape)
    raw = raw.reshape(len(x), -1).copy()
    raw[used:] = 0xFF
    return raw, values


def masked(ranges: Array, used: int, window: int = 0) -> attention.Mask:
    """A mask by which each token sees the cells of its range, which ends at its own and is as long as the window."""
    where, cells = np.zeros((len(ranges), 2), np.int32), np.zeros((used, 2), np.int32)
    cells[:, 1] = np.arange(used)
    where[:, 1] = ranges[:, 1] - 1
    where[ranges[:, 0] == ranges[:, 1], 0] = 5  # a sequence without a cell
    return attention.Mask(where, cells, np.array([used], np.int32), window)


def attend(
    q: Array, k: Array, v: Array, ranges: Array, scale: float, sinks: Array | None, cap: float = 0.0
) -> Array:
    """softmax(q kᵀ) v per head over each token's positions; no position: zeros."""
    tokens, heads, _ = q.shape
    out = np.zeros((tokens, heads, v.shape[-1]))
    group = heads // k.shape[1]
    for t in range(tokens):
        at = slice(*ranges[t])
        for h in range(heads):
            s = k[at, h // group].astype(np.float64) @ q[t, h] * scale
            s = cap * np.tanh(s / cap) if cap else s
            s = np.append(s, sinks[h]) if sinks is not None else s
            if s.size and at.stop > at.start:
                e = np.exp(s - s.max())
                out[t, h] = e[: at.stop - at.start] @ v[at, h // group] / e.sum()
    return out


def attention_case(
    kind: str,
    heads: int,
    kv: int,
    dk: int,
    dv: int,
    sinks: bool = False,
    cap: float = 0.0,
    of_values: str = "",
) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        ranges = np.array([[0, 1], [0, 150], [0, 100], [5, 5]], np.int32)
        tokens, capacity = len(ranges), 200
        q = normal(rng, tokens, heads, dk) * 2
        k, keys = cache_of(kind, normal(rng, capacity, kv, dk), 150)
        v, values = cache_of(of_values or kind, normal(rng, capacity, kv, dv), 150)
        bias = normal(rng, heads) if sinks else None
        h = heads_of(heads, kv, dk, dv, kind, of_values)
        partials, y = Out(attention.partial_floats(h, tokens, capacity)), Out(tokens, heads, dv)
        given = q, k, v, masked(ranges, 150), partials, y, h, tokens, capacity
        target.run(*attention.attention(kind, *given, 0.1, bias, cap, of_values=of_values))
        return y.array, attend(q, keys, values, ranges, 0.1, bias, cap), 5e-6

    return run


def halves_case(kind: str, heads: int, k: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        cells, used = 40, 37
        x, values = cache_of(kind, normal(rng, cells, heads, k), used)
        y, row = Out(cells, heads, k, dtype=np.float16), row_bytes(kind, k)
        target.run(
            attention.halves(kind, x, y, np.array([used], np.int32), (cells, heads, k), (heads * row, row))
        )
        assert np.isnan(y.array[used:]).all()
        return y.array[:used], values[:used].astype(np.float16), 0.0

    return run


def prompt_case(
    heads: int, kv: int, dk: int, dv: int, tokens: int, sinks: bool = False, cap: float = 0.0
) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        capacity, past = tokens + 200, 130
        window = 131 * (tokens > 40)  # where there are many
        end = past + 1 + np.arange(tokens)
        begin = np.maximum(0, end - window) if window else np.zeros_like(end)
        ranges = np.stack([begin, end], axis=1).astype(np.int32)
        ranges[-1] = 3, 3  # sees nothing
        q = normal(rng, tokens, heads, dk)
        k, v = (normal(rng, capacity, kv, d).astype(np.float16) for d in (dk, dv))
        k[past + tokens :], v[past + tokens :] = np.nan, np.nan  # cells not yet written
        bias, y = normal(rng, heads) if sinks else None, Out(tokens, heads, dv)
        h, mask = heads_of(heads, kv, dk, dv, "f16"), masked(ranges, past + tokens, window)
        target.run(attention.prompt(q, k, v, mask, y, h, tokens, 0.1, bias, cap))
        return y.array, attend(q, np.nan_to_num(k), np.nan_to_num(v), ranges, 0.1, bias, cap), 1e-3

    return run


PROMPTS = (
    (2, 2, 64, 64, 5),
    (6, 2, 64, 64, 50),
    (4, 1, 128, 128, 70),
    (5, 5, 128, 128, 64),
    (2, 1, 192, 128, 33),
)


def attentions() -> Iterator[Case]:
    for kind in ("f16", "f32"):
        for heads, kv, dk, dv in HEADS:
            yield Case(f"attention-{kind}-{heads}q{kv}kv-{dk}-{dv}", attention_case(kind, heads, kv, dk, dv))
        yield Case(f"attention-{kind}-sinks", attention_case(kind, 8, 2, 64, 64, True))
        yield Case(f"attention-{kind}-cap", attention_case(kind, 8, 2, 64, 64, True, 3.0))
    for kind, heads, kv, dk, dv in UNEVEN:
        yield Case(f"attention-{kind}-{heads}q{kv}kv-{dk}-{dv}", attention_case(kind, heads, kv, dk, dv))
    for types in MIXED:
        kind, of_values = types.split("_")
        yield Case(f"attention-{types}", attention_case(kind, 8, 2, 64, 64, of_values=of_values))
    for kind in BLOCKS:
        yield Case(f"attention-{kind}-latent", attention_case(kind, 2, 1, 576, 512, True))
        yield Case(f"halves-{kind}-64", halves_case(kind, 3, 64))
        yield Case(f"halves-{kind}-192", halves_case(kind, 2, 192))
    yield Case("attention-bf16-sinks", attention_case("bf16", 8, 2, 64, 64, True))
    yield Case("attention-bf16-uneven", attention_case("bf16", 3, 3, 33, 33))
    yield Case("attention-q40-128", attention_case("q40", 16, 2, 128, 128))
    for heads, kv, dk, dv, tokens in PROMPTS:
        yield Case(f"prompt-{heads}q{kv}kv-{dk}-{dv}-{tokens}", prompt_case(heads, kv, dk, dv, tokens))
    yield Case("prompt-sinks", prompt_case(4, 2, 64, 64, 20, True))
    yield Case("prompt-cap", prompt_case(4, 2, 64, 64, 20, True, 3.0))
