"""Launches of gemm.cu and gemm_q8.cu: many tokens, on the tensor cores."""

from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE
from graphsched.errors import ShapeError

ROW_BYTES = 128  # of a GEMM tile
GEMM_TILES = {(64, 64): 3, (128, 128): 3, (128, 256): 4}  # stages of each
Q8_THREADS = 256
# kernel types as gemm_q8.cu has them (int8.cuh): minima of a unit; types whose halves have scales of their own
Q8_MINIMA = {"q4_1": 1, "q5_1": 1, "q4_k": 1, "q5_k": 1, "q2_k": 2}
Q8_HALVES = ("q6_k", "iq2_s", "iq1_s")


def gemm(
    kind: str,
    x: Address,
    w: Address,
    y: Address,
    m: int,
    n: int,
    k: int,
    sms: int = 132,
    shared: int = 232448,
) -> Call:
    """y[m, n] = x[m, k] · w[n, k]ᵀ; x, w f16 or bf16, y float32; `shared`: what a block may have."""
    if k % 8:
        raise ShapeError(f"gemm: k = {k} must be a multiple of 8")
    bm, bn = min(GEMM_TILES, key=lambda t: _gemm_cost(t, m, n, sms, shared))
    name, grid = f"gemm_{kind}_{bm}_{bn}", (up(m, bm), up(n, bn))
    return Call("gemm", (), name, grid, 256, (x, w, y, m, n, k), gemm_shared((bm, bn)))


def gemm_shared(tile: tuple[int, int]) -> int:
    """Dynamic shared memory of a tile's kernel."""
    return GEMM_TILES[tile] * sum(tile) * ROW_BYTES


def _gemm_cost(tile: tuple[int, int], m: int, n: int, sms: int, shared: int) -> float:
    """Tiles of the busiest multiprocessor × work of one; a small tile loads more bytes per product."""
    if gemm_shared(tile) > shared:
        return float("inf")
    load = {64: 2.0, 128: 1.1, 256: 1.0}[tile[1]]
    return up(up(m, tile[0]) * up(n, tile[1]), sms) * tile[0] * tile[1] * load


def gemm_q8_shared(t: str) -> int:
    """Dynamic shared memory of gemm_q8.cu for a kernel type: two slices, places, rows, sums of activations."""
    minima, halves = Q8_MINIMA.get(t, 0), t in Q8_HALVES
    scales = 2048 + 16 + 8192 if halves else 4096 + 2048 + 32
    tile = 2 * 128 * 128 + scales + (2048 * minima or 16)
    return up(2 * tile + 16 * Q8_THREADS + 512 + 40 + (8192 if minima else 16), 16) * 16


def gemm_q8(
    kind: str,
    w: Address,
    q: Address,
    ds: Address,
    y: Address,
    m: int,
    n: int,
    k: int,
    total: int = 0,
    first: int = 0,
) -> Call:
    """y[m, n] = x · wᵀ for quantised activations and weights of any type; rows from `first` of `total`."""
    t = KERNEL_TYPE[kind]
    args = (w, q, ds, y, m, n, k, total or n, first)
    return Call(
        "gemm_q8", (t,), f"gemm_q8_{t}", (up(m, 128), up(n, 128)), Q8_THREADS, args, gemm_q8_shared(t)
    )


def gemm_q8_id(
    kind: str,
    w: Address,
    order: Address,
    starts: Address,
    q: Address,
    ds: Address,
    y: Address,
    shape: tuple[int, int, int],
    n: int,
    k: int,
    x_per_slot: bool,
) -> Call:
    """y[t, e] = w[ids[t, e]] · x for many tokens, from moe.group()'s order; shape (tokens, used, n_expert)."""
    tokens, used, n_expert = shape
    t = KERNEL_TYPE[kind]
    grid = (up(tokens * used, 128), up(n, 128), n_expert + 1)
    args = (w, order, starts, q, ds, y, n_expert, 1 if x_per_slot else used, n, k)
    return Call("gemm_q8", (t,), f"gemm_q8_id_{t}", grid, Q8_THREADS, args, gemm_q8_shared(t))
