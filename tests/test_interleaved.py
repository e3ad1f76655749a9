"""Row-interleaved types: repacking moves bytes and nothing else, products agree with the plain type's."""

from typing import Any

import numpy as np
import pytest
from op_runs import draw_values
from running import nmse

import graphsched
from graphsched.graph.graph import from_outputs
from graphsched.graph.ops import mul_mat, mul_mat_id
from graphsched.graph.tensor import Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.predict.plan import Plan, make_plan
from graphsched.report.plan import cause
from graphsched.run.device import Setup
from graphsched.run.repack import INTERLEAVED, repack
from graphsched.run.runtime import open_runtime
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import open_default_or
from graphsched.session.options import SessionOptions
from graphsched.types import dtypes
from graphsched.types.devices import HOST

K, EXPERTS, USED = 96, 3, 2
PLAIN = pytest.mark.parametrize("plain", INTERLEAVED)


def drawn(plain: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Bytes of a plain type and of its interleaved twin."""
    type = TensorType(dtypes.by_name(plain), shape)
    raw = draw_values("w", type, np.random.default_rng(1)).view(np.uint8).reshape(-1)
    return raw, repack(raw, INTERLEAVED[plain], shape, n_threads=2)


@PLAIN
def test_repacking_moves_bytes_only(plain: str) -> None:
    shape = (3, 16, K)
    raw, packed = drawn(plain, shape)
    values = dtypes.by_name(plain).dequantize(raw, shape)
    np.testing.assert_array_equal(INTERLEAVED[plain].dequantize(packed, shape), values)
    np.testing.assert_array_equal(
        np.sort(np.bitwise_count(raw)).sum(), np.sort(np.bitwise_count(packed)).sum()
    )


def run(node: Tensor, raw: Any, x: Any, ids: Any = None, threads: int = 1) -> Any:
    runtime = open_runtime("cpu", Setup({"w.weight": raw}, n_threads=threads))
    for leaf, values in zip(node.sources[1:], (x, ids), strict=False):
        runtime.input(leaf)[:] = values
    executable = runtime.compile(from_outputs(node))
    executable.run({})
    return np.array(executable.outputs[0])


@pytest.mark.target
@pytest.mark.parametrize("tokens", [1, 2, 7, 32, 33])
@pytest.mark.parametrize("n", [8, 24, 40])
@PLAIN
def test_products_agree(plain: str, n: int, tokens: int) -> None:
    raw, packed = drawn(plain, (n, K))
    x = np.random.default_rng(2).standard_normal((tokens, K)).astype(np.float32)
    type, twin = (TensorType(t, (n, K)) for t in (dtypes.by_name(plain), INTERLEAVED[plain]))
    expected, *got = (
        run(mul_mat(weight("w.weight", t), input_tensor("x", f32(tokens, K))), r, x, threads=threads)
        for t, r, threads in ((type, raw, 1), (twin, packed, 1), (twin, packed, 3))
    )
    assert nmse(got[0], expected) < 1e-11
    np.testing.assert_array_equal(got[0], got[1])


@pytest.mark.target
@pytest.mark.parametrize("tokens", [1, 9, 70])
@PLAIN
def test_products_by_expert_agree(plain: str, tokens: int) -> None:
    shape = (EXPERTS, 24, K)
    raw, packed = drawn(plain, shape)
    rng = np.random.default_rng(3)
    x, ids = rng.standard_normal((tokens, 1, K)), rng.integers(-1, EXPERTS, (tokens, USED))
    expected, got = (
        run(
            mul_mat_id(
                weight("w.weight", TensorType(t, shape)),
                input_tensor("x", f32(tokens, 1, K)),
                input_tensor("ids", i32(tokens, USED)),
            ),
            r,
            x,
            ids,
            threads=2,
        )
        for t, r in ((dtypes.by_name(plain), raw), (INTERLEAVED[plain], packed))
    )
    assert nmse(got, expected) < 1e-11
    assert not got[ids < 0].any()


OUT: dict[str, Any] = {
    "devices": ("sim:rtx4090",),
    "placement": PlacementOptions(overrides=("exps=CPU",)),
    "offload_min_batch": 1,
}


def logits(**options: Any) -> Any:
    session = graphsched.load(n_ctx=64, **options)
    rows = [session.eval([1, *range(300, 320)], all_logits=True), session.eval([7]), session.eval([9])]
    session.close()
    return np.concatenate(rows)


def test_a_repacked_model_agrees() -> None:
    """Single tokens take another kernel, whose sums have another order; prompts have the very same bits."""
    plain, packed = logits(), logits(rtr="on")
    np.testing.assert_array_equal(packed[:-2], plain[:-2])
    assert nmse(packed, plain) < 1e-6


def test_a_device_beside_repacked_experts() -> None:
    """On the device nothing is repacked: its single tokens are those of the plain kernels."""
    split, host = logits(rtr="on", poison=True, **OUT), logits(rtr="on")
    np.testing.assert_array_equal(split[:-2], host[:-2])
    assert nmse(split, host) < 1e-9


def weights_of(**options: Any) -> tuple[Plan, dict[str, str]]:
    plan = make_plan(open_default_or(None), SessionOptions(**options), 32, 1, 32)
    nodes = plan.schedule.graph.nodes
    return plan, {s.name: s.dtype.name for n in nodes for s in n.sources if s.kind == "weight"}


def test_which_weights_are_repacked() -> None:
    """Products' weights in host memory; not the embedding, and with auto not what may be offloaded."""
    _, types = weights_of(rtr="on")
    assert types["blk.0.attn_q.weight"] == types["blk.0.ffn_up_exps.weight"] == "Q8_0_R8"
    assert types["token_embd.weight"] == "Q8_0"
    _, types = weights_of(rtr="on", **OUT)
    assert (types["blk.0.attn_q.weight"], types["blk.0.ffn_up_exps.weight"]) == ("Q8_0", "Q8_0_R8")
    _, types = weights_of(rtr="auto", **OUT)
    assert "Q8_0_R8" not in types.values()
    _, types = weights_of(rtr="auto")
    assert types["blk.0.ffn_up_exps.weight"] == "Q8_0_R8"


def test_a_repacked_weight_is_not_offloaded() -> None:
    plan, _ = weights_of(rtr="on", **OUT)
    (node,) = [n for n in plan.schedule.graph.nodes if plan.schedule.graph.names[n] == "blk.0.ffn_up_exps"]
    assert plan.schedule.assignment.device[node] == HOST
    assert "not offloadable (repacked)" in cause(plan, node)
