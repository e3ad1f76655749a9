"""Barriers: steps that go over the same rows in the same way run without one between them."""

from typing import Any

import numpy as np
import pytest

from graphsched.backends.cpu.program.pack import Step
from graphsched.graph.graph import from_outputs
from graphsched.graph.ops import (
    Rope,
    add,
    fused_rms_norm,
    get_rows,
    mul_mat,
    repeat,
    reshape,
    rope,
    soft_max,
    top_k,
)
from graphsched.graph.tensor import Extent, Tensor, f32, i32, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime

RNG = np.random.default_rng(3)
N = {"w": (64, 64), "scale": (64,)}
RAW = {
    name: RNG.standard_normal(shape).astype(np.float32).view(np.uint8).reshape(-1)
    for name, shape in N.items()
}
W, SCALE = weight("w", f32(64, 64)), weight("scale", f32(64))


def leaves(n: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = Extent(n, "n_tokens")
    return (
        input_tensor("a", f32(tokens, 64)),
        input_tensor("b", f32(tokens, 64)),
        input_tensor("pos", i32(tokens)),
    )


def run(n: int, threads: int, *outputs: Tensor) -> tuple[list[str], list[np.ndarray[Any, Any]]]:
    """Kernels, those with a barrier behind marked by `|`; and the results."""
    runtime = open_runtime("cpu", Setup(RAW, n_threads=threads))
    rng = np.random.default_rng(n)
    graph = from_outputs(*outputs)
    for leaf in graph.leaves:
        if leaf.kind == "input":
            is_int = leaf.name == "pos"
            runtime.input(leaf)[:] = (
                np.arange(n) if is_int else rng.standard_normal(tuple(map(int, leaf.shape)))
            )
    executable = runtime.compile(graph)
    executable.run({"n_tokens": n})
    items = executable.programs["CPU"].packed.items  # type: ignore[attr-defined]  # it is the CPU's
    names = [i.kernel.name.split("_f32")[0] + "|" * i.barrier for i in items if isinstance(i, Step)]
    return names, [np.array(o) for o in executable.outputs]


@pytest.mark.parametrize("n", [1, 7])
def test_rows_of_a_sum_and_its_norm_need_no_barrier(n: int) -> None:
    a, b, _ = leaves(n)
    total = add(a, b)
    normed = fused_rms_norm(total, SCALE, eps=1e-5)
    names, (got, _) = run(n, 2, normed, total)
    assert names == ["binary", "rms_norm|"]
    _, (alone, _) = run(n, 1, normed, total)
    np.testing.assert_array_equal(got, alone)


@pytest.mark.parametrize("n", [1, 7])
def test_routing_is_one_stretch(n: int) -> None:
    a, _, _ = leaves(n)
    probs = soft_max(a)
    ids = top_k(probs, k=4)
    names, got = run(n, 2, ids, get_rows(probs, ids))
    assert names == ["soft_max", "top_k", "get_elements|"]
    _, alone = run(n, 1, ids, get_rows(probs, ids))
    assert all(np.array_equal(x, y) for x, y in zip(got, alone, strict=True))


def test_heads_turn_where_they_were_normalised() -> None:
    a, _, pos = leaves(7)
    heads = fused_rms_norm(reshape(a, shape=(a.shape[0], 1, 64)), SCALE, eps=1e-5)
    names, _ = run(7, 2, rope(heads, pos, rope=Rope(64)))
    assert names == ["rms_norm", "rope_table_0|", "rope|"]


@pytest.mark.parametrize("n", [1, 7])
def test_a_product_waits_for_all_rows(n: int) -> None:
    a, b, _ = leaves(n)
    names, _ = run(n, 2, mul_mat(W, add(a, b)))
    assert names[0] == "binary|"


def test_rows_that_go_to_other_threads_wait() -> None:
    """Four copies of a token's row: units of the second step are others than the first's."""
    a, b, _ = leaves(7)
    wide = repeat(reshape(add(a, b), shape=(a.shape[0], 1, 64)), n=4)
    assert run(7, 2, wide)[0] == ["binary|", "copy_rows|"]
