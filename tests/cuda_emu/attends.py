"""Cases of attention.cu."""

from collections.abc import Iterator

import numpy as np

from cuda_emu.values import STORED, Array, Case, Out, Result, Run, Target, normal
from graphsched.backends.cuda import attention

HEADS = (
    (2, 2, 64, 64), (8, 2, 64, 64), (9, 3, 64, 64), (4, 1, 96, 96), (4, 2, 128, 128), (16, 2, 128, 128),
    (10, 2, 128, 128), (2, 2, 192, 128), (4, 1, 256, 256), (2, 1, 576, 512),
)  # fmt: skip


def attend(q: Array, k: Array, v: Array, ranges: Array, scale: float, sinks: Array | None) -> Array:
    """softmax(q kᵀ) v per head over each token's positions; no position: zeros."""
    tokens, heads, _ = q.shape
    out = np.zeros((tokens, heads, v.shape[-1]))
    group = heads // k.shape[1]
    for t in range(tokens):
        at = slice(*ranges[t])
        for h in range(heads):
            s = k[at, h // group].astype(np.float64) @ q[t, h] * scale
            s = np.append(s, sinks[h]) if sinks is not None else s
            if s.size and at.stop > at.start:
                e = np.exp(s - s.max())
                out[t, h] = e[: at.stop - at.start] @ v[at, h // group] / e.sum()
    return out


def attention_case(kind: str, heads: int, kv: int, dk: int, dv: int, sinks: bool = False) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        ranges = np.array([[0, 1], [0, 150], [37, 100], [5, 5]], np.int32)
        tokens, capacity = len(ranges), 200
        q, dtype = normal(rng, tokens, heads, dk) * 2, STORED[kind]
        k, v = normal(rng, capacity, kv, dk).astype(dtype), normal(rng, capacity, kv, dv).astype(dtype)
        k[150:], v[150:] = np.nan, np.nan  # cells not yet written
        bias = normal(rng, heads) if sinks else None
        h = attention.Heads(heads, kv, dk, dv, kv * dk, dk, kv * dv, dv)
        part, y = Out(attention.part_floats(h, tokens, capacity)), Out(tokens, heads, dv)
        target.run(*attention.attention(kind, q, k, v, ranges, part, y, h, tokens, capacity, 0.1, bias))
        return y.array, attend(q, np.nan_to_num(k), np.nan_to_num(v), ranges, 0.1, bias), 5e-6

    return run


def prompt_case(heads: int, kv: int, dk: int, dv: int, tokens: int, sinks: bool = False) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        capacity, past = tokens + 200, 130
        begin = np.maximum(0, np.arange(tokens) - 40) * (tokens > 40)  # a window, where there are many
        ranges = np.stack([begin, past + 1 + np.arange(tokens)], axis=1).astype(np.int32)
        ranges[-1] = 3, 3  # sees nothing
        q = normal(rng, tokens, heads, dk)
        k, v = (normal(rng, capacity, kv, d).astype(np.float16) for d in (dk, dv))
        k[past + tokens :], v[past + tokens :] = np.nan, np.nan  # cells not yet written
        bias, y = normal(rng, heads) if sinks else None, Out(tokens, heads, dv)
        h = attention.Heads(heads, kv, dk, dv, kv * dk, dk, kv * dv, dv)
        target.run(attention.prompt(q, k, v, ranges, y, h, tokens, 0.1, bias))
        return y.array, attend(q, np.nan_to_num(k), np.nan_to_num(v), ranges, 0.1, bias), 1e-3

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
    for heads, kv, dk, dv, tokens in PROMPTS:
        yield Case(f"prompt-{heads}q{kv}kv-{dk}-{dv}-{tokens}", prompt_case(heads, kv, dk, dv, tokens))
    yield Case("prompt-sinks", prompt_case(4, 2, 64, 64, 20, True))
