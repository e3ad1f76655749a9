"""One token over many cells: parts of the cache go to different threads, with the bits of one thread."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphsched.graph.graph import from_outputs
from graphsched.graph.ops import flash_attn_ext
from graphsched.graph.ops.attention import cells_of
from graphsched.graph.tensor import Extent, Pool, TensorType, f32, i32, input_tensor
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.types import dtypes
from graphsched.types.extents import CELL_BLOCK

SHAPES = [(4, 1, 64, 64), (6, 2, 64, 64), (16, 1, 576, 512)]  # heads, KV heads, widths of keys and values
MOST = 3000


def scattered(x: NDArray[np.float32], at: NDArray[np.int32], n: int) -> NDArray[np.float32]:
    """Rows of a sequence in the cells of a pool."""
    pool = np.zeros((n, *x.shape[1:]), np.float32)
    pool[at] = x
    return pool


def attend(
    shape: tuple[int, int, int, int],
    dtype: dtypes.DType,
    n_kv: int,
    capacity: int,
    threads: int,
    **attrs: Any,
) -> NDArray[np.float32]:
    heads, kv_heads, k_dim, v_dim = shape
    rng, cells = np.random.default_rng(5), Pool(-(-capacity // CELL_BLOCK) * CELL_BLOCK, "n_kv")
    runtime = open_runtime("cpu", Setup({}, n_threads=threads))
    q = rng.standard_normal((1, heads, k_dim)).astype(np.float32)
    kv = [rng.standard_normal((MOST, kv_heads, n)).astype(np.float32) for n in (k_dim, v_dim)]
    table = rng.permutation(int(cells) // CELL_BLOCK).astype(np.int32)
    at = cells_of(table, 0, np.arange(capacity))
    leaves = (
        input_tensor("q", f32(Extent(1, "n_tokens"), heads, k_dim)),
        input_tensor("k", TensorType(dtype, (cells, kv_heads, k_dim))),
        input_tensor("v", TensorType(dtype, (cells, kv_heads, v_dim))),
        input_tensor("where", i32(Extent(1, "n_tokens"), 3)),
        input_tensor("table", i32(len(table))),
    )
    values = (
        q,
        *(dtype.quantize(scattered(x[:capacity], at, int(cells))) for x in kv),
        np.array([0, n_kv - 1, 0], np.int32),
        table,
    )
    for leaf, value in zip(leaves, values, strict=True):
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        runtime.input(leaf).reshape(-1).view(np.uint8)[:] = raw
    executable = runtime.compile(from_outputs(flash_attn_ext(*leaves, scale=0.1, **attrs)))
    executable.run({"n_tokens": 1, "n_kv": n_kv})
    return np.array(executable.outputs[0])


@pytest.mark.parametrize("dtype", [dtypes.F16, dtypes.Q8_0, dtypes.Q5_1], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_do_not_depend_on_threads(shape: tuple[int, int, int, int], dtype: dtypes.DType) -> None:
    one, *others = (attend(shape, dtype, 2900, MOST, threads) for threads in (1, 2, 3, 5))
    assert np.abs(one).max() > 0
    for other in others:
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("n_kv", [1, 700, 1000])
def test_a_short_sequence_gives_the_bits_of_a_short_cache(n_kv: int) -> None:
    short, long = (attend(SHAPES[0], dtypes.F16, n_kv, capacity, 2) for capacity in (1000, MOST))
    np.testing.assert_array_equal(short, long)


def test_a_window_that_leaves_parts_unseen() -> None:
    near = attend(SHAPES[0], dtypes.F16, 2900, MOST, 2, window=100)
    np.testing.assert_array_equal(near, attend(SHAPES[0], dtypes.F16, 2900, MOST, 1, window=100))
    assert np.isfinite(near).all()
    assert np.abs(near - attend(SHAPES[0], dtypes.F16, 2900, MOST, 1)).max() > 0.01
