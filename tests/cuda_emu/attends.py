"""Cases of attention.cu."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cuda_emu.values import STORED, Array, Case, Out, Result, Run, Target, normal
from graphsched.backends.cuda import attention

HEADS = (
    (2, 2, 64, 64), (8, 2, 64, 64), (9, 3, 64, 64), (4, 1, 96, 96), (4, 2, 128, 128), (16, 2, 128, 128),
    (10, 2, 128, 128), (2, 2, 192, 128), (4, 1, 256, 256), (2, 1, 576, 512), (4, 1, 160, 128), (2, 2, 24, 8),
)  # fmt: skip


def heads_of(heads: int, kv: int, dk: int, dv: int, dtype: Any) -> attention.Heads:
    size = np.dtype(dtype).itemsize
    return attention.Heads(heads, kv, dk, dv, kv * dk * size, dk * size, kv * dv * size, dv * size)


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
    kind: str, heads: int, kv: int, dk: int, dv: int, sinks: bool = False, cap: float = 0.0
) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        ranges = np.array([[0, 1], [0, 150], [0, 100], [5, 5]], np.int32)
        tokens, capacity = len(ranges), 200
        q, dtype = normal(rng, tokens, heads, dk) * 2, STORED[kind]
        k, v = normal(rng, capacity, kv, dk).astype(dtype), normal(rng, capacity, kv, dv).astype(dtype)
        k[150:], v[150:] = np.nan, np.nan  # cells not yet written
        bias = normal(rng, heads) if sinks else None
        h = heads_of(heads, kv, dk, dv, dtype)
        part, y = Out(attention.part_floats(h, tokens, capacity)), Out(tokens, heads, dv)
        mask = masked(ranges, 150)
        target.run(*attention.attention(kind, q, k, v, mask, part, y, h, tokens, capacity, 0.1, bias, cap))
        return y.array, attend(q, np.nan_to_num(k), np.nan_to_num(v), ranges, 0.1, bias, cap), 5e-6

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
        h, mask = heads_of(heads, kv, dk, dv, np.float16), masked(ranges, past + tokens, window)
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
    for heads, kv, dk, dv, tokens in PROMPTS:
        yield Case(f"prompt-{heads}q{kv}kv-{dk}-{dv}-{tokens}", prompt_case(heads, kv, dk, dv, tokens))
    yield Case("prompt-sinks", prompt_case(4, 2, 64, 64, 20, True))
    yield Case("prompt-cap", prompt_case(4, 2, 64, 64, 20, True, 3.0))
