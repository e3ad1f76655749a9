"""The driver of fusions: what it takes and what it leaves, by kernels, homes and cost."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from plans import opened
from running import ONE, logits_in_pieces, reference

from graphsched.graph.graph import Graph, from_outputs
from graphsched.graph.opdef import Op
from graphsched.graph.ops import add, mul, mul_mat_id, rms_norm, silu
from graphsched.graph.rewrites.rules import RULES
from graphsched.graph.tensor import Extent, Tensor, input_tensor, weight
from graphsched.schedule.assign import Target
from graphsched.schedule.fuse import fuse
from graphsched.schedule.placement import PlacementOptions
from graphsched.schedule.policy import MinBatch
from graphsched.schedule.scheduler import schedule
from graphsched.session.options import SessionOptions
from graphsched.session.planner import Planner
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.shapes import TensorType, f32, i32

T = Extent(64, "n_tokens")
EXPERTS, USED, WIDTH = 8, 2, 256
X, IDS = input_tensor("x", f32(T, 1, WIDTH)), input_tensor("ids", i32(T, USED))


def experts(name: str) -> Tensor:
    return weight(f"blk.0.ffn_{name}_exps.weight", TensorType(dtypes.Q8_0, (EXPERTS, WIDTH, WIDTH)))


def feed() -> Tensor:
    gate, up = (mul_mat_id(experts(name), X, IDS) for name in ("gate", "up"))
    return mul_mat_id(experts("down"), mul(silu(gate), up), IDS)


def target(*, lacks: tuple[Op, ...] = (), n_tokens: int = 1, min_batch: int = 32, **homes: str) -> Target:
    """Homes are those of the experts' matrices; all else lives on the host."""
    by_name = {experts(name).name: home for name, home in homes.items()}
    return Target(
        devices=("dev", HOST),
        home=lambda leaf: by_name.get(leaf.name, HOST),
        supports=lambda device, node: node.op not in lacks,
        policy=MinBatch(min_batch),
        lengths={"n_tokens": n_tokens},
        switches=frozenset(rule.switch for rule in RULES),
    )


def ops(graph: Graph) -> Counter[Op]:
    return Counter(Op(n.op) for n in graph.nodes)


def test_a_device_without_a_kernel_keeps_the_parts() -> None:
    """Where an op is made before assignment, none of the devices may lack it."""
    graph = from_outputs(feed())
    on_dev: dict[str, Any] = {"gate": "dev", "up": "dev", "down": "dev"}
    fused = Counter({Op.MOE_FUSED_UP_GATE: 1, Op.MUL_MAT_ID: 1})
    apart = Counter({Op.FUSED_MUL_UNARY: 1, Op.MUL_MAT_ID: 3})
    assert ops(fuse(graph, target(**on_dev))) == fused
    assert ops(fuse(graph, target(lacks=(Op.MOE_FUSED_UP_GATE,), **on_dev))) == apart


def test_placed_parts_stay_where_their_device_has_no_kernel() -> None:
    def norm(*lacks: Op) -> Counter[Op]:
        w = weight("blk.0.ffn_norm.weight", f32(WIDTH))
        total = add(input_tensor("a", f32(T, WIDTH)), input_tensor("b", f32(T, WIDTH)))
        outputs = mul(rms_norm(total, eps=1e-5), w), mul(total, total)
        made = schedule(
            from_outputs(*outputs),
            Target(
                devices=("dev", HOST),
                home=lambda leaf: "dev",
                supports=lambda device, node: node.op not in lacks,
                policy=MinBatch(),
                lengths={"n_tokens": 1},
                switches=frozenset(rule.switch for rule in RULES),
            ),
        )
        return ops(made.graph)

    assert Op.FUSED_ADD_RMS_NORM not in norm(Op.FUSED_ADD_RMS_NORM)
    assert Op.FUSED_RMS_NORM in norm(Op.FUSED_ADD_RMS_NORM)


def count(**given: Any) -> int:
    return ops(fuse(from_outputs(feed()), target(**given)))[Op.MOE_FUSED_UP_GATE]


@pytest.mark.parametrize("n_tokens", [1, 64])
def test_one_home_is_fused_whatever_it_costs(n_tokens: int) -> None:
    assert count(gate=HOST, up=HOST, n_tokens=n_tokens) == 1
    assert count(gate="dev", up="dev", n_tokens=n_tokens) == 1


def test_two_homes_are_fused_where_the_weights_come_together_anyway() -> None:
    """By bytes: a token's activations are fewer than a matrix; a weight that is offloaded is uploaded either way."""
    homes: dict[str, Any]
    for homes in ({"gate": "dev", "up": HOST}, {"gate": HOST, "up": "dev"}):
        assert count(n_tokens=1, **homes) == 0
        assert count(n_tokens=64, min_batch=1 << 20, **homes) == 0
        assert count(n_tokens=64, min_batch=1, **homes) == 1


def test_lengths_of_one_capacity_may_be_fused_apart() -> None:
    """Plans are kept by what was fused and by what is offloaded; where no machine is described, bytes decide."""
    options = SessionOptions(
        n_ctx=64,
        placement=PlacementOptions(overrides=("ffn_up_exps=CPU",)),
        offload_min_batch=8,
    )
    model = opened("mixtral")
    planner = Planner(model, options, ("sim0",), lambda device, node: True)
    graph = model.graph(32, 1, 64, options)
    found = [planner.fused(graph, {"n_tokens": n, "n_outputs": 1}) for n in (9, 32)]
    assert [ops(g)[Op.MOE_FUSED_UP_GATE] > 0 for g in found] == [False, True]
    keys = [planner.decisions(g, {"n_tokens": 9, "n_outputs": 1}) for g in found]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("apart", ["ffn_up_exps=CPU", "ffn_gate_exps=CPU"])
def test_up_and_gate_on_two_devices_have_the_bits_of_the_host(apart: str) -> None:
    ref = reference("mixtral")
    options: dict[str, Any] = {
        "devices": ONE,
        "placement": PlacementOptions(overrides=(apart,)),
        "poison": True,
    }
    split = logits_in_pieces(ref.model, ref.tokens, 7, **options)
    np.testing.assert_array_equal(split, logits_in_pieces(ref.model, ref.tokens, 7))
