"""Cases of scores.cu: attention in parts."""

from collections.abc import Iterator

import numpy as np

from cuda_emu.attends import cache_of, row_bytes
from cuda_emu.values import Array, Case, Out, Result, Run, Target, normal
from graphsched.backends.cuda.families import attention, scores
from graphsched.graph.ops import soft_cap_max, soft_max


def multiplied(x: Array, w: Array) -> Array:
    """y[t, h, n] = Σ_k x[t, h, k] · w[h / group, n, k] in double precision."""
    return np.einsum("thk,hnk->thn", x.astype(np.float64), np.repeat(w, x.shape[1] // len(w), axis=0))


def keys_case(kind: str, tokens: int, heads: int, kv: int, k: int) -> Run:
    """Scores of all cells in use; nothing is written behind them, and nothing read."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        cells, used = 150, 131
        x = normal(rng, tokens, heads + 1, k)  # a view: the last head is not part of it
        w, values = cache_of(kind, normal(rng, cells, kv, k), used)
        step = 4 if kind == "f32" else 2
        view = scores.View(kind, kv, cells, k, row_bytes(kind, k), kv * row_bytes(kind, k), step)
        y = Out(tokens, heads, cells)
        length = np.array([used], np.int32)
        target.run(scores.product(x, w, y, tokens, heads, view, ((heads + 1) * k, k), n_used=length))
        assert np.isnan(y.array[..., used:]).all()
        want = multiplied(x[:, :heads], values.swapaxes(0, 1))
        return y.array[..., :used], want[..., :used], 1e-6

    return run


def values_case(kind: str, tokens: int, heads: int, kv: int, n: int) -> Run:
    """Sums over the cells in use; what is behind them is no number."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        cells, used = 150, 131
        x = normal(rng, tokens, heads, cells)
        x[..., used:] = np.nan
        w, values = cache_of(kind, normal(rng, cells, kv, n), used)
        row = row_bytes(kind, n)
        view = scores.View(kind, kv, n, cells, row, 4 if kind == "f32" else 2, kv * row)
        y, length = Out(tokens, heads, n), np.array([used], np.int32)
        target.run(scores.product(x, w, y, tokens, heads, view, (heads * cells, cells), k_used=length))
        return y.array, multiplied(x[..., :used], values[:used].transpose(1, 2, 0)), 1e-6

    return run


def tiles(target: Target, rng: np.random.Generator) -> Result:
    """A row has the same bits whatever rows there are beside it."""
    x, w, many = normal(rng, 40, 2, 70), normal(rng, 2, 33, 70), Out(40, 2, 33)
    view, one = scores.View("f32", 2, 33, 70, 33 * 280, 280, 4), Out(1, 2, 33)
    target.run(scores.product(x, w, many, 40, 2, view, (140, 70)))
    target.run(scores.product(x[7:8].copy(), w, one, 1, 2, view, (140, 70)))
    assert np.array_equal(many.array[7], one.array[0])
    return many.array, multiplied(x, w), 1e-6


def soft_max_case(used: int, sinks: bool, cap: float, window: int, chunk: int, in_place: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        tokens, heads, cells = 3, 2, 700
        x, bias = normal(rng, tokens, heads, cells) * 5, normal(rng, heads) if sinks else None
        x[..., used:] = np.nan
        owner = np.arange(used) % 40 // 20  # of two sequences, whose cells are apart
        position = np.zeros(used, np.int32)
        for s in range(2):
            position[owner == s] = np.arange((owner == s).sum())
        cells_of = np.stack([owner, position], axis=1).astype(np.int32)
        cells_of[used // 3] = -1, 0  # a free one
        where = np.array([[7, 0, 0], [0, position[owner == 0].max(), 3], [0, used // 4, 3]], np.int32)
        where[2, 0] = int(used > 20)  # the first is of a sequence without a cell
        y = Out(tokens, heads, cells)
        if in_place:
            y.array[:] = x
        mask, length = attention.Mask(where, window, chunk), np.array([used], np.int32)
        given = y if in_place else x, y, mask, cells_of, length, tokens, heads, cells, 0.3, cap, bias
        target.run(scores.soft_max_seen(*given))
        op = soft_cap_max if cap else soft_max
        attrs = {"scale": 0.3, "window": window, "chunk": chunk, **({"cap": cap} if cap else {})}
        assert op.run_reference is not None
        want = op.run_reference(x[..., :used], where, cells_of, *([] if bias is None else [bias]), **attrs)
        assert (y.array[0, :, :used] == 0).all()
        return y.array[..., :used], want, 2e-6

    return run


def attentions_in_parts() -> Iterator[Case]:
    for kind, k in (
        ("f16", 33),
        ("bf16", 33),
        ("f32", 40),
        ("q80", 64),
        ("q40", 96),
        ("q51", 64),
        ("iq4nl", 96),
        ("q8kv", 64),
    ):
        for tokens, heads, kv in ((1, 6, 2), (9, 3, 3), (23, 6, 2)):
            yield Case(f"rows-{kind}-{tokens}x{heads}q{kv}kv", keys_case(kind, tokens, heads, kv, k))
    for kind, n in (
        ("f16", 33),
        ("bf16", 33),
        ("f32", 72),
        ("q80", 64),
        ("q40", 32),
        ("q51", 32),
        ("iq4nl", 64),
        ("q8kv", 96),
    ):
        for tokens, heads, kv in ((1, 6, 2), (23, 6, 2)):
            yield Case(f"columns-{kind}-{tokens}x{heads}q{kv}kv", values_case(kind, tokens, heads, kv, n))
    yield Case("rows-tiles", tiles)
    for used, sinks, cap, window, chunk, in_place in (
        (5, False, 0.0, 0, 0, False), (700, True, 0.0, 9, 0, True), (300, True, 5.0, 0, 16, False),
        (513, False, 2.0, 100, 0, True),
    ):  # fmt: skip
        yield Case(f"soft_max_seen-{used}", soft_max_case(used, sinks, cap, window, chunk, in_place))
