"""Cases of attention.cu."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cuda_emu.values import MIXED, STORED, Array, Case, Out, Result, Run, Target, narrow, normal, widen
from graphsched.backends.cuda.families import attention
from graphsched.graph.ops.attention import slopes
from graphsched.types.extents import CELL_BLOCK

HEADS = (
    (2, 2, 64, 64), (8, 2, 64, 64), (9, 3, 64, 64), (4, 1, 96, 96), (4, 2, 128, 128), (16, 2, 128, 128),
    (10, 2, 128, 128), (2, 2, 192, 128), (4, 1, 256, 256), (2, 1, 576, 512), (4, 1, 160, 128), (2, 2, 24, 8),
)  # fmt: skip


# Heads that lanes do not share out evenly, and rows that start anywhere.
UNEVEN = (
    ("f16", 4, 2, 100, 100), ("f32", 4, 2, 100, 100), ("f16", 3, 3, 33, 33), ("f16", 4, 1, 20, 12),
    ("f16", 4, 2, 120, 120), ("f16", 2, 1, 72, 72), ("f16", 2, 2, 112, 112),
)  # fmt: skip
Spans = tuple[tuple[int, int], ...]  # (first token, end) of sequences
NOWHERE = 1 << 24  # a block that no pool has
BLOCKS = {kind: t for t, kind in attention.KINDS.items() if t.block > 1}


def heads_of(heads: int, kv: int, dk: int, dv: int, kind: str, of_values: str = "") -> attention.Heads:
    k, v = row_bytes(kind, dk), row_bytes(of_values or kind, dv)
    return attention.Heads(heads, kv, dk, dv, kv * k, k, kv * v, v)


def row_bytes(kind: str, n: int) -> int:
    return BLOCKS[kind].row_bytes(n) if kind in BLOCKS else n * np.dtype(STORED[kind]).itemsize


@dataclass(frozen=True)
class Paged:
    """Tokens of sequences whose cells are in blocks of one pool; `cells` has those of each token's positions in order.

    used: entries of the table; those behind them, and those of no sequence, name no block. pool: cells.
    """

    where: Array
    table: Array
    used: int
    cells: list[Array]
    begins: Array
    pool: int
    window: int
    chunk: int
    max_bias: float = 0.0

    @property
    def mask(self) -> attention.Mask:
        return attention.Mask(self.where, self.window, self.chunk, self.max_bias)

    @property
    def written(self) -> Array:
        """Which cells of the pool hold a position that a token sees."""
        seen = np.zeros(self.pool, bool)
        for cells, begin in zip(self.cells, self.begins, strict=True):
            seen[cells[begin:]] = True
        return seen

    def only(self, tokens: list[int]) -> "Paged":
        """Of some of the tokens."""
        cells, where = [self.cells[t] for t in tokens], self.where[tokens]
        return replace(self, where=where, cells=cells, begins=self.begins[tokens])


def paged(
    spans: Spans,
    rng: np.random.Generator,
    window: int = 0,
    chunk: int = 0,
    shared: int = 0,
) -> Paged:
    """Sequences of (first token, end): blocks in any order, the first `shared` ones those of the first sequence.

    Blocks in front of what a sequence's first token sees have been given back.
    """
    ends = [-(-end // CELL_BLOCK) for _, end in spans]
    order = rng.permutation(sum(ends) + 2).astype(np.int32)
    where, table, cells, begins, taken = [], [np.full(2, NOWHERE, np.int32)], [], [], 0
    for slot, (first, end) in enumerate(spans):
        own = order[taken : taken + ends[slot]].copy()
        taken += ends[slot]
        if slot:
            own[:shared] = order[:shared]
        at = np.arange(first, end)
        oldest = np.maximum(at - window + 1 if window else 0 * at, at // chunk * chunk if chunk else 0).clip(
            0
        )
        kept = int(oldest[0]) // CELL_BLOCK
        entry = sum(map(len, table)) - kept
        table += [own[kept:], np.full(slot % 2, NOWHERE, np.int32)]
        where += [(7 - slot, p, entry) for p in at]
        every = own[np.arange(end) // CELL_BLOCK] * CELL_BLOCK + np.arange(end) % CELL_BLOCK
        cells += [every[: p + 1] for p in at]
        begins += list(oldest)
    names = np.concatenate([*table, np.full(3, NOWHERE, np.int32)])
    pool = len(order) * CELL_BLOCK
    return Paged(
        np.array(where, np.int32), names, len(names) - 3, cells, np.array(begins), pool, window, chunk
    )


def cache_of(kind: str, x: Array, used: Array | int) -> tuple[Array, Array]:
    """x[cells, heads, width] as it lies in a cache, and its values; NaN in cells not used, or behind so many."""
    is_free = ~used if isinstance(used, np.ndarray) else np.arange(len(x)) >= used
    if kind not in BLOCKS:
        stored = narrow(x, kind)
        values = widen(stored, kind)
        stored[is_free] = 0x7FC0 if kind == "bf16" else np.nan
        return stored, values
    raw = BLOCKS[kind].quantize(x)
    values = BLOCKS[kind].dequantize(raw, x.shape)
    raw = raw.reshape(len(x), -1).copy()
    raw[is_free] = 0xFF
    return raw, values


def attend(
    q: Array, k: Array, v: Array, p: Paged, scale: float, sinks: Array | None, cap: float = 0.0
) -> Array:
    """softmax(q kᵀ) v per head over the positions that each token sees."""
    tokens, heads, _ = q.shape
    out = np.zeros((tokens, heads, v.shape[-1]))
    group = heads // k.shape[1]
    for t in range(tokens):
        at = p.cells[t][p.begins[t] :]
        for h in range(heads):
            s = k[at, h // group].astype(np.float64) @ q[t, h] * scale
            s = cap * np.tanh(s / cap) if cap else s
            if p.max_bias:
                s += slopes(p.max_bias, heads)[h] * (np.arange(p.begins[t], len(p.cells[t])) - p.where[t, 1])
            s = np.append(s, sinks[h]) if sinks is not None else s
            e = np.exp(s - s.max())
            out[t, h] = e[: len(at)] @ v[at, h // group] / e.sum()
    return out


# Spans of sequences: one that begins, one with a last block that is full, one that has blocks of the first.
FEW = ((149, 150), (0, 1), (98, 100), (95, 96))


def attention_case(
    kind: str,
    heads: int,
    kv: int,
    dk: int,
    dv: int,
    sinks: bool = False,
    cap: float = 0.0,
    of_values: str = "",
    window: int = 0,
    chunk: int = 0,
    max_bias: float = 0.0,
) -> Run:
    """A token has the same bits whatever others are beside it."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        p = replace(paged(FEW, rng, window, chunk, shared=1), max_bias=max_bias)
        tokens = len(p.where)
        q = normal(rng, tokens, heads, dk) * 2
        k, keys = cache_of(kind, normal(rng, p.pool, kv, dk), p.written)
        v, values = cache_of(of_values or kind, normal(rng, p.pool, kv, dv), p.written)
        bias = normal(rng, heads) if sinks else None
        h = heads_of(heads, kv, dk, dv, kind, of_values)

        def result(which: list[int]) -> Array:
            n, part = len(which), p.only(which)
            partials, y = Out(attention.partial_floats(h, n, p.pool)), Out(n, heads, dv)
            given = q[which], k, v, p.table, part.mask, partials, y, h, n, p.pool
            target.run(*attention.attention(kind, *given, 0.1, bias, cap, of_values=of_values))
            return y.array

        got = result(list(range(tokens)))
        assert np.array_equal(result([2]), got[2:3])
        return got, attend(q, keys, values, p, 0.1, bias, cap), 5e-6

    return run


