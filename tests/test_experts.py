"""Products by expert: the form for prompts gives the same bits on any number of threads and fused."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from graphsched.graph.graph import from_outputs
from graphsched.graph.ops import fused_mul_unary, moe_fused_up_gate, mul_mat_id
from graphsched.graph.tensor import Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.types import dtypes

E, ROWS, K, TOKENS, USED = 5, 37, 192, 40, 3
NONE = np.full((TOKENS, USED), -1)
ONE = np.full((TOKENS, USED), 3)
MIXED = np.random.default_rng(3).integers(-1, E + 1, (TOKENS, USED))


def run(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], ids: NDArray[np.int64], threads: int
) -> list[NDArray[np.float32]]:
    rng, raw = np.random.default_rng(4), {}
    for t in leaves:
        values = rng.standard_normal(t.shape).astype(np.float32)
        own = ids.astype(np.int32) if t.dtype == dtypes.I32 else t.dtype.quantize(values)
        raw[t.name] = np.ascontiguousarray(own).view(np.uint8).reshape(-1)
    runtime = open_runtime("cpu", Setup(raw, n_threads=threads))
    for t in leaves:
        if t.kind == "input":
            runtime.input(t).reshape(-1).view(np.uint8)[:] = raw[t.name]
    executable = runtime.compile(from_outputs(*outputs))
    executable.run({})
    return [np.array(out) for out in executable.outputs]


@pytest.mark.parametrize("ids", [NONE, ONE, MIXED], ids=["none", "one", "mixed"])
@pytest.mark.parametrize("dtype", [dtypes.Q4_0, dtypes.Q4_1, dtypes.F16, dtypes.IQ2_BN], ids=str)
def test_bits_do_not_depend_on_threads_or_fusion(dtype: dtypes.DType, ids: NDArray[np.int64]) -> None:
    up, gate = (weight(name, TensorType(dtype, (E, ROWS, K))) for name in ("up", "gate"))
    x, chosen = input_tensor("x", f32(TOKENS, 1, K)), input_tensor("ids", i32(TOKENS, USED))
    fused = moe_fused_up_gate(up, gate, x, chosen, kind="silu")
    parts = fused_mul_unary(mul_mat_id(gate, x, chosen), mul_mat_id(up, x, chosen), kind="silu")
    first, *others = [
        out for n in (1, 2, 3, 5) for out in run((fused, parts), (up, gate, x, chosen), ids, threads=n)
    ]
    assert all(np.array_equal(first.view(np.int32), other.view(np.int32)) for other in others)
    skipped = (ids < 0) | (ids >= E)
    assert not first[skipped].any()
    assert skipped.all() or np.abs(first[~skipped]).max() > 0


@pytest.mark.parametrize("kind", ["silu", "gelu"])
@pytest.mark.parametrize("dtype", [dtypes.Q4_0, dtypes.F16], ids=str)
def test_few_tokens_fused(dtype: dtypes.DType, kind: str) -> None:
    up, gate = (weight(name, TensorType(dtype, (E, ROWS, K))) for name in ("up", "gate"))
    for n_tokens in (1, 3):
        ids = MIXED[:n_tokens]
        x, chosen = input_tensor("x", f32(n_tokens, 1, K)), input_tensor("ids", i32(n_tokens, USED))
        fused = moe_fused_up_gate(up, gate, x, chosen, kind=kind)
        parts = fused_mul_unary(mul_mat_id(gate, x, chosen), mul_mat_id(up, x, chosen), kind=kind)
        for threads in (1, 3):
            one, other = run((fused, parts), (up, gate, x, chosen), ids, threads)
            np.testing.assert_array_equal(one.view(np.int32), other.view(np.int32))
