"""Cases of w2a8.cu: bit for bit what integers say. Shapes are those of the reference's table."""

from collections.abc import Iterator

import numpy as np

from cuda_emu.values import Array, Case, Out, Result, Run, Target, normal
from graphsched.backends.cuda import w2a8

# rows, k and the rows of the matrices in it: 2B-4T's wqkv, wo, w13, w2, then those of the 3B model
SHAPES = (
    (2560, 2560, (2560,)), (3840, 2560, (2560, 640, 640)), (13824, 2560, (6912, 6912)), (2560, 6912, (2560,)),
    (3200, 3200, (3200,)), (4800, 3200, (3200, 800, 800)), (3200, 10240, (3200,)), (20480, 3200, (10240, 10240)),
)  # fmt: skip
SMALLER = 16  # the cases have a sixteenth of the rows, which not every tile divides, and all columns


def quantised_tokens(x: Array) -> tuple[Array, Array]:
    """numpy's twin of quantize_token: int8 with rows of whole tiles, (scale, sum of q)."""
    amax = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-5))
    q = np.rint(x * (np.float32(127) / amax)).astype(np.int8)
    sums = q.sum(-1, keepdims=True, dtype=np.float32)
    ds = np.concatenate([amax / np.float32(127), sums], axis=-1).astype(np.float32)
    return np.pad(q, ((0, 0), (0, w2a8.padded(x.shape[1]) - x.shape[1]))), ds


def matrix(rows: int, k: int, parts: tuple[int, ...], rng: np.random.Generator) -> tuple[Array, Array]:
    """Ternary weights and a scale for each row, another for each part."""
    scales = rng.uniform(0.5, 2.0, len(parts)).tolist()
    ternary = rng.integers(-1, 2, (rows, k)).astype(np.int8)
    return ternary, w2a8.row_scales(rows, tuple(zip(parts, scales, strict=True)))


def expected(weights: Array, scales: Array, q: Array, ds: Array) -> Array:
    """Integer sums (exact in float64), then the kernels' two roundings."""
    sums = q[:, : weights.shape[1]].astype(np.float64) @ weights.T.astype(np.float64)
    out: Array = sums.astype(np.float32) * (ds[:, :1] * scales)
    return out


def product_case(k: int, parts: tuple[int, ...], tokens: int, split: int | None = None) -> Run:
    rows = sum(parts)

    def run(target: Target, rng: np.random.Generator) -> Result:
        weights, scales = matrix(rows, k, parts, rng)
        q, ds = quantised_tokens(normal(rng, tokens, k))
        y = Out(tokens, rows)
        target.run(w2a8.product(w2a8.pack(weights), scales, q, ds, y, tokens, rows, k, split=split))
        return y.array, expected(weights, scales, q, ds), 0.0

    return run


def quantize_case(tokens: int, k: int, normed: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        stride = k + 4
        x, norm = normal(rng, tokens, stride), normal(rng, k)
        x[0] = 0  # the scale has a floor
        q, ds = Out(tokens, w2a8.padded(k), dtype=np.int8), Out(tokens, 2)
        target.run(w2a8.quantize(x, norm if normed else None, q, ds, tokens, k, stride))
        v = x[:, :k].astype(np.float64)
        if normed:
            v = v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-5) * norm
        assert (ds.array[:, 1] == q.array.sum(-1, dtype=np.int64)).all()
        assert (q.array[:, k:] == 0).all()
        if not normed:
            want, scale = quantised_tokens(x[:, :k])
            assert np.array_equal(q.array, want)
            assert np.array_equal(ds.array, scale)
        step = np.maximum(np.abs(v).max(-1, keepdims=True), 1e-5) / 127
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
    for tokens, k, normed in ((3, 516, False), (2, 2560, True), (2, 6912, False), (1, 4, False)):
        yield Case(f"quantize_token-{tokens}x{k}{'-normed' * normed}", quantize_case(tokens, k, normed))