def halves_case(kind: str, heads: int, k: int) -> Run:
    """Cells of the blocks that a table names; nothing else is written."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        table, cells = np.array([3, 0, 4, NOWHERE], np.int32), 6 * CELL_BLOCK
        named = np.isin(np.arange(cells) // CELL_BLOCK, table)
        x, values = cache_of(kind, normal(rng, cells, heads, k), named)
        y, row, used = Out(cells, heads, k, dtype=np.float16), row_bytes(kind, k), np.array([3], np.int32)
        target.run(attention.halves(kind, x, y, table, used, (cells, heads, k), (heads * row, row)))
        assert np.isnan(y.array[~named]).all()
        return y.array[named], values[named].astype(np.float16), 0.0

    return run


def prompt_case(
    heads: int,
    kv: int,
    dk: int,
    dv: int,
    spans: Spans,
    sinks: bool = False,
    cap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
    max_bias: float = 0.0,
) -> Run:
    """The rows of a sequence have the same bits whatever others are in their block."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        p = replace(paged(spans, rng, window, chunk, shared=1), max_bias=max_bias)
        q = normal(rng, len(p.where), heads, dk)
        k, v = (normal(rng, p.pool, kv, d).astype(np.float16) for d in (dk, dv))
        k[~p.written], v[~p.written] = np.nan, np.nan
        bias, h = normal(rng, heads) if sinks else None, heads_of(heads, kv, dk, dv, "f16")

        def result(which: list[int]) -> Array:
            n, part = len(which), p.only(which)
            y = Out(n, heads, dv)
            sequences = min(3, len(set(part.where[:, 0].tolist())))  # of four a block takes two
            given = q[which], k, v, p.table, part.mask, y, h, n, 0.1, bias, cap
            target.run(attention.prompt(*given, sequences))
            return y.array

        got = result(list(range(len(q))))
        last = [t for t, (slot, *_) in enumerate(p.where) if slot == 8 - len(spans)]
        assert np.array_equal(result(last), got[last])
        return got, attend(q, np.nan_to_num(k), np.nan_to_num(v), p, 0.1, bias, cap), 1e-3

    return run


