"""Products with quantised weights: mat-vec and GEMM against exact sums over the same rounded activations."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from op_runs import draw_values, run_on
from running import nmse

from graphsched.backends.cpu.formats.forms import FORMS
from graphsched.backends.cpu.formats.rows import BLOCK_TYPES
from graphsched.graph import ops
from graphsched.graph.graph import from_outputs
from graphsched.graph.ops.matmul import WEIGHT_TYPES
from graphsched.graph.tensor import TensorType, f32, i32, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

N, K, TOKENS = 21, 768, 5
Floats = NDArray[np.float32]


def product(type: TensorType, w: NDArray[np.uint8], x: Floats, threads: int) -> Floats:
    tensors = [weight("w.weight", type), input_tensor("x", f32(*x.shape))]
    return run_on("cpu", ops.mul_mat(*tensors), tensors, {"w": w, "x": x}, threads).copy()


def rounded(x: Floats, dtype: DType) -> NDArray[np.float64]:
    """What the kernels make of activations: int8 with a float32 scale per 32, or per row for ternary weights."""
    blocks = x.reshape(len(x), -1, x.shape[1] if FORMS[dtype.id].ternary else 32)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    return (np.rint(blocks * (np.float32(1) / scale)).astype(np.float64) * scale).reshape(x.shape)


def slow_but_for(dtype: DType, *names: str) -> Any:
    return pytest.param(dtype, marks=() if dtype.name in names else pytest.mark.slow)


def test_every_native_type_has_cases() -> None:
    assert {t.name for t in BLOCK_TYPES} <= {t.name for t in WEIGHT_TYPES}


def drawn(dtype: DType, shape: tuple[int, ...]) -> tuple[TensorType, NDArray[np.uint8], Floats]:
    """Weights of a type, and 512 rows of activations for them."""
    rng = np.random.default_rng(11)
    type = TensorType(dtype, shape)
    return type, draw_values("w", type, rng), rng.standard_normal((512, shape[-1])).astype(np.float32)


@pytest.mark.target
@pytest.mark.parametrize("dtype", BLOCK_TYPES, ids=str)
def test_any_number_of_tokens(dtype: DType) -> None:
    type, w, x = drawn(dtype, (N, K))
    weights = dtype.dequantize(w, (N, K)).astype(np.float64).T
    every = product(type, w, x, 2)
    assert nmse(every, rounded(x, dtype) @ weights) < 1e-11
    assert nmse(product(type, w, x[:1], 2), rounded(x[:1], dtype) @ weights) < 1e-11
    for n_tokens in (2, 7, 32, 33):
        got = product(type, w, x[:n_tokens], 2)
        np.testing.assert_array_equal(got, every[:n_tokens])  # tiles do not mix tokens


@pytest.mark.target
@pytest.mark.parametrize("dtype", [slow_but_for(t, "Q4_0", "Q4_K", "Q6_K") for t in BLOCK_TYPES], ids=str)
def test_by_expert_is_the_expert_s_product(dtype: DType) -> None:
    experts, n_tokens, used = 3, 37, 2
    type, w, x = drawn(dtype, (experts, N, K))
    x, ids = x[:n_tokens], np.random.default_rng(12).integers(0, experts, (n_tokens, used)).astype(np.int32)
    leaves = [
        weight("w.weight", type),
        input_tensor("x", f32(n_tokens, 1, K)),
        input_tensor("ids", i32(n_tokens, used)),
    ]
    got = run_on("cpu", ops.mul_mat_id(*leaves), leaves, {"w": w, "x": x, "ids": ids}, 2)
    one = TensorType(dtype, (N, K))
    for e, matrix in enumerate(w.reshape(experts, -1)):
        np.testing.assert_array_equal(got[ids == e], product(one, matrix, x, 1)[np.nonzero(ids == e)[0]])


@pytest.mark.target
@pytest.mark.parametrize("dtype", BLOCK_TYPES, ids=str)
def test_one_token_and_many_agree(dtype: DType) -> None:
    rng = np.random.default_rng(7)
    type, x = TensorType(dtype, (N, K)), rng.standard_normal((TOKENS, K)).astype(np.float32)
    w = draw_values("w", type, rng)
    many = product(type, w, x, 1)
    single = np.concatenate([product(type, w, row[None], 1) for row in x])
    exact = rounded(x, dtype) @ dtype.dequantize(w, (N, K)).astype(np.float64).T
    assert nmse(many, exact) < 1e-11
    assert nmse(single, exact) < 1e-11
    np.testing.assert_array_equal(many, product(type, w, x, 3))


@pytest.mark.parametrize("dtype", [t for t in BLOCK_TYPES if t.block == 256], ids=str)
def test_weights_stay_in_their_type(dtype: DType) -> None:
    node = ops.mul_mat(weight("w.weight", TensorType(dtype, (N, K))), input_tensor("x", f32(1, K)))
    graph = open_runtime("cpu", Setup({})).in_kernel_types(from_outputs(node))
    assert graph.nodes[0].sources[0].dtype == dtype


@pytest.mark.parametrize("n_tokens", [1, 7])
def test_one_scale_for_all_rows(n_tokens: int) -> None:
    rng = np.random.default_rng(5)
    values = (rng.integers(-1, 2, (N, K)) * 0.37).astype(np.float32)
    values[3] = 0
    x = rng.standard_normal((n_tokens, K)).astype(np.float32)
    ours, same = (
        product(TensorType(t, (N, K)), t.quantize(values), x, 2) for t in (dtypes.I2_S, dtypes.IQ2_BN)
    )
    np.testing.assert_array_equal(ours, same)
    node = ops.mul_mat(weight("w.weight", TensorType(dtypes.I2_S, (N, K))), input_tensor("x", f32(1, K)))
    graph = open_runtime("cpu", Setup({})).in_kernel_types(from_outputs(node))
    assert graph.nodes[0].sources[0].dtype == dtypes.IQ2_BN
