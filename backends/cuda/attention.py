"""Launches of attention.cu: a few queries over a long cache.

The cache is read from its first cell on: a ring that has wrapped (`graphsched.kv`) is not for these kernels yet.
"""

from dataclasses import dataclass

from graphsched.backends.cuda.call import Call, Operand, up
from graphsched.errors import ShapeError

# widths of keys and values → the most query heads that a block takes at once
SHAPES = {(64, 64): 8, (96, 96): 4, (128, 128): 8, (192, 128): 2, (256, 256): 4, (576, 512): 1}


@dataclass(frozen=True)
class Heads:
    """Query and key-value heads, their widths, and the cache's strides in elements."""

    heads: int
    kv_heads: int
    dk: int
    dv: int
    k_pos: int
    k_head: int
    v_pos: int
    v_head: int


def chunk_of(capacity: int, kv_heads: int, tokens: int, sms: int = 132) -> int:
    """Positions of one chunk: about four blocks a multiprocessor at full length, at least 64 positions."""
    chunks = max(1, up(4 * sms, kv_heads * tokens))
    return max(64, up(up(capacity, chunks), 64) * 64)


def attention(
    kind: str,
    q: Operand,
    k: Operand,
    v: Operand,
    ranges: Operand,
    part: Operand,
    y: Operand,
    h: Heads,
    tokens: int,
    capacity: int,
    scale: float,
    sinks: Operand = None,
    sms: int = 132,
) -> tuple[Call, Call]:
    """Partial results, then their merge; q, y [tokens, heads, width] dense; part: part_floats() floats."""
    if (h.dk, h.dv) not in SHAPES:
        raise ShapeError(f"attention: no kernel for heads of {h.dk} and {h.dv}; there are {sorted(SHAPES)}")
    most, group = SHAPES[h.dk, h.dv], h.heads // h.kv_heads
    chunk = chunk_of(capacity, h.kv_heads, tokens, sms)
    per = next((n for n in (1, 2, 4, 8) if group <= n <= most), most)
    chunks = up(capacity, chunk)
    strides = (h.k_pos, h.k_head, h.v_pos, h.v_head, h.dk, h.heads * h.dk)
    args = (q, k, v, ranges, part, h.heads, h.kv_heads, *strides, scale, chunk)
    name = f"attention_{h.dk}_{h.dv}_{per}_{kind}"
    first = Call("attention", (kind,), name, (h.kv_heads * up(group, per), chunks, tokens), 128, args)
    merge = (part, sinks, y, chunks, h.dv, h.dv, h.heads * h.dv)
    return first, Call("attention", (), "attention_merge", (h.heads, tokens), min(256, h.dv), merge)


def part_floats(h: Heads, tokens: int, capacity: int, sms: int = 132) -> int:
    """Floats of scratch that attention() needs."""
    return tokens * h.heads * up(capacity, chunk_of(capacity, h.kv_heads, tokens, sms)) * (h.dv + 2)


PROMPT_SHAPES = {(64, 64): 64, (128, 128): 64, (192, 128): 32}  # positions of a tile


def prompt(
    q: Operand,
    k: Operand,
    v: Operand,
    ranges: Operand,
    y: Operand,
    h: Heads,
    tokens: int,
    scale: float,
    sinks: Operand = None,
) -> Call:
    """Many queries over an f16 cache, on the tensor cores; q, y [tokens, heads, width] dense. No scratch."""
    if (h.dk, h.dv) not in PROMPT_SHAPES:
        raise ShapeError(f"prompt: no kernel for heads of {h.dk} and {h.dv}; there are {list(PROMPT_SHAPES)}")
    strides = (h.k_pos, h.k_head, h.v_pos, h.v_head, h.dk, h.heads * h.dk)
    args = (q, k, v, ranges, sinks, y, tokens, h.heads, h.kv_heads, *strides, scale)
    grid = (up(tokens * (h.heads // h.kv_heads), 64), h.kv_heads)
    shared = 2 * PROMPT_SHAPES[h.dk, h.dv] * (h.dk + h.dv) * 2
    return Call("prompt", (), f"prompt_{h.dk}_{h.dv}", grid, 128, args, shared)