PROMPTS: tuple[tuple[int, int, int, int, Spans, int], ...] = (
    (2, 2, 64, 64, ((130, 135),), 0),
    (6, 2, 64, 64, ((130, 180),), 131),
    (4, 1, 128, 128, ((130, 200),), 131),
    (5, 5, 128, 128, ((64, 128),), 131),
    (2, 1, 192, 128, ((130, 163),), 0),
    (2, 2, 64, 64, ((90, 95), (0, 3), (40, 72), (60, 100)), 0),
    (4, 1, 128, 128, ((90, 95), (200, 201), (33, 72)), 40),
    (2, 1, 192, 128, ((31, 33), (63, 90), (0, 9)), 0),
)


def attentions() -> Iterator[Case]:
    for kind in ("f16", "f32"):
        for heads, kv, dk, dv in HEADS:
            yield Case(f"attention-{kind}-{heads}q{kv}kv-{dk}-{dv}", attention_case(kind, heads, kv, dk, dv))
        yield Case(f"attention-{kind}-sinks", attention_case(kind, 8, 2, 64, 64, True))
        yield Case(f"attention-{kind}-cap", attention_case(kind, 8, 2, 64, 64, True, 3.0))
        yield Case(f"attention-{kind}-alibi", attention_case(kind, 6, 2, 64, 64, max_bias=8.0))
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
    yield Case("attention-window", attention_case("f16", 8, 2, 64, 64, True, window=90))
    yield Case("attention-small-window", attention_case("f16", 2, 2, 24, 8, window=9))
    yield Case("attention-q80-window", attention_case("q80", 8, 2, 64, 64, window=70))
    yield Case("attention-chunk", attention_case("f32", 8, 2, 64, 64, chunk=48))
    for heads, kv, dk, dv, spans, window in PROMPTS:
        tokens = sum(end - first for first, end in spans)
        name = f"prompt-{heads}q{kv}kv-{dk}-{dv}-{tokens}{'-several' * (len(spans) > 1)}"
        yield Case(name, prompt_case(heads, kv, dk, dv, spans, window=window))
    spans = ((130, 140), (70, 80))
    yield Case("prompt-sinks", prompt_case(4, 2, 64, 64, spans, True))
    yield Case("prompt-cap", prompt_case(4, 2, 64, 64, spans, True, 3.0))
    yield Case("prompt-chunk", prompt_case(4, 2, 64, 64, spans, chunk=48))
    yield Case("prompt-alibi", prompt_case(6, 2, 64, 64, spans, max_bias=8.0))
