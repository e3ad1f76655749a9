"""Cases of w2a8.cu: bit for bit what integers say. Shapes are those of the reference's table."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cuda_emu.values import Array, Case, Out, Result, Run, Target, error, normal
from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.launch import ternary_tiles

# rows, k and the rows of the matrices in it: 2B-4T's wqkv, wo, w13, w2, then those of the 3B model
SHAPES = (
    (2560, 2560, (2560,)), (3840, 2560, (2560, 640, 640)), (13824, 2560, (6912, 6912)), (2560, 6912, (2560,)),
    (3200, 3200, (3200,)), (4800, 3200, (3200, 800, 800)), (3200, 10240, (3200,)), (20480, 3200, (10240, 10240)),
)  # fmt: skip
SMALLER = 16  # the cases have a sixteenth of the rows, which not every tile divides, and all columns


def quantised_tokens(x: Array) -> tuple[Array, Array]:
    """numpy's twin of quantize_token: int8 with rows of whole tiles, (scale, sum of q)."""
    d = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    by = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d > 0)
    q = np.rint(x * by).astype(np.int8)
    ds = np.concatenate([d, q.sum(-1, keepdims=True, dtype=np.float32)], axis=-1)
    return np.pad(q, ((0, 0), (0, ternary_tiles.padded(x.shape[1]) - x.shape[1]))), ds


def matrix(rows: int, k: int, parts: tuple[int, ...], rng: np.random.Generator) -> tuple[Array, Array]:
    """Ternary weights and a scale for each row, another for each part."""
    scales = rng.uniform(0.5, 2.0, len(parts)).tolist()
    ternary = rng.integers(-1, 2, (rows, k)).astype(np.int8)
    return ternary, ternary_tiles.row_scales(rows, tuple(zip(parts, scales, strict=True)))


def expected(weights: Array, scales: Array, q: Array, ds: Array) -> Array:
    """Integer sums (exact in float64), then the kernels' two roundings."""
    sums = q[:, : weights.shape[1]].astype(np.float64) @ weights.T.astype(np.float64)
    out: Array = sums.astype(np.float32) * scales * ds[:, :1]
    return out


def product_case(k: int, parts: tuple[int, ...], tokens: int, split: int | None = None) -> Run:
    rows = sum(parts)

    def run(target: Target, rng: np.random.Generator) -> Result:
        weights, scales = matrix(rows, k, parts, rng)
        q, ds = quantised_tokens(normal(rng, tokens, k))
        y = Out(tokens, rows)
        target.run(w2a8.product(ternary_tiles.pack(weights), scales, q, ds, y, tokens, rows, k, split=split))
        return y.array, expected(weights, scales, q, ds), 0.0

    return run


def fused_case(k: int, rows: tuple[int, ...], tokens: int) -> Run:
    """Several matrices of one x in one launch."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        q, ds = quantised_tokens(normal(rng, tokens, k))
        made = [matrix(n, k, (n,), rng) for n in rows]
        outs = [Out(tokens, n) for n in rows]
        of = [w2a8.Matrix(ternary_tiles.pack(w), s, y, len(w)) for (w, s), y in zip(made, outs, strict=True)]
        target.run(w2a8.products(of, q, ds, tokens, k))
        want = [expected(w, s, q, ds) for w, s in made]
        return np.concatenate([y.array for y in outs], axis=1), np.concatenate(want, axis=1), 0.0

    return run


def part_case(k: int, rows: tuple[int, int], tokens: int) -> Run:
    """Rows of a matrix that start and end within a tile."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        (first, last), tile = rows, ternary_tiles.nbytes(ternary_tiles.ROWS, k)
        q, ds = quantised_tokens(normal(rng, tokens, k))
        weights, scales = matrix(last + 9, k, (last + 9,), rng)
        y, packed = Out(tokens, last - first), ternary_tiles.pack(weights)
        before = first // ternary_tiles.ROWS
        part = w2a8.rows_of(0, 0, y, rows, k)
        assert (part.w, part.scales) == (before * tile, before * ternary_tiles.ROWS * 4)
        of = replace(
            part, w=packed[before * tile :].copy(), scales=scales[before * ternary_tiles.ROWS :].copy()
        )
        target.run(w2a8.products([of], q, ds, tokens, k))
        return y.array, expected(weights, scales, q, ds)[:, first:last], 0.0

    return run


def rows_case(k: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        weights, scales = matrix(37, k, (20, 17), rng)
        y, which = Out(5, k), np.array([36, 0, -1, 8, 37], np.int32)
        target.run(w2a8.get_rows(ternary_tiles.pack(weights), scales, which, y, 5, 37, k))
        want = np.zeros((5, k), np.float32)
        want[[0, 1, 3]] = (weights * scales[:, None])[[36, 0, 8]]
        return y.array, want, 0.0

    return run


def quantize_case(tokens: int, k: int, normed: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        stride = k + 4 - normed  # rows that start anywhere
        x, norm = normal(rng, tokens, stride), normal(rng, k)
        x[0] = 0  # the scale is 0
        q, ds, y = Out(tokens, ternary_tiles.padded(k), dtype=np.int8), Out(tokens, 2), Out(tokens, k)
        target.run(w2a8.quantize(x, norm if normed else None, q, ds, tokens, k, stride, y=y))
        v = x[:, :k].astype(np.float64)
        if normed:
            v = v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-5) * norm
        assert (ds.array[:, 1] == q.array.sum(-1, dtype=np.int64)).all()
        assert (q.array[:, k:] == 0).all()
        if not normed:
            want, scale = quantised_tokens(x[:, :k])
            assert np.array_equal(q.array, want)
            assert np.array_equal(ds.array, scale)
        assert error(y.array, v) < 1e-6
        step = np.abs(v).max(-1, keepdims=True) / 127
        assert (np.abs(q.array[:, :k] * step - v) <= 0.5001 * step).all()
        return ds.array[:, :1], step, 1e-6

    return run


def w2a8s() -> Iterator[Case]:
    for rows, k, whole in SHAPES:
        parts = tuple(p // SMALLER for p in whole)
        for tokens in (1, 3) if k > 5000 else (1, 2, 7):
            yield Case(f"w2a8-{rows // SMALLER}x{k}-{tokens}", product_case(k, parts, tokens))
    for tokens in (1, 2, 3, 4, 5, 8, 9, 16, 17, 130):
        yield Case(f"w2a8-37x516-{tokens}", product_case(516, (20, 17), tokens))
    for split in (1, 2, 4, 8):
        yield Case(f"w2a8-150x1408-split{split}", product_case(1408, (150,), 1, split))
    for tokens in (1, 3, 9, 40):
        yield Case(f"w2a8-fused-{tokens}", fused_case(640, (20, 150, 37), tokens))
        yield Case(f"w2a8-part-{tokens}", part_case(256, (19, 50), tokens))
    yield Case("w2a8-rows-516", rows_case(516))
    yield Case("w2a8-rows-2560", rows_case(2560))
    for tokens, k, normed in ((3, 516, False), (2, 2560, True), (2, 6912, False), (1, 4, False)):
        yield Case(f"quantize_token-{tokens}x{k}{'-normed' * normed}", quantize_case(tokens, k, normed))
